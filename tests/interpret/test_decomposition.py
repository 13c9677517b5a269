"""The parts of a hidden state, of a logit and of a projection sum to it, whatever the model and the text."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.attribution import CONFIGURATIONS, INPUTS, off, random_case, real_case
from support.models import random_model
from torch import Tensor

from minibert import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from minibert.errors import InputError
from minibert.interpret import decompose
from minibert.interpret.readouts import gate
from minibert.model import ACTIVATIONS
from minibert.trace.compare import example_inputs
from minibert.trace.recording import record

HEADS = [
    BertForMaskedLM,
    BertForPreTraining,
    BertForNextSentencePrediction,
    BertForSequenceClassification,
    BertForTokenClassification,
]


@pytest.mark.parametrize("by", ["part", "head"])
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_hidden_states(configuration: str, inputs: str, by: str) -> None:
    """Of every layer; the shares sum to 1."""
    model, given = random_case(configuration, inputs)
    states = model(**given, output_hidden_states=True).hidden_states
    for layer, expected in enumerate(states):
        parts = decompose(model, given, layer=layer, by=by)
        assert off(parts.values.sum(0), expected) < 1e-12
        assert parts.error < 1e-12 * expected.abs().max()
        assert torch.equal(parts.whole, expected)
        assert len(parts.labels) == len(set(parts.labels)) == len(parts.values)
        torch.testing.assert_close(parts.shares.sum(0), torch.ones_like(expected[..., 0]))
        one = decompose(model, given, layer=layer, by=by, position=-1)
        torch.testing.assert_close(one.values, parts.values[:, :, -1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("by", ["part", "head", "neuron"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_logits(configuration: str, by: str, kind) -> None:
    model, given = random_case(configuration, "padded, with a pair", kind)
    output = model(**given)
    logits = output[1]
    position = None if logits.dim() == 2 else 2
    expected = logits[:, 1] if logits.dim() == 2 else logits[:, 2, 1]
    parts = decompose(model, given, to="logit", by=by, position=position, token=1)
    assert off(parts.values.sum(0), expected) < 1e-12
    assert torch.equal(parts.whole, expected)
    best = decompose(model, given, to="logit", by=by, position=position)
    assert torch.equal(best.whole, logits.amax(-1) if logits.dim() == 2 else logits[:, 2].amax(-1))
    assert best.error < 1e-12 * expected.abs().max()
    one = decompose(model, {name: tensor[:1] for name, tensor in given.items()}, to="logit", position=position, by=by)
    torch.testing.assert_close(one.values, best.values[:, 0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["MiniLM", "rxnfp", "BERT-tiny"])
def test_real_checkpoints(name: str, checkpoint: Path, reactions: Path, data: Callable[[str], Path]) -> None:
    model, inputs = real_case(name, checkpoint, reactions, data("bert-tiny"))
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model = model.to(dtype)
        parts = decompose(model, inputs, by="head")
        assert off(parts.values.sum(0), parts.whole) < bound
        if name == "MiniLM":
            assert len(parts.labels) == 100
            assert parts.labels[:6] == [
                "word embedding",
                "segment embedding",
                "position embedding",
                "embeddings norm bias",
                "layer 0 head 0",
                "layer 0 head 1",
            ]
        else:
            one = inputs.rows([1])
            for by in ("head", "neuron"):
                parts = decompose(model, one, to="logit", by=by)
                assert parts.values.dim() == 1
                assert off(parts.values.sum(0), parts.whole) < bound


def test_a_projection_is_that_of_the_hidden_state() -> None:
    """Computed backwards, each part is what it is when it is carried forwards and projected."""
    model, given = random_case("small", "padded, with a pair")
    direction = torch.randn(24, dtype=torch.float64)
    for layer in (0, 1, -1):
        forwards = decompose(model, given, layer=layer, by="head")
        backwards = decompose(model, given, to=direction, layer=layer, by="head")
        assert backwards.labels == forwards.labels
        torch.testing.assert_close(backwards.values, forwards.values @ direction, atol=1e-11, rtol=0)
        at_3 = decompose(model, given, to=direction, layer=layer, by="head", position=3)
        torch.testing.assert_close(at_3.values, backwards.values[..., 3], atol=1e-11, rtol=0)


def test_neurons_sum_to_their_feed_forward_block() -> None:
    model, given = random_case("small", "padded, with a pair")
    by_head = decompose(model, given, by="head", position=1)
    by_neuron = decompose(model, given, by="neuron", position=1)
    for layer in range(3):
        members = [
            index
            for index, label in enumerate(by_neuron.labels)
            if label.startswith((f"layer {layer} neuron", f"layer {layer} feed-forward bias"))
        ]
        assert len(members) == 41
        block = by_head.values[by_head.labels.index(f"layer {layer} feed-forward")]
        torch.testing.assert_close(by_neuron.values[members].sum(0), block, atol=1e-12, rtol=0)


def test_the_four_terms_of_mickus_paperno_and_constant() -> None:
    """Their equation 5: with g̃ the product of all later weights over all later standard deviations, a hidden state is
    i + Σ h̃ + Σ f̃ + c, where the means of each LayerNorm are a term of the same kind. Written from the paper."""
    model, given = random_case("small", "padded, with a pair")
    with record(model) as t:
        hidden = model(**given).last_hidden_state
    norms = [(model.embeddings.norm, t["embeddings.sum"])]
    for number, layer in enumerate(model.encoder.layers):
        norms += [
            (layer.attention_norm, t[f"encoder.layers.{number}.attention_sum"]),
            (layer.feed_forward_norm, t[f"encoder.layers.{number}.feed_forward_sum"]),
        ]

    def carried(term: Tensor, first: int) -> Tensor:
        """A term added before the norm `first`, as it is after the last: (x − mean(x)) · g / σ at each."""
        for norm, total in norms[first:]:
            sigma = (total.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
            term = norm.weight * (term - term.mean(-1, keepdim=True)) / sigma
        return term

    like = torch.zeros_like(hidden)
    inputs = carried(t["embeddings.sum"], 0)
    biases = carried(like + norms[0][0].bias, 1)
    attention, feed_forward = like.clone(), like.clone()
    for number, layer in enumerate(model.encoder.layers):
        first, second = 2 * number + 1, 2 * number + 2
        output, contract = layer.attention.output, layer.feed_forward.contract
        attention += carried(t[f"encoder.layers.{number}.attention.output"] - output.bias, first)
        feed_forward += carried(t[f"encoder.layers.{number}.feed_forward.contract"] - contract.bias, second)
        biases += carried(like + output.bias, first) + carried(like + contract.bias, second)
        biases += carried(like + layer.attention_norm.bias, second)
        biases += carried(like + layer.feed_forward_norm.bias, second + 1)
    torch.testing.assert_close(inputs + attention + feed_forward + biases, hidden, atol=1e-11, rtol=0)

    parts = decompose(model, given, by="neuron", position=4)
    ours = {name: torch.zeros_like(hidden[:, 4]) for name in ("embedding", "head", "neuron", "bias")}
    for label, value in zip(parts.labels, parts.values, strict=True):
        term = "bias" if "bias" in label else next(name for name in ours if name in label)
        ours[term] += value
    for term, expected in zip(ours.values(), (inputs, attention, feed_forward, biases), strict=True):
        torch.testing.assert_close(term, expected[:, 4], atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_gate_times_its_input_is_the_activation(name: str) -> None:
    x = torch.tensor([-3.0, -1e-30, 0.0, 1e-300, 0.5, 40.0], dtype=torch.float64)
    activation = ACTIVATIONS[name]
    found = gate(activation, x)
    assert found.isfinite().all()
    torch.testing.assert_close(found * x, activation(x))
    if "gelu" in name:
        assert found[2] == 0.5


def test_a_whole_that_is_zero_has_no_shares() -> None:
    model, given = random_case("small", "one token")
    parts = decompose(model, given, to=torch.zeros(24, dtype=torch.float64))
    assert (parts.shares == 0).all()


def test_what_is_printed() -> None:
    """Of a number what each part adds, of a hidden state its share; the lines sum to the whole."""
    model, given = random_case("small", "padded, with a pair", BertForMaskedLM)
    for parts, whole, head in (
        (decompose(model, given, to="logit", by="head", position=2, token=7), None, "logit of 7, "),
        (decompose(model, given, by="head"), 1, "hidden state: "),
    ):
        lines = str(parts).splitlines()
        assert lines[0].startswith(head)
        assert lines[0].endswith(f"the largest of {len(parts.labels)} parts")
        added = parts.values.mean(1) if whole is None else parts.shares.mean((1, 2))
        largest = int(added.abs().argmax())
        assert lines[2].split()[-1] == f"{added[largest]:+.3f}"
        assert lines[2].startswith(parts.labels[largest])
        assert lines[12].startswith(f"the other {len(parts.labels) - 10} ")
        listed = sum(float(line.split()[-1]) for line in lines[2:13])
        assert listed == pytest.approx(parts.whole.mean().item() if whole is None else whole, abs=0.01)
        assert "off by" in lines[-1]
        assert parts.plot(5)._repr_svg_().count("layer") >= 1


@pytest.mark.parametrize(
    "kind, options, message",
    [
        (BertModel, {"to": "logits"}, "to must be one of hidden, logit, got 'logits'"),
        (BertModel, {"to": "logit"}, "a logit needs a model with a head .*, got BertModel"),
        (BertForQuestionAnswering, {"to": "logit"}, "got BertForQuestionAnswering"),
        (BertModel, {"by": "layer"}, "by must be one of part, head, neuron, got 'layer'"),
        (BertModel, {"layer": 4}, "layer must be a hidden state from 0 to 3, got 4"),
        (BertModel, {"by": "neuron"}, "position must be given for hidden states by neuron"),
        (BertModel, {"position": 11}, "position must be an integer from 0 to 10, got 11"),
        (BertModel, {"to": torch.ones(23)}, r"the direction must be a tensor \(24,\), got \(23,\)"),
        (BertForMaskedLM, {"to": "logit", "layer": 1, "position": 1}, "layer must be -1 for a logit"),
        (BertForMaskedLM, {"to": "logit"}, "position must be given for inputs that no tokenizer made"),
        (BertForSequenceClassification, {"to": "logit", "token": "good"}, "label must be one of LABEL_0, LABEL_1"),
    ],
)
def test_what_has_no_meaning_is_refused(kind, options: dict, message: str) -> None:
    model = random_model(kind=kind)
    with pytest.raises(InputError, match=message):
        decompose(model, example_inputs(getattr(model, "bert", model)), **options)
