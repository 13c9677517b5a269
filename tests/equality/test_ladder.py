"""Random models of every shape, every part, bit for bit; and the proof that the ladder can go red."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import ladder
import pytest
import torch
from ladder import RUNGS, Batch, Twins, first_red_rung, is_equal
from support.models import SMALL
from torch import Tensor

from minibert import BertConfig
from minibert import model as minibert_model
from minibert.model import ACTIVATIONS
from minibert.teaching.bugs import BUGS
from minibert.teaching.parts import PARTS
from minibert.trace.compare import example_inputs

CONFIGS = {
    "small": SMALL,
    "one head": dataclasses.replace(SMALL, num_attention_heads=1),
    "heads of size 1": dataclasses.replace(SMALL, num_attention_heads=32),
    "odd widths": dataclasses.replace(SMALL, hidden_size=45, num_attention_heads=3, intermediate_size=71),
    "one layer": dataclasses.replace(SMALL, num_hidden_layers=1),
    "seven layers": dataclasses.replace(SMALL, num_hidden_layers=7),
    "narrow feed-forward": dataclasses.replace(SMALL, intermediate_size=5),
    "five segments": dataclasses.replace(SMALL, type_vocab_size=5),
    "one segment": dataclasses.replace(SMALL, type_vocab_size=1),
    "large eps": dataclasses.replace(SMALL, layer_norm_eps=1e-2),
    "no padding id": dataclasses.replace(SMALL, pad_token_id=None),
    "another padding id": dataclasses.replace(SMALL, pad_token_id=7),
    **{name: dataclasses.replace(SMALL, hidden_act=name) for name in ACTIVATIONS},
}


def batches(config: BertConfig) -> dict[str, Batch]:
    generator = torch.Generator().manual_seed(1)

    def ids(rows: int, length: int, below: int = config.vocab_size) -> Tensor:
        return torch.randint(below, (rows, length), generator=generator)

    right = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
    return {
        "one row": Batch(ids(1, 7)),
        "one token": Batch(ids(1, 1)),
        "as long as it goes": Batch(ids(2, config.max_position_embeddings)),
        "a mask that hides nothing": Batch(ids(2, 7), torch.ones(2, 7, dtype=torch.long)),
        "padding right": Batch(ids(3, 7), right),
        "padding left": Batch(ids(3, 7), right.flip(1)),
        "a boolean mask": Batch(ids(3, 7), right.bool()),
        "a row of padding": Batch(ids(2, 5), torch.tensor([[1, 1, 1, 1, 0], [0, 0, 0, 0, 0]])),
        "segments": Batch(ids(3, 9), None, ids(3, 9, config.type_vocab_size)),
        "positions": Batch(ids(2, 7), None, None, torch.tensor([[6, 5, 4, 3, 2, 1, 0], [2, 2, 9, 9, 0, 1, 3]])),
        "positions for all rows": Batch(ids(2, 3), None, None, torch.tensor([[4, 5, 6]])),
    }


twins_of = functools.cache(Twins.random)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.__name__)
def test_every_part_is_equal(
    rung: Callable[[Twins, Batch], ladder.Pairs], name: str, attention: str, dtype: torch.dtype
) -> None:
    config = CONFIGS[name]
    twins = twins_of(config, attention, dtype)
    red = [batch for batch, inputs in batches(config).items() if not is_equal(rung, twins, inputs)]
    assert not red, f"{rung.__name__} differs from transformers for: {', '.join(red)}"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_draws_the_same_numbers(attention: str) -> None:
    """In training mode, from the same seed: dropout is applied to the same tensors in the same order."""
    twins = Twins.random(SMALL, attention)
    batch = batches(SMALL)["padding right"]
    twins.ours.train()
    twins.theirs.train()
    torch.manual_seed(3)
    ours = twins.ours(**vars(batch))
    torch.manual_seed(3)
    theirs = twins.theirs(**vars(batch))
    assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
    assert not torch.equal(ours.last_hidden_state, twins.ours.eval()(**vars(batch)).last_hidden_state)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_agree(attention: str) -> None:
    """In float64, for every parameter. The backward pass sums in a different order: no test for equal bits."""
    twins = Twins.random(SMALL, attention, torch.float64)
    batch = batches(SMALL)["padding right"]
    for model in (twins.ours, twins.theirs):
        output = model(**vars(batch))
        (output.last_hidden_state.square().sum() + output.pooler_output.sum()).backward()
    for ours, theirs in ladder.parameters(twins, batch):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)


def test_attention_maps_under_sdpa_are_real() -> None:
    """transformers returns none; minibert computes such a call the written-out way."""
    sdpa, eager = Twins.random(SMALL, "sdpa").ours, Twins.random(SMALL, "eager").ours
    batch = vars(batches(SMALL)["padding right"])
    maps = sdpa(**batch, output_attentions=True).attentions
    assert len(maps) == SMALL.num_hidden_layers
    for ours, expected in zip(maps, eager(**batch, output_attentions=True).attentions, strict=True):
        assert torch.equal(ours, expected)


# --- The ladder has to go red, and on the right rung: each known mistake, alone ---------------------------------------

# Mistakes that change a parameter are seen as such, those that swap whole layers where the first layer is compared.
RUNG_OF = {
    "positions off by one": "parameters",
    "sinusoidal positions": "parameters",
    "positions dropped": "parameters",
    "segment ids all 1": "parameters",
    "segment ids all 0": "parameters",
    "token types dropped": "parameters",
    "word embeddings times √D": "embeddings",
    "weights transposed": "parameters",
    "query bias dropped": "parameters",
    "key bias dropped": "parameters",
    "value bias dropped": "parameters",
    "output bias dropped": "parameters",
    "expand bias dropped": "parameters",
    "contract bias dropped": "parameters",
    "gamma and beta swapped": "parameters",
    "embedding norm forgotten": "embeddings",
    "eps of 1e-5": "embeddings",
    "eps of 1e-12": "embeddings",
    "eps outside the root": "embeddings",
    "variance over n − 1": "embeddings",
    "mean not subtracted": "embeddings",
    "norm over the sequence": "embeddings",
    "norm bias dropped": "embeddings",
    "norm weight dropped": "embeddings",
    "dropout left on": "embeddings",
    "query and key swapped": "attention",
    "value from the key's projection": "attention",
    "key from the query's projection": "attention",
    "heads split without the transpose": "attention",
    "no scale": "attention",
    "scale by W": "attention",
    "scale by √D": "attention",
    "no mask": "attention",
    "mask of the queries": "attention",
    "mask added raw": "attention",
    "mask of −10000": "attention",
    "mask of −10⁹": "attention",
    "mask of −∞": "attention",
    "mask after the softmax": "attention",
    "softmax over the queries": "attention",
    "softmax over the heads": "attention",
    "probabilities transposed": "attention",
    "heads merged without the transpose": "attention",
    "layers in reverse order": "attention",
    "one layer shared": "attention",
    "GELU by tanh": "feed_forward",
    "ReLU for GELU": "feed_forward",
    "activation forgotten": "feed_forward",
    "attention norm forgotten": "layer",
    "feed-forward norm forgotten": "layer",
    "norms swapped": "layer",
    "no residual around attention": "layer",
    "no residual around the feed-forward": "layer",
    "residual from the layer's input": "layer",
    "residual after the norm": "layer",
    "pre-norm": "layer",
    "last layer left out": "layer",
    "pooler on the last token": "pooler",
    "pooler on the mean": "pooler",
    "pooler without tanh": "pooler",
}


@functools.cache
def float64_twins(attention: str) -> Twins:  # in float64, where a mask of −10⁹ shows
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    return Twins.random(BertConfig(vocab_size=50, layer_norm_eps=1e-3, **sizes), attention, torch.float64)


def a_row_of_padding(twins: Twins) -> Batch:
    """Texts of several lengths, and one that is all padding: there masks of −∞ and −10000 show."""
    inputs = example_inputs(twins.ours)
    inputs["attention_mask"][-1] = 0
    return Batch(**inputs)


# A mistake inside attention makes it compute step by step, and beside sdpa that differs by rounding alone.
CASES = [(name, "eager") for name in RUNG_OF] + [(name, "sdpa") for name in RUNG_OF if RUNG_OF[name] != "attention"]


@pytest.mark.parametrize("name, attention", CASES)
def test_the_first_red_rung_locates_a_mistake(name: str, attention: str) -> None:
    twins = float64_twins(attention)
    batch = a_row_of_padding(twins)
    assert first_red_rung(twins, batch) is None
    with BUGS[name].applied(twins.ours):
        assert first_red_rung(twins, batch) == RUNG_OF[name]
    assert first_red_rung(twins, batch) is None


def test_no_known_mistake_is_left_out() -> None:
    """All of the catalogue inside a BERT; for what comes after it see teaching/test_bugs.py."""
    assert set(RUNG_OF) == {bug.name for bug in BUGS.values() if bug.shows_at not in [*PARTS, "logits"]}


# What no mistake of the catalogue reaches first: a missing parameter, the mask itself, and the loop over the layers.


def key_bias_missing(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    twins.ours.encoder.layers[0].attention.key.bias = None


def mask_of_minus_10000(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
        return (1 - attention_mask[:, None, None, :].to(dtype)) * -10000

    monkeypatch.setattr(minibert_model, "additive_mask", faulty)


def layers_in_reverse(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    right = minibert_model.Encoder.forward

    def faulty(encoder: minibert_model.Encoder, *args: object) -> object:
        encoder.layers = encoder.layers[::-1]
        try:
            return right(encoder, *args)
        finally:
            encoder.layers = encoder.layers[::-1]

    monkeypatch.setattr(minibert_model.Encoder, "forward", faulty)


@pytest.mark.parametrize(
    "fault, attention, rung",
    [
        (key_bias_missing, "eager", "parameters"),
        (key_bias_missing, "sdpa", "parameters"),
        (mask_of_minus_10000, "eager", "mask"),  # sdpa is told which keys are visible, and never sees the constant
        (layers_in_reverse, "eager", "encoder"),
        (layers_in_reverse, "sdpa", "encoder"),
    ],
)
def test_the_other_rungs_go_red(
    fault: Callable[[Twins, pytest.MonkeyPatch], None], attention: str, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = Twins.random(SMALL, attention)
    batch = batches(SMALL)["padding right"]
    assert first_red_rung(twins, batch) is None
    fault(twins, monkeypatch)
    assert first_red_rung(twins, batch) == rung


def test_the_readme_counts_right() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"for {len(CONFIGS)} configurations" in readme
    assert f"and {len(RUNG_OF)} mistakes" in readme
