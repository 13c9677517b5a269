"""Which rows train a probe, and which test it?

In cross-validation each row is tested once, by a probe trained on the other folds. Rows of one group stay together.
"""

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from minibert.checks import shown
from minibert.errors import InputError, MissingPackageError

LARGEST = 1e100  # the squares of larger numbers overflow in float64


def scikit_learn(module: str) -> Any:
    """Returns a module of scikit-learn.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise MissingPackageError(
            f"probes need scikit-learn, which cannot be imported ({error}): pip install scikit-learn"
        ) from error


def split(
    count: int, folds: int, seed: int, groups: Sequence[Hashable] | None = None, labels: Any = None
) -> list[tuple[Any, Any]]:
    """Returns the indices of the rows that train and of those that test, for each fold.

    With groups, the rows of a group are on one side (GroupKFold, which needs no seed). Without, rows are shuffled; with
    labels, each fold has about the same share of each.

    Raises:
        InputError: fewer groups, or fewer rows, than folds; no label that each fold can have.
    """
    selection = scikit_learn("model_selection")
    rows = range(count)
    if groups is not None:
        distinct = list(dict.fromkeys(groups))
        if len(distinct) < folds:
            raise InputError(f"groups must be at least as many as the {folds} folds, got {len(distinct)} different")
        numbers = [dict(zip(distinct, range(len(distinct)), strict=True))[each] for each in groups]
        return list(selection.GroupKFold(folds).split(rows, groups=numbers))
    if count < folds:
        raise InputError(f"rows must be at least as many as the {folds} folds, got {count}")
    if labels is None:
        return list(selection.KFold(folds, shuffle=True, random_state=seed).split(rows))
    if max(labels.count(each) for each in set(labels)) < folds:
        raise InputError(f"labels must have one that occurs {folds} times, once for each fold: give fewer folds")
    with warnings.catch_warnings():  # a label rarer than folds is missing from some of them, which counts as an error
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(selection.StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, labels))


def standard_error(by_fold: Tensor) -> Tensor:
    """Returns the standard error of a mean over folds, (K, …) → (…).

    Folds share training rows, so it is a rough guide: no estimate of this variance is unbiased (Bengio and Grandvalet
    2004).
    """
    return by_fold.std(dim=0) / len(by_fold) ** 0.5


def check_groups(name: str, groups: Any, count: int) -> list[Hashable]:
    """Returns one group for each row.

    Raises:
        InputError: a different number of them, or groups that cannot be compared.
    """
    values = groups.tolist() if hasattr(groups, "tolist") else groups
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != count:
        got = len(values) if isinstance(values, Sequence) and not isinstance(values, str) else shown(groups)
        raise InputError(f"{name} must be a list of {count:,}, one for each row, got {got}")
    for each in values:
        if not isinstance(each, Hashable):
            raise InputError(f"{name} must be strings or integers, got {shown(each)}")
    return list(values)


def check_finite(name: str, values: Tensor) -> None:
    """Raises an `InputError` if there is no feature, or one of them is not a number or too large for its square."""
    if not values.numel():
        raise InputError(f"{name} must not be empty, got {tuple(values.shape)}")
    unusable = ~(values.abs() <= min(LARGEST, torch.finfo(values.dtype).max))
    if unusable.any():
        layer = unusable.flatten(1).any(dim=1).nonzero()[0].item()
        raise InputError(
            f"{name} must be finite numbers of at most {LARGEST:.0e}, and those of layer {layer} are not: find out "
            "where they come from"
        )


def check_positive(name: str, value: Any) -> None:
    """Raises an `InputError` if a value is not a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"{name} must be a positive number, got {shown(value)}")
