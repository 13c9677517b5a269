"""Compares two printed texts as a reader would: words exactly, rounded numbers to one unit of their last digit.

Processors add in different orders, so a number whose next digit is near a five is rounded up on one and down on
another. That moves its last printed digit by one and nothing else. An integer is a count or an index: it is text.
"""

import re
from decimal import Decimal

# A number that a program rounded: with decimals, in scientific notation, or an integer before a percent sign. The
# spaces before it are a part of it, because a column aligned on the right gives them up to a longer number. What
# only looks like one is text: the parts of a version (2.13.0), a name (layers.0), the hyphen of a range (1-2).
ROUNDED = re.compile(
    r"""( [ ]* (?<![\w.]) [-−]?
          (?: (?:\d{1,3}(?:,\d{3})+|\d+)\.\d+(?:e[-+]\d+)? | \d+e[-+]\d+ | \d+(?=[ ]?%) )
          (?!\.?\w) )""",
    re.VERBOSE,
)


def difference(before: str, after: str) -> str | None:
    """The first difference that a reader would see, with the text around it; None if there is none."""
    old, new = ROUNDED.split(before), ROUNDED.split(after)
    for index, (was, now) in enumerate(zip(old, new, strict=False)):
        rounded = index % 2 == 1  # split puts what it finds at the odd indices
        if was != now and not (rounded and _same_number(was, now)):
            return f"{_around(old, index)!r} became {_around(new, index)!r}"
    if len(old) != len(new):
        return f"rounded numbers: {len(old) // 2} before, {len(new) // 2} after"
    return None


def _same_number(was: str, now: str) -> bool:
    """Whether two rounded numbers, with the spaces before them, are within one unit of their last digit."""
    if was.count(" ") != now.count(" ") and len(was) != len(now):
        return False  # neither the gap before the number nor its right edge is where it was
    one, other = _decimal(was), _decimal(now)
    if _decimals(was) != _decimals(now) and (_is_padded(was) or _is_padded(now)):
        return False  # a fixed number of decimals became a different one
    # round(x, 3) drops zeros at the end (0.07 for 0.070), and 9.9e-08 has a finer digit than 1.0e-07: of two units,
    # the finer is the one that both were rounded to.
    unit = min(Decimal(1).scaleb(_exponent(each)) for each in (one, other))
    return abs(one - other) <= unit


def _decimal(text: str) -> Decimal:
    return Decimal(text.strip().replace("−", "-").replace(",", ""))


def _exponent(number: Decimal) -> int:
    """The power of ten of the last printed digit: -4 for 0.9406, -8 for 1.2e-07."""
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # it is a letter for NaN and infinity, which have no digits
    return exponent


def _decimals(text: str) -> int:
    mantissa = text.partition("e")[0]
    return len(mantissa.partition(".")[2])


def _is_padded(text: str) -> bool:
    """Whether zeros at the end were kept, as by f"{x:.4f}"; repr() keeps only that of 1.0."""
    mantissa = text.partition("e")[0]
    return mantissa.endswith("0") and _decimals(text) > 1


def _around(pieces: list[str], index: int) -> str:
    """A piece of a text with the end of the one before and the beginning of the one after."""
    before, after = "".join(pieces[:index])[-30:], "".join(pieces[index + 1 :])[:30]
    return before + pieces[index] + after
