"""What is a label called, and which number does it have?

A model counts its classes from 0; people name them. The config of a checkpoint keeps the names (`id2label`), so that a
prediction can be read. Labels that are integers are names too, of digits, unless other names are given.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from minibert.checks import as_integer, did_you_mean, shown
from minibert.errors import TrainingError

FOR_NUMBERS = "task='regression' is for numbers"

Labelled = Iterable[tuple[Any, str]]  # labels, each with the name of its row


def label_names(labelled: Labelled) -> tuple[str, ...]:
    """Returns the names of all labels: integers by size, other names by alphabet.

    Raises:
        TrainingError: a label is blank, or a fraction, or there is only one.
    """
    names: dict[str, str] = {}  # each with the first row that has it
    for label, row in labelled:
        names.setdefault(_name(label, row), row)
    if len(names) < 2:
        raise TrainingError(f"label must have at least two different values, and each is {next(iter(names))!r}")
    if all(_as_whole(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    if all(map(_is_number, names)):
        fraction, row = next((name, row) for name, row in names.items() if _as_whole(name) is None)
        raise TrainingError(f"label in {row} must be a name or an integer, got {fraction}: {FOR_NUMBERS}")
    return tuple(sorted(names))


def check_names(labels: Any) -> tuple[str, ...]:
    """Returns label names that a user gives.

    Raises:
        TrainingError: there are fewer than two, or one is not a name, or is there twice.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence) or len(labels) < 2:
        raise TrainingError(f"labels must be the names of at least two classes, in order, got {shown(labels)}")
    names = tuple(_name(label, "labels") for label in labels)
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise TrainingError(f"labels must have each name once, got {doubled!r} twice")
    return names


def class_of(label: Any, names: Sequence[str], row: str) -> int:
    """Returns the number of a label: that of its name; or, where names are not integers themselves, an integer.

    Raises:
        TrainingError: it is neither one of the names nor one of their numbers.
    """
    name = _name(label, row)
    if name in names:
        return names.index(name)
    are_numbers = any(_as_whole(each) is not None for each in names)  # then 0 may be a class that is not there
    number = None if are_numbers else _as_whole(name)
    if number is None:
        listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise TrainingError(f"label in {row} must be one of {listed}, got {name!r}{did_you_mean(name, names)}")
    if not 0 <= number < len(names):
        known = ", ".join(names[:20])
        raise TrainingError(
            f"label in {row} must be from 0 to {len(names) - 1}, or a name, got {name}: the names are {known}"
        )
    return number


def check_all_occur(classes: Iterable[int], names: Sequence[str], source: str) -> None:
    """Raises a `TrainingError` if a class has no example; the message names it."""
    missing = set(range(len(names))) - set(classes)
    if missing:
        listed = ", ".join(repr(names[index]) for index in sorted(missing)[:10])
        raise TrainingError(
            f"each label must have an example in {source}, and {listed} has none: a class that is never seen is never "
            "predicted, so leave it out or add examples"
        )


def _name(label: Any, row: str) -> str:
    """A label as a name: an integer in digits, True as "true"."""
    if isinstance(label, bool):
        return str(label).lower()
    number = as_integer(label)
    if number is not None:
        return str(number)
    if isinstance(label, str) and label.strip():
        return label.strip()
    if isinstance(label, float):
        raise TrainingError(f"label in {row} must be a name or an integer, got {label!r}: {FOR_NUMBERS}")
    got = "a blank cell" if label is None or isinstance(label, str) else shown(label)
    raise TrainingError(f"label in {row} must be a name or an integer, got {got}")


def _as_whole(name: str) -> int | None:
    """The integer that a name spells, such as "-2"; None for any other name."""
    return int(name) if name.removeprefix("-").isdecimal() and len(name) < 19 else None


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
