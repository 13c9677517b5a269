"""How does a table look in a terminal?"""

import unicodedata
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """The rows as aligned columns, two spaces apart; invisible characters appear as escapes.

    Args:
        rows: all with the same number of cells.
        right: indices of the columns that are aligned on the right.
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(_width, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - _width(cell))
            cells.append(gap + cell if column in right else cell + gap)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def matrix(texts: Sequence[str], values: Sequence[Sequence[float]], longest: int = 60) -> str:
    """An (N, N) matrix as a table: its rows have the texts beside them, cut at `longest` characters."""
    numbers = [str(number) for number in range(1, len(texts) + 1)]
    names = [text if len(text) <= longest else f"{text[: longest - 1]}…" for text in map(_one_line, texts)]
    rows = [["", "", *numbers]]
    for number, name, line in zip(numbers, names, values, strict=True):
        rows.append([number, name, *(f"{value:.4f}" for value in line)])
    return table(rows, right=range(2, len(texts) + 2))


def visible(text: str) -> str:
    """The text with an escape such as \\u200b for each character that shows nothing, or changes how others are shown.

    These are control and format characters, line ends, spaces other than the usual one, surrogates and private use.
    """
    return "".join(
        character if _is_visible(character) else character.encode("unicode_escape").decode() for character in text
    )


def _is_visible(character: str) -> bool:
    # A character younger than this Python is shown, but XML has no U+FFFE and U+FFFF.
    is_young = unicodedata.category(character) == "Cn" and character not in "\ufffe\uffff"
    return character.isprintable() or is_young


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _width(text: str) -> int:
    """The columns that a text takes in a terminal: two for a wide character, none for a combining mark."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)
