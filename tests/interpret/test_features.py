"""The vector of a word is that of its tokens, and an untrained model differs in nothing but its weights."""

from pathlib import Path

import pytest
import torch
from support.models import random_model

from minibert import BertForMaskedLM, BertModel, BertTokenizer
from minibert.errors import InputError, PoolingError, TextTypeError
from minibert.heads import HEADS
from minibert.interpret.features import untrained, word_features
from minibert.vectors.words import embed_words

SENTENCES = [
    ["Embezzlement", "is", "n't", "allowed", "."],
    ["Don't", "over-all", "Jones's", "``", "résumé", "''", "한국", "银行"],
    ["The", "bank"],
]


@pytest.fixture(scope="module")
def model(tokenizer: BertTokenizer) -> BertModel:
    return random_model(vocab_size=len(tokenizer), max_position_embeddings=40)


@pytest.mark.parametrize("subwords", ["mean", "first", "last", "sum"])
def test_are_those_of_the_tokens_of_each_word(model, tokenizer: BertTokenizer, subwords: str) -> None:
    """The tokens of each word are counted by tokenising it alone, which a tokenizer of BERT may do at spaces."""
    found = word_features(model, tokenizer, iter(SENTENCES), subwords=subwords)
    assert found.words == [word for words in SENTENCES for word in words]
    assert found.sentences == [0] * 5 + [1] * 8 + [2] * 2
    assert found.values.shape == (4, 15, 24)
    for words, vectors in zip(SENTENCES, found.by_sentence(), strict=True):
        states = torch.stack(model(**tokenizer(" ".join(words)), output_hidden_states=True).hidden_states)[:, 0]
        start = 1
        for index, word in enumerate(words):
            end = start + len(tokenizer.tokenize(word))
            part = states[:, start:end]
            expected = {"first": part[:, 0], "last": part[:, -1], "sum": part.sum(dim=1), "mean": part.mean(dim=1)}
            torch.testing.assert_close(vectors[:, index], expected[subwords], rtol=0, atol=1e-5)
            start = end
        assert start == states.shape[1] - 1  # only [SEP] remains


def test_are_those_of_embed_words(checkpoint: Path, tokenizer: BertTokenizer) -> None:
    model = BertModel.from_pretrained(checkpoint)
    found = word_features(model, tokenizer, SENTENCES[::2])
    words = embed_words(
        model, tokenizer, [" ".join(each) for each in SENTENCES[::2]], ["Embezzlement", "bank"], layer="all"
    )
    torch.testing.assert_close(found.values[:, 0], words[0].vector, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.values[:, -1], words[1].vector, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(tokenizer: BertTokenizer, dtype: torch.dtype) -> None:
    model = random_model(vocab_size=len(tokenizer), max_position_embeddings=40).to(dtype)
    assert word_features(model, tokenizer, SENTENCES).values.dtype == (
        torch.float64 if dtype.itemsize == 8 else torch.float32
    )


@pytest.mark.parametrize(
    "sentences, error, message",
    [
        ("a text", TextTypeError, "must be lists of words"),
        (["a text"], TextTypeError, "sentence 0 must be a list of words"),
        ([["a"], ["b", 3]], TextTypeError, "sentence 1 must be a list of words"),
        ([["a"], []], InputError, "sentence 1 must have at least one word"),
        ([], InputError, "must not be empty"),
        ([["a"], ["b", "\u200b"]], InputError, "of sentence 1 has no token"),
        ([["a"], ["b"] * 50], InputError, "sentence 1 is too long"),
        ([["a"], ["antidisestablishmentarianism"] * 7], InputError, "sentence 1 is too long"),
    ],
)
def test_mistakes(model, tokenizer: BertTokenizer, sentences, error, message) -> None:
    with pytest.raises(error, match=message):
        word_features(model, tokenizer, sentences)
    with pytest.raises(PoolingError, match="subwords must be one of"):
        word_features(model, tokenizer, SENTENCES, subwords="max")


@pytest.mark.parametrize("kind", [BertModel, *HEADS.values()])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_untrained_model_has_the_same_shape_and_other_weights(kind, attention: str) -> None:
    model = random_model(attention, kind).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    fresh = untrained(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(fresh) is kind
    assert not fresh.training
    again, another = untrained(model).state_dict(), untrained(model, seed=1).state_dict()
    assert fresh.config == model.config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in fresh.state_dict().items():
        assert (value.shape, value.dtype) == (before[name].shape, before[name].dtype)
        assert torch.equal(value, again[name])
        assert value.dim() < 2 or not torch.equal(value, another[name])
    encoders = [next(each for each in one.modules() if isinstance(each, BertModel)) for one in (model, fresh)]
    assert encoders[0].attend is encoders[1].attend


def test_an_untrained_model_of_one_that_was_loaded(data, tokenizer: BertTokenizer) -> None:
    with torch.inference_mode():
        fresh = untrained(BertForMaskedLM.from_pretrained(data("bert-tiny")))
    assert word_features(fresh, tokenizer, SENTENCES).values.isfinite().all()
    assert not fresh.masked_lm.bias.is_inference()
    without = BertModel(fresh.config, add_pooling_layer=False)
    assert untrained(without).state_dict().keys() == without.state_dict().keys()
    with pytest.raises(InputError, match="model must be a BertModel, or one with a head"):
        untrained(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="seed must be"):
        untrained(fresh, seed=-1)
