"""What is recorded is what is computed, by the paper's formulas; and nothing stays behind."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from support.models import SIZES, hooks, random_model
from torch import Tensor

from minibert import BertConfig, BertForMaskedLM, BertModel, SentenceEncoder
from minibert.errors import InputError
from minibert.model import additive_mask, eager_attention
from minibert.trace.attention import TracedAttention
from minibert.trace.compare import example_inputs
from minibert.trace.recording import edit, record
from minibert.trace.values import value_names, values_of


@pytest.fixture
def model() -> BertModel:
    return random_model()


def test_by_the_formulas(model: BertModel) -> None:
    """Every value from the ones before it, in elementary operations."""
    inputs = example_inputs(model)
    with record(model) as t:
        out = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert list(t) == value_names(model)

    def close(name: str, expected: Tensor) -> None:
        torch.testing.assert_close(t[name], expected, atol=1e-5, rtol=1e-5)

    def norm(x: Tensor, module: torch.nn.LayerNorm) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / ((centred**2).mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias

    e = "embeddings."
    close(e + "sum", t[e + "word_embeddings"] + t[e + "token_type_embeddings"] + t[e + "position_embeddings"])
    close(e + "norm", norm(t[e + "sum"], model.embeddings.norm))
    hidden, mask = t[e + "norm"], inputs["attention_mask"]
    assert torch.equal(hidden, out.hidden_states[0])
    for number, layer in enumerate(model.encoder.layers):
        p = f"encoder.layers.{number}."
        for part in ("query", "key", "value"):
            linear = getattr(layer.attention, part)
            heads = (hidden @ linear.weight.T + linear.bias).view(3, 11, 4, 6)
            close(p + f"attention.{part}", heads.permute(0, 2, 1, 3))
        query, key, value = (t[p + f"attention.{part}"] for part in ("query", "key", "value"))
        close(p + "attention.scores", torch.einsum("bhsw,bhtw->bhst", query, key))
        close(p + "attention.scaled_scores", t[p + "attention.scores"] / math.sqrt(6))
        hidden_keys = (mask == 0)[:, None, None, :].expand_as(t[p + "attention.masked_scores"])
        assert (t[p + "attention.masked_scores"][hidden_keys] < -1e38).all()
        exponentials = t[p + "attention.scaled_scores"].exp().masked_fill(hidden_keys, 0)
        close(p + "attention.probabilities", exponentials / exponentials.sum(-1, keepdim=True))
        assert torch.equal(t[p + "attention.probabilities"], out.attentions[number])
        close(p + "attention.context", torch.einsum("bhst,bhtw->bhsw", t[p + "attention.probabilities"], value))
        merged = t[p + "attention.context"].permute(0, 2, 1, 3).reshape(3, 11, 24)
        close(p + "attention.output", merged @ layer.attention.output.weight.T + layer.attention.output.bias)
        close(p + "attention_sum", hidden + t[p + "attention.output"])
        close(p + "attention_norm", norm(t[p + "attention_sum"], layer.attention_norm))
        expand = layer.feed_forward.expand
        close(p + "feed_forward.expand", t[p + "attention_norm"] @ expand.weight.T + expand.bias)
        x = t[p + "feed_forward.expand"]
        close(p + "feed_forward.activation", x * 0.5 * (1 + torch.erf(x / math.sqrt(2))))
        contract = layer.feed_forward.contract
        close(p + "feed_forward.contract", t[p + "feed_forward.activation"] @ contract.weight.T + contract.bias)
        close(p + "feed_forward_sum", t[p + "attention_norm"] + t[p + "feed_forward.contract"])
        close(p + "feed_forward_norm", norm(t[p + "feed_forward_sum"], layer.feed_forward_norm))
        hidden = t[p + "feed_forward_norm"]
        assert torch.equal(hidden, out.hidden_states[number + 1])
    close("pooler.dense", hidden[:, 0] @ model.pooler.dense.weight.T + model.pooler.dense.bias)
    close("pooler.tanh", t["pooler.dense"].tanh())
    sizes = {"B": 3, "S": 11, "T": 11, "D": 24, "H": 4, "W": 6, "F": 40, "1": 1}
    for name, found in t.items():
        assert [sizes[letter] for letter in values_of(model)[name].axes.split()] == list(found.shape), name


@pytest.mark.parametrize("hidden_keys", [0, 3])
def test_traced_attention_is_eager_attention(hidden_keys: int) -> None:
    """The same operations in the same order, to the last bit, with dropout as well."""
    query, key, value = torch.randn(3, 2, 4, 7, 6)
    attention_mask = torch.ones(2, 7, dtype=torch.long)
    attention_mask[1, 7 - hidden_keys :] = 0
    mask = additive_mask(attention_mask, torch.float32)
    for dropout in (0.0, 0.5):
        torch.manual_seed(1)
        expected = eager_attention(query, key, value, mask, dropout)
        torch.manual_seed(1)
        traced = TracedAttention()(query, key, value, mask, dropout)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(traced, expected, strict=True))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["absolute", "relative_key_query"])
def test_recording_changes_nothing(attention: str, kind: str) -> None:
    model = random_model(attention, position_embedding_type=kind)
    inputs = example_inputs(model)
    plain, eager = model(**inputs), random_model("eager", position_embedding_type=kind)(**inputs)
    with record(model) as trace:
        everything = model(**inputs)
    assert torch.equal(everything.last_hidden_state, eager.last_hidden_state)  # its steps were asked for
    assert torch.equal(trace["pooler.tanh"], everything.pooler_output)
    with record(model, "*norm") as norms:
        assert torch.equal(model(**inputs).last_hidden_state, plain.last_hidden_state)
    with record(model, "*.context") as contexts:
        assert torch.equal(model(**inputs).last_hidden_state, plain.last_hidden_state)
    assert len(norms) == 7
    assert len(contexts) == 3
    assert hooks(model) == 0


def test_switching_a_head_off(model: BertModel) -> None:
    """The same as a layer whose output matrix has no columns for this head."""
    inputs = example_inputs(model)

    def without_head_2(probabilities: Tensor) -> Tensor:
        return probabilities.index_fill(1, torch.tensor([2]), 0)

    with edit(model, "encoder.layers.1.attention.probabilities", without_head_2), record(model) as trace:
        edited = model(**inputs).last_hidden_state
    assert (trace["encoder.layers.1.attention.probabilities"][:, 2] == 0).all()
    plain = model(**inputs).last_hidden_state
    assert not torch.equal(edited, plain)
    weight = model.encoder.layers[1].attention.output.weight
    weight[:, 12:18] = 0
    torch.testing.assert_close(model(**inputs).last_hidden_state, edited, atol=1e-5, rtol=0)


def test_patching_another_sentence(model: BertModel) -> None:
    """With a layer's output taken from another run, all that follows is that run's."""
    one, other = example_inputs(model, seed=1), example_inputs(model, seed=2)
    name = "encoder.layers.1.feed_forward_norm"
    with record(model, name) as trace:
        expected = model(**other).last_hidden_state
    taken = trace[name]
    with edit(model, name, lambda value: taken):
        assert torch.equal(model(**one).last_hidden_state, expected)


@pytest.mark.parametrize("name", value_names(random_model()))
def test_every_name_can_be_edited(model: BertModel, name: str) -> None:
    inputs = example_inputs(model)
    plain = model(**inputs)
    with record(model) as before, edit(model, name, lambda value: value.flip(-1)), record(model) as after:
        edited = model(**inputs)
    for trace in (before, after):  # whichever began first: what went on is what is recorded
        assert not torch.equal(trace[name], _recorded(model, inputs)[name])
    assert torch.equal(edited.last_hidden_state, plain.last_hidden_state) == name.startswith("pooler")
    again = model(**inputs)
    assert torch.equal(again.last_hidden_state, plain.last_hidden_state)
    assert torch.equal(again.pooler_output, plain.pooler_output)


def _recorded(model: BertModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with record(model) as trace:
        model(**inputs)
    return dict(trace)


@pytest.mark.parametrize("name", ["attention.scores", "attention_sum", "feed_forward_norm"])  # inside, input, output
def test_the_first_of_two_edits_acts_first(model: BertModel, name: str) -> None:
    name = f"encoder.layers.1.{name}"
    calls = []

    def note(who: str, value: Tensor) -> Tensor:
        calls.append(who)
        return value * 2

    inputs = example_inputs(model)
    first, second = (edit(model, name, partial(note, who)) for who in ("first", "second"))
    with first, record(model, name) as trace, second:
        model(**inputs)
    assert calls == ["first", "second"]
    assert torch.equal(trace[name], 4 * _recorded(model, inputs)[name])


def test_nothing_stays_behind_after_an_error(model: BertModel) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def fail(value: Tensor) -> Tensor:
        raise ZeroDivisionError

    for name in ("*", "*.probabilities", "pooler.tanh"):
        with pytest.raises(ZeroDivisionError), record(model), edit(model, name, fail):
            model(**example_inputs(model))
        assert hooks(model) == 0
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_trace_holds_the_last_pass(model: BertModel) -> None:
    with record(model, "*norm") as trace:
        model(torch.tensor([[1, 2, 3]]))
        model(torch.tensor([[1, 2]]))
    assert {value.shape[1] for value in trace.values()} == {2}
    assert trace.summary().splitlines()[1].split() == ["embeddings.norm", "B", "S", "D", "1", "×", "2", "×", "24"]


@pytest.mark.parametrize("passes", ["last", "all"])
def test_a_module_called_by_itself_is_recorded(passes: str) -> None:
    """As one calls a head on hidden states of one's own: there is no pass of the BERT that it could belong to."""
    model = random_model(kind=BertForMaskedLM)
    with record(model, ["embeddings.norm", "masked_lm.norm", "logits"], passes=passes) as trace:
        logits = model.masked_lm(torch.ones(1, 2, 24), model.bert.embeddings.word_embeddings.weight)
        assert torch.equal(trace["logits"], logits)
        assert trace.passes == []
        with pytest.raises(InputError, match="call the model first"):
            trace["embeddings.norm"]
        model(torch.tensor([[1, 2, 3]]))
    assert len(trace.passes) == 1
    assert torch.equal(trace.passes[0]["logits"], trace["logits"])


def test_what_was_not_recorded_is_said_so(model: BertModel) -> None:
    with record(model, "*norm") as trace:
        model(torch.tensor([[1, 2, 3]]))
    with pytest.raises(InputError, match=r"'encoder.layers.1.atention_norm' was not recorded: did you mean"):
        trace["encoder.layers.1.atention_norm"]
    with pytest.raises(InputError, match=r"'pooler_output' was not recorded: ask for it in record\(model, names\)"):
        trace["pooler_output"]


def test_inside_a_head_and_an_encoder(small: Path) -> None:
    head = BertForMaskedLM(BertConfig(**SIZES)).eval()
    with record(head, "embeddings.norm") as trace:
        head(torch.tensor([[1, 2, 3]]))
    assert trace["embeddings.norm"].shape == (1, 3, 24)
    encoder = SentenceEncoder.from_pretrained(small)
    plain = encoder.encode("a fly")
    with edit(encoder, "embeddings.norm", torch.zeros_like):  # also where encode would take the fast path
        assert not torch.allclose(encoder.encode("a fly"), plain)
    assert torch.equal(encoder.encode("a fly"), plain)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda model: record(model, "encoder.layers.9.*"), "no value here is named 'encoder.layers.9"),
        (lambda model: record(model, "encoder.layers.1.atention.scores"), "did you mean encoder.layers.1.attention"),
        (lambda model: record(torch.nn.Linear(2, 2)), "model must contain exactly one BertModel, and Linear has 0"),
        (lambda model: edit(model, "pooler.tanh", lambda value: value[:1]), r"must return a tensor \(3, 24\), not \(1"),
        (lambda model: edit(model, "pooler.tanh", lambda value: None), r"must return a tensor \(3, 24\), not NoneType"),
    ],
)
def test_bad_input(model: BertModel, call, message: str) -> None:
    with pytest.raises(InputError, match=message), call(model):
        model(**example_inputs(model))
    with record(model) as trace, pytest.raises(InputError, match="call the model first"):
        trace["embeddings.norm"]
