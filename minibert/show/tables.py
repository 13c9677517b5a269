"""How does a table look in a terminal?"""

import unicodedata
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """The rows as aligned columns, two spaces apart; `right` numbers the columns that are flush right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - _width(cell))
            cells.append(gap + cell if place in right else cell + gap)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def matrix(texts: Sequence[str], values: Sequence[Sequence[float]], longest: int = 60) -> str:
    """An (N, N) matrix with its rows named by the texts and its columns by their numbers."""
    numbers = [str(number) for number in range(1, len(texts) + 1)]
    names = [text if len(text) <= longest else f"{text[: longest - 1]}…" for text in map(_one_line, texts)]
    rows = [["", "", *numbers]]
    for number, name, line in zip(numbers, names, values, strict=True):
        rows.append([number, name, *(f"{value:.4f}" for value in line)])
    return table(rows, right=range(2, len(texts) + 2))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _width(text: str) -> int:
    """Columns a terminal gives a text: two for wide characters, none for combining marks."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)
