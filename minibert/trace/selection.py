"""Which heads, positions and rows of a value does an edit change?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minibert.checks import as_integer, shown
from minibert.errors import InputError
from minibert.trace.values import Value


@dataclass(frozen=True, eq=False)
class Selection:
    """Heads, positions and rows, an index or several of each; None means all. Positions may be bools, (B, S)."""

    heads: int | Sequence[int] | None = None
    positions: int | Sequence[int] | Tensor | None = None
    rows: int | Sequence[int] | None = None

    def check(self, name: str, value: Value) -> None:
        """Raises an `InputError` for a choice along an axis that this value does not have."""
        axes = value.axes.split()
        for what, indices, letters in self._choices():
            if _axis(axes, letters) is None:
                raise InputError(f"{name} has no {what} to choose: its axes are {value.axes}")
            if not _is_mask(what, indices):
                _as_indices(what, indices)

    def apply(self, name: str, value: Value, before: Tensor, after: Tensor) -> Tensor:
        """Returns the value after an edit where it is chosen, and the value before it elsewhere."""
        axes = value.axes.split()
        for what, indices, letters in self._choices():
            axis = _axis(axes, letters)
            assert axis is not None
            mask = _mask(name, what, indices, before, axis)
            after = torch.where(mask, after, before)
        return after

    def _choices(self) -> list[tuple[str, Any, str]]:
        """What is chosen, and the letters of the axis it is chosen along."""
        choices = [("heads", self.heads, "H"), ("positions", self.positions, "ST"), ("rows", self.rows, "B")]
        return [choice for choice in choices if choice[1] is not None]


def _axis(axes: list[str], letters: str) -> int | None:
    """The first axis with one of these letters: queries come before keys."""
    return next((number for number, letter in enumerate(axes) if letter in letters), None)


def _mask(name: str, what: str, indices: Any, value: Tensor, axis: int) -> Tensor:
    """True where the value is chosen, in a shape that broadcasts to the value's."""
    shape = [1] * value.dim()
    shape[axis] = size = value.shape[axis]
    if _is_mask(what, indices):
        shape[0] = len(value)
        if indices.dtype != torch.bool or indices.shape != (len(value), size):
            given = f"{tuple(indices.shape)} {indices.dtype}"
            raise InputError(f"positions must be integers, or a tensor ({len(value)}, {size}) of bools, got {given}")
        return indices.to(value.device).view(shape)
    mask = torch.zeros(size, dtype=torch.bool, device=value.device)
    for index in _as_indices(what, indices):
        if not -size <= index < size:
            raise InputError(f"{what} must be from 0 to {size - 1} in {name}, got {index}")
        mask[index] = True
    return mask.view(shape)


def _is_mask(what: str, indices: Any) -> bool:
    return what == "positions" and isinstance(indices, Tensor) and indices.dim() > 1


def _as_indices(what: str, indices: Any) -> list[int]:
    """One index or several, as a list."""
    one = as_integer(indices)
    if one is not None:
        return [one]
    try:
        listed = [as_integer(each) for each in indices]
    except TypeError:  # neither an integer nor several
        listed = [None]
    if not listed or None in listed:
        raise InputError(f"{what} must be an integer or a list of integers, got {shown(indices)}")
    return [each for each in listed if each is not None]
