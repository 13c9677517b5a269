"""The mistakes in what comes after a BERT, beside other libraries; those inside are in equality/test_ladder.py."""

from collections.abc import Callable

import pytest
import sklearn.metrics.pairwise
import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from support.heads import twins
from support.models import random_model
from torch import Tensor

from minibert.teaching.answers import named_values
from minibert.teaching.bugs import BUGS, Bug
from minibert.teaching.parts import PARTS, replace_part
from minibert.trace.compare import example_inputs

Values = dict[str, Tensor]


def st_mean(values: Values, inputs: Values) -> Tensor:
    pooling = Pooling(values["last_hidden_state"].shape[-1], "mean")
    features = {"token_embeddings": values["last_hidden_state"], "attention_mask": inputs["attention_mask"]}
    return pooling(features)["sentence_embedding"]


def sklearn_cosine(values: Values, inputs: Values) -> Tensor:
    first, last = values["last_hidden_state"][0], values["last_hidden_state"][-1, 1:]
    return torch.from_numpy(sklearn.metrics.pairwise.cosine_similarity(first, last))


def masked_loss(values: Values, inputs: Values) -> Tensor:
    """The definition: −log softmax at the right word, averaged over the masked places."""
    last = values["last_hidden_state"]
    labels = inputs["input_ids"] % last.shape[-1]
    labels[:, 1] = 0
    logs = last.softmax(-1).log().gather(2, labels[:, :, None])[:, :, 0]
    return -torch.cat([logs[row, 1 :: row + 2] for row in range(len(labels))]).mean()


def ablated(values: Values, inputs: Values) -> Tensor:
    """The mean, text by text without its padding."""
    last, lengths = values["last_hidden_state"], inputs["attention_mask"].sum(1).tolist()
    mean = torch.cat([text[:length] for text, length in zip(last, lengths, strict=True)]).mean(0)
    return mean.repeat(*last.shape[:2], 1)


def after_layer_norm(values: Values, _: Values) -> Tensor:
    """By linearity: the LayerNorm of the sum minus what the other part makes of it."""
    part, other = values["last_hidden_state"], values["hidden_states[3]"]
    weight = torch.linspace(0.5, 1.5, part.shape[-1])
    sigma = (part + other).std(-1, correction=0, keepdim=True)
    sigma = (sigma**2 + 1e-3).sqrt()
    whole = torch.nn.functional.layer_norm(part + other, part.shape[-1:], weight, None, 1e-3)
    return whole - weight * (other - other.mean(-1, keepdim=True)) / sigma


def between_words(values: Values, _: Values) -> Tensor:
    """Word by word, of the tokens 0 | 1 2 | 3 4 | … | 9 | 10."""
    last = values["last_hidden_state"][0]
    attention = (last @ last.T / last.shape[-1] ** 0.5).softmax(-1)
    words = [[0], [1, 2], [3, 4], [5, 6], [7, 8], [9], [10]]
    return torch.stack([torch.stack([attention[one][:, other].sum(1).mean() for other in words]) for one in words])


def entropy(values: Values, inputs: Values) -> Tensor:
    entropies = []
    for text, length in zip(values["last_hidden_state"], inputs["attention_mask"].sum(1).tolist(), strict=True):
        real = text[:length]
        entropies += [torch.distributions.Categorical(logits=row).entropy() for row in real @ real.T / 24**0.5]
    return torch.stack(entropies).mean()


ORACLES: dict[str, Callable[[Values, Values], Tensor]] = {
    "mean_ablation": ablated,
    "normed_part": after_layer_norm,
    "word_attention": between_words,
    "mean_entropy": entropy,
    "layer_output": lambda values, _: torch.stack([values[f"hidden_states[{layer}]"] for layer in range(1, 5)]),
    "linear_attribution": lambda values, _: torch.einsum(
        "bsd,bsd->bs",
        values["hidden_states[4]"] - values["hidden_states[3]"],
        values["hidden_states[4]"].flip(0),
    ),
    "mean_pool": st_mean,
    "cosine_similarity": sklearn_cosine,
    "masked_loss": masked_loss,
    "word_vector": lambda values, _: values["last_hidden_state"][0, 1:-1],
    # of all five hidden states, and of the first four
    "second_to_last": lambda values, _: torch.stack([values["hidden_states[3]"], values["hidden_states[2]"]]),
    "sum_of_last_four": lambda values, _: torch.stack(
        [sum(values[f"hidden_states[{first + layer}]"] for layer in range(4)) for first in (1, 0)]
    ),
}


@pytest.mark.parametrize("bug", [bug for bug in BUGS.values() if bug.shows_at in PARTS], ids=lambda bug: bug.name)
def test_after_the_model(bug: Bug) -> None:
    model = random_model(num_hidden_layers=4)
    inputs = example_inputs(model)
    values = named_values(model, inputs)
    expected = ORACLES[bug.shows_at](values, inputs)
    torch.testing.assert_close(values[bug.shows_at], expected)
    with bug.applied(model):
        wrong = named_values(model, inputs)[bug.shows_at]
    assert not torch.allclose(wrong, expected, rtol=1e-4)


@pytest.mark.parametrize("bug", [bug for bug in BUGS.values() if bug.shows_at == "logits"], ids=lambda bug: bug.name)
def test_in_the_head(bug: Bug) -> None:
    ours, theirs, inputs = twins("masked words", "eager")
    expected = theirs(**inputs).logits
    assert torch.equal(ours(**inputs).logits, expected)
    with bug.applied(ours):
        assert not torch.allclose(ours(**inputs).logits, expected, rtol=1e-4)


def test_replacements_can_be_nested() -> None:
    """Modules as functions too: PyTorch registers a module that is set as an attribute, and must not here."""
    model = random_model()
    inputs = example_inputs(model)
    expected, modules = model(**inputs).last_hidden_state, list(model.modules())
    with replace_part(model, "gelu", torch.nn.ReLU()), replace_part(model, "gelu", torch.nn.GELU()):
        assert list(model.modules()) == modules
    assert list(model.modules()) == modules
    assert torch.equal(model(**inputs).last_hidden_state, expected)
