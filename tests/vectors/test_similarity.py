import numpy
import pytest
import scipy.spatial.distance
import sklearn.metrics.pairwise
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import util
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minibert import cosine_distance, cosine_similarity, mean_pool, semantic_search
from minibert.errors import PoolingError
from minibert.vectors.similarity import (
    Hit,
    dot_product,
    euclidean_similarity,
    manhattan_similarity,
    pairwise_similarity,
    rank,
)

MATRICES = {
    "cosine": cosine_similarity,
    "dot": dot_product,
    "euclidean": euclidean_similarity,
    "manhattan": manhattan_similarity,
}

A = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
B = torch.tensor([[0.0, 2.0], [-3.0, 0.0], [5.0, 5.0]])


def test_by_hand() -> None:
    half = 0.5**0.5
    expected = torch.tensor([[0.0, -1.0, half], [half, -half, 1.0]])
    torch.testing.assert_close(cosine_similarity(A, B), expected)
    torch.testing.assert_close(cosine_similarity(A), torch.tensor([[1.0, half], [half, 1.0]]))
    torch.testing.assert_close(cosine_distance(A, B[:2]), torch.tensor([1.0, 1 + half]))
    assert A.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_against_pytorch() -> None:
    a, b = torch.randn(7, 33, dtype=torch.float64), torch.randn(5, 33, dtype=torch.float64)
    expected = F.cosine_similarity(a[:, None], b[None], dim=-1)
    torch.testing.assert_close(cosine_similarity(a, b), expected)
    torch.testing.assert_close(cosine_distance(a[:5], b), 1 - expected[:5].diagonal())
    assert cosine_distance(a[0], b[0]).shape == ()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SKLEARN = {
    "cosine": sklearn.metrics.pairwise.cosine_similarity,
    "dot": sklearn.metrics.pairwise.linear_kernel,
    "euclidean": lambda a, b: -sklearn.metrics.pairwise.euclidean_distances(a, b),
    "manhattan": lambda a, b: -sklearn.metrics.pairwise.manhattan_distances(a, b),
}
SCIPY = {
    "cosine": lambda u, v: 1 - scipy.spatial.distance.cosine(u, v),
    "dot": lambda u, v: (u * v).sum(),
    "euclidean": lambda u, v: -scipy.spatial.distance.euclidean(u, v),
    "manhattan": lambda u, v: -scipy.spatial.distance.cityblock(u, v),
}
SENTENCE_TRANSFORMERS = {
    "cosine": (util.cos_sim, util.pairwise_cos_sim),
    "dot": (util.dot_score, util.pairwise_dot_score),
    "euclidean": (util.euclidean_sim, util.pairwise_euclidean_sim),
    "manhattan": (util.manhattan_sim, util.pairwise_manhattan_sim),
}


@pytest.mark.parametrize("score", MATRICES)
def test_against_other_libraries(score: str) -> None:
    """scikit-learn, scipy and sentence-transformers; matrix and pair by pair; (N, D) and single vectors."""
    a, b = random(7, 33), random(5, 33, seed=1)
    matrix, pairs = MATRICES[score](a, b), pairwise_similarity(a[:5], b, score)
    torch.testing.assert_close(matrix, torch.from_numpy(SKLEARN[score](a.numpy(), b.numpy())))
    torch.testing.assert_close(matrix[:5].diagonal(), pairs)
    by_scipy = [SCIPY[score](u, v) for u, v in zip(a[:5].numpy(), b.numpy(), strict=True)]
    torch.testing.assert_close(pairs, torch.tensor(by_scipy, dtype=torch.float64))
    for ours, theirs, first in zip((matrix, pairs), SENTENCE_TRANSFORMERS[score], (a, a[:5]), strict=True):
        torch.testing.assert_close(ours, theirs(first, b))
    assert pairwise_similarity(a[0], b[0], score).shape == ()
    torch.testing.assert_close(MATRICES[score](a), MATRICES[score](a, a))


def test_the_distance_of_close_vectors_keeps_its_digits() -> None:
    """A matrix product, which cdist uses by default above 25 rows, would lose them all."""
    a = 100 + random(40, 384).float()
    b = a + 1e-3
    expected = -(a.double() - b.double()).norm(dim=-1)
    torch.testing.assert_close(euclidean_similarity(a, b).diagonal().double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("score", MATRICES)
@given(
    queries=st.integers(1, 4),
    corpus=st.integers(1, 40),
    top_k=st.integers(1, 50),
    block=st.integers(1, 45),
    seed=st.integers(0, 99),
)
def test_search_is_the_matrix_sorted(score: str, queries: int, corpus: int, top_k: int, block: int, seed: int) -> None:
    """Whatever the size of the blocks."""
    a, b = random(queries, 6, seed=seed), random(corpus, 6, seed=seed + 1)
    found = semantic_search(a, b, top_k, score, block_size=block)
    values, indices = MATRICES[score](a, b).sort(descending=True)
    assert [[hit.corpus_id for hit in hits] for hits in found] == indices[:, :top_k].tolist()
    torch.testing.assert_close(
        torch.tensor([[hit.score for hit in hits] for hits in found]).double(), values[:, :top_k], rtol=1e-6, atol=1e-6
    )


def test_search_against_sentence_transformers() -> None:
    a, b = random(150, 16), random(3000, 16, seed=1)
    theirs = util.semantic_search(a, b, top_k=10, corpus_chunk_size=700)
    for ours, those in zip(semantic_search(a, b, block_size=900), theirs, strict=True):
        assert [hit.corpus_id for hit in ours] == [hit["corpus_id"] for hit in those]
        assert [hit.score for hit in ours] == pytest.approx([hit["score"] for hit in those])


def test_more_queries_than_a_block() -> None:
    queries = random(2500, 8)
    assert [hits[0].corpus_id for hits in semantic_search(queries, queries, 1, block_size=1000)] == list(range(2500))


def test_equal_scores_come_in_the_order_of_the_corpus() -> None:
    corpus = torch.cat([B, B, B])
    assert rank(A[0], corpus)[:3] == [
        Hit(2, pytest.approx(0.5**0.5)),
        (5, pytest.approx(0.5**0.5)),
        (8, pytest.approx(0.5**0.5)),
    ]
    assert [hit.corpus_id for hit in rank(A[0], corpus)] == [2, 5, 8, 0, 3, 6, 1, 4, 7]
    assert rank(A[1], B, "dot")[0] == Hit(corpus_id=2, score=10.0)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation inside it returns."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if isinstance(result, Tensor) and not result._is_view():
            self.numbers = max(self.numbers, result.numel())
        return result


def test_a_large_search_needs_no_large_matrix() -> None:
    corpus = torch.randn(200_000, 8)
    with Largest() as largest:
        found = semantic_search(corpus[::100], corpus, top_k=1)
    assert [hits[0].corpus_id for hits in found] == list(range(0, 200_000, 100))
    assert largest.numbers == 16_384 * 1024  # of 2,000 × 200,000


@pytest.mark.parametrize("size", [1e-38, 1e-25, 1e20, 1e38])
def test_large_and_small_vectors(size: float) -> None:
    torch.testing.assert_close(cosine_similarity(A * size, B), cosine_similarity(A, B))
    assert cosine_similarity(torch.full((1, 768), 3000.0).half()).item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("score", MATRICES)
def test_half_precision(score: str) -> None:
    a, b = random(3, 8), random(4, 8, seed=1)
    matrix = MATRICES[score](a.half(), b.half())
    assert matrix.dtype == torch.float32
    expected = MATRICES[score](a.half().double(), b.half().double())
    torch.testing.assert_close(matrix.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", MATRICES)
def test_neighbours_of_half_precision_vectors(score: str, dtype: torch.dtype) -> None:
    """All of them, as of the same vectors in float64: scores with three digits would mix them up."""
    corpus, queries = random(500, 32).to(dtype), random(20, 32, seed=1).to(dtype)
    ours = semantic_search(queries, corpus, 10, score)
    exact = semantic_search(queries.double(), corpus.double(), 10, score)
    assert [[hit.corpus_id for hit in hits] for hits in ours] == [[hit.corpus_id for hit in hits] for hits in exact]


@pytest.mark.parametrize(
    "vectors,message",
    [
        (torch.eye(3).to_sparse(), "got one of layout sparse_coo: convert it with"),
        (torch.eye(3).to_sparse_csr(), "got one of layout sparse_csr"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "of layout nested"),
        (torch.eye(3, device="meta"), "must have values, got a tensor on the meta device"),
        (torch.eye(3, dtype=torch.complex64), "must be floating-point numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR")  # PyTorch calls it a beta
def test_tensors_of_other_kinds(vectors: torch.Tensor, message: str) -> None:
    for call in (cosine_similarity, lambda both: semantic_search(both, both)):
        with pytest.raises(PoolingError, match=message):
            call(vectors)
    with pytest.raises(PoolingError):
        mean_pool(vectors, vectors)


@pytest.mark.parametrize("number", [numpy.int64(2), numpy.uint8(2), torch.tensor(2), numpy.array(2)])
def test_integers_of_other_libraries(number: object) -> None:
    assert semantic_search(A[:1], A, number) == semantic_search(A[:1], A, 2)
    with pytest.raises(PoolingError, match="top_k must be a positive integer"):
        semantic_search(A, A, number * 0)
    with pytest.raises(PoolingError, match="top_k must be a positive integer"):
        semantic_search(A, A, number > 1)  # True


def test_single_vectors_count_as_one_row() -> None:
    assert cosine_similarity(A[0], B).shape == (1, 3)
    assert cosine_similarity(A[0], B[0]).shape == (1, 1)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: cosine_similarity(A, torch.ones(2, 3)), r"with the same D, got \(2, 2\) and \(2, 3\)"),
        (lambda: cosine_similarity(A[None], A), r"a must be \(N, D\)"),
        (lambda: cosine_similarity(A, torch.zeros(2, 2)), "row 0 of b is all zeros"),
        (lambda: cosine_similarity(A.long()), r"a must be floating-point numbers, got torch.int64: call a\.float\(\)"),
        (lambda: cosine_similarity(A, [[1.0, 2.0]]), r"b must be a tensor, got list: torch\.as_tensor\(b\)"),
        (lambda: cosine_similarity(A, A.double()), "a and b must have one dtype, got torch.float32 and torch.float64"),
        (lambda: cosine_similarity(A / 0), "row 0 of a is not finite"),
        (lambda: cosine_distance(A, B), r"u and v must have the same shape .*, got \(2, 2\) and \(3, 2\)"),
        (lambda: cosine_distance(A[0], torch.zeros(2)), "v is all zeros"),
        (lambda: cosine_similarity(A, torch.ones(0)), r"b must be vectors of at least one number, got shape \(0,\)"),
        (lambda: cosine_similarity(A, A.to("meta")), "b must have values, got a tensor on the meta device"),
        (lambda: euclidean_similarity(A, A / 0), "row 0 of b is not finite"),
        (lambda: pairwise_similarity(A, A, "angle"), "score must be one of cosine, dot, .*, got 'angle'"),
        (lambda: semantic_search(A, B, score=cosine_similarity), "score must be one of .*, got <function"),
        (lambda: semantic_search(A, B, top_k=0), "top_k must be a positive integer, got 0"),
        (lambda: semantic_search(A, B, block_size=1.5), "block_size must be a positive integer, got 1.5"),
        (lambda: semantic_search(A, B[:0]), r"M at least 1, got \(2, 2\) and \(0, 2\)"),
        (lambda: semantic_search(A, B[0]), r"corpus \(M, D\)"),
        (lambda: semantic_search(A, torch.ones(3, 5)), r"with the same D and M at least 1, got \(2, 2\) and \(3, 5\)"),
        (lambda: semantic_search(["fly"], B), "queries must be a tensor, got list"),
        (lambda: semantic_search(A, torch.cat([B, 0 * B]), block_size=2), "row 3 of corpus is all zeros"),
        (lambda: semantic_search(A * 0, B), "row 0 of queries is all zeros"),
        (lambda: semantic_search(A * 1e30, B * 1e30, score="dot"), "some scores are too large for torch.float32"),
        (lambda: semantic_search(A, B, top_k=True), "top_k must be a positive integer, got True"),
        (lambda: rank(A, B), r"query must be one vector \(D,\), got \(2, 2\)"),
        (lambda: rank(A[0], None), "corpus must be a tensor, got NoneType"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(PoolingError, match=message):
        call()
