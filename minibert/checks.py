"""Checks of arguments that many functions share: each returns the value, or raises an error that names the argument.

A message has one form: `{name} must be {what}, got {value}`, followed by the next step where there is one.
"""

import difflib
import inspect
import operator
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from minibert.errors import InputError, MinibertError

_REPR = reprlib.Repr()
_REPR.maxlevel = 2  # a file may nest six levels of six values each, which makes a message of 300,000 characters


def shown(value: Any) -> str:
    """Returns a value as messages show it: its `repr`, of which long texts and lists are cut."""
    return _REPR.repr(value)


def cut(text: str, most: int = 300) -> str:
    """Returns a text as messages show it: names in a file may have a million characters."""
    return text if len(text) <= most else f"{text[:most]} …"


def check_integer(
    name: str, value: Any, low: int, high: int | None = None, error: type[MinibertError] = InputError
) -> int:
    """Returns an integer from `low` to `high`, or from `low` on.

    NumPy's integers and PyTorch's of one element are converted; True and False do not count as integers.
    """
    integer = as_integer(value)
    if integer is None or integer < low or (high is not None and integer > high):
        if high is not None:
            what = f"an integer from {low:,} to {high:,}"
        else:
            what = {0: "a non-negative integer", 1: "a positive integer"}.get(low, f"an integer of at least {low:,}")
        raise error(f"{name} must be {what}, got {shown(value)}")
    return integer


def as_integer(value: Any) -> int | None:
    """Returns an integer of Python, NumPy or PyTorch as one of Python; None for anything else, True and False too."""
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # not an integer; several; without a value, as on the meta device
        return None


def check_one_of(name: str, value: Any, known: Iterable[Any], error: type[MinibertError] = InputError) -> Any:
    """Returns the one of the `known` values that equals this one; the message suggests those close to a misspelt one.

    What is returned is the known value itself: Python's own string where NumPy's was given, whose `repr` is another.
    """
    by_value = {each: each for each in known}
    try:
        return by_value[value]
    except (KeyError, TypeError):  # unknown; or unhashable, as a list or an array
        listed = ", ".join(map(str, by_value))
        what = listed if len(by_value) == 1 else f"one of {listed}"
        raise error(f"{name} must be {what}, got {shown(value)}{did_you_mean(value, by_value)}") from None


def as_path(name: str, value: Any, what: str = "the path of a folder", error: type[MinibertError] = InputError) -> Path:
    """Returns a path, in which ~ is the user's home; nothing need be there."""
    try:
        path = Path(value).expanduser()
        if "\0" in str(path):
            raise ValueError("it has a null character")
    except (TypeError, ValueError, RuntimeError) as problem:  # not a path, or ~ of a user without a home
        raise error(f"{name} must be {what}, got {shown(value)} ({problem})") from None
    return path


def check_dense(name: str, tensor: Any, error: type[MinibertError] = InputError) -> Any:
    """Returns a tensor that has a value at each index: not sparse, not nested."""
    if tensor.is_nested or str(tensor.layout) != "torch.strided":
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise error(f"{name} must be a dense tensor, got one of layout {kind}: convert it with .to_dense() or padding")
    return tensor


def did_you_mean(name: Any, known: Iterable[Any], most: int = 3) -> str:
    """Returns ": did you mean …?" with the known names that are close to this one, or "" if none is."""
    names = [each for each in known if isinstance(each, str)]
    close = difflib.get_close_matches(name, names, n=most) if isinstance(name, str) else []
    return f": did you mean {' or '.join(close)}?" if close else ""


def accepts(function: Callable[..., Any], count: int) -> bool:
    """Returns whether a function may be called with so many arguments by position; True where it does not say."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions of PyTorch have no signature
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def required_arguments(function: Callable[..., Any]) -> int:
    """Returns how many arguments a function takes by position and has no default for; 1 where it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions of PyTorch have no signature
        return 1
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in by_position and each.default is each.empty for each in parameters)
