"""A gate's gradient is the product that stands for it, and without a head a model is as it was with the head off."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.attribution import CONFIGURATIONS, INPUTS, random_case, real_case
from support.heads import CASES, twins
from support.models import hooks, random_model
from torch import Tensor

from minibert import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    SentenceEncoder,
    mean_pool,
)
from minibert.checkpoints import store
from minibert.errors import ConfigError, InputError
from minibert.fast import applies_to
from minibert.heads import bert_in
from minibert.interpret import decompose, head_importance, patch, prune_curve, prune_heads, token_logit
from minibert.trace import count_parameters, verify
from minibert.trace.compare import example_inputs
from minibert.trace.edits import gate, mean_of, zero
from minibert.trace.recording import edit, record


def per_text(out) -> Tensor:
    return out.last_hidden_state.square().sum((1, 2))


def by_gates(model: torch.nn.Module, inputs: dict[str, Tensor], loss: Callable[..., Tensor]) -> Tensor:
    """The gradient of gates of 1, text by text."""
    gradients = []
    for row in range(len(inputs["input_ids"])):
        one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        gates = torch.ones(model.config.num_hidden_layers, model.config.num_attention_heads, dtype=torch.float64)
        gates.requires_grad_()
        with edit(model, "*.attention.context", gate(gates)):
            value = loss(model(**one)).sum()
        gradients.append(torch.autograd.grad(value, gates)[0].abs())
    return torch.stack(gradients).mean(0)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_gradient_of_a_gate(configuration: str) -> None:
    """|∂loss/∂gate| = |⟨context, ∂loss/∂context⟩|, in a batch as text by text."""
    model, given = random_case(configuration, "padded, with a pair")
    found = head_importance(model, [given], per_text)
    assert found.texts == 3
    torch.testing.assert_close(found.values, by_gates(model, given, per_text), atol=1e-9, rtol=1e-9)
    mean = head_importance(model, given, lambda out: per_text(out).mean())
    torch.testing.assert_close(mean.values, found.values)
    assert hooks(model) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["MiniLM", "rxnfp", "BERT-tiny"])
def test_real_checkpoints(name: str, checkpoint: Path, reactions: Path, data: Callable[[str], Path]) -> None:
    model, inputs = real_case(name, checkpoint, reactions, data("bert-tiny"))
    bert = bert_in(model).double()
    torch.testing.assert_close(
        head_importance(bert, inputs, per_text).values, by_gates(bert, inputs, per_text), atol=1e-6, rtol=1e-6
    )
    pruned = {1: [0], 0: [1]}
    with torch.no_grad():
        with (
            edit(bert, "encoder.layers.0.attention.context", zero, heads=1),
            edit(bert, "encoder.layers.1.attention.context", zero, heads=0),
        ):
            expected = bert(**inputs).last_hidden_state
        smaller = prune_heads(bert, pruned)
        torch.testing.assert_close(smaller(**inputs).last_hidden_state, expected, atol=1e-11, rtol=0)
        found = prune_heads(bert.float(), pruned)(**inputs).last_hidden_state
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)


def test_the_loss_of_a_head() -> None:
    """That of the labels, where none is given."""
    ours, _theirs, inputs = twins("a class", "eager")
    labelled = head_importance(ours, inputs)
    labels = inputs["labels"]
    without = {name: tensor for name, tensor in inputs.items() if name != "labels"}
    by_hand = head_importance(ours, [without], lambda out, given: F.cross_entropy(out.logits, labels, reduction="none"))
    torch.testing.assert_close(labelled.values, by_hand.values)


@pytest.mark.parametrize("inputs", INPUTS)
def test_what_moving_a_gate_does_to_the_loss(inputs: str) -> None:
    """Without any gradient: the central difference, text by text."""
    model, given = random_case("small", inputs)
    found = head_importance(model, given, per_text).values
    for layer, head in [(0, 1), (1, 3), (2, 0)]:
        losses = []
        for moved in (1e-5, -1e-5):
            gates = torch.ones(3, 4, dtype=torch.float64)
            gates[layer, head] += moved
            with edit(model, "*.attention.context", gate(gates)), torch.no_grad():
                losses.append(per_text(model(**given)))
        slopes = (losses[0] - losses[1]) / 2e-5
        assert found[layer, head].item() == pytest.approx(slopes.abs().mean().item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [True, False])
def test_wherever_it_is_called(block: Callable[[], AbstractContextManager], frozen: bool, checkpoint: Path) -> None:
    """A caller without gradients, or a model loaded or inputs made without them: the same numbers, nothing left."""
    expected_model = BertModel.from_pretrained(checkpoint)
    tokenizer = BertTokenizer.from_pretrained(checkpoint)
    expected = head_importance(expected_model, tokenizer("A fly."), per_text)
    with block():
        model = BertModel.from_pretrained(checkpoint).requires_grad_(not frozen)
        inputs = tokenizer("A fly.")
        before = dict(model.named_parameters())
        found = head_importance(model, inputs, per_text)
    torch.testing.assert_close(found.values, expected.values)
    torch.testing.assert_close(head_importance(model, dict(inputs), per_text).values, expected.values)
    for each in (inputs, dict(inputs)):  # ids are kept for the gradient of the word embeddings, which this model has
        torch.testing.assert_close(head_importance(expected_model, each, per_text).values, expected.values)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_target_is_a_loss(data: Callable[[str], Path]) -> None:
    folder = data("bert-tiny")
    model = BertForMaskedLM.from_pretrained(folder)
    inputs = BertTokenizer.from_pretrained(folder)("The river [MASK] through the valley.")
    found = head_importance(model, inputs, token_logit("runs"))
    token = inputs.tokenizer.convert_tokens_to_ids("runs")
    position = inputs.tokens().index("[MASK]")
    by_hand = head_importance(model, inputs, lambda out: out.logits[:, position, token])
    assert torch.equal(found.values, by_hand.values)
    with torch.inference_mode():  # inputs that are copied keep their tokenizer
        inputs = inputs.tokenizer("The river [MASK] through the valley.")
        assert torch.equal(head_importance(model, inputs, token_logit("runs")).values, found.values)


# --- pruned models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("configuration", [name for name in CONFIGURATIONS if name != "one layer, one head"])
def test_pruned_is_switched_off(configuration: str, attention: str) -> None:
    model = random_model(attention, **CONFIGURATIONS[configuration])
    given = example_inputs(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    smaller = prune_heads(model, {0: [1, 3], 2: [0]})
    gates = torch.ones(3, model.config.num_attention_heads)
    gates[0, [1, 3]] = gates[2, 0] = 0
    with edit(model, "*.attention.context", gate(gates)):
        expected = model(**given).last_hidden_state
    torch.testing.assert_close(smaller(**given).last_hidden_state, expected, atol=2e-5, rtol=1e-5)
    head = 4 * 24 * model.config.head_size + 3 * model.config.head_size
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in smaller.parameters()) == 3 * head
    assert smaller.config.parameter_count == model.config.parameter_count - 3 * head
    assert count_parameters(smaller).total == count_parameters(model).total - 3 * head
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.config.pruned_heads == ()
    assert "layer 0 without the heads 1, 3" in smaller.config.summary()


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("numbers", "a class, named as such")])
def test_every_head_on_top(case: str, tmp_path: Path) -> None:
    """Saved and loaded again, it has the same bits; pruned in two steps it is the same model."""
    ours, _theirs, inputs = twins(case, "eager")
    smaller = prune_heads(ours, {1: [3, 0]})
    twice = prune_heads(prune_heads(ours, {1: [3]}), {1: [0]})
    smaller.save_pretrained(tmp_path / "pruned")
    loaded = type(ours).from_pretrained(tmp_path / "pruned", attention="eager")
    assert replace(loaded.config, dtype=None) == smaller.config == twice.config
    for name, tensor in smaller.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
        assert torch.equal(tensor, twice.state_dict()[name])
    with torch.no_grad():
        assert all(
            a is None or isinstance(a, tuple) or torch.equal(a, b)
            for a, b in zip(smaller(**inputs), twice(**inputs), strict=True)
        )


def test_the_sentence_encoder_and_the_fast_path(checkpoint: Path, tmp_path: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(checkpoint)
    encoder.model = prune_heads(encoder.model, {5: [0, 1, 2], 2: [7]})
    assert applies_to(encoder.model)
    texts = ["There was a fly drinking from my soup", "a fly", "He had to fly for 1500 hours."]
    fast = encoder.encode(texts)
    encoder.fast = False
    torch.testing.assert_close(fast, encoder.encode(texts), atol=1e-6, rtol=0)
    encoder.save_pretrained(tmp_path)
    assert torch.equal(SentenceEncoder.from_pretrained(tmp_path).encode(texts), fast)
    lower = SentenceEncoder.from_pretrained(tmp_path, layer=3)  # without the layer 5 that lacks heads
    assert lower.model.config.pruned_heads == ((2, (7,)),)
    assert lower.encode(texts).shape == fast.shape


def test_instruments_on_a_pruned_model() -> None:
    model = prune_heads(random_model().double(), {1: [0, 2]})
    given = example_inputs(model)
    with record(model, ["*.context", "*.head_outputs"]) as trace:
        model(**given)
    assert trace["encoder.layers.1.attention.context"].shape == (3, 2, 11, 6)
    assert trace["encoder.layers.1.attention.head_outputs"].shape == (3, 2, 11, 24)
    parts = decompose(model, given, by="head")
    assert parts.error < 1e-11
    importance = head_importance(model, given, per_text)
    assert importance.values[1, [0, 2]].tolist() == [0, 0]
    assert sorted(importance.order) == sorted({(a, b) for a in range(3) for b in range(4)} - {(1, 0), (1, 2)})
    curve = prune_curve(model, importance.order, lambda model: per_text(model(**given)).sum())
    assert curve.removed[-1] == 10
    with pytest.raises(InputError, match="the layers must have the same number of heads for one table"):
        patch(model, given, given, per_text, at="head")
    one = patch(model, given, given, per_text, at="encoder.layers.1.attention.context")
    assert one.values.shape == (1, 2)


# --- the curve -------------------------------------------------------------------------------------------------------


def test_a_curve_switches_off_more_and_more() -> None:
    model = random_model().double()
    given = example_inputs(model)
    means = mean_of(model, given, "*.attention.context")
    order = [(2, 1), (0, 3), (1, 0)]

    def metric(model: torch.nn.Module) -> float:
        return per_text(model(**given)).sum().item()

    for chosen, function in ((None, zero), (means, means)):
        curve = prune_curve(model, order, metric, removed=[0, 2, 3], means=chosen)
        assert curve.removed == [0, 2, 3]
        assert curve.values[0] == metric(model)
        with (
            edit(model, "encoder.layers.2.attention.context", function, heads=1),
            edit(model, "encoder.layers.0.attention.context", function, heads=3),
        ):
            assert curve.values[1] == pytest.approx(metric(model), rel=1e-12)
            with edit(model, "encoder.layers.1.attention.context", function, heads=0):
                assert curve.values[2] == pytest.approx(metric(model), rel=1e-12)
    assert str(curve).splitlines()[1].split() == ["0", f"{curve.values[0]:.4f}"]
    assert prune_curve(model, order, metric).removed == [0, 1, 2, 3]


def test_unimportant_heads_can_go_first(checkpoint: Path, tokenizer: BertTokenizer) -> None:
    """Michel et al. 2019, figure 2, on retrieval: half of a paragraph finds the other half among forty.

    With half of the heads off, the least important first, most of the task remains; the other way round, much less;
    and at random something between.
    """
    files = sorted((store.store_folder() / "speeches").glob("*.txt"))
    paragraphs = [line for file in files for line in file.read_text(encoding="utf-8").split("\n") if len(line) > 200]
    chosen = [text.split()[:40] for text in paragraphs[:: len(paragraphs) // 80][:80]]
    model = BertModel.from_pretrained(checkpoint)

    def encoded(words: list[list[str]]) -> dict[str, Tensor]:
        return tokenizer([" ".join(each[:20]) for each in words] + [" ".join(each[20:]) for each in words])

    fitted, held_out = encoded(chosen[:40]), encoded(chosen[40:])

    def scores(out, given) -> Tensor:
        vectors = F.normalize(mean_pool(out.last_hidden_state, given["attention_mask"]), dim=-1)
        return vectors[:40] @ vectors[40:].T

    def contrast(out, given) -> Tensor:
        return F.cross_entropy(20 * scores(out, given), torch.arange(40))

    def reciprocal_rank(model: torch.nn.Module) -> float:
        found = scores(model(**held_out), held_out)
        ranks = (found >= found.diagonal()[:, None]).sum(1)
        return (1 / ranks).mean().item()

    order = head_importance(model, fitted, contrast).order
    assert sorted(order) == [(layer, head) for layer in range(6) for head in range(12)]

    def without_half(order: list[tuple[int, int]]) -> float:
        return prune_curve(model, order, reciprocal_rank, removed=[36]).values[0]

    at_random = []
    for seed in range(2):
        shuffled = list(order)
        random.Random(seed).shuffle(shuffled)
        at_random.append(without_half(shuffled))
    least_first, most_first = without_half(order), without_half(order[::-1])
    assert most_first + 0.05 < sum(at_random) / 2 < least_first
    assert least_first > 0.85 * reciprocal_rank(model)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda model, x: prune_heads(model, {0: [4]}), InputError, "has no head 4 in layer 0"),
        (lambda model, x: prune_heads(model, {3: [0]}), InputError, "has no head 0 in layer 3"),
        (lambda model, x: prune_heads(model, [(0, 1)]), InputError, "heads must be a mapping from layers"),
        (lambda model, x: prune_heads(model, {0: [0, 1, 2, 3]}), ConfigError, "must leave each layer a head"),
        (
            lambda model, x: prune_heads(prune_heads(model, {0: [1]}), {0: [1]}),
            InputError,
            "and has no head 1 in layer 0",
        ),
        (lambda model, x: prune_heads(model, {0: 1}), InputError, "heads must map layer 0 to a list of heads, got 1"),
        (lambda model, x: prune_curve(model, [(0, 1), (0, 1)], len), InputError, "order must have each head once"),
        (lambda model, x: prune_curve(model, 5, len), InputError, "order must be a list of heads"),
        (lambda model, x: prune_curve(model, [(0, 1)], 3), InputError, "metric must be a function of the model"),
        (
            lambda model, x: prune_curve(model, [(0, 1)], lambda model: per_text(model(**x))),
            InputError,
            r"metric must return one number, got a tensor \(3,\)",
        ),
        (lambda model, x: head_importance(model, x, 3), InputError, "loss must be a function of the output"),
        (lambda model, x: head_importance(model, 3, per_text), InputError, "batches must be the inputs of some texts"),
        (lambda model, x: head_importance(model, []), InputError, "batches must be the inputs of some texts"),
        (lambda model, x: head_importance(model, x), InputError, "loss must be given"),
        (
            lambda model, x: head_importance(model, x, lambda out: out[0]),
            InputError,
            r"\(3,\), or their mean, \(\), got",
        ),
        (
            lambda model, x: head_importance(model, x, lambda out: torch.ones(())),
            InputError,
            "the loss must depend on the model's output",
        ),
        (lambda model, x: prune_curve(model, [3], len), InputError, r"a head must be \(layer, head\), got 3"),
        (
            lambda model, x: prune_curve(model, [(0, 1)], len, removed=[2]),
            InputError,
            "removed must be an integer from 0",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(call, error, message: str) -> None:
    model = random_model()
    with pytest.raises(error, match=message):
        call(model, example_inputs(model))
    assert hooks(model) == 0


def test_what_is_printed(tmp_path: Path) -> None:
    model = random_model(kind=BertForSequenceClassification)
    found = head_importance(model, example_inputs(model.bert) | {"labels": torch.tensor([0, 1, 1])})
    lines = str(found).splitlines()
    assert lines[0] == "importance of each head, mean over 3 texts"
    assert lines[2].split() == ["0", *(f"{value:.1e}" for value in found.values[0].tolist())]
    torch.testing.assert_close(found.normalised.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert "<svg" in found.plot()._repr_svg_()
    assert "<svg" in prune_curve(model, found.order[:2], lambda model: 0.5).plot()._repr_svg_()
    prune_heads(random_model(), {0: [0]}).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has pruned heads, which transformers 5 cannot load"):
        verify(tmp_path)
    assert isinstance(prune_heads(random_model(kind=BertForMaskedLM), {0: [0]}), BertForMaskedLM)
