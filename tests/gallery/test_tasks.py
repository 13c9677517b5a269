"""Each task of the gallery is at most three lines, and its number is the one that a formula gives."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gallery import tasks
from support.attribution import off
from torch import Tensor

from minibert import BertForMaskedLM, BertModel, BertTokenizer, mean_pool
from minibert.interpret import cosine_with, word_features
from minibert.trace import record

TEXT = "There was a fly drinking from my soup"
MASKED = "He sat by the [MASK] bank."
CORPUS = [TEXT, "He had to fly for 1500 hours.", "The bank is closed today", "She went to the river bank to fish"]
FUNCTIONS = {name: each for name, each in vars(tasks).items() if inspect.isfunction(each)}
TASKS = {name: each for name, each in FUNCTIONS.items() if each.__module__ == tasks.__name__}


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> BertModel:
    return BertModel.from_pretrained(checkpoint, attention="eager").requires_grad_(False)


@pytest.fixture(scope="module")
def inputs(tokenizer: BertTokenizer) -> Any:
    return tokenizer(TEXT)


@pytest.fixture(scope="module")
def mlm(data: Callable[[str], Path]) -> BertForMaskedLM:
    return BertForMaskedLM.from_pretrained(data("bert-tiny")).requires_grad_(False)


@pytest.fixture(scope="module")
def masked(data: Callable[[str], Path]) -> Any:
    return BertTokenizer.from_pretrained(data("bert-tiny"))(MASKED)


@pytest.fixture(scope="module")
def insects(model: BertModel, tokenizer: BertTokenizer) -> Tensor:
    """The vector of another text."""
    other = tokenizer("An insect in a bowl")
    return mean_pool(model(**other).last_hidden_state, other["attention_mask"])[0]


def test_there_are_at_least_thirty() -> None:
    assert len(TASKS) >= 30


@pytest.mark.parametrize("name", TASKS)
def test_at_most_three_lines(name: str) -> None:
    (function,) = ast.parse(inspect.getsource(TASKS[name])).body
    assert isinstance(function, ast.FunctionDef)
    docstring, *body = function.body
    assert str(ast.get_docstring(function)).endswith("?")
    assert function.end_lineno - docstring.end_lineno <= 3
    assert body


@pytest.mark.parametrize("name", TASKS)
def test_each_has_its_check(name: str) -> None:
    assert f"tasks.{name}" in Path(__file__).read_text(encoding="utf-8"), name


def test_values_and_edits(model: BertModel, tokenizer: BertTokenizer, inputs: Any) -> None:
    query, key, _value = tasks.queries_keys_and_values_of_a_head(model, inputs)
    pattern = tasks.the_pattern_of_a_head(model, inputs)
    torch.testing.assert_close((query @ key.T / 32**0.5).softmax(-1), pattern, atol=1e-6, rtol=0)
    plain = model(**inputs).last_hidden_state
    weight = model.encoder.layers[3].attention.output.weight
    kept = weight.clone()
    weight[:, 160:192] = 0  # a layer without the columns of head 5
    torch.testing.assert_close(
        tasks.without_a_head(model, inputs), model(**inputs).last_hidden_state, atol=1e-5, rtol=0
    )
    weight.copy_(kept)
    column = model.encoder.layers[3].feed_forward.contract.weight
    kept = column[:, 17].clone()
    column[:, 17] = 0
    expected = model(**inputs).last_hidden_state
    column[:, 17] = kept
    torch.testing.assert_close(tasks.without_a_neuron(model, inputs), expected, atol=1e-5, rtol=0)
    hidden = inputs["attention_mask"].clone()
    hidden[0, 4] = 0
    expected = model(**{**inputs, "attention_mask": hidden}).last_hidden_state
    torch.testing.assert_close(tasks.without_attention_to_a_token(model, inputs), expected, atol=1e-5, rtol=0)
    for edited in (
        tasks.a_head_at_its_mean(model, tokenizer, inputs, CORPUS),
        tasks.several_edits_at_once(model, inputs),
    ):
        assert not torch.equal(edited, plain)
    states = model(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(tasks.from_a_layer_on(model, inputs, states[3]), plain, atol=0, rtol=0)
    assert tasks.steering(model, tokenizer, inputs).shape == (1, 10)
    assert torch.equal(model(**inputs).last_hidden_state, plain)


def test_patches(
    model: BertModel, tokenizer: BertTokenizer, mlm: BertForMaskedLM, masked: Any, insects: Tensor
) -> None:
    clean, corrupted = tokenizer(CORPUS[1]), tokenizer("He had to walk for 1500 hours.")
    effects = tasks.what_matters_where(model, clean, corrupted, cosine_with(insects))
    assert effects.shape == (6, 10)
    assert divmod(int(effects.abs().argmax()), 10)[1] == 4  # fly, and walk
    other = masked.tokenizer("He sat on the [MASK] bank.")
    assert tasks.which_head_matters(mlm, masked, other, "river").shape == (2, 2)
    assert tasks.where_a_fact_is_restored(mlm, masked, "river").shape == (2, 9)


def test_attribution(
    model: BertModel, tokenizer: BertTokenizer, mlm: BertForMaskedLM, inputs: Any, masked: Any, insects: Tensor
) -> None:
    last = model(**inputs).last_hidden_state
    parts = tasks.what_a_hidden_state_is_made_of(model, inputs)
    assert len(parts.labels) == 100
    assert off(parts.values.sum(0), last) < 1e-5
    spoken = tasks.which_head_speaks_for_a_token(mlm, masked, "river")
    assert spoken.error < 1e-4
    ranks = tasks.what_each_layer_predicts(mlm, masked, "river")
    logits, river = mlm(**masked).logits, masked.tokenizer.convert_tokens_to_ids("river")
    assert torch.equal(ranks[-1], (logits > logits[..., river, None]).sum(-1))
    rollout = torch.eye(10)
    for pattern in model(**inputs, output_attentions=True).attentions:
        rollout = (0.5 * pattern[0].mean(0) + 0.5 * torch.eye(10)) @ rollout
    torch.testing.assert_close(tasks.attention_rollout(model, inputs)[0], rollout, atol=1e-6, rtol=0)
    assert tasks.norm_based_attention(model, inputs).shape == (1, 10, 10)
    attributed = tasks.which_tokens_a_score_comes_from(model, inputs, insects)
    assert attributed.error < 1e-3
    assert attributed.scores[0].argmax() == 4  # fly
    assert tasks.a_gradient_inside(model, inputs, insects).shape == (1, 10, 384)
    whole = tasks.where_a_hidden_state_comes_from(model, inputs)
    assert off(whole.vectors[0].sum(1), last) < 1e-5
    assert list(tasks.inside_the_head(mlm, masked))[-1] == "logits"


def test_heads_and_weights(
    model: BertModel, tokenizer: BertTokenizer, mlm: BertForMaskedLM, inputs: Any, masked: Any, checkpoint: Path
) -> None:
    labels = torch.full_like(masked["input_ids"], -100)
    labels[0, 5] = masked.tokenizer.convert_tokens_to_ids("river")
    importance = tasks.which_heads_are_needed(mlm, [{**masked, "labels": labels}])
    assert importance.values.shape == (2, 2)

    def metric(model: BertForMaskedLM) -> float:
        return model(**masked).logits[0, 5, labels[0, 5]].item()

    curve = tasks.what_remains_without_the_others(mlm, importance.order, metric)
    assert len(curve) == 5
    assert curve[0] == metric(mlm)
    smaller = tasks.a_smaller_model(mlm, {0: [1]})
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in mlm.parameters())
    fired = tasks.what_a_neuron_fires_on(model, tokenizer, CORPUS)
    with record(model, "encoder.layers.4.feed_forward.activation") as trace:
        model(**tokenizer(fired[0].text))
    top = trace["encoder.layers.4.feed_forward.activation"][0, :, 17]
    assert fired[0].activation == pytest.approx(top.max().item(), abs=1e-5)
    assert len(tasks.which_words_a_vector_is_near(model, tokenizer, inputs)) == 5
    assert len(tasks.what_a_head_writes(model, tokenizer)) == 10
    assert tasks.is_it_equal(checkpoint).equal


def test_over_a_corpus(model: BertModel, tokenizer: BertTokenizer, tmp_path: Path) -> None:
    looks = tasks.what_heads_look_at(model, tokenizer, CORPUS)
    assert {name: values.shape for name, values in looks.items()} == dict.fromkeys(
        ("entropy", "distance", "sep"), (6, 12)
    )
    kept = tasks.the_values_of_a_corpus(model, tokenizer, CORPUS, tmp_path)
    states = [model(**tokenizer(text), output_hidden_states=True).hidden_states[3][0] for text in CORPUS]
    torch.testing.assert_close(kept, torch.cat(states), atol=1e-5, rtol=0)


def test_what_layers_know(model: BertModel, tokenizer: BertTokenizer) -> None:
    cone = tasks.how_narrow_the_cone_is(model, tokenizer, CORPUS)
    assert cone.values.shape == (7,)
    alike = tasks.how_alike_a_word_stays(model, tokenizer, CORPUS)
    assert "fly" in alike.labels
    layers = tasks.how_alike_layers_are(model, tokenizer, CORPUS)
    torch.testing.assert_close(layers.values.diagonal(), torch.ones(7, dtype=torch.float64))
    features = word_features(model, tokenizer, [text.split() for text in [*CORPUS, *CORPUS]])
    lengths = ["long" if len(word) > 3 else "short" for word in features.words]
    known = tasks.what_a_layer_knows(features, lengths)
    assert known.accuracy.shape == (7,)
    assert known.selectivity is not None
