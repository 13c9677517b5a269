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
    a = torch.atleast_2d(a)
    b = a if b is None else torch.atleast_2d(b)
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
    if u.shape != v.shape or u.dim() == 0:
        raise PoolingError(f"u and v must be of one shape (…, D); they are {tuple(u.shape)} and {tuple(v.shape)}")
    return 1 - (_directions(u, "u") * _directions(v, "v")).sum(dim=-1)


def _directions(vectors: Tensor, name: str) -> Tensor:
    """The vectors at length 1."""
    if not vectors.is_floating_point():
        raise PoolingError(f"{name} must hold floating-point numbers; it holds {vectors.dtype}: call {name}.float()")
    lengths = vectors.norm(dim=-1, keepdim=True)
    if (lengths == 0).any():
        place = (lengths[..., 0] == 0).nonzero()[0].tolist()
        where = f"row {', '.join(map(str, place))} of {name}" if place else name
        raise PoolingError(f"{where} is all zeros: a zero vector has no direction and no cosine")
    return vectors / lengths
