"""Checks of arguments that many functions share. Each returns the value, or raises an error that names the argument.

A message has one form: `{name} must be {what}, got {value}`, and where there is one, the next step.
"""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

from minibert.errors import InputError, MinibertError


def check_integer(
    name: str, value: Any, low: int, high: int | None = None, error: type[MinibertError] = InputError
) -> int:
    """An integer from `low` to `high`; True and False are not integers here."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        if high is not None:
            what = f"an integer from {low:,} to {high:,}"
        else:
            what = {0: "a non-negative integer", 1: "a positive integer"}.get(low, f"an integer of at least {low:,}")
        raise error(f"{name} must be {what}, got {reprlib.repr(value)}")
    return value


def check_one_of(name: str, value: Any, known: Iterable[Any], error: type[MinibertError] = InputError) -> Any:
    """One of the `known` values; for a string that is not, the message has those that are close."""
    known = list(known)
    if value not in known:
        listed = ", ".join(map(str, known))
        raise error(f"{name} must be one of {listed}, got {reprlib.repr(value)}{did_you_mean(value, known)}")
    return value


def did_you_mean(name: Any, known: Iterable[Any], most: int = 3) -> str:
    """ ": did you mean …?", with the known names that are close to this one; empty if none is."""
    names = [each for each in known if isinstance(each, str)]
    close = difflib.get_close_matches(name, names, n=most) if isinstance(name, str) else []
    return f": did you mean {' or '.join(close)}?" if close else ""
