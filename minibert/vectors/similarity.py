"""How close are two vectors, and which is closest? Pure functions; no argument is ever modified.

Every score is larger the closer two vectors are: distances are negative. Scores of different checkpoints, layers or
poolings have different ranges, and those of a BERT that was not trained for similarity are all high: rank by them, and
be slow to set a threshold.
"""

from collections.abc import Callable
from typing import NamedTuple

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
    return similarity(a, b, "cosine")


def dot_product(a: Tensor, b: Tensor | None = None) -> Tensor:
    """The dot product of every row of `a` with every row of `b`; longer vectors score higher.

    Arguments, shapes and errors as for `cosine_similarity`, but zero vectors are welcome.
    """
    return similarity(a, b, "dot")


def euclidean_similarity(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Minus the Euclidean distance, the root of the sum of squared differences: 0 for equal vectors.

    Arguments, shapes and errors as for `dot_product`.
    """
    return similarity(a, b, "euclidean")


def manhattan_similarity(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Minus the Manhattan distance, the sum of absolute differences: 0 for equal vectors.

    Arguments, shapes and errors as for `dot_product`.
    """
    return similarity(a, b, "manhattan")


def similarity(a: Tensor, b: Tensor | None = None, score: str = "cosine") -> Tensor:
    """The score of a name, "cosine", "dot", "euclidean" or "manhattan", of every row of `a` with every row of `b`.

    Arguments, shapes and errors as for `cosine_similarity`; an unknown score is a `PoolingError` as well.
    """
    check_score(score)
    b = a if b is None else b
    _check(a, b, "a", "b")
    a, b = torch.atleast_2d(a), torch.atleast_2d(b)
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise PoolingError(
            f"a must be (N, D) and b (M, D) with the same D; they are {tuple(a.shape)}, {tuple(b.shape)}"
        )
    return SCORES[score](_prepare(a, "a", score), _prepare(b, "b", score))


def pairwise_similarity(u: Tensor, v: Tensor, score: str = "cosine") -> Tensor:
    """The score of u[0] with v[0], u[1] with v[1] and so on, along the last axis: (…, D) and (…, D) → (…).

    Args:
        score: "cosine", "dot", "euclidean" or "manhattan"; the last two are minus the distance.

    Raises:
        PoolingError: the shapes differ, there is no such score, or a vector is all zeros and the score its cosine.
    """
    _check(u, v, "u", "v")
    if u.shape != v.shape:
        raise PoolingError(f"u and v must be of one shape (…, D); they are {tuple(u.shape)} and {tuple(v.shape)}")
    check_score(score)
    u, v = _prepare(u, "u", score), _prepare(v, "v", score)
    if score in ("cosine", "dot"):
        return (u * v).sum(dim=-1)
    return -torch.linalg.vector_norm(u - v, ord=2 if score == "euclidean" else 1, dim=-1)


def cosine_distance(u: Tensor, v: Tensor) -> Tensor:
    """1 − cosine, pair by pair along the last axis: (…, D) and (…, D) → (…).

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
    """Finds for each query the `top_k` vectors of the corpus that are closest.

    The corpus is read block by block, so that memory is needed for `block_size` × 1,024 scores, never for N × M.

    Args:
        queries: (N, D), or (D,) for a single one.
        corpus: (M, D)
        top_k: how many hits for each query; all M, if the corpus has fewer.
        score: "cosine", "dot", "euclidean" or "manhattan".
        block_size: how many corpus vectors to compare at a time.

    Returns:
        For each query its hits, best first; of equal scores, the first of the corpus first. Which of several equal
        scores at the end of the list are in it is left open.

    Raises:
        PoolingError: as the score does; `top_k` or `block_size` is less than 1; the corpus is empty.
    """
    check_score(score)
    _check(queries, corpus, "queries", "corpus")
    for name, number in (("top_k", top_k), ("block_size", block_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise PoolingError(f"{name} is {number!r}, and must be a whole number from 1")
    queries = torch.atleast_2d(queries)
    if queries.dim() != 2 or corpus.dim() != 2 or queries.shape[1] != corpus.shape[1] or 0 in corpus.shape:
        raise PoolingError(
            f"queries must be (N, D) and corpus (M, D) with the same D and M from 1; "
            f"they are {tuple(queries.shape)}, {tuple(corpus.shape)}"
        )
    queries = _prepare(queries, "queries", score)
    found: list[list[Hit]] = [[] for _ in queries]
    for start in range(0, len(corpus), block_size):
        block = _prepare(corpus[start : start + block_size], "corpus", score, start)  # (M, D) → (block, D)
        for first in range(0, len(queries), 1024):
            scores, places = SCORES[score](queries[first : first + 1024], block).topk(min(top_k, len(block)))
            if not scores.isfinite().all():
                raise PoolingError(f"some scores are too large for {scores.dtype}: scale the vectors down")
            rows = zip(scores.tolist(), (places + start).tolist(), strict=True)
            for number, (values, ids) in enumerate(rows, first):
                found[number] = sorted([*found[number], *map(Hit, ids, values)], key=_best_first)[:top_k]
    return found


def rank(query: Tensor, corpus: Tensor, score: str = "cosine") -> list[Hit]:
    """The whole corpus, (M, D), from the closest to `query`, (D,), to the farthest. Raises as `semantic_search`."""
    _check(query, corpus, "query", "corpus")
    if query.dim() != 1:
        raise PoolingError(f"query must be one vector (D,); it is {tuple(query.shape)}")
    (hits,) = semantic_search(query, corpus, max(1, len(corpus)), score)
    return hits


def check_score(score: str) -> None:
    """Raises a `PoolingError` if there is no score of that name."""
    if not isinstance(score, str) or score not in SCORES:
        raise PoolingError(f"score is {score!r}, and must be one of {', '.join(SCORES)}")


# Of vectors that `_prepare` returned, (N, D) and (M, D) → (N, M); by the names that sentence-transformers gave them.
SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: a @ b.T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: -_distances(a, b, p=2),
    "manhattan": lambda a, b: -_distances(a, b, p=1),
}


def _distances(a: Tensor, b: Tensor, p: int) -> Tensor:
    wide = torch.promote_types(a.dtype, torch.float32)  # it is not there for half precision
    # The way through a matrix product, |a|² + |b|² - 2·a·b, is faster, and loses all digits between close vectors.
    return torch.cdist(a.to(wide), b.to(wide), p, compute_mode="donot_use_mm_for_euclid_dist").to(a.dtype)


def _prepare(vectors: Tensor, name: str, score: str, start: int = 0) -> Tensor:
    """The vectors that a score is computed of: for the cosine at length 1, else as they are.

    `start` is the number of the first vector, as the caller counts them.
    """
    largest = vectors.abs().amax(dim=-1, keepdim=True)
    wrong, what = ~largest.isfinite(), "not finite"
    if score == "cosine" and not wrong.any():
        wrong, what = largest == 0, "all zeros: such a vector has no direction and no cosine"
    if wrong.any():
        place = wrong[..., 0].nonzero()[0].tolist()
        where = ", ".join(str(number + start) for number in place)
        raise PoolingError(f"{f'row {where} of {name}' if where else name} is {what}")
    if score != "cosine":
        return vectors
    scaled = vectors / largest  # so that no square overflows or vanishes
    return scaled / scaled.norm(dim=-1, keepdim=True)


def _best_first(hit: Hit) -> tuple[float, int]:
    return -hit.score, hit.corpus_id


def _check(one: Tensor, other: Tensor, *names: str) -> None:
    for name, vectors in zip(names, (one, other), strict=True):
        if not isinstance(vectors, Tensor):
            raise PoolingError(f"{name} must be a tensor, not {type(vectors).__name__}: torch.as_tensor({name})")
        if not vectors.is_floating_point():
            raise PoolingError(f"{name} must hold floating-point numbers, not {vectors.dtype}: call {name}.float()")
        if vectors.dim() == 0 or vectors.shape[-1] == 0:
            raise PoolingError(f"{name} must hold vectors of at least one number; its shape is {tuple(vectors.shape)}")
    if one.dtype != other.dtype:
        raise PoolingError(f"{names[0]} holds {one.dtype} and {names[1]} {other.dtype}: convert one of them")
    if one.device != other.device:
        raise PoolingError(f"{names[0]} is on {one.device} and {names[1]} on {other.device}: move one of them")
