import pytest
import torch
import torch.nn.functional as F

from minibert import cosine_distance, cosine_similarity
from minibert.errors import PoolingError

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


@pytest.mark.parametrize("size", [1e-38, 1e-25, 1e20, 1e38])
def test_large_and_small_vectors(size: float) -> None:
    torch.testing.assert_close(cosine_similarity(A * size, B), cosine_similarity(A, B))
    assert cosine_similarity(torch.full((1, 768), 3000.0).half()).item() == pytest.approx(1, abs=2e-3)


def test_single_vectors_count_as_one_row() -> None:
    assert cosine_similarity(A[0], B).shape == (1, 3)
    assert cosine_similarity(A[0], B[0]).shape == (1, 1)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: cosine_similarity(A, torch.ones(2, 3)), r"with the same D; they are \(2, 2\), \(2, 3\)"),
        (lambda: cosine_similarity(A[None], A), r"a must be \(N, D\)"),
        (lambda: cosine_similarity(A, torch.zeros(2, 2)), "row 0 of b is all zeros"),
        (lambda: cosine_similarity(A.long()), r"a must hold floating-point numbers, .* call a\.float\(\)"),
        (lambda: cosine_similarity(A, [[1.0, 2.0]]), r"b must be a tensor, not list: torch\.as_tensor\(b\)"),
        (lambda: cosine_similarity(A, A.double()), "a holds torch.float32 and b torch.float64: convert one"),
        (lambda: cosine_similarity(A / 0), "row 0 of a is not finite"),
        (lambda: cosine_distance(A, B), r"of one shape .* they are \(2, 2\) and \(3, 2\)"),
        (lambda: cosine_distance(A[0], torch.zeros(2)), "v is all zeros"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(PoolingError, match=message):
        call()
