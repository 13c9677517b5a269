"""The weights of a head and of a neuron give the numbers of the model itself, with all their biases."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.attribution import CONFIGURATIONS, INPUTS, off, random_case, real_case
from support.models import random_model
from torch import Tensor

from minibert import BertForMaskedLM, BertModel, BertTokenizer
from minibert.errors import InputError, TextTypeError
from minibert.heads import bert_in
from minibert.interpret import circuit, composition, neurons
from minibert.interpret.texts import batches_of
from minibert.model import additive_mask
from minibert.trace.recording import record

TEXTS = ["There was a fly", "He had to fly for 1500 hours.", "a", "The bank of the river", "A fly drinks from the soup"]


def check(bert: BertModel, given: dict[str, Tensor], bound: float) -> None:
    """Patterns from QK, outputs from OV, sums from neurons: of every head and layer."""
    with torch.no_grad(), record(bert, ["*", "*.head_outputs"]) as t:
        bert(**given)
    mask = additive_mask(given.get("attention_mask"), t["embeddings.norm"].dtype)
    mask = torch.zeros(()) if mask is None else mask[:, 0]
    for layer, module in enumerate(bert.encoder.layers):
        name, hidden = f"encoder.layers.{layer}.", t[f"hidden_states[{layer}]"]
        for head in range(bert.config.num_attention_heads):
            weights = circuit(bert, layer, head)
            pattern = t[f"{name}attention.probabilities"][:, head]
            assert torch.equal(weights.b_O, module.attention.output.bias)
            if bert.embeddings.absolute:
                # The softmax would hide what is added to all keys of a query.
                assert off(weights.scores(hidden), t[f"{name}attention.scaled_scores"][:, head]) < 10 * bound
                found = (weights.scores(hidden) + mask).softmax(-1)
                torch.testing.assert_close(found, pattern, atol=bound, rtol=0)
            assert off(weights.outputs(hidden, pattern), t[f"{name}attention.head_outputs"][:, head]) < bound
        memories = neurons(bert, layer)
        fired = module.feed_forward.activation(t[f"{name}attention_norm"] @ memories.keys.T + memories.key_biases)
        assert off(fired @ memories.values + memories.bias, t[f"{name}feed_forward.contract"]) < bound


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_weights_give_the_numbers_of_the_model(configuration: str, inputs: str) -> None:
    check(*random_case(configuration, inputs), bound=1e-12)


@pytest.mark.parametrize("name", ["MiniLM", "rxnfp", "BERT-tiny"])
def test_real_checkpoints(name: str, checkpoint: Path, reactions: Path, data: Callable[[str], Path]) -> None:
    model, inputs = real_case(name, checkpoint, reactions, data("bert-tiny"))
    with torch.no_grad():
        check(bert_in(model).double(), inputs, bound=1e-12)
        check(bert_in(model).float(), inputs, bound=1e-5)


def test_singular_vectors() -> None:
    weights = circuit(random_model().double(), 1, 2)
    for kind, whole in (("OV", weights.OV), ("QK", weights.QK)):
        found = weights.svd(kind)
        assert found.U.shape == found.V.shape == (24, 6)
        torch.testing.assert_close(found.U @ found.S.diag() @ found.V.T, whole, atol=1e-12, rtol=0)
        assert (found.S[:-1] >= found.S[1:]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_singular_vectors_of_half_precision(dtype: torch.dtype) -> None:
    found, expected = circuit(random_model().to(dtype), 1, 2).svd(), circuit(random_model(), 1, 2).svd()
    assert found.S.dtype == torch.float32
    torch.testing.assert_close(found.S, expected.S, rtol=0.02, atol=0.02)


def test_what_is_printed() -> None:
    model = random_model().requires_grad_(True)
    weights, memories = circuit(model, 1, 2), neurons(model, 1)
    lines = str(weights).splitlines()
    assert repr(weights) == str(weights)
    assert lines[0] == "layer 1 head 2: 24 dimensions through 6"
    assert lines[2].split()[:3] == ["OV", f"{weights.OV.norm():.3f}", f"{weights.svd().S[0]:.3f}"]
    assert lines[3].split()[:2] == ["QK", f"{weights.QK.norm():.3f}"]
    assert weights.plot("QK")._repr_svg_().count("QK of layer 1 head 2") == 1
    assert not weights.OV.requires_grad
    norms = model.encoder.layers[1].feed_forward.contract.weight.norm(dim=0)
    lines = str(memories).splitlines()
    assert lines[2].split()[:2] == [str(int(norms.argmax())), f"{norms.max():.3f}"]
    assert len(lines) == 7
    assert not memories.values.requires_grad


def test_a_head_of_zeros_composes_with_none() -> None:
    model = random_model()
    model.encoder.layers[0].attention.output.weight.zero_()
    assert composition(circuit(model, 0, 1), circuit(model, 1, 0)) == (0, 0, 0)


def test_a_neuron_through_the_head(data: Callable[[str], Path]) -> None:
    """The logits of its value as a hidden state, less those of the hidden state 0."""
    model = BertForMaskedLM.from_pretrained(data("bert-tiny")).requires_grad_(False)
    tokenizer = BertTokenizer.from_pretrained(data("bert-tiny"))
    value = model.bert.encoder.layers[1].feed_forward.contract.weight[:, 17]
    at_value, at_zero = (
        model.masked_lm(each, model.bert.embeddings.word_embeddings.weight) for each in (value, 0 * value)
    )
    found = neurons(model, 1).words(17, tokenizer, k=3, through="head")
    best = (at_value - at_zero).topk(3)
    assert [token for token, _ in found] == tokenizer.convert_ids_to_tokens(best.indices.tolist())
    assert [logit for _, logit in found] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_composition() -> None:
    """1 where a head reads just the direction that an earlier one writes, 0 where it reads one at right angles."""
    model = random_model().double()
    early, late = circuit(model, 0, 1), circuit(model, 2, 3)
    found = composition(early, late)
    expected = (late.QK @ early.OV).norm() / (late.QK.norm() * early.OV.norm())
    assert found.key == pytest.approx(expected.item())
    assert all(0 < score < 1 for score in found)
    direction, other = torch.eye(24, dtype=torch.float64)[[0, 1]]
    attention = model.encoder.layers[0].attention
    attention.output.weight[:, 6:12] = torch.outer(direction, torch.ones(6).double())
    for part, seen, expected in (("query", direction, 1.0), ("key", other, 0.0), ("value", direction, 1.0)):
        getattr(model.encoder.layers[2].attention, part).weight[18:] = torch.outer(torch.ones(6).double(), seen)
        scores = composition(circuit(model, 0, 1), circuit(model, 2, 3))
        assert getattr(scores, part) == pytest.approx(expected, abs=1e-12)


def test_what_a_neuron_fires_on(checkpoint: Path, tokenizer: BertTokenizer) -> None:
    """As text by text; a generator will do, and the order of the texts does not matter to what is found."""
    model = BertModel.from_pretrained(checkpoint)
    memories = neurons(model, 4)
    found = memories.top_tokens(17, tokenizer, (text for text in TEXTS), k=6)
    expected = []
    for text in TEXTS:
        inputs = tokenizer(text)
        with torch.no_grad(), record(model, "encoder.layers.4.feed_forward.activation") as t:
            model(**inputs)
        fired = t["encoder.layers.4.feed_forward.activation"][0, :, 17]
        expected += [(value, inputs.tokens()[place], place, text) for place, value in enumerate(fired.tolist())]
    expected = sorted(expected, reverse=True)[:6]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.activation == pytest.approx(theirs[0], abs=1e-5)
        assert ours[1:] == theirs[1:]
    again = memories.top_tokens(17, tokenizer, TEXTS[::-1], k=6)
    assert {(each.token, each.text) for each in again} == {(each.token, each.text) for each in found}
    assert len(memories.top_tokens(3, tokenizer, ["a"], k=10)) == 3
    assert memories.words(17, tokenizer, k=2)[0][1] <= 1
    assert len(circuit(model, 3, 5).words(memories.values[17], tokenizer)) == 10


def test_a_corpus_comes_in_batches(tokenizer: BertTokenizer) -> None:
    """Each text once, with its number, at most so many tokens at a time; long ones are cut."""
    model = random_model(vocab_size=len(tokenizer), max_position_embeddings=16)
    texts = [" ".join(["fly"] * (number % 23 + 1)) for number in range(1100)]
    seen = []
    for batch in batches_of(model, tokenizer, iter(texts), batch_tokens=64):
        assert batch.inputs["input_ids"].numel() <= 64
        assert batch.inputs["input_ids"].shape[1] <= 16
        assert [texts[number] for number in batch.numbers] == batch.texts
        seen += batch.numbers
    assert sorted(seen) == list(range(1100))
    with pytest.raises(TextTypeError, match="text 601 must be a string, got 7"):
        list(batches_of(model, tokenizer, [*texts[:601], 7]))


def relative() -> BertModel:
    return random_model(position_embedding_type="relative_key")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda model, t: circuit(model, 3, 0), "layer must be an integer from 0 to 2, got 3"),
        (lambda model, t: circuit(model, 0, 4), "head must be an integer from 0 to 3, got 4"),
        (lambda model, t: circuit(model, 0, 0).svd("KQ"), "of must be one of OV, QK"),
        (lambda model, t: neurons(model, -1), "layer must be an integer from 0 to 2"),
        (lambda model, t: neurons(model, 0).words(40, t), "neuron must be an integer from 0 to 39"),
        (lambda model, t: neurons(model, 0).words(0, t, through="logits"), "through must be one of embeddings, head"),
        (lambda model, t: neurons(model, 0).words(0, t, through="head"), "which BertModel does not have"),
        (lambda model, t: neurons(model, 0).top_tokens(0, t, "a text"), "texts must be a list of texts"),
        (lambda model, t: neurons(model, 0).top_tokens(0, t, ["a"], k=0), "k must be a positive integer"),
        (lambda model, t: composition(circuit(model, 1, 0), circuit(model, 1, 1)), "later must be in a later layer"),
        (lambda model, t: circuit(relative(), 0, 0).scores(torch.ones(1, 2, 24)), "also depend on the distance"),
    ],
)
def test_what_has_no_meaning_is_refused(call, message: str, tokenizer: BertTokenizer) -> None:
    with pytest.raises(InputError, match=message):
        call(random_model(), tokenizer)
