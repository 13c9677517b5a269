"""Random models of every shape, every part, bit for bit; and the proof that the ladder can go red."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import ladder
import pytest
import torch
import torch.nn.functional as F
from ladder import RUNGS, Batch, Twins, first_red_rung, is_equal
from support.models import SMALL
from torch import Tensor

from minibert import BertConfig
from minibert import model as minibert_model
from minibert.model import ACTIVATIONS, EncoderLayer, gelu_tanh
from minibert.teaching.bugs import BUGS, Bug
from minibert.teaching.parts import PARTS
from minibert.trace.compare import example_inputs

CONFIGS = {
    "small": SMALL,
    "one head": dataclasses.replace(SMALL, num_attention_heads=1),
    "heads of width 1": dataclasses.replace(SMALL, num_attention_heads=32),
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
    """In float64, for every parameter. The backward pass sums in another order, so this is no test for equal bits."""
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


# --- The ladder has to go red, and on the right rung. Each fault is a mistake that people make. ---


def tanh_gelu(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in twins.ours.encoder.layers:
        layer.feed_forward.activation = gelu_tanh


def query_bias_dropped(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    query = twins.ours.encoder.layers[0].attention.query
    query.forward = lambda hidden: F.linear(hidden, query.weight)


def key_bias_missing(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    twins.ours.encoder.layers[0].attention.key.bias = None


def value_bias_zero(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    twins.ours.encoder.layers[0].attention.value.bias.data.zero_()


def embedding_eps(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    twins.ours.embeddings.norm.eps = 1e-5


def layer_eps(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    twins.ours.encoder.layers[1].attention_norm.eps = 1e-5


def positions_off_by_one(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    twins.ours.embeddings.position_embeddings.register_forward_pre_hook(lambda module, ids: (ids[0] + 1,))


def query_and_key_swapped(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = twins.ours.attend
    twins.ours.attend = lambda query, key, value, mask, dropout: attend(key, query, value, mask, dropout)


def scale_missing(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = twins.ours.attend
    width = SMALL.head_width
    twins.ours.attend = lambda query, key, value, mask, dropout: attend(
        query * math.sqrt(width), key, value, mask, dropout
    )


def mask_missing(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = twins.ours.attend
    twins.ours.attend = lambda query, key, value, mask, dropout: attend(query, key, value, None, dropout)


def mask_of_minus_10000(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
        return (1 - attention_mask[:, None, None, :].to(dtype)) * -10000

    monkeypatch.setattr(minibert_model, "additive_mask", faulty)


def residual_from_the_layer_input(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(layer: EncoderLayer, hidden: Tensor, mask: Tensor, attend: Callable) -> tuple[Tensor, Tensor]:
        attended, maps = layer.attention(hidden, mask, attend)
        middle = layer.attention_norm(hidden + attended)
        return layer.feed_forward_norm(hidden + layer.feed_forward(middle)), maps

    monkeypatch.setattr(EncoderLayer, "forward", faulty)


def layers_in_reverse(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    right = minibert_model.Encoder.forward

    def faulty(encoder: minibert_model.Encoder, *args: object) -> object:
        encoder.layers = encoder.layers[::-1]
        try:
            return right(encoder, *args)
        finally:
            encoder.layers = encoder.layers[::-1]

    monkeypatch.setattr(minibert_model.Encoder, "forward", faulty)


def pooler_of_the_last_token(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    twins.ours.pooler.register_forward_pre_hook(lambda module, hidden: (hidden[0].flip(1),))


FAULTS: dict[Callable[[Twins, pytest.MonkeyPatch], None], str] = {
    tanh_gelu: "feed_forward",
    query_bias_dropped: "attention",
    key_bias_missing: "parameters",
    value_bias_zero: "parameters",
    embedding_eps: "embeddings",
    layer_eps: "layer",
    positions_off_by_one: "embeddings",
    query_and_key_swapped: "attention",
    scale_missing: "attention",
    mask_missing: "attention",
    mask_of_minus_10000: "mask",
    residual_from_the_layer_input: "layer",
    layers_in_reverse: "encoder",
    pooler_of_the_last_token: "pooler",
}


# sdpa is told which keys are visible, so the constant never reaches it.
CASES = [(fault, attention) for fault in FAULTS for attention in ("eager", "sdpa")]
CASES.remove((mask_of_minus_10000, "sdpa"))


@pytest.mark.parametrize("fault,attention", CASES, ids=[f"{fault.__name__}-{attention}" for fault, attention in CASES])
def test_the_first_red_rung_locates_a_fault(
    fault: Callable[[Twins, pytest.MonkeyPatch], None], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = Twins.random(SMALL, attention)
    batch = batches(SMALL)["padding right"]
    assert first_red_rung(twins, batch) is None
    fault(twins, monkeypatch)
    assert first_red_rung(twins, batch) == FAULTS[fault]


def test_the_readme_counts_right() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"for {len(CONFIGS)} configurations" in readme
    assert f"and {len(FAULTS)} mistakes" in readme


@functools.cache
def healthy_twins() -> Twins:  # in float64, where a mask of −10⁹ shows
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    return Twins.random(BertConfig(vocab_size=50, layer_norm_eps=1e-3, **sizes), dtype=torch.float64)


INSIDE = [bug for bug in BUGS.values() if bug.first not in PARTS and bug.first != "logits"]


@pytest.mark.parametrize("bug", INSIDE, ids=lambda bug: bug.name)
def test_no_known_mistake_goes_unseen(bug: Bug) -> None:
    """Each of the catalogue, alone, turns a rung red; for those of what comes after a BERT see test_bugs.py."""
    twins = healthy_twins()
    inputs = example_inputs(twins.ours)
    inputs["attention_mask"][-1] = 0  # where masks of −∞ and −10000 show
    batch = Batch(**inputs)
    assert first_red_rung(twins, batch) is None
    with bug.applied(twins.ours):
        assert first_red_rung(twins, batch) is not None
    assert first_red_rung(twins, batch) is None
