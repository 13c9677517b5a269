"""The parts of a hidden state, of a logit and of a projection sum to it, whatever the model and the text."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.attribution import CONFIGURATIONS, INPUTS, off, random_case, real_case
from support.models import hooks, random_model
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
from minibert.interpret.readouts import activation_gate
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


def terms_of_mickus(model: BertModel, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Input, attention, feed-forward and bias of the last hidden state, as Mickus and others 2022 define them.

    Each term is multiplied by the weights g of all later LayerNorms and divided by their standard deviations s; no term
    is centred. The bias term has every bias, that of the values too, and loses the mean of every LayerNorm.
    """
    with record(model) as t:
        model(**given)
    norms = [(model.embeddings.norm, t["embeddings.sum"])]
    for number, layer in enumerate(model.encoder.layers):
        norms += [
            (layer.attention_norm, t[f"encoder.layers.{number}.attention_sum"]),
            (layer.feed_forward_norm, t[f"encoder.layers.{number}.feed_forward_sum"]),
        ]
    factors = [norm.weight / (total.var(-1, correction=0, keepdim=True) + norm.eps).sqrt() for norm, total in norms]

    def from_norm(first: int) -> Tensor:
        return torch.stack([torch.ones_like(factors[0]), *factors[first:]]).prod(0)

    terms = {"embedding": from_norm(0) * t["embeddings.sum"]}
    terms |= {name: torch.zeros_like(terms["embedding"]) for name in ("head", "neuron", "bias")}
    for index, (norm, total) in enumerate(norms):
        terms["bias"] += from_norm(index + 1) * norm.bias - from_norm(index) * total.mean(-1, keepdim=True)
    for number, layer in enumerate(model.encoder.layers):
        attention, contract = layer.attention, layer.feed_forward.contract
        constant = attention.output.bias + attention.output.weight @ attention.value.bias
        written = t[f"encoder.layers.{number}.attention.output"] - constant
        added = t[f"encoder.layers.{number}.feed_forward.contract"] - contract.bias
        terms["head"] += from_norm(2 * number + 1) * written
        terms["neuron"] += from_norm(2 * number + 2) * added
        terms["bias"] += from_norm(2 * number + 1) * constant + from_norm(2 * number + 2) * contract.bias
    return terms


def without_means(model: BertModel) -> BertModel:
    """The same model, but whatever is added to the residual connection has the mean 0, also after a LayerNorm."""
    embeddings = model.embeddings
    for table in (embeddings.word_embeddings, embeddings.token_type_embeddings, embeddings.position_embeddings):
        table.weight -= table.weight.mean(-1, keepdim=True)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.fill_(0.5 + len(name) / 50)  # a different one for each kind, the same in all dimensions
            module.bias -= module.bias.mean()
        elif name.endswith(("attention.output", "feed_forward.contract")):
            module.weight -= module.weight.mean(0)
            module.bias -= module.bias.mean()
    return model


@pytest.mark.parametrize("inputs", ["padded, with a pair", "padded on the left"])
def test_the_four_terms_of_mickus_paperno_and_constant(inputs: str) -> None:
    """Their terms have the same sum; where no part has a mean, each is that of our parts, besides the values' bias."""
    model, given = random_case("small", inputs)
    hidden = model(**given).last_hidden_state
    assert off(torch.stack(list(terms_of_mickus(model, given).values())).sum(0), hidden) < 1e-12

    model = without_means(model)
    for layer in model.encoder.layers:
        layer.attention.value.bias.zero_()  # it is counted with the head here, and with the biases there
    expected = terms_of_mickus(model, given)
    parts = decompose(model, given, by="neuron", position=4)
    ours = {name: torch.zeros_like(hidden[:, 4]) for name in expected}
    for label, value in zip(parts.labels, parts.values, strict=True):
        ours["bias" if "bias" in label else next(name for name in ours if name in label)] += value
    for name, term in expected.items():
        assert off(ours[name], term[:, 4]) < 1e-11, name


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_gate_times_its_input_is_the_activation(name: str) -> None:
    x = torch.tensor([-3.0, -1e-30, 0.0, 1e-300, 0.5, 40.0], dtype=torch.float64)
    activation = ACTIVATIONS[name]
    found = activation_gate(activation, x)
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
        tokens = given["attention_mask"] == 1
        added = parts.values.mean(1) if whole is None else parts.shares[:, tokens].mean(1)
        largest = int(added.abs().argmax())
        assert lines[2].split()[-1] == f"{added[largest]:+.3f}"
        assert lines[2].startswith(parts.labels[largest])
        assert lines[12].startswith(f"the other {len(parts.labels) - 10} ")
        listed = sum(float(line.split()[-1]) for line in lines[2:13])
        assert listed == pytest.approx(parts.whole.mean().item() if whole is None else whole, abs=0.01)
        assert "off by" in lines[-1]
        assert parts.plot(5)._repr_svg_().count("layer") >= 1


def test_padding_counts_in_no_mean_and_no_error() -> None:
    """What is printed of a text is the same with padding beside it; NaN at padding is not an error of the sum."""
    model, given = random_case("small", "padded on the left")
    one = {name: tensor[2:] for name, tensor in given.items()}
    short = {name: tensor[:, -5:] for name, tensor in one.items()} | {"position_ids": torch.arange(6, 11)[None]}
    assert one["attention_mask"].sum() == 5
    for to in ("hidden", torch.arange(24.0)):
        padded, alone = decompose(model, one, to=to, by="head"), decompose(model, short, to=to, by="head")
        for (label, added), (other, expected) in zip(padded.top(9), alone.top(9), strict=True):
            assert label == other
            assert added == pytest.approx(expected, abs=1e-10)
        assert padded.table().splitlines()[:-1] == alone.table().splitlines()[:-1]
        padded.values[:, 0, 0] = torch.nan
        assert padded.error < 1e-11
        padded.values[:, 0, -1] = torch.nan
        assert not padded.error < 1e-11
    nothing = {**one, "attention_mask": torch.zeros_like(one["attention_mask"])}
    assert decompose(model, nothing).error < 1e-11


def test_shares_of_half_precision_sum_to_one() -> None:
    """The square of 300 is not a number of float16."""
    model, given = random_case("small", "one token")
    model = model.half()
    model.encoder.layers[2].feed_forward_norm.weight.mul_(300)
    parts = decompose(model, given, by="head")
    torch.testing.assert_close(parts.shares.sum(0), torch.ones(1, 1), atol=0.01, rtol=0)


def test_nothing_remains_on_the_model() -> None:
    model, given = random_case("small", "padded, with a pair", BertForMaskedLM)
    decompose(model, given, to="logit", position=1)
    with pytest.raises(InputError, match="input_ids must be from 0 to 49"):
        decompose(model, {"input_ids": torch.tensor([[99]])})
    assert hooks(model) == 0


class Wrapper(torch.nn.Module):
    """A model inside another, which has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = random_model(kind=BertForMaskedLM)


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
        (BertModel, {"to": torch.ones(24, dtype=torch.complex64)}, "the direction must have real numbers"),
        (BertModel, {"token": "river"}, "token must be left out unless to is 'logit', got 'river'"),
        (BertModel, {"to": torch.ones(24), "token": 3}, "token must be left out unless to is 'logit', got 3"),
        (BertForSequenceClassification, {"to": "logit", "position": 3}, "position must be left out for the score"),
        (BertForMaskedLM, {"to": "logit", "layer": 1, "position": 1}, "layer must be -1 for a logit"),
        (BertForMaskedLM, {"to": "logit"}, "position must be given for inputs that no tokenizer made"),
        (BertForSequenceClassification, {"to": "logit", "token": "good"}, "label must be one of LABEL_0, LABEL_1"),
    ],
)
def test_what_has_no_meaning_is_refused(kind, options: dict, message: str) -> None:
    model = random_model(kind=kind)
    with pytest.raises(InputError, match=message):
        decompose(model, example_inputs(getattr(model, "bert", model)), **options)


def test_a_head_inside_another_module_is_refused_by_name() -> None:
    wrapper = Wrapper().eval()
    given = example_inputs(wrapper.inner.bert)
    assert decompose(wrapper, given).error < 1e-4
    with pytest.raises(InputError, match=r"a logit needs a model with a head .*, got Wrapper"):
        decompose(wrapper, given, to="logit", position=1)
