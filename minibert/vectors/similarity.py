"""How close are two vectors, and which is closest? Pure functions: no argument is ever modified.

The closer two vectors are, the larger their score: distances are negative. Scores of different checkpoints, layers or
poolings have different ranges, and those of a BERT that was not trained for similarity are all high: rank by them, and
be careful with thresholds.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.checks import check_integer, check_one_of
from minibert.errors import PoolingError
from minibert.inputs import FLOATS, check_tensor, has_values

# By their names in sentence-transformers, for vectors that `_prepare` returned: (N, D) and (M, D) → (N, M).
SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: a @ b.T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: -_distances(a, b, p=2),
    "manhattan": lambda a, b: -_distances(a, b, p=1),
}
QUERY_BLOCK = 1024  # queries that `semantic_search` compares at a time


def cosine_similarity(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Returns the cosine of the angle between every row of `a` and every row of `b`.

    It is 1 for the same direction, 0 for orthogonal and -1 for opposite directions.

    Args:
        a: (N, D), or (D,) for a single vector.
        b: (M, D) or (D,); None means `a` itself.

    Returns:
        (N, M)

    Raises:
        PoolingError: the sizes D differ, or a vector is all zeros and so has no direction.
    """
    return similarity(a, b, "cosine")


def dot_product(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Returns the dot product of every row of `a` with every row of `b`; longer vectors score higher.

    Arguments, shapes and errors as for `cosine_similarity`, but vectors of zeros are allowed.
    """
    return similarity(a, b, "dot")


def euclidean_similarity(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Returns minus the Euclidean distance, the root of the sum of squared differences: 0 for equal vectors.

    Arguments, shapes and errors as for `dot_product`.
    """
    return similarity(a, b, "euclidean")


def manhattan_similarity(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Returns minus the Manhattan distance, the sum of absolute differences: 0 for equal vectors.

    Arguments, shapes and errors as for `dot_product`.
    """
    return similarity(a, b, "manhattan")


def similarity(a: Tensor, b: Tensor | None = None, score: str = "cosine") -> Tensor:
    """Returns the `score` of every row of `a` with every row of `b`: "cosine", "dot", "euclidean" or "manhattan".

    Arguments, shapes and errors as for `cosine_similarity`; an unknown score is a `PoolingError` as well.
    """
    check_one_of("score", score, SCORES, PoolingError)
    b = a if b is None else b
    _check(a, b, "a", "b")
    a, b = torch.atleast_2d(a), torch.atleast_2d(b)
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise PoolingError(f"a must be (N, D) and b (M, D) with the same D, got {tuple(a.shape)} and {tuple(b.shape)}")
    return SCORES[score](_prepare(a, "a", score), _prepare(b, "b", score))


def pairwise_similarity(u: Tensor, v: Tensor, score: str = "cosine") -> Tensor:
    """Returns the score of u[0] with v[0], u[1] with v[1] and so on, along the last axis: (…, D), (…, D) → (…).

    Args:
        score: "cosine", "dot", "euclidean" or "manhattan"; the last two are minus the distance.

    Raises:
        PoolingError: the shapes differ, the score is unknown, or it is the cosine and a vector is all zeros.
    """
    check_one_of("score", score, SCORES, PoolingError)
    _check(u, v, "u", "v")
    if u.shape != v.shape:
        raise PoolingError(f"u and v must have the same shape (…, D), got {tuple(u.shape)} and {tuple(v.shape)}")
    u, v = _prepare(u, "u", score), _prepare(v, "v", score)
    if score in ("cosine", "dot"):
        return (u * v).sum(dim=-1)
    return -torch.linalg.vector_norm(u - v, ord=2 if score == "euclidean" else 1, dim=-1)


def cosine_distance(u: Tensor, v: Tensor) -> Tensor:
    """Returns 1 − cosine, pair by pair along the last axis: (…, D), (…, D) → (…).

    Raises:
        PoolingError: the shapes differ, or a vector is all zeros.
    """
    return 1 - pairwise_similarity(u, v)


class Hit(NamedTuple):
    """One result of a search."""

    corpus_id: int  # the row of the corpus
    score: float


def semantic_search(
    queries: Tensor, corpus: Tensor, top_k: int = 10, score: str = "cosine", block_size: int = 16_384
) -> list[list[Hit]]:
    """Finds for each query the `top_k` closest vectors of the corpus.

    Queries and corpus are compared block by block: memory holds 1,024 × `block_size` scores, never N × M.

    Args:
        queries: (N, D), or (D,) for a single query.
        corpus: (M, D)
        top_k: the number of hits for each query; M if the corpus has fewer vectors.
        score: "cosine", "dot", "euclidean" or "manhattan".
        block_size: the number of corpus vectors to compare at a time.

    Returns:
        For each query its hits, best first; equal scores in the order of the corpus. If several vectors tie for the
        last rank, which of them are returned is undefined.

    Raises:
        PoolingError: as for `similarity`; `top_k` or `block_size` is less than 1; the corpus is empty.
    """
    check_one_of("score", score, SCORES, PoolingError)
    _check(queries, corpus, "queries", "corpus")
    top_k = check_integer("top_k", top_k, 1, error=PoolingError)
    block_size = check_integer("block_size", block_size, 1, error=PoolingError)
    queries = torch.atleast_2d(queries)
    if queries.dim() != 2 or corpus.dim() != 2 or queries.shape[1] != corpus.shape[1] or 0 in corpus.shape:
        raise PoolingError(
            f"queries must be (N, D) and corpus (M, D) with the same D and M at least 1, "
            f"got {tuple(queries.shape)} and {tuple(corpus.shape)}"
        )
    queries = _prepare(queries, "queries", score)
    found: list[list[Hit]] = [[] for _ in queries]
    for start in range(0, len(corpus), block_size):
        block = _prepare(corpus[start : start + block_size], "corpus", score, start)  # (M, D) → (block, D)
        for first in range(0, len(queries), QUERY_BLOCK):
            matrix = SCORES[score](queries[first : first + QUERY_BLOCK], block)
            scores, indices = matrix.topk(min(top_k, len(block)))
            if not scores.isfinite().all():
                raise PoolingError(f"some scores are too large for {scores.dtype}: scale the vectors down")
            corpus_ids = indices + start
            for query, (ids, values) in enumerate(zip(corpus_ids.tolist(), scores.tolist(), strict=True), first):
                found[query] = sorted([*found[query], *map(Hit, ids, values)], key=_best_first)[:top_k]
    return found


def rank(query: Tensor, corpus: Tensor, score: str = "cosine") -> list[Hit]:
    """Returns the whole corpus, (M, D), from the closest to `query`, (D,), to the farthest.

    Raises as `semantic_search`.
    """
    _check(query, corpus, "query", "corpus")
    if query.dim() != 1:
        raise PoolingError(f"query must be one vector (D,), got {tuple(query.shape)}")
    (hits,) = semantic_search(query, corpus, max(1, len(corpus)), score)
    return hits


def _distances(a: Tensor, b: Tensor, p: int) -> Tensor:
    """The distances of norm `p`, (N, D) and (M, D) → (N, M)."""
    # Through a matrix product, as |a|² + |b|² - 2·a·b, it would be faster, and close vectors would lose all digits.
    return torch.cdist(a, b, p, compute_mode="donot_use_mm_for_euclid_dist")


def _prepare(vectors: Tensor, name: str, score: str, start: int = 0) -> Tensor:
    """The vectors that a score is computed from, checked: scaled to length 1 for the cosine.

    They are at least float32: scores of bfloat16 have two or three digits, too few to tell neighbours apart. `start` is
    the index of the first vector, as the caller counts them.
    """
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    largest = vectors.abs().amax(dim=-1, keepdim=True)  # (…, D) → (…, 1)
    _refuse(~largest.isfinite(), name, "is not finite", start)
    if score != "cosine":
        return vectors
    _refuse(largest == 0, name, "is all zeros: such a vector has no direction and no cosine", start)
    scaled = vectors / largest  # so that no square overflows or underflows
    return scaled / scaled.norm(dim=-1, keepdim=True)


def _refuse(wrong: Tensor, name: str, why: str, start: int) -> None:
    """Raises a `PoolingError` that names the first wrong vector, if there is one."""
    if has_values(wrong) and wrong.any():
        indices = wrong[..., 0].nonzero()[0].tolist()
        row = ", ".join(str(index + start) for index in indices)
        which = f"row {row} of {name}" if row else name  # no row for a single vector
        raise PoolingError(f"{which} {why}")


def _best_first(hit: Hit) -> tuple[float, int]:
    return -hit.score, hit.corpus_id  # equal scores in the order of the corpus


def _check(one: Tensor, other: Tensor, *names: str) -> None:
    """Raises a `PoolingError` unless both are floating-point vectors of one dtype, on one device."""
    for name, vectors in zip(names, (one, other), strict=True):
        check_tensor(name, vectors, FLOATS, error=PoolingError)
        if vectors.is_meta:
            raise PoolingError(f"{name} must have values, got a tensor on the meta device: move it, and its model")
        if vectors.dim() == 0 or vectors.shape[-1] == 0:
            raise PoolingError(f"{name} must be vectors of at least one number, got shape {tuple(vectors.shape)}")
    both = " and ".join(names)
    if one.dtype != other.dtype:
        raise PoolingError(f"{both} must have one dtype, got {one.dtype} and {other.dtype}: convert one of them")
    if one.device != other.device:
        raise PoolingError(f"{both} must be on one device, got {one.device} and {other.device}: move one of them")
