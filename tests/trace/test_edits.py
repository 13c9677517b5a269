"""Ablations put in what they say, each head's part adds up, and what is not chosen keeps every bit."""

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.heads import CASES, twins
from support.models import hooks, random_model
from torch import Tensor

from minibert import BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel, BertTokenizer
from minibert.errors import InputError
from minibert.model import eager_attention, gelu_python
from minibert.trace.compare import example_inputs, in_float64
from minibert.trace.edits import Means, gate, mean_of, resample, zero
from minibert.trace.recording import edit, record
from minibert.trace.values import derived_values, value_names, values_of

CONTEXT = "encoder.layers.1.attention.context"


@pytest.fixture
def model() -> BertModel:
    return random_model()


def values(model: torch.nn.Module, inputs: dict[str, Tensor], names: str | list[str] = "*") -> dict[str, Tensor]:
    with record(model, names) as trace:
        model(**inputs)
    return dict(trace)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_values_of_a_head(case: str) -> None:
    """The scores are what the model returns, and the steps before them are the head's formulas."""
    ours, _theirs, inputs = twins(case, "eager")
    with record(ours) as t, torch.no_grad():
        out = ours(**inputs)
    assert list(t) == value_names(ours)
    name = list(t)[-1]
    returned = torch.stack(out[1:3], dim=-1) if case == "an answer" else out[2 if case == "pretraining" else 1]
    assert torch.equal(t[name].reshape(returned.shape), returned)
    if "masked_lm.dense" in t:
        head = ours.masked_lm
        torch.testing.assert_close(t["masked_lm.dense"], t["last_hidden_state"] @ head.dense.weight.T + head.dense.bias)
        if case != "masked words, tanh GELU":
            torch.testing.assert_close(t["masked_lm.activation"], gelu_python(t["masked_lm.dense"]))
        table = ours.bert.embeddings.word_embeddings.weight
        torch.testing.assert_close(t["logits"], t["masked_lm.norm"] @ table.T + head.bias)
    elif case != "an answer":
        assert torch.equal(t["logits"], t[name])  # an alias for the scores of any head


def test_aliases(model: BertModel) -> None:
    inputs = example_inputs(model)
    with record(model, ["hidden_states[1]", "last_hidden_state", "attentions[-1]", "pooler_output"]) as t:
        out = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert list(t) == [
        "encoder.layers.0.feed_forward_norm",
        "encoder.layers.2.attention.probabilities",
        "encoder.layers.2.feed_forward_norm",
        "pooler.tanh",
    ]
    assert torch.equal(t["hidden_states[1]"], out.hidden_states[1])
    assert torch.equal(t["hidden_states[-1]"], out.hidden_states[3])
    assert torch.equal(t["attentions[2]"], out.attentions[2])
    assert torch.equal(t["pooler_output"], out.pooler_output)
    with record(model) as t:
        model(**inputs)
    for number, state in enumerate(out.hidden_states):
        assert torch.equal(t[f"hidden_states[{number}]"], state)


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM, BertForPreTraining])
@pytest.mark.parametrize("positions", ["absolute", "relative_key"])
def test_derived_values_by_their_formulas(kind, positions: str) -> None:
    model = random_model(kind=kind, position_embedding_type=positions).double()
    bert = getattr(model, "bert", model)
    inputs = example_inputs(bert)
    t = values(model, inputs)
    derived = values(model, inputs, ["*.head_outputs", "*.scale"])
    assert set(derived) == set(derived_values(model))
    assert set(t).isdisjoint(derived)  # "*" computes none of them
    for name, value in derived.items():
        if name.endswith("scale"):
            into = {"embeddings.norm.scale": "embeddings.sum", "masked_lm.norm.scale": "masked_lm.activation"}.get(name)
            x = t[into or name.replace("norm.scale", "sum")]
            norm = (
                model.get_submodule(name.removesuffix(".scale")) if "masked" in name else bert.get_submodule(name[:-6])
            )
            by_hand = ((x - x.mean(-1, keepdim=True)) * value) * norm.weight + norm.bias
            torch.testing.assert_close(by_hand, t[name.removesuffix(".scale")], atol=1e-12, rtol=0)
            assert value.shape == (3, 11, 1)
        else:
            assert value.shape == (3, 4, 11, 24)
            linear = bert.get_submodule(name.replace("head_outputs", "output"))
            output = t[name.replace("head_outputs", "output")]
            torch.testing.assert_close(value.sum(1) + linear.bias, output, atol=1e-12, rtol=0)


def test_derived_values_follow_parameters_of_the_call(model: BertModel) -> None:
    """As torch.func calls a model: with parameters that are in it for this call alone."""
    changed = {name: parameter * 2 for name, parameter in model.named_parameters()}
    with record(model, ["*0.attention.head_outputs", "*0.attention.output"]) as t:
        torch.func.functional_call(model, changed, (), example_inputs(model))
    total = t["encoder.layers.0.attention.head_outputs"].sum(1) + changed["encoder.layers.0.attention.output.bias"]
    torch.testing.assert_close(total, t["encoder.layers.0.attention.output"], atol=1e-4, rtol=0)


def test_scales_in_half_precision() -> None:
    """As a LayerNorm computes it, in float32: variances near eps are not numbers of float16."""
    model = random_model(layer_norm_eps=1e-12)
    for parameter in model.parameters():
        parameter.data *= 0.001
    model.half()
    t = values(model, example_inputs(model), ["embeddings.sum", "embeddings.norm.scale"])
    expected = 1 / t["embeddings.sum"].double().std(-1, correction=0, keepdim=True)
    assert t["embeddings.norm.scale"].dtype == torch.float16
    torch.testing.assert_close(t["embeddings.norm.scale"].double(), expected, rtol=1e-3, atol=0)


def test_a_class_derived_from_a_head_has_its_values() -> None:
    class Tagger(BertForSequenceClassification):
        pass

    model = random_model(kind=Tagger)
    assert value_names(model) == value_names(random_model(kind=BertForSequenceClassification))
    inputs = example_inputs(model.bert)
    assert torch.equal(values(model, inputs, "logits")["classifier"], model(**inputs).logits)


def test_heads_sum_to_the_output_of_attention_on_a_real_checkpoint(checkpoint: Path, tokenizer: BertTokenizer) -> None:
    for attention in ("eager", "sdpa"):
        model = BertModel.from_pretrained(checkpoint, attention=attention)
        inputs = tokenizer(["There was a fly drinking from my soup", "a fly"])
        with torch.no_grad():
            t = values(model, inputs, ["*.head_outputs", "*.attention.output"])
        for layer, module in enumerate(model.encoder.layers):
            name = f"encoder.layers.{layer}.attention."
            total = t[name + "head_outputs"].sum(1) + module.attention.output.bias
            torch.testing.assert_close(total, t[name + "output"], atol=1e-6, rtol=0)


# --- edits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM, BertForSequenceClassification])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_identity_edit_changes_no_bit(kind, attention: str) -> None:
    """Of no value, computed or derived, whether a gradient is computed or not."""
    model = random_model(attention, kind)
    inputs = example_inputs(getattr(model, "bert", model))
    for requires_grad in (False, True):
        model.requires_grad_(requires_grad)
        plain = model(**inputs)
        for name in [*value_names(model), *derived_values(model)]:
            if attention == "sdpa" and name.endswith(("scores", "probabilities")):
                continue  # they are computed by eager attention
            with edit(model, name, lambda value: value + 0):
                same = model(**inputs)
            for ours, theirs in zip(plain, same, strict=True):
                assert ours is None or torch.equal(ours, theirs), name
            model.zero_grad()
    assert hooks(model) == 0


def test_an_edit_of_one_head_is_that_of_its_output(model: BertModel) -> None:
    """Without its context, a head adds nothing; and without what it adds, the same follows."""
    inputs = example_inputs(model)
    with edit(model, CONTEXT, zero, heads=2), record(model, "*1.attention.head_outputs") as trace:
        by_context = model(**inputs).last_hidden_state
    parts = trace["encoder.layers.1.attention.head_outputs"]
    assert (parts[:, 2] == 0).all()
    assert (parts[:, 3] != 0).any()
    with edit(model, "encoder.layers.1.attention.head_outputs", zero, heads=2), record(model, "*1.*output") as after:
        by_output = model(**inputs).last_hidden_state
    torch.testing.assert_close(by_output, by_context, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        after["encoder.layers.1.attention.output"],
        parts.sum(1) + model.encoder.layers[1].attention.output.bias,
        atol=1e-5,
        rtol=0,
    )


def test_an_edited_derived_value_is_what_is_recorded(model: BertModel) -> None:
    """And it acts before an edit of the module's output, whichever block began first."""
    inputs = example_inputs(model)
    name, output = "encoder.layers.0.attention.head_outputs", "encoder.layers.0.attention.output"
    with (
        record(model, [name, output]) as trace,
        edit(model, output, lambda value: value * 2),
        edit(model, name, zero),
    ):
        model(**inputs)
    assert (trace[name] == 0).all()
    bias = model.encoder.layers[0].attention.output.bias
    torch.testing.assert_close(trace[output], (2 * bias).expand(3, 11, 24), atol=1e-5, rtol=0)


def test_gradients_flow_through_derived_values() -> None:
    """The gradient at each head's part is that at the output of attention, and the parameters' are as without it."""
    model = random_model().double().requires_grad_(True)
    inputs = example_inputs(model)
    name = "encoder.layers.1.attention."
    with record(model, [name + "output"]) as plain:
        loss = model(**inputs).last_hidden_state.square().sum()
    parameters = list(model.encoder.parameters())
    at_output, *expected = torch.autograd.grad(loss, [plain[name + "output"], *parameters])
    with record(model, ["*head_outputs", "*norm.scale"]) as derived:
        loss = model(**inputs).last_hidden_state.square().sum()
    names = list(derived)
    found = torch.autograd.grad(loss, [*derived.values(), *parameters])
    at = dict(zip(names, found, strict=False))
    torch.testing.assert_close(at[name + "head_outputs"], at_output[:, None].expand(3, 4, 11, 24))
    assert all((gradient != 0).any() for gradient in at.values())
    for gradient, reference in zip(found[len(names) :], expected, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_only_what_is_chosen_is_changed(model: BertModel) -> None:
    inputs = example_inputs(model)
    plain = values(model, inputs, CONTEXT)[CONTEXT]
    for chosen, where in (
        ({"heads": 1}, plain.new_zeros(1, 4, 1, 1).bool().index_fill(1, torch.tensor(1), True)),
        ({"positions": [0, -1]}, torch.tensor([0, 10])),
        ({"rows": [2]}, torch.tensor(2)),
        ({"positions": inputs["attention_mask"] == 0}, None),
    ):
        with edit(model, CONTEXT, zero, **chosen):
            changed = values(model, inputs, CONTEXT)[CONTEXT]
        expected = plain.clone()
        if "heads" in chosen:
            expected[:, 1] = 0
        elif "rows" in chosen:
            expected[2] = 0
        elif where is None:
            expected.transpose(1, 2)[inputs["attention_mask"] == 0] = 0
        else:
            expected[:, :, where] = 0
        assert torch.equal(changed, expected)
    with edit(model, CONTEXT, zero, heads=[0, 3], positions=4, rows=1):
        changed = values(model, inputs, CONTEXT)[CONTEXT]
    assert (changed != plain).nonzero()[:, :3].unique(dim=0).tolist() == [[1, 0, 4], [1, 3, 4]]


def test_a_function_may_take_the_name_and_change_its_copy(model: BertModel) -> None:
    inputs = example_inputs(model)
    seen = []

    def note(value: Tensor, name: str) -> Tensor:
        seen.append(name)
        value[:, 0] = 0  # a copy of what is recorded elsewhere
        return value

    def unchanged(value: Tensor, factor: float = 1.0) -> Tensor:  # a second argument with a default is not the name
        return value * factor

    with record(model, "embeddings.sum") as before, edit(model, "hidden_states[0]", note):
        model(**inputs)
    assert seen == ["embeddings.norm"]
    with record(model, "embeddings.norm") as trace, edit(model, "embeddings.norm", unchanged):
        model(**inputs)
    norm = model.embeddings.norm(before["embeddings.sum"])
    assert torch.equal(trace["embeddings.norm"], norm)


def test_several_functions_at_once(model: BertModel) -> None:
    inputs = example_inputs(model)
    with edit(model, {"*1.attention.context": zero, "hidden_states[-1]": lambda value: value + 1}):
        together = model(**inputs).last_hidden_state
    with edit(model, "*1.attention.context", zero), edit(model, "last_hidden_state", lambda value: value + 1):
        assert torch.equal(model(**inputs).last_hidden_state, together)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_every_pass_can_be_kept(model: BertModel) -> None:
    texts = [torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])]
    with record(model, "*norm", passes="all") as trace:
        assert trace.pass_number == 0
        for ids in texts:
            model(ids)
    assert trace.pass_number == 2
    assert [each.pass_number for each in trace.passes] == [1, 2]
    for ids, each in zip(texts, trace.passes, strict=True):
        assert torch.equal(each["last_hidden_state"], model(ids).last_hidden_state)
    assert torch.equal(trace["hidden_states[0]"], trace.passes[1]["hidden_states[0]"])
    with record(model, "*norm") as last:
        for ids in texts:
            model(ids)
    assert last.pass_number == 2
    assert last.passes == [last]


def test_values_live_as_long_as_their_trace(model: BertModel) -> None:
    """Not until Python's collector of cycles comes by: a loop over a corpus would keep many of them."""
    gc.disable()
    try:
        with record(model, "*norm") as trace:
            model(torch.tensor([[1, 2, 3]]))
        value = weakref.ref(trace["embeddings.norm"])
        del trace
        assert value() is None
    finally:
        gc.enable()


def test_what_is_kept_in_another_precision(model: BertModel) -> None:
    inputs = example_inputs(model)
    with record(model, "*norm", to="cpu", dtype=torch.float64) as trace:
        out = model(**inputs)
    assert torch.equal(trace["last_hidden_state"], out.last_hidden_state.double())
    assert out.last_hidden_state.dtype == torch.float32
    assert trace["embeddings.norm"].dtype == torch.float64


# --- the usual edits -------------------------------------------------------------------------------------------------


def test_means_count_no_padding(model: BertModel) -> None:
    """As text by text, in which there is none."""
    inputs = example_inputs(model)
    lengths = inputs["attention_mask"].sum(1).tolist()
    alone = [
        {name: tensor[row : row + 1, :length] for name, tensor in inputs.items()} for row, length in enumerate(lengths)
    ]
    with in_float64(model):
        means, one_by_one = mean_of(model, inputs), mean_of(model, iter(alone))
        assert set(means) == {name for name, value in values_of(model).items() if not value.axes.endswith("T")}
        for name, mean in means.items():
            torch.testing.assert_close(mean, one_by_one[name], atol=1e-12, rtol=0)
        states = [values(model, each, "last_hidden_state") for each in alone]
    vectors = torch.cat([next(iter(each.values()))[0] for each in states])
    torch.testing.assert_close(means["encoder.layers.2.feed_forward_norm"], vectors.mean(0), atol=1e-12, rtol=0)
    assert means[CONTEXT].shape == (4, 6)
    assert means["pooler.tanh"].shape == (24,)
    assert means["hidden_states[1]"] is means["encoder.layers.0.feed_forward_norm"]
    with edit(model, [CONTEXT, "last_hidden_state"], means):
        t = values(model, inputs, [CONTEXT, "last_hidden_state"])
    torch.testing.assert_close(t[CONTEXT][1, 2, 5].double(), means[CONTEXT][2], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        t["encoder.layers.2.feed_forward_norm"][2, 7].double(), vectors.mean(0), atol=1e-6, rtol=0
    )


def test_resampled_values_are_those_of_other_texts(model: BertModel) -> None:
    inputs, others = example_inputs(model), example_inputs(model, seed=1)
    trace = values(model, others, ["*.context", "hidden_states[1]"])
    name = "encoder.layers.0.feed_forward_norm"
    with edit(model, list(trace), resample(trace, seed=3)):
        changed = values(model, inputs, list(trace))
    rows = [next(row for row in range(3) if torch.equal(trace[name][row], each)) for each in changed[name]]
    assert all(torch.equal(changed[each], trace[each][rows]) for each in trace)
    with edit(model, list(trace), resample(trace, seed=3)):
        assert torch.equal(values(model, inputs, name)[name], changed[name])


def test_gates_of_one_change_no_bit_and_of_zero_switch_off(model: BertModel) -> None:
    inputs = example_inputs(model)
    plain = model(**inputs).last_hidden_state
    gates = torch.ones(3, 4)
    with edit(model, "*.attention.context", gate(gates)):
        assert torch.equal(model(**inputs).last_hidden_state, plain)
    gates[1, 2] = 0
    with edit(model, CONTEXT, zero, heads=2):
        expected = model(**inputs).last_hidden_state
    for each in (gates, gates.bool()):
        with edit(model, "*.attention.context", gate(each)):
            assert torch.equal(model(**inputs).last_hidden_state, expected)


def test_a_step_that_is_not_computed_cannot_be_edited(model: BertModel) -> None:
    """With an attention function of one's own, an edit of the probabilities would change nothing, and say nothing."""
    model.attend = lambda *arguments: eager_attention(*arguments)
    inputs = example_inputs(model)
    with pytest.raises(InputError, match="must be computed to be edited"), edit(model, "*.probabilities", zero):
        model(**inputs)
    with edit(model, CONTEXT, zero), record(model) as trace:
        model(**inputs)
    assert (trace[CONTEXT] == 0).all()
    with pytest.raises(InputError, match="scores' in this pass: the model did not compute it"):
        trace["encoder.layers.1.attention.scores"]
    assert hooks(model) == 0


# --- mistakes --------------------------------------------------------------------------------------------------------


def wrong(*arguments: object, **options: object) -> Callable[[BertModel], object]:
    return lambda model: edit(model, *arguments, **options)


@pytest.mark.parametrize(
    "call, message",
    [
        (wrong(CONTEXT), f"the function for {CONTEXT} must be a function of the value, got None"),
        (wrong(CONTEXT, [zero, zero]), "must be a function of the value, got .*: to edit values by several functions"),
        (wrong({CONTEXT: zero}, zero), "function must be left out where names is a mapping"),
        (wrong({CONTEXT: "zero"}), "got 'zero'"),
        (wrong(CONTEXT, zero, heads=4), f"heads must be from 0 to 3 in {CONTEXT}, got 4"),
        (wrong(CONTEXT, zero, heads="5"), "heads must be an integer or a list of integers, got '5'"),
        (wrong(CONTEXT, zero, heads=[]), r"heads must be an integer or a list of integers, got \[\]"),
        (wrong(CONTEXT, zero, positions=[0, 11]), "positions must be from 0 to 10"),
        (wrong(CONTEXT, zero, positions=torch.ones(2, 11).bool()), r"a tensor \(3, 11\) of bools, got \(2, 11\)"),
        (wrong(CONTEXT, zero, positions=torch.tensor(1.5)), "positions must be an integer or a list of integers"),
        (wrong(CONTEXT, zero, positions=torch.tensor(True)), "positions must be an integer or a list of integers"),
        (wrong(CONTEXT, zero, heads=torch.ones(3, 4).bool()), "heads must be an integer or a list of integers"),
        (wrong(CONTEXT, zero, rows=torch.eye(3).bool()), "rows must be an integer or a list of integers"),
        (wrong(CONTEXT, lambda: 0), "must take the value, or the value and its name"),
        (wrong(CONTEXT, lambda value, name, layer: value), "must take the value, or the value and its name"),
        (wrong({CONTEXT: torch.ones(4, 6)}), "to put a tensor in its place, pass lambda value: tensor"),
        (wrong(CONTEXT, Means({CONTEXT: torch.ones(4, 7)})), r"the mean of .* must be \(4, 6\), got \(4, 7\)"),
        (wrong("hidden_states[0]", Means({"embeddings.norm": torch.ones(32)})), r"must be \(24,\), got \(32,\)"),
        (wrong(CONTEXT, zero, rows=3), "rows must be from 0 to 2"),
        (wrong("*", zero, heads=1), "embeddings.word_embeddings has no heads to choose: its axes are B S D"),
        (wrong("pooler.tanh", zero, positions=1), "pooler.tanh has no positions to choose"),
        (wrong("embeddings.position_embeddings", zero, rows=1), "has no rows to choose: its axes are 1 S D"),
        (wrong(CONTEXT, lambda value: value.double()), "must return torch.float32 on cpu, not torch.float64 on cpu"),
        (wrong([], zero), "names must have at least one name"),
        (wrong(3, zero), "names must be a name or a list of names, got 3"),
        (wrong("hidden_states[4]", zero), r"no value here is named 'hidden_states\[4\]': did you mean hidden_states"),
        (wrong("logits", zero), "no value here is named 'logits'"),
        (wrong(CONTEXT, gate(torch.ones(3, 5))), r"gates must be \(layers, 4\) for .*, got \(3, 5\)"),
        (wrong("last_hidden_state", gate(torch.ones(3, 4))), "has no heads to gate"),
        (wrong(CONTEXT, resample({})), f"values must have one of '{CONTEXT}' to put in its place: record it under"),
        (wrong(CONTEXT, resample({CONTEXT: torch.ones(1, 4, 9, 6)})), "use texts of the same number of tokens"),
        (wrong(CONTEXT, Means()), f"there is no mean of '{CONTEXT}': ask for it in mean_of"),
        (lambda model: record(model, passes="every"), "passes must be one of last, all, got 'every'"),
        (lambda model: record(model, to="gpu9"), "to must be a device of this machine, such as 'cpu', got 'gpu9'"),
        (lambda model: record(model, to="cuda:99"), "to must be a device of this machine"),
        (lambda model: record(model, dtype=torch.int8), "dtype must be one of"),
    ],
)
def test_mistakes_are_named(model: BertModel, call, message: str) -> None:
    with pytest.raises(InputError, match=message), call(model):
        model(**example_inputs(model))
    assert hooks(model) == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda model: gate(torch.ones(3)), r"gates must be a tensor \(L, H\)"),
        (lambda model: gate(torch.ones(3, 4) * 1j), "of real numbers"),
        (lambda model: resample(torch.ones(3)), "values must be what record kept"),
        (lambda model: mean_of(model, "a text"), r"inputs must be what .* got 'a text': pass tokenizer\(texts\)"),
        (lambda model: mean_of(model, ["a text"]), r"inputs must be what .* pass tokenizer\(texts\)"),
        (lambda model: mean_of(model, None), "inputs must be what .* got None"),
        (lambda model: mean_of(model, torch.ones(1, 2).long()), "inputs must be what"),
        (lambda model: mean_of(model, {"attention_mask": torch.ones(1, 2)}), "inputs must be what"),
        (
            lambda model: mean_of(model, {"input_ids": torch.ones(1, 2).long(), "attention_mask": torch.zeros(1, 2)}),
            "at least one position that is not padding",
        ),
        (lambda model: mean_of(model, [], "*norm"), "got nothing"),
        (
            lambda model: mean_of(model, example_inputs(model), "*.probabilities"),
            "probabilities has no mean over texts",
        ),
    ],
)
def test_mistakes_of_the_usual_edits(model: BertModel, call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(model)


def test_derived_values_need_plain_modules(model: BertModel) -> None:
    class Adapted(torch.nn.Linear):
        pass

    layer = model.encoder.layers[0].attention
    layer.output = Adapted(24, 24)
    with (
        pytest.raises(InputError, match=r"head_outputs is derived from an nn\.Linear, got Adapted"),
        record(model, "*.head_outputs"),
    ):
        pass
    assert hooks(model) == 0
    assert math.isfinite(model(**example_inputs(model)).last_hidden_state.sum().item())


def blocks(model: BertModel) -> Iterator[object]:
    yield record(model, "*.head_outputs")
    yield edit(model, "*.context", zero)
    yield edit(model, "*.scale", lambda value: value * 2)


def test_blocks_may_end_in_any_order(model: BertModel) -> None:
    inputs = example_inputs(model)
    plain = model(**inputs).last_hidden_state
    entered = list(blocks(model))
    for each in entered:
        each.__enter__()
    for each in entered:  # the first first
        each.__exit__(None, None, None)
    assert hooks(model) == 0
    assert torch.equal(model(**inputs).last_hidden_state, plain)
