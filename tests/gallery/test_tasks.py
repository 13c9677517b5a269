"""Each task of the gallery is at most three lines, and its number is the one that a formula gives."""

import ast
import inspect
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from gallery import tasks
from support.attribution import off
from torch import Tensor

from minibert import BertForMaskedLM, BertModel, BertTokenizer, cosine_similarity, mean_pool
from minibert.interpret import cosine_with, word_features
from minibert.trace import edit, record

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


def state(model: BertModel, inputs: Any, layer: int) -> Tensor:
    """The hidden state of one text after a layer, (S, D)."""
    return model(**inputs, output_hidden_states=True).hidden_states[layer][0]


def from_layer_3(model: BertModel, hidden: Tensor) -> Tensor:
    """The last hidden state that the layers after the third make of one, (S, D)."""
    hidden = hidden[None]
    for layer in model.encoder.layers[3:]:
        hidden, _ = layer(hidden)
    return hidden[0]


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
    layer = model.encoder.layers[3].attention
    values = [layer.value(state(model, tokenizer(text), 3))[:, 160:192] for text in CORPUS]  # of head 5
    patterns = [model(**tokenizer(text), output_attentions=True).attentions[3][0, 5] for text in CORPUS]
    contexts = torch.cat([pattern @ value for pattern, value in zip(patterns, values, strict=True)])
    kept = layer.output.weight.clone(), layer.output.bias.clone()
    layer.output.bias += layer.output.weight[:, 160:192] @ contexts.mean(dim=0)  # the same in each position
    layer.output.weight[:, 160:192] = 0
    expected = model(**inputs).last_hidden_state
    layer.output.weight.copy_(kept[0])
    layer.output.bias.copy_(kept[1])
    torch.testing.assert_close(tasks.a_head_at_its_mean(model, tokenizer, inputs, CORPUS), expected, atol=1e-5, rtol=0)
    outputs = {layer: model.encoder.layers[layer].attention.output.weight for layer in (1, 4)}
    copies = {layer: weight.clone() for layer, weight in outputs.items()}
    outputs[1].zero_()
    outputs[4].div_(2)
    expected = model(**inputs).last_hidden_state
    for layer, weight in outputs.items():
        weight.copy_(copies[layer])
    torch.testing.assert_close(tasks.several_edits_at_once(model, inputs), expected, atol=1e-5, rtol=0)
    hidden = state(model, inputs, 3)
    assert torch.equal(tasks.from_a_layer_on(model, inputs, hidden[None]), plain)
    insect, plane = (state(model, tokenizer(word), 3)[1:-1].mean(dim=0) for word in ("insect", "airplane"))
    steered = from_layer_3(model, hidden + 4 * (insect - plane))
    cosines = cosine_similarity(steered, insect[None])[:, 0]
    torch.testing.assert_close(tasks.steering(model, tokenizer, inputs)[0], cosines, atol=1e-5, rtol=0)
    assert torch.equal(model(**inputs).last_hidden_state, plain)


def test_patches(
    model: BertModel, tokenizer: BertTokenizer, mlm: BertForMaskedLM, masked: Any, insects: Tensor
) -> None:
    clean, corrupted = tokenizer(CORPUS[1]), tokenizer("He had to walk for 1500 hours.")
    effects = tasks.what_matters_where(model, clean, corrupted, cosine_with(insects))
    assert effects.shape == (6, 10)
    assert divmod(int(effects.abs().argmax()), 10)[1] == 4  # fly, and walk
    other = masked.tokenizer("He sat on the [MASK] bank.")
    river = masked.tokenizer.convert_tokens_to_ids("river")
    effects = tasks.which_head_matters(mlm, masked, other, "river")
    with record(mlm, "*.attention.context") as trace:
        mlm(**masked)
    contexts = dict(trace)
    plain = mlm(**other).logits[0, 5, river]
    for layer in range(2):
        name = f"encoder.layers.{layer}.attention.context"
        for head in range(2):
            with edit(mlm, name, lambda _, name: contexts[name], heads=head):
                moved = mlm(**other).logits[0, 5, river] - plain
            torch.testing.assert_close(effects[layer, head], moved, atol=1e-5, rtol=0)
    restored = tasks.where_a_fact_is_restored(mlm, masked, "river")
    assert restored.shape == (2, 9)
    elsewhere = [position for position in range(9) if position != 5]
    assert restored[-1, elsewhere].abs().max() < 1e-5  # after the last layer, [MASK] alone counts, and brings all back
    torch.testing.assert_close(restored[-1, 5], brought_back(mlm, masked, river), atol=1e-5, rtol=0)


def brought_back(mlm: BertForMaskedLM, inputs: Any, token: int) -> Tensor:
    """The log probability of a token at [MASK] less its mean with noise on token 4, of ten draws."""
    clean = mlm(**inputs).logits[0, 5].log_softmax(-1)[token]
    deviation = 3 * mlm.bert.embeddings.word_embeddings.weight.std()
    noise = deviation * torch.randn(10, 9, 128, generator=torch.Generator().manual_seed(0))[:, 4]
    many = {name: tensor.expand(10, -1) for name, tensor in inputs.items()}
    with edit(mlm, "embeddings.word_embeddings", lambda embeddings: embeddings + noise[:, None], positions=4):
        noisy = mlm(**many).logits[:, 5].log_softmax(-1)[:, token]
    return clean - noisy.mean()


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
    layer, hidden = model.encoder.layers[3].attention, state(model, inputs, 3)
    pattern = model(**inputs, output_attentions=True).attentions[3][0]
    weights = layer.output.weight.view(384, 12, 32)
    weighted = torch.einsum("hst,thw,dhw->std", pattern, layer.value(hidden).view(10, 12, 32), weights)
    torch.testing.assert_close(tasks.norm_based_attention(model, inputs)[0], weighted.norm(dim=-1), atol=1e-5, rtol=0)
    attributed = tasks.which_tokens_a_score_comes_from(model, inputs, insects)
    assert attributed.error < 1e-3
    assert attributed.scores[0].argmax() == 4  # fly
    leaf = state(model, inputs, 3).requires_grad_()
    with torch.enable_grad():
        cosine = cosine_similarity(from_layer_3(model, leaf).mean(dim=0)[None], insects[None])
    (gradient,) = torch.autograd.grad(cosine.sum(), leaf)
    torch.testing.assert_close(tasks.a_gradient_inside(model, inputs, insects)[0], gradient, atol=1e-6, rtol=0)
    whole = tasks.where_a_hidden_state_comes_from(model, inputs)
    assert off(whole.vectors[0].sum(1), last) < 1e-5
    assert list(tasks.inside_the_head(mlm, masked))[-1] == "logits"


def test_heads_and_weights(
    model: BertModel, tokenizer: BertTokenizer, mlm: BertForMaskedLM, inputs: Any, masked: Any, checkpoint: Path
) -> None:
    labels = torch.full_like(masked["input_ids"], -100)
    labels[0, 5] = masked.tokenizer.convert_tokens_to_ids("river")
    importance = tasks.which_heads_are_needed(mlm, [{**masked, "labels": labels}])
    with torch.enable_grad(), record(mlm, "*.attention.context") as trace:
        with edit(mlm, "embeddings.word_embeddings", lambda embeddings: embeddings.requires_grad_()):
            loss = mlm(**masked, labels=labels).loss
        gradients = torch.autograd.grad(loss, list(trace.values()))
    products = [
        (context * gradient).sum(dim=(0, 2, 3)) for context, gradient in zip(trace.values(), gradients, strict=True)
    ]
    torch.testing.assert_close(importance.values.float(), torch.stack(products).abs(), atol=1e-6, rtol=1e-4)

    def metric(model: BertForMaskedLM) -> float:
        return model(**masked).logits[0, 5, labels[0, 5]].item()

    curve = tasks.what_remains_without_the_others(mlm, importance.order, metric)
    assert len(curve) == 5
    assert curve[0] == metric(mlm)
    smaller = tasks.a_smaller_model(mlm, {0: [1]})
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in mlm.parameters())
    fired = tasks.what_a_neuron_fires_on(model, tokenizer, CORPUS)
    activations = []
    for text in CORPUS:
        with record(model, "encoder.layers.4.feed_forward.activation") as trace:
            model(**tokenizer(text))
        activations += trace["encoder.layers.4.feed_forward.activation"][0, :, 17].tolist()
    assert [each.activation for each in fired] == pytest.approx(sorted(activations, reverse=True)[:5], abs=1e-5)
    words, cosines = zip(*tasks.which_words_a_vector_is_near(model, tokenizer, inputs), strict=True)
    numbers = tokenizer.convert_tokens_to_ids(list(words))
    every = cosine_similarity(state(model, inputs, 2)[4][None], model.embeddings.word_embeddings.weight)[0]
    torch.testing.assert_close(every[numbers], torch.tensor(cosines), atol=1e-5, rtol=0)
    assert cosines[0] == pytest.approx(every.max().item(), abs=1e-5)
    layer = model.encoder.layers[3].attention
    left = torch.linalg.svd(layer.output.weight[:, 160:192] @ layer.value.weight[160:192])[0][:, 0]
    every = cosine_similarity(left[None], model.embeddings.word_embeddings.weight)[0].abs()  # its sign is arbitrary
    for word, cosine in tasks.what_a_head_writes(model, tokenizer):
        assert abs(cosine) == pytest.approx(every[tokenizer.convert_tokens_to_ids(word)].item(), abs=1e-4)
    assert tasks.is_it_equal(checkpoint).equal


def test_over_a_corpus(model: BertModel, tokenizer: BertTokenizer, tmp_path: Path) -> None:
    looks = tasks.what_heads_look_at(model, tokenizer, CORPUS)
    assert {name: values.shape for name, values in looks.items()} == dict.fromkeys(
        ("entropy", "distance", "sep"), (6, 12)
    )
    sums, tokens = {name: torch.zeros(6, 12) for name in looks}, 0
    for text in CORPUS:
        patterns = torch.stack(model(**tokenizer(text), output_attentions=True).attentions)[:, 0]  # (L, H, S, T)
        positions = torch.arange(patterns.shape[-1])
        sums["entropy"] += torch.special.entr(patterns).sum(dim=(-1, -2))
        sums["distance"] += (patterns * (positions[:, None] - positions).abs()).sum(dim=(-1, -2))
        sums["sep"] += patterns[..., -1].sum(dim=-1)
        tokens += len(positions)
    for name, total in sums.items():
        torch.testing.assert_close(looks[name].float(), total / tokens, atol=1e-5, rtol=0)
    kept = tasks.the_values_of_a_corpus(model, tokenizer, CORPUS, tmp_path)
    states = [model(**tokenizer(text), output_hidden_states=True).hidden_states[3][0] for text in CORPUS]
    torch.testing.assert_close(kept, torch.cat(states), atol=1e-5, rtol=0)


def test_what_layers_know(model: BertModel, tokenizer: BertTokenizer) -> None:
    cone = tasks.how_narrow_the_cone_is(model, tokenizer, CORPUS)
    states = [model(**tokenizer(text), output_hidden_states=True).hidden_states for text in CORPUS]
    for layer in range(7):
        means = [
            cosine_similarity(one[layer][0, 1:-1], other[layer][0, 1:-1]).mean()
            for one, other in permutations(states, 2)
        ]
        assert cone.values[layer].item() == pytest.approx(torch.stack(means).mean().item(), abs=1e-5)
    alike = tasks.how_alike_a_word_stays(model, tokenizer, CORPUS)
    assert "fly" in alike.labels
    layers = tasks.how_alike_layers_are(model, tokenizer, CORPUS)
    torch.testing.assert_close(layers.values.diagonal(), torch.ones(7, dtype=torch.float64))
    features = word_features(model, tokenizer, [text.split() for text in [*CORPUS, *CORPUS]])
    lengths = ["long" if len(word) > 3 else "short" for word in features.words]
    known = tasks.what_a_layer_knows(features, lengths)
    assert known.accuracy.shape == (7,)
    assert known.selectivity is not None
