"""The fast path computes what the readable path does: within 1e-6 for vectors of length 1, and 1e-12 in float64."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.texts import SIX
from torch import nn

from minibert import BertConfig, BertModel, SentenceEncoder
from minibert.fast import FastBert
from minibert.model import ACTIVATIONS
from minibert.sentences.recipe import Dense, Normalize, Recipe
from minibert.vectors.pooling import POOLING

SIZES = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
TEXTS = [" ".join(SIX[: number % 6 + 1])[: 7 * number] for number in range(1, 60, 3)]


def random_model(seed: int = 0, **changes: object) -> BertModel:
    """Every parameter random, in float64."""
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**{**SIZES, **changes})).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def assert_same(model: BertModel, texts: list[list[int]], within: float = 1e-12) -> None:
    runs = FastBert(model)(texts)
    hidden = [row for run in runs for row in run]
    assert len(hidden) == len(texts)
    for text, ours in zip(texts, hidden, strict=True):
        expected = model(torch.tensor([text])).last_hidden_state[0]
        torch.testing.assert_close(ours, expected, atol=within, rtol=0)


@examples(60)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_any_lengths_in_any_order(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(50, (length,), generator=generator).tolist() for length in lengths]
    assert_same(random_model(seed), texts)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    assert_same(random_model(hidden_act=activation), [[1, 2, 3], [4, 5, 6], [7], list(range(40))])


def test_a_real_checkpoint(checkpoint: Path) -> None:
    fast = SentenceEncoder.from_pretrained(checkpoint)
    readable = SentenceEncoder.from_pretrained(checkpoint, fast=False)
    for texts in (TEXTS, TEXTS[:1], TEXTS[-1:], TEXTS[:6]):  # many rows; and few, with packed weights
        torch.testing.assert_close(fast.encode(texts), readable.encode(texts), atol=1e-6, rtol=0)
    assert not torch.equal(fast.encode(TEXTS), readable.encode(TEXTS))  # so they are two paths
    fast, readable = fast.double(), readable.double()
    torch.testing.assert_close(fast.encode(TEXTS), readable.encode(TEXTS), atol=1e-7, rtol=0)  # of float32 vectors


@pytest.mark.parametrize("mode", POOLING)
def test_every_recipe(small: Path, mode: str) -> None:
    base = SentenceEncoder.from_pretrained(small)
    steps = (Dense(48, 7), Normalize())
    for recipe in (
        Recipe(pooling=(mode,)),
        Recipe(pooling=(mode, "cls"), final_steps=steps),
        Recipe(pooling=("max",), include_prompt=False),
    ):
        vectors = [
            SentenceEncoder(base.model, base.tokenizer, recipe, fast=fast).eval().encode(TEXTS, prompt="a prompt: ")
            for fast in (True, False)
        ]
        torch.testing.assert_close(*vectors, atol=3e-6, rtol=1e-5)


def test_a_model_that_changes(small: Path) -> None:
    """No vector is computed with outdated parameters."""
    fast, readable = SentenceEncoder.from_pretrained(small), SentenceEncoder.from_pretrained(small, fast=False)
    seen = [fast.encode(SIX)]

    def both_agree() -> None:
        vectors = fast.encode(SIX)
        torch.testing.assert_close(vectors, readable.encode(SIX), atol=3e-6, rtol=1e-5)
        assert not any(torch.equal(vectors, before) for before in seen)
        seen.append(vectors)

    for encoder in (fast, readable):
        with torch.no_grad():
            encoder.model.encoder.layers[1].attention.value.bias += 1
    both_agree()
    for encoder in (fast, readable):
        encoder.model.embeddings.position_embeddings.weight.data = (
            encoder.model.embeddings.position_embeddings.weight.data * 2
        )
    both_agree()
    for encoder in (fast, readable):
        for parameter in encoder.parameters():
            parameter.grad = torch.ones_like(parameter)
        torch.optim.SGD(encoder.parameters(), lr=0.1).step()
    both_agree()


def test_half_precision_and_relative_positions(small: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    expected = encoder.encode(SIX)
    torch.testing.assert_close(encoder.bfloat16().encode(SIX), expected, atol=0.1, rtol=0.1)
    relative = random_model(vocab_size=28_996, position_embedding_type="relative_key").float()
    assert not SentenceEncoder(relative, encoder.tokenizer).fast
    assert SentenceEncoder(relative, encoder.tokenizer).eval().encode(SIX).shape == (6, 24)


def test_parameters_made_in_inference_mode(small: Path) -> None:
    with torch.inference_mode():
        encoder = SentenceEncoder.from_pretrained(small).double()
    assert encoder.encode(SIX).shape == (6, 24)
