"""How close are two vectors? Pure functions; no argument is ever modified."""

import torch
from torch import Tensor

from minibert.errors import PoolingError


def cosine_similarity(a: Tensor, b: Tensor | None = None) -> Tensor:
    """The cosine of the angle between every row of `a` and every row of `b`: 1 same direction, 0 none in common.

    Args:
        a: (N, D), or (D,) for a single vector.
        b: (M, D) or (D,); `a` itself when left out.

    Returns:
        (N, M)

    Raises:
        PoolingError: the widths differ, or a vector is all zeros and so has no direction.
    """
    b = a if b is None else b
    _check(a, b, "a", "b")
    a, b = torch.atleast_2d(a), torch.atleast_2d(b)
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise PoolingError(
            f"a must be (N, D) and b (M, D) with the same D; they are {tuple(a.shape)}, {tuple(b.shape)}"
        )
    return _directions(a, "a") @ _directions(b, "b").T  # (N, D) @ (D, M) → (N, M)


def cosine_distance(u: Tensor, v: Tensor) -> Tensor:
    """1 − cosine, pair by pair along the last axis: (…, D) and (…, D) → (…).

    Raises:
        PoolingError: the shapes differ, or a vector is all zeros.
    """
    _check(u, v, "u", "v")
    if u.shape != v.shape or u.dim() == 0:
        raise PoolingError(f"u and v must be of one shape (…, D); they are {tuple(u.shape)} and {tuple(v.shape)}")
    return 1 - (_directions(u, "u") * _directions(v, "v")).sum(dim=-1)


def _directions(vectors: Tensor, name: str) -> Tensor:
    """The vectors at length 1."""
    largest = vectors.abs().amax(dim=-1, keepdim=True)
    for wrong, what in ((largest == 0, "all zeros"), (~largest.isfinite(), "not finite")):
        if wrong.any():
            place = wrong[..., 0].nonzero()[0].tolist()
            where = f"row {', '.join(map(str, place))} of {name}" if place else name
            raise PoolingError(f"{where} is {what}: such a vector has no direction and no cosine")
    scaled = vectors / largest  # so that no square overflows or vanishes
    return scaled / scaled.norm(dim=-1, keepdim=True)


def _check(one: Tensor, other: Tensor, *names: str) -> None:
    for name, vectors in zip(names, (one, other), strict=True):
        if not isinstance(vectors, Tensor):
            raise PoolingError(f"{name} must be a tensor, not {type(vectors).__name__}: torch.as_tensor({name})")
        if not vectors.is_floating_point():
            raise PoolingError(f"{name} must hold floating-point numbers, not {vectors.dtype}: call {name}.float()")
    if one.dtype != other.dtype:
        raise PoolingError(f"{names[0]} holds {one.dtype} and {names[1]} {other.dtype}: convert one of them")
