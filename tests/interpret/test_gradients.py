"""Integrated gradients sum to the difference that they explain, and are captum's numbers."""

from collections.abc import Callable
from pathlib import Path

import captum.attr
import numpy
import pytest
import torch
import torch.nn.functional as F
import transformers
from support.attribution import CONFIGURATIONS, INPUTS, random_case, real_case
from support.models import hooks, random_model
from support.reactions import encode
from torch import Tensor

from minibert import BertForMaskedLM, BertForSequenceClassification, BertModel, BertTokenizer
from minibert.errors import CompletenessWarning, InputError
from minibert.heads import bert_in
from minibert.interpret import (
    class_logit,
    cosine_with,
    input_x_gradient,
    integrated_gradients,
    saliency,
    text_similarity,
    token_logit,
)
from minibert.interpret.gradients import gauss_legendre
from minibert.trace.edits import zero
from minibert.trace.recording import edit, record


def smooth(out) -> Tensor:
    return out.last_hidden_state[:, 0].tanh().sum(-1)


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_completeness(configuration: str, inputs: str) -> None:
    """The sum is the difference of the target between text and baseline, and more steps come closer to it."""
    model, given = random_case(configuration, inputs)
    if configuration == "relu, large eps":
        for layer in model.encoder.layers:
            layer.feed_forward.activation = F.gelu  # ReLU has a corner, which no number of nodes is for
    found = integrated_gradients(model, given, smooth, baseline="zero", steps=400)
    start = torch.zeros(1, 1, 24, dtype=torch.float64)
    real = given.get("attention_mask", torch.ones_like(given["input_ids"]))[..., None]

    def at_baseline(value: Tensor) -> Tensor:
        return torch.where(real == 0, value, start)

    with edit(model, "embeddings.word_embeddings", at_baseline):
        before = smooth(model(**given))
    difference = smooth(model(**given)) - before
    torch.testing.assert_close(found.target - found.baseline_target, difference, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.values.flatten(1).sum(1), difference, atol=1e-3, rtol=0)
    assert found.error < 1e-3
    torch.testing.assert_close(found.scores, found.values.sum(-1))
    assert (found.values * (real == 0) == 0).all()  # padding adds exactly nothing
    assert hooks(model) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_more_steps_come_closer() -> None:
    model, given = random_case("small", "padded, with a pair")
    errors = []
    for steps in (2, 4, 8):
        errors.append(integrated_gradients(model, given, smooth, steps=steps).error)
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    model, given = random_case("one layer, one head", "padded, with a pair")
    with pytest.warns(CompletenessWarning, match="take more than 1 steps"):
        integrated_gradients(model, given, smooth, steps=1)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_nodes_and_weights(steps: int) -> None:
    nodes, weights = gauss_legendre(steps)
    expected, shares = numpy.polynomial.legendre.leggauss(steps)
    torch.testing.assert_close(nodes, torch.tensor((expected + 1) / 2), atol=1e-12, rtol=0)
    torch.testing.assert_close(weights, torch.tensor(shares / 2), atol=1e-12, rtol=0)
    for power in range(min(2 * steps, 12)):
        assert (weights @ nodes**power).item() == pytest.approx(1 / (power + 1), abs=1e-12)


def test_a_polynomial_is_exact() -> None:
    """The last hidden state at its own place: the target is of degree 3 there, which two nodes integrate exactly."""
    model, given = random_case("small", "padded, with a pair")

    def cubic(out) -> Tensor:
        return (out.last_hidden_state[:, 1] ** 3).sum(-1)

    found = integrated_gradients(model, given, cubic, at="last_hidden_state", steps=2)
    assert found.error < 1e-10
    state = model(**given).last_hidden_state
    torch.testing.assert_close(found.values[:, 1], state[:, 1] ** 3, atol=1e-10, rtol=0)
    assert (found.values[:, 2:] == 0).all()
    linear = input_x_gradient(model, given, lambda out: out.last_hidden_state[:, 1].sum(-1), at="last_hidden_state")
    assert linear.error < 1e-12
    torch.testing.assert_close(linear.values[:, 1], state[:, 1])


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_batch_does_not_matter(batch: int) -> None:
    model, given = random_case("small", "padded, with a pair")
    expected = integrated_gradients(model, given, smooth, steps=30)
    found = integrated_gradients(model, given, smooth, steps=30, batch=batch)
    torch.testing.assert_close(found.values, expected.values, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "target, batch, most",
    [(smooth, 1, 1), (smooth, 4, 4), (smooth, 7, 6), (text_similarity(), 1, 2), (text_similarity(), 5, 4)],
)
def test_no_more_rows_are_computed_at_once(target, batch: int, most: int) -> None:
    """However many texts there are; only texts that are compared are never apart."""
    model, given = random_case("small", "padded, with a pair")
    given = {name: tensor[[0, 1, 2, 0, 1, 2]] for name, tensor in given.items()}
    whole = integrated_gradients(model, given, target, steps=20, batch=1000)
    sizes = []

    def count(_, __, out) -> None:
        if torch.is_grad_enabled():
            sizes.append(len(out))

    handle = model.embeddings.register_forward_hook(count)
    found = integrated_gradients(model, given, target, steps=20, batch=batch)
    handle.remove()
    assert max(sizes) == most
    torch.testing.assert_close(found.values, whole.values, atol=1e-12, rtol=0)


def test_the_error_is_that_of_the_worst_text() -> None:
    model, given = random_case("small", "padded, with a pair")
    found = integrated_gradients(model, given, smooth, steps=3)
    errors = (found.values.flatten(1).sum(1) - (found.target - found.baseline_target)).abs()
    assert errors.max() > 2 * errors.min()
    assert found.error == pytest.approx(errors.max().item(), abs=1e-14)


# --- beside captum, on the model of transformers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> transformers.BertModel:
    return transformers.BertModel.from_pretrained(checkpoint, attn_implementation="eager").eval()


def score_of(theirs: transformers.BertModel, vector: Tensor) -> Callable[[Tensor], Tensor]:
    def score(ids: Tensor) -> Tensor:
        means = theirs(input_ids=ids).last_hidden_state.mean(1)
        return F.cosine_similarity(means, vector[None], dim=-1)

    return score


def test_the_numbers_of_captum(checkpoint: Path, tokenizer: BertTokenizer, theirs: transformers.BertModel) -> None:
    model = BertModel.from_pretrained(checkpoint, attention="eager")
    inputs = tokenizer("There was a fly drinking from my soup")
    vector = theirs(**tokenizer("An insect in a bowl")).last_hidden_state.mean(1)[0].detach()
    score, words = score_of(theirs, vector), theirs.embeddings.word_embeddings
    ids = inputs["input_ids"]
    base = torch.where((ids == 101) | (ids == 102), ids, 0)  # all but [CLS] and [SEP] are [PAD]
    expected = captum.attr.LayerIntegratedGradients(score, words).attribute(ids, baselines=base, n_steps=50)
    found = integrated_gradients(model, inputs, cosine_with(vector), steps=50)
    torch.testing.assert_close(found.values, expected.detach(), atol=1e-5, rtol=0)
    assert found.error < 1e-3
    assert found.scores[0, [0, -1]].tolist() == [0, 0]

    product = captum.attr.LayerGradientXActivation(score, words).attribute(ids)
    torch.testing.assert_close(
        input_x_gradient(model, inputs, cosine_with(vector)).values, product.detach(), atol=1e-5, rtol=0
    )
    embedded = words(ids).detach().requires_grad_()
    means = theirs(inputs_embeds=embedded).last_hidden_state.mean(1)
    (gradient,) = torch.autograd.grad(F.cosine_similarity(means, vector[None]).sum(), embedded)
    lengths = saliency(model, inputs, cosine_with(vector))
    torch.testing.assert_close(lengths.values, gradient, atol=1e-6, rtol=0)
    torch.testing.assert_close(lengths.scores, gradient.norm(dim=-1), atol=1e-6, rtol=0)
    assert lengths.error is None


@pytest.mark.parametrize("name", ["MiniLM", "rxnfp", "BERT-tiny"])
def test_real_checkpoints(name: str, checkpoint: Path, reactions: Path, data: Callable[[str], Path]) -> None:
    model, inputs = real_case(name, checkpoint, reactions, data("bert-tiny"))
    given = inputs.rows([1])
    target = text_similarity() if name == "MiniLM" else token_logit(int(given["input_ids"][0, 2]))
    found = integrated_gradients(model, inputs if name == "MiniLM" else given, target, steps=100)
    scale = (found.target - found.baseline_target).abs().max().item()
    assert found.error < 1e-3 * max(scale, 1)


# --- at other values -------------------------------------------------------------------------------------------------


def test_knowledge_neurons(reactions: Path) -> None:
    """Dai et al. 2022: the attributions of one position's neurons sum to p − p with all of them switched off."""
    folder = reactions / "bert_pretrained"
    model = BertForMaskedLM.from_pretrained(folder).double()
    ids = encode(folder, "CC(=O)O.OCC>>CC(=O)[MASK]CC")
    oxygen, position = int(encode(folder, "O")[0, 1]), 19

    def probability(out) -> Tensor:
        return out.logits[:, position].softmax(-1)[:, oxygen]

    name = "encoder.layers.9.feed_forward.activation"
    with torch.no_grad(), record(model, name) as trace:
        model(ids)
    off = trace[name].clone()
    off[:, position] = 0
    found = integrated_gradients(model, {"input_ids": ids}, probability, at=name, baseline=off, steps=60)
    with torch.no_grad(), edit(model, name, zero, positions=position):
        without = probability(model(ids))
    assert abs(found.values.sum() - (probability(model(ids)) - without)).item() < 1e-12
    assert found.values.shape == (1, ids.shape[1], 512)
    assert (found.values[:, :position] == 0).all()


def test_heads_by_their_attention() -> None:
    model, given = random_case("small", "padded, with a pair")
    found = integrated_gradients(model, given, smooth, at="attentions[1]", steps=40)
    assert found.values.shape == (3, 4, 11, 11)
    torch.testing.assert_close(found.scores, found.values.sum((1, 3)))
    assert found.error < 1e-6
    pooled = integrated_gradients(
        random_model(kind=BertForSequenceClassification), given, class_logit(1), at="pooler_output", steps=3
    )
    assert pooled.scores.shape == (3,)
    assert pooled.error < 1e-5
    assert str(pooled).startswith("logit of 1: ")


# --- words, what is printed, what is refused -------------------------------------------------------------------------


def test_words_and_what_is_printed(tokenizer: BertTokenizer, checkpoint: Path) -> None:
    inputs = tokenizer(["an unbelievable tokenization", "a fly"])
    model = BertModel.from_pretrained(checkpoint)
    found = input_x_gradient(model, inputs, lambda out: out.last_hidden_state[:, 0, 0])
    assert [word for word, _ in found.words[0]] == ["[CLS]", "an", "unbelievable", "tokenization", "[SEP]"]
    assert sum(score for _, score in found.words[0]) == pytest.approx(found.scores[0].sum().item(), abs=1e-6)
    assert [word for word, _ in found.words[1]] == ["[CLS]", "a", "fly", "[SEP]"]
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == inputs.tokens(0)
    assert "off by" in lines[-1]
    assert "off by" not in str(saliency(model, inputs, lambda out: out.last_hidden_state[:, 0, 0]))
    assert "fly" in found.plot(row=1)._repr_svg_()


def test_a_value_without_positions_has_no_tokens_to_show() -> None:
    model = random_model(kind=BertForSequenceClassification)
    found = saliency(model, GIVEN, class_logit(1), at="pooler_output")
    for ask in (found.plot, found.labelled, lambda: found.words):
        with pytest.raises(InputError, match="need scores of positions, which this value does not have"):
            ask()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off(mode) -> None:
    """For a caller who computes none, and on a model that was made there."""
    expected = integrated_gradients(random_model(), GIVEN, smooth, steps=5)
    with mode():
        model = random_model()
        inside = integrated_gradients(model, {name: tensor.clone() for name, tensor in GIVEN.items()}, smooth, steps=5)
    outside = integrated_gradients(model, GIVEN, smooth, steps=5)
    for found in (inside, outside):
        torch.testing.assert_close(found.values.clone(), expected.values, atol=1e-6, rtol=0)
        assert not found.values.requires_grad
    assert all(parameter.is_inference() == (mode is torch.inference_mode) for parameter in model.parameters())


GIVEN = {"input_ids": torch.tensor([[1, 2, 3]])}


def test_lengths_of_small_gradients_in_float16() -> None:
    model = random_model().half()
    found = saliency(model, GIVEN, lambda out: smooth(out) * 1e-3)
    assert (found.scores > 0).all()
    torch.testing.assert_close(found.scores.double(), found.values.double().norm(dim=-1), rtol=1e-3, atol=1e-7)


def test_a_baseline_that_requires_gradients() -> None:
    """An embedding of the model is one, unless its parameters are frozen."""
    model = random_model().requires_grad_(True)
    vector = model.embeddings.word_embeddings.weight[7]
    found = integrated_gradients(model, GIVEN, smooth, baseline=vector, steps=5)
    assert not found.values.requires_grad
    assert torch.equal(
        found.values, integrated_gradients(model, GIVEN, smooth, baseline=vector.detach(), steps=5).values
    )


def test_a_mask_that_was_put_in_later_is_in_the_baseline_too(tokenizer: BertTokenizer) -> None:
    model = random_model(vocab_size=len(tokenizer), max_position_embeddings=16)
    inputs = tokenizer("a fly in my soup")
    inputs["input_ids"][0, 2] = tokenizer.convert_tokens_to_ids("[MASK]")
    found = integrated_gradients(model, inputs, smooth, steps=5)
    assert found.tokens[0][2] == "[MASK]"
    assert (found.scores[0] == 0).tolist() == [True, False, True, False, False, False, True]
    with pytest.raises(InputError, match="row must be an integer from -1 to 0, got 1"):
        found.plot(row=1)


def test_half_precision_is_told_to_round_less() -> None:
    model, given = random_case("one layer, one head", "padded, with a pair")
    with pytest.warns(CompletenessWarning, match="take more than 1 steps, or a model in float32"):
        integrated_gradients(model.bfloat16(), given, smooth, steps=1)


def test_baselines_keep_special_tokens(tokenizer: BertTokenizer) -> None:
    model = random_model(vocab_size=len(tokenizer), max_position_embeddings=16).double()
    inputs = tokenizer(["the [MASK] bank", "a fly"])
    table = model.embeddings.word_embeddings.weight
    mask = tokenizer.convert_tokens_to_ids("[MASK]")
    for kind, vector in (("pad", table[0]), ("mask", table[mask]), ("zero", torch.zeros(24).double())):
        found = integrated_gradients(model, inputs, smooth, baseline=kind, steps=100)
        assert (found.scores == 0).tolist() == [[True, False, True, False, True], [True, False, False, True, True]]
        start = table[inputs["input_ids"]]
        start[0, [1, 3]] = start[1, [1, 2]] = vector
        by_hand = integrated_gradients(model, inputs, smooth, baseline=start, steps=100)
        torch.testing.assert_close(found.values, by_hand.values, atol=1e-12, rtol=0)
    bare = integrated_gradients(model, dict(inputs), smooth, baseline="zero", steps=100)
    # No tokenizer says which tokens are special.
    assert (bare.scores == 0).tolist() == [[False] * 5, [False, False, False, False, True]]


def test_nan_is_not_completeness() -> None:
    model = random_model()
    model.encoder.layers[0].attention_norm.weight.fill_(float("nan"))
    with pytest.warns(CompletenessWarning, match="within nan only: the model, the baseline or the target has NaN"):
        integrated_gradients(model, GIVEN, smooth, steps=2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"at": "*norm"}, r"at must be the name of one value, got '\*norm', which is 7"),
        ({"at": "embeddings.position_embeddings"}, "is the same for all texts"),
        ({"at": "hidden_states[1]", "baseline": "pad"}, "must be 'zero' or a tensor at .*: 'pad' is a word embedding"),
        ({"baseline": "unk"}, "baseline must be one of pad, mask, zero, got 'unk'"),
        ({"baseline": "mask"}, r"the id of \[MASK\] is known to a tokenizer"),
        ({"baseline": torch.ones(3)}, r"must broadcast to the shape of embeddings.word_embeddings, \(1, 3, 24\), got"),
        ({"steps": 0}, "steps must be a positive integer"),
        ({"batch": 0}, "batch must be a positive integer"),
        ({"target": token_logit(1, 1)}, "a token's logit needs a model that predicts tokens"),
        (
            {"target": lambda out: torch.ones(len(out[0]))},
            "the target must depend on embeddings.word_embeddings, and <lambda>",
        ),
        ({"target": lambda out: out.last_hidden_state[:, 0, 0].detach()}, "the target must depend on"),
        (
            {"target": lambda out: out.hidden_states[0].sum((1, 2)), "at": "last_hidden_state"},
            "the target must depend on",
        ),
        ({"inputs": "text"}, r"pass tokenizer\(text\)"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict, message: str) -> None:
    model = random_model()
    options = {"inputs": GIVEN, "target": smooth, **options}
    with pytest.raises(InputError, match=message):
        integrated_gradients(model, options.pop("inputs"), options.pop("target"), **options)
    assert hooks(bert_in(model)) == 0
