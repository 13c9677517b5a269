"""A patch that changes nothing has an effect of 0, one of everything that of the clean text, a batch that of each."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.attribution import CONFIGURATIONS, random_case
from support.models import hooks, random_model
from support.reactions import encode
from torch import Tensor

from minibert import BertForMaskedLM, BertForSequenceClassification, BertModel, BertTokenizer
from minibert.errors import InputError
from minibert.heads import bert_in
from minibert.interpret import (
    Noise,
    class_logit,
    logit_difference,
    patch,
    path_patch,
    text_similarity,
    token_logit,
)
from minibert.interpret.interventions import AT
from minibert.interpret.targets import measure
from minibert.trace.compare import example_inputs
from minibert.trace.edits import mean_of
from minibert.trace.recording import edit, record

KINDS = ["hidden", "attention", "feed_forward", "head", "pattern"]


def metric(out) -> Tensor:
    """Not linear in the last hidden state, and different in each row."""
    return out.last_hidden_state[:, 1].square().sum(-1)


def pair(model: torch.nn.Module, rows: int = 1, alike: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Texts that differ in one token of each; of several lengths, unless they are alike."""
    clean = {name: tensor[:rows] for name, tensor in example_inputs(bert_in(model)).items()}
    if alike:
        clean["attention_mask"] = clean["attention_mask"][:1].repeat(rows, 1)
    corrupted = dict(clean, input_ids=clean["input_ids"].clone())
    corrupted["input_ids"][:, 2] = (corrupted["input_ids"][:, 2] + 7) % 50
    return clean, corrupted


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("at", [*KINDS, "*.attention.value", "encoder.layers.1.feed_forward.activation", "*norm"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_patch_of_clean_into_clean_is_zero(configuration: str, at: str, attention: str) -> None:
    """Exactly, in whatever batches; and nothing stays behind."""
    model = random_model(attention, **CONFIGURATIONS[configuration])
    clean, _ = pair(model)
    layers = model.encoder.layers
    at = at.replace("layers.1", f"layers.{len(layers) - 1}")
    for positions in (None, False):
        effects = patch(model, clean, clean, metric, at=at, positions=positions, batch=5)
        assert (effects.values == 0).all()
        assert effects.clean == effects.corrupted
    assert hooks(model) == 0
    assert model.encoder.layers is layers


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_whole_last_layer_gives_the_clean_metric(attention: str) -> None:
    model = random_model(attention)
    clean, corrupted = pair(model)
    effects = patch(model, clean, corrupted, metric, positions=False)
    assert effects.values.shape == (3,)
    assert effects.values[-1] == torch.tensor(effects.clean) - torch.tensor(effects.corrupted)
    assert effects.recovered[-1] == pytest.approx(1, abs=1e-6)
    assert effects.corrupted == pytest.approx(metric(model(**corrupted)).item(), rel=1e-5)


@pytest.mark.parametrize("at", KINDS)
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("configuration", ["small", "one layer, one head", "relative positions with keys"])
def test_a_batch_is_one_by_one(configuration: str, positions: bool, at: str) -> None:
    """Each effect is that of a plain loop with `record` and `edit`, of two pairs at once too."""
    model, _ = random_case(configuration, "one token")
    clean, corrupted = pair(model, rows=2, alike=positions)
    effects = patch(model, clean, corrupted, metric, at=at, positions=positions, batch=8)
    names = [f"encoder.layers.{layer}.{AT[at].rpartition('*.')[2]}" for layer in range(len(model.encoder.layers))]
    with record(model, names) as source:
        model(**clean)
    before = metric(model(**corrupted))
    by_head = at in ("head", "pattern")
    heads = model.config.num_attention_heads
    assert effects.axes == "L" + (" H" if by_head else "") + (" S" if positions else "")
    for layer, name in enumerate(names):
        for head in range(heads) if by_head else [None]:
            for position in range(11) if positions else [None]:
                with edit(model, name, lambda value, name: source[name], heads=head, positions=position):
                    expected = metric(model(**corrupted)) - before
                index = (layer, *([head] if by_head else []), *([position] if positions else []))
                torch.testing.assert_close(effects.each[(slice(None), *index)], expected, atol=1e-10, rtol=1e-10)
                torch.testing.assert_close(effects.values[index], expected.mean(), atol=1e-10, rtol=1e-10)
    assert effects.interval.shape == effects.values.shape


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_effects_do_not_depend_on_the_batch(batch: int) -> None:
    model = random_model()
    clean, corrupted = pair(model)
    expected = patch(model, clean, corrupted, metric, at="head", positions=True)
    found = patch(model, clean, corrupted, metric, at="head", positions=True, batch=batch)
    torch.testing.assert_close(found.values, expected.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["patch", "gradient", "ablate"])
def test_many_pairs_are_computed_a_batch_at_a_time(how: str) -> None:
    model, _ = random_case("small", "one token")
    clean, corrupted = pair(model, rows=3)
    rows = []

    def counting(out) -> Tensor:
        rows.append(len(out.last_hidden_state))
        return metric(out)

    found = patch(model, clean, corrupted, counting, at="head", how=how, batch=2)
    assert max(rows) == 2
    expected = patch(model, clean, corrupted, metric, at="head", how=how, batch=100)
    assert found.each.shape == (3, 3, 4)
    torch.testing.assert_close(found.each, expected.each, atol=1e-11, rtol=1e-11)
    assert (found.clean, found.corrupted) == pytest.approx((expected.clean, expected.corrupted))


def test_noise_is_that_of_its_draw_whatever_the_batch() -> None:
    model, _ = random_case("small", "one token")
    clean, _ = pair(model)
    found, expected = (patch(model, clean, Noise(2, draws=5), metric, batch=batch) for batch in (2, 100))
    torch.testing.assert_close(found.each, expected.each, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("at", ["hidden", "feed_forward"])
def test_layers_before_a_patch_are_not_computed_again(at: str) -> None:
    """Of the rows that a plain loop sends through the layers, a sweep over layers and positions computes fewer."""
    model = random_model(num_hidden_layers=6)
    clean, corrupted = pair(model)
    rows = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda _, arguments, output: rows.append(len(arguments[0])))
    effects = patch(model, clean, corrupted, metric, at=at)
    loop = effects.values.numel() * len(model.encoder.layers)
    assert sum(rows) < (0.7 if at == "hidden" else 0.85) * loop


def test_two_texts_with_one_number_have_one_effect() -> None:
    """Both are patched at once: a text's share of it alone would be counted twice."""
    model, _ = random_case("small", "one token")
    clean, corrupted = pair(model, rows=2, alike=True)
    hows = ("patch", "gradient")
    exact, estimate = (patch(model, clean, corrupted, text_similarity(), at="head", how=how) for how in hows)
    assert exact.each.shape == estimate.each.shape == (1, 3, 4)  # one effect, for both texts of the pair
    name, step = "encoder.layers.2.attention.context", 1e-6
    with record(model, name) as source:
        model(**clean)
    with edit(model, name, lambda value: value + step * (source[name] - value), heads=1):
        after = measure(model, corrupted, text_similarity())
    slope = (after - measure(model, corrupted, text_similarity()))[:1] / step
    torch.testing.assert_close(estimate.each[:, 2, 1], slope, atol=1e-6, rtol=1e-4)


def test_gradients_where_the_caller_or_the_model_has_none() -> None:
    model = random_model()
    clean, corrupted = pair(model)
    expected = patch(model, clean, corrupted, metric, how="gradient").values
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert torch.equal(patch(model, clean, corrupted, metric, how="gradient").values, expected)
    with torch.inference_mode():
        loaded = random_model()
    parameters = dict(loaded.named_parameters())
    assert torch.equal(patch(loaded, clean, corrupted, metric, how="gradient").values, expected)
    with pytest.raises(ZeroDivisionError):
        patch(loaded, clean, corrupted, lambda out: 1 / 0, how="gradient")
    assert all(parameter is parameters[name] for name, parameter in loaded.named_parameters())


def linear(out) -> Tensor:
    return out.last_hidden_state[:, 1].sum(-1)


def test_the_gradient_is_exact_where_the_metric_is_linear() -> None:
    """At the last layer; and where it is not, it is the derivative in the direction of the clean value."""
    model, _ = random_case("small", "one token")
    clean, corrupted = pair(model, rows=2, alike=True)
    for given in (linear, lambda out: out.last_hidden_state[:, 0, :3].sum(-1)):
        exact = patch(model, clean, corrupted, given)
        estimate = patch(model, clean, corrupted, given, how="gradient")
        torch.testing.assert_close(estimate.each[:, -1], exact.each[:, -1], atol=1e-12, rtol=0)
        assert not torch.allclose(estimate.values[0], exact.values[0])
    with record(model, "encoder.layers.0.attention.context") as source:
        model(**clean)
    name, step = "encoder.layers.0.attention.context", 1e-6
    before = metric(model(**corrupted))
    estimate = patch(model, clean, corrupted, metric, at="head", how="gradient")
    for head in range(4):
        with edit(model, name, lambda value, name: value + step * (source[name] - value), heads=head):
            slope = (metric(model(**corrupted)) - before) / step
        torch.testing.assert_close(estimate.each[:, 0, head], slope, atol=1e-4, rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["MiniLM", "rxnfp"])
def test_the_gradient_goes_with_the_patch_on_real_checkpoints(
    name: str, checkpoint: Path, reactions: Path, tokenizer: BertTokenizer
) -> None:
    if name == "MiniLM":
        model = BertModel.from_pretrained(checkpoint)
        clean, corrupted = tokenizer("He had to fly for 1500 hours."), tokenizer("He had to walk for 1500 hours.")
        given = metric
    else:
        model = BertForMaskedLM.from_pretrained(reactions / "bert_pretrained")
        folder = reactions / "bert_pretrained"
        clean, corrupted = ({"input_ids": encode(folder, f"CC(=O)O.{who}CC>>CC(=O)[MASK]CC")} for who in "ON")
        oxygen, nitrogen = encode(folder, "ON")[0, 1:-1].tolist()
        given = logit_difference(oxygen, nitrogen, position=19)
        assert clean["input_ids"][0, 19] == encode(folder, "[MASK]")[0, 1]
    exact = patch(model, clean, corrupted, given, at="head")
    estimate = patch(model, clean, corrupted, given, at="head", how="gradient")
    both = torch.stack([exact.values.flatten(), estimate.values.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9
    last = patch(model, clean, corrupted, given, positions=False)
    assert last.values[-1] == torch.tensor(last.clean) - torch.tensor(last.corrupted)


def test_an_ablation_puts_the_mean_of_the_corrupted_texts() -> None:
    model, _ = random_case("small", "one token")
    clean, _ = pair(model)
    corpus = example_inputs(model, seed=4)
    for at in ("head", "hidden"):
        effects = patch(model, clean, corpus, metric, at=at, how="ablate")
        name = AT[at].replace("*", "1")
        before = metric(model(**clean))
        with edit(model, name, mean_of(model, corpus, name), **({"heads": 2} if at == "head" else {"positions": 2})):
            expected = metric(model(**clean)) - before
        torch.testing.assert_close(effects.values[1, 2], expected[0], atol=1e-11, rtol=1e-11)
        assert effects.clean == pytest.approx(before.item())
    with pytest.raises(InputError, match="shares are of patches between two runs"):
        _ = effects.recovered


def test_an_ablation_asks_nothing_of_the_texts_that_the_mean_is_of(tokenizer: BertTokenizer) -> None:
    """They need no [MASK], and no such position."""
    model = random_model(kind=BertForMaskedLM, vocab_size=len(tokenizer), max_position_embeddings=16)
    clean = tokenizer("He had to fly for [MASK] hours.")
    effects = patch(model, clean, tokenizer(["a fly", "the river bank"]), token_logit("1500"), at="head", how="ablate")
    assert effects.corrupted is None
    assert str(effects).startswith(f"logit of 1500: {effects.clean:.4f} in the clean run\n")
    assert (effects.values != 0).any()


def test_causal_tracing() -> None:
    """Noise on the subject, drawn from a seed; restoring everything at the last layer gives the clean metric."""
    model, _ = random_case("small", "one token")
    clean, _ = pair(model)
    noise = Noise([2, 3], draws=4, seed=1)
    effects = patch(model, clean, noise, metric, how="trace", batch=8)
    assert effects.each.shape == (4, 3, 11)
    assert torch.equal(effects.values, effects.each.mean(0))
    whole = patch(model, clean, noise, metric, how="trace", positions=False)
    torch.testing.assert_close(whole.values[-1], torch.tensor(whole.clean - whole.corrupted).double())
    again = patch(model, clean, noise, metric, how="trace", batch=100)
    torch.testing.assert_close(again.values, effects.values, atol=1e-11, rtol=1e-11)
    weight = model.embeddings.word_embeddings.weight
    drawn = torch.randn(4, 11, 24, generator=torch.Generator().manual_seed(1)).double()
    drawn = 3 * weight.std() * drawn
    drawn[:, [0, 1, *range(4, 11)]] = 0
    with edit(model, "embeddings.word_embeddings", lambda value: value + drawn):
        corrupted = metric(model(**{name: tensor.expand(4, -1) for name, tensor in clean.items()}))
    assert effects.corrupted == pytest.approx(corrupted.mean().item())
    unlike = patch(model, clean, Noise([2, 3], draws=4, seed=2), metric)
    assert not torch.allclose(unlike.values, effects.values)


# --- paths -----------------------------------------------------------------------------------------------------------


def test_the_direct_path_of_a_last_head_is_its_patch() -> None:
    """No head comes after it."""
    model, _ = random_case("small", "one token")
    clean, corrupted = pair(model, rows=2)
    patched = patch(model, clean, corrupted, metric, at="head")
    for head in range(4):
        path = path_patch(model, clean, corrupted, metric, sender=(2, head))
        torch.testing.assert_close(path.each, patched.each[:, 2, head], atol=1e-11, rtol=1e-11)
        earlier = path_patch(model, clean, corrupted, metric, sender=(0, head))
        assert not torch.allclose(earlier.each, patched.each[:, 0, head])
    assert path_patch(model, clean, clean, metric, (0, 1), (2, 3)).value == 0


def test_a_path_by_hand() -> None:
    """The receiver reads what it would if the sender alone had changed, and nothing else changes because of it."""
    model, _ = random_case("small", "one token")
    clean, corrupted = pair(model)
    with record(model) as at_clean:
        model(**clean)
    with record(model) as at_corrupted:
        before = metric(model(**corrupted))
    context = "encoder.layers.0.attention.context"
    # Layer 0 with the sender's clean context and all else corrupted; layer 1 is the receiver's.
    layer, receiver = model.encoder.layers[0], model.encoder.layers[1].attention
    changed = at_corrupted[context].clone()
    changed[:, 3] = at_clean[context][:, 3]
    attended = layer.attention.output(changed.transpose(1, 2).flatten(2))
    hidden = layer.attention_norm(at_corrupted["embeddings.norm"] + attended)
    hidden = layer.feed_forward_norm(hidden + layer.feed_forward(hidden))
    for reads in (("query",), ("key", "value"), ("query", "key", "value")):
        read = {name: receiver.split_heads(getattr(receiver, name)(hidden)) for name in reads}
        edits = {
            f"encoder.layers.1.attention.{name}": lambda value, name, read=read: read[name.rpartition(".")[2]]
            for name in reads
        }
        with edit(model, edits, heads=2):
            expected = metric(model(**corrupted)) - before
        path = path_patch(model, clean, corrupted, metric, (0, 3), (1, 2), reads=reads)
        torch.testing.assert_close(path.each, expected, atol=1e-11, rtol=1e-11)


# --- what is printed, and what is refused ----------------------------------------------------------------------------


def test_what_is_printed(tokenizer: BertTokenizer) -> None:
    model = random_model(kind=BertForMaskedLM, vocab_size=len(tokenizer), max_position_embeddings=16)
    clean, corrupted = tokenizer("He had to fly for [MASK] hours."), tokenizer("He had to walk for [MASK] hours.")
    effects = patch(model, clean, corrupted, token_logit("1500"), at="head", positions=True)
    lines = str(effects).splitlines()
    assert lines[0] == (
        f"logit of 1500: {effects.clean:.4f} in the clean run, {effects.corrupted:.4f} in the corrupted one"
    )
    index = tuple(map(int, torch.unravel_index(effects.values.abs().argmax(), effects.values.shape)))
    layer, head, position = index
    token = corrupted.tokens()[position]
    label = f"layer {layer} attention.context head {head} position {position} {token}"
    assert lines[2].split() == [*label.split(), f"{effects.values[index]:+.4f}"]
    for each in (
        effects,
        patch(model, clean, corrupted, token_logit("1500")),
        patch(model, clean, corrupted, linear_of),
    ):
        assert "<svg" in each.plot()._repr_svg_()
    assert "by this path alone it moves by" in str(path_patch(model, clean, corrupted, token_logit("1500"), (0, 0)))


def linear_of(out) -> Tensor:
    return out.logits[:, 0, 0]


def call(**options) -> Callable[[torch.nn.Module], object]:
    def called(model: torch.nn.Module) -> object:
        clean, corrupted = pair(model)
        arguments = {"clean": clean, "corrupted": corrupted, "metric": linear_of} | options
        return patch(model, **arguments)

    return called


SHORT = {"input_ids": torch.tensor([[1, 2, 3]])}


@pytest.mark.parametrize(
    "called, message",
    [
        (call(corrupted=SHORT), "must have the same number of tokens, got 11 and 3 in pair 0: "),
        (call(corrupted="a text"), r"pass tokenizer\(text\)"),
        (call(how="denoise"), "how must be one of patch, gradient, ablate, trace"),
        (call(how="trace"), r"corrupted must be Noise\(positions\) to trace, got dict"),
        (call(corrupted=Noise(11)), "the positions of noise must be integers from 0 to 10, got 11"),
        (call(corrupted=Noise([])), "the positions of noise must be integers"),
        (call(corrupted=Noise(1, draws=0)), "draws must be a positive integer, got 0"),
        (call(at="heads"), "no value here is named 'heads'"),
        (call(at="embeddings.position_embeddings"), "has no texts to replace one at a time"),
        (call(at="*.probabilities", how="ablate"), "probabilities has no mean over texts"),
        (call(corrupted=Noise(1, sigmas="3")), "sigmas must be a finite number from 0 on, got '3'"),
        (lambda model: patch(model, *pair(model, 2), linear_of), "of different lengths have no positions in common"),
        (call(positions=1.5), "positions must be one of True, False"),
        (call(batch=0), "batch must be a positive integer"),
        (call(metric=class_logit(0)), "class_logit needs a model with a classifier"),
        (lambda model: patch(model.train(), *pair(model), linear_of), r"call model\.eval\(\)"),
        (lambda model: path_patch(model, *pair(model), linear_of, (3, 0)), "layer of the sender must be from 0 to 2"),
        (lambda model: path_patch(model, *pair(model), linear_of, (0, 4)), "head of the sender must be from 0 to 3"),
        (lambda model: path_patch(model, *pair(model), linear_of, 3), r"sender must be \(layer, head\), got 3"),
        (lambda model: path_patch(model, *pair(model), linear_of, (1, 0), (1, 2)), "must be in a later layer"),
        (lambda model: path_patch(model, *pair(model), linear_of, (0, 0), reads="keys"), "reads must be one of query"),
        (
            lambda model: path_patch(model, *pair(model), linear_of, (0, 0), (1, 2), reads=3),
            "reads must be one of query",
        ),
        (lambda model: path_patch(model, *pair(model), linear_of, (0, 0), reads="key"), "reads must be left out where"),
        (lambda model: patch(model, *pair(model), linear_of).interval, "an interval needs at least two pairs"),
    ],
)
def test_what_has_no_meaning_is_refused(called, message: str) -> None:
    with pytest.raises(InputError, match=message):
        called(random_model(kind=BertForMaskedLM))


def test_values_of_a_head_can_be_patched() -> None:
    model = random_model(kind=BertForSequenceClassification)
    clean, corrupted = pair(model)
    effects = patch(model, clean, corrupted, class_logit(1), at="pooler.tanh")
    assert effects.axes == "L"
    assert effects.values[0] == torch.tensor(effects.clean) - torch.tensor(effects.corrupted)


def test_nothing_stays_behind_after_an_error() -> None:
    model = random_model()
    layers, calls = model.encoder.layers, []

    def fails(out) -> Tensor:
        calls.append(out)
        if len(calls) == 4:
            raise ZeroDivisionError
        return metric(out)

    with pytest.raises(ZeroDivisionError):
        patch(model, *pair(model), fails, batch=2)
    assert hooks(model) == 0
    assert model.encoder.layers is layers
