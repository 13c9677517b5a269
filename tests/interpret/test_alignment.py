"""CKA is what its definition by kernels says, and does not see rotations, scales and shifts."""

from pathlib import Path

import pytest
import torch
from support.models import random_model
from support.speeches import sentences

from minibert import BertModel, BertTokenizer
from minibert.errors import InputError
from minibert.interpret.alignment import cka
from minibert.interpret.states import text_vectors

TEXTS = ["The bank of the river, the bank!", "A bank", "He went there to embezzle money.", "Rivers embezzle nothing."]


def by_kernels(one: torch.Tensor, other: torch.Tensor) -> float:
    """HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)) of linear kernels (Kornblith et al. 2019, equation 3)."""
    count = len(one)
    centring = torch.eye(count).double() - 1 / count

    def hsic(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first @ centring @ second @ centring).trace() / (count - 1) ** 2

    first, second = one @ one.T, other @ other.T
    return (hsic(first, second) / (hsic(first, first) * hsic(second, second)).sqrt()).item()


@pytest.mark.parametrize("count, one_size, other_size", [(40, 6, 9), (5, 12, 20), (5, 3, 20), (2, 1, 1)])
def test_is_that_of_kernels(count: int, one_size: int, other_size: int) -> None:
    torch.manual_seed(0)
    one = torch.randn(3, count, one_size).double() + 2
    other = torch.randn(2, count, other_size).double() - 1
    found = cka(one, other=other)
    assert found.values.shape == (3, 2)
    for row in range(3):
        for column in range(2):
            assert found.values[row, column].item() == pytest.approx(by_kernels(one[row], other[column]), abs=1e-12)


@pytest.mark.parametrize("count", [40, 6])
def test_sees_no_rotation_no_scale_and_no_shift(count: int) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(count, 8).double()
    rotation = torch.linalg.qr(torch.randn(8, 8).double()).Q
    moved = 3.7 * vectors @ rotation + torch.randn(8).double()
    assert cka(vectors, other=moved).values.item() == pytest.approx(1, abs=1e-12)
    squeezed = vectors @ torch.diag(torch.tensor([100.0, *[1] * 7])).double()  # any other linear map is seen
    assert cka(vectors, other=squeezed).values.item() < 0.9


def test_of_a_model_is_that_of_its_vectors(tokenizer: BertTokenizer) -> None:
    model = random_model(vocab_size=len(tokenizer), max_position_embeddings=20)
    found = cka(model, tokenizer, iter(TEXTS), words=True)
    vectors = list(text_vectors(model, tokenizer, TEXTS, words=True))
    ordered = torch.cat([each.values for each in sorted(vectors)], dim=1)  # (L + 1, N, D)
    assert found.vectors == ordered.shape[1] == 22
    for given in (vectors, ordered):
        torch.testing.assert_close(cka(given).values, found.values)
    torch.testing.assert_close(found.values.diagonal(), torch.ones(4).double())
    torch.testing.assert_close(found.values, found.values.T)
    assert found.values[1, 2].item() == pytest.approx(by_kernels(*ordered[1:3].double()), abs=1e-9)
    assert str(found).count("\n") == 5
    assert found.plot().axes


def test_of_two_models(tokenizer: BertTokenizer) -> None:
    one = random_model(vocab_size=len(tokenizer), max_position_embeddings=20)
    other = random_model(vocab_size=len(tokenizer), max_position_embeddings=20, hidden_size=8, num_hidden_layers=1)
    found = cka(one, tokenizer, iter(TEXTS), other=other)
    assert found.values.shape == (4, 2)
    vectors = list(text_vectors(other, tokenizer, TEXTS))
    torch.testing.assert_close(cka(one, tokenizer, TEXTS, other=vectors).values, found.values)


def test_of_minilm_neighbouring_layers_are_more_alike(data, checkpoint: Path, tokenizer: BertTokenizer) -> None:
    data("speeches")
    values = cka(BertModel.from_pretrained(checkpoint), tokenizer, sentences()).values
    assert all((values[layer, layer + 1 :].diff() < 0).all() for layer in range(5))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.randn(2, 1, 4),), "at least two, got 1 and 1"),
        ((torch.ones(2, 5, 4),), "layer 0 are all equal"),
        ((torch.ones(2, 5, 4).long(),), "must be a tensor"),
        ((torch.randn(4),), "must be a tensor"),
        (([],), "texts must not be empty"),
        (("text",), "must be a list of TextVectors"),
    ],
)
def test_mistakes(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cka(*arguments)


def test_different_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="got 5 and 6"):
        cka(torch.randn(5, 4), other=torch.randn(6, 4))
