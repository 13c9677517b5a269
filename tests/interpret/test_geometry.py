"""The sums over all pairs are the means over all pairs, one by one, and the published pictures are there."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.models import random_model
from support.speeches import sentences

from minibert import BertForMaskedLM, BertModel, BertTokenizer
from minibert.errors import InputError, TextTypeError
from minibert.interpret.geometry import anisotropy, dimension_shares, intra_sentence_similarity, self_similarity
from minibert.interpret.states import TextVectors, text_vectors

TEXTS = [
    "The bank of the river, the bank!",
    "A bank",
    "He went to the bank to embezzle money, and nobody noticed until the following winter.",
    "Rivers embezzle nothing.",
]
MEASURES = [anisotropy, dimension_shares, self_similarity, intra_sentence_similarity]


@pytest.fixture(scope="module", params=["eager", "sdpa", "relative", "head"])
def model(request: pytest.FixtureRequest, tokenizer: BertTokenizer) -> BertModel | BertForMaskedLM:
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 30}
    if request.param == "relative":
        return random_model(position_embedding_type="relative_key_query", **sizes)
    if request.param == "head":
        return random_model(kind=BertForMaskedLM, hidden_size=12, num_hidden_layers=1, **sizes)
    return random_model(request.param, **sizes)


def one_by_one(model: torch.nn.Module, tokenizer: BertTokenizer, words: bool, special: bool) -> list[TextVectors]:
    """The vectors of each text, run alone and without padding; words are cut by hand at spaces and punctuation."""
    found = []
    for number, text in enumerate(TEXTS):
        inputs = tokenizer(text)
        bert = getattr(model, "bert", model)
        states = torch.stack(bert(**inputs, output_hidden_states=True).hidden_states)[:, 0]
        tokens = inputs.tokens()
        if not special:
            states, tokens = states[:, 1:-1], tokens[1:-1]
        if words:
            starts = [index for index, token in enumerate(tokens) if not token.startswith("##")]
            ends = [*starts[1:], len(tokens)]
            merged = [states[:, start:end].mean(dim=1) for start, end in zip(starts, ends, strict=True)]
            tokens = ["".join(tokens[a:b]).replace("##", "") for a, b in zip(starts, ends, strict=True)]
            states = torch.stack(merged, dim=1)
        found.append(TextVectors(number, tokens, states))
    return found


def mean_cosine(texts: list[TextVectors]) -> torch.Tensor:
    """The mean over pairs of different texts of the mean cosine of a token of each."""
    means = []
    for one, other in itertools.combinations(texts, 2):
        cosines = F.cosine_similarity(one.values.double()[:, :, None], other.values.double()[:, None], dim=-1)
        means.append(cosines.mean(dim=(1, 2)))
    return torch.stack(means).mean(dim=0)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("words", [False, True])
def test_the_vectors_are_those_of_each_text_alone(model, tokenizer: BertTokenizer, words: bool, special: bool) -> None:
    found = sorted(text_vectors(model, tokenizer, iter(TEXTS), words=words, special_tokens=special))
    for one, other in zip(found, one_by_one(model, tokenizer, words, special), strict=True):
        assert one.labels == other.labels
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("words", [False, True])
def test_anisotropy_is_the_mean_over_all_pairs(model, tokenizer: BertTokenizer, words: bool, special: bool) -> None:
    expected = one_by_one(model, tokenizer, words, special)
    found = anisotropy(model, tokenizer, TEXTS, words=words, special_tokens=special)
    torch.testing.assert_close(found.values, mean_cosine(expected), rtol=0, atol=1e-6)
    assert (found.texts, found.vectors) == (4, sum(len(each.labels) for each in expected))


def test_shares_sum_to_the_cosine(model, tokenizer: BertTokenizer) -> None:
    expected = one_by_one(model, tokenizer, False, False)
    found = dimension_shares(model, tokenizer, TEXTS)
    torch.testing.assert_close(found.values.sum(dim=-1), mean_cosine(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.shares.sum(dim=-1), torch.ones(len(found.cosine)).double())
    assert found.error < 1e-12
    assert torch.equal(found.cosine, anisotropy(model, tokenizer, TEXTS).values)
    best = found.top(2)[-1]
    assert best[0] == (found.values[-1].argmax().item(), pytest.approx(found.shares[-1].max().item()))


def test_self_similarity_is_that_of_occurrences_in_different_texts(model, tokenizer: BertTokenizer) -> None:
    texts = one_by_one(model, tokenizer, True, False)
    found = self_similarity(model, tokenizer, TEXTS, at_least=2)
    assert found.labels == [",", ".", "bank", "embezzle", "the"]
    assert found.counts == [2, 2, 4, 2, 5]
    for word, values in zip(found.labels, found.values, strict=True):
        places = [(text, index) for text in texts for index, label in enumerate(text.labels) if label == word]
        cosines = [
            F.cosine_similarity(one.values[:, i].double(), other.values[:, j].double(), dim=-1)
            for (one, i), (other, j) in itertools.combinations(places, 2)
            if one.number != other.number
        ]
        torch.testing.assert_close(values, torch.stack(cosines).mean(dim=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.baseline, mean_cosine(texts), rtol=0, atol=1e-6)
    assert torch.equal(found.adjusted, found.values.mean(dim=0) - found.baseline)


def test_intra_sentence_similarity_is_with_the_mean_vector(model, tokenizer: BertTokenizer) -> None:
    texts = one_by_one(model, tokenizer, False, True)
    found = intra_sentence_similarity(model, tokenizer, TEXTS, special_tokens=True)
    for number, text in enumerate(texts):
        mean = text.values.double().mean(dim=1)
        cosines = [F.cosine_similarity(text.values[:, i].double(), mean, dim=-1) for i in range(len(text.labels))]
        torch.testing.assert_close(found.values[number], torch.stack(cosines).mean(dim=0), rtol=0, atol=1e-6)
    assert found.labels == ["0", "1", "2", "3"]
    assert found.counts == [len(text.labels) for text in texts]


@pytest.mark.parametrize("measure", MEASURES)
def test_vectors_may_be_given_and_results_are_shown(model, tokenizer: BertTokenizer, measure) -> None:
    options = {"at_least": 2} if measure is self_similarity else {}
    words = measure is self_similarity
    found = measure(list(text_vectors(model, tokenizer, TEXTS, words=words)), **options)
    again = measure(model, tokenizer, TEXTS, **options)
    assert torch.equal(found.values, again.values)
    assert str(found).count("\n") >= len(found.plot().axes[0].get_xticks())


def test_equal_vectors_have_a_cosine_of_1_and_opposite_ones_of_minus_1() -> None:
    vectors = torch.randn(2, 1, 8).expand(2, 3, 8)
    same = [TextVectors(number, ["a"] * 3, vectors) for number in range(3)]
    for measure in (anisotropy, intra_sentence_similarity):
        torch.testing.assert_close(measure(same).values, torch.ones_like(measure(same).values))
    opposite = anisotropy([TextVectors(0, ["a"], vectors[:, :1]), TextVectors(1, ["a"], -vectors[:, :1])])
    torch.testing.assert_close(opposite.values, -torch.ones(2).double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(tokenizer: BertTokenizer, dtype: torch.dtype) -> None:
    model = random_model(vocab_size=len(tokenizer), max_position_embeddings=30)
    exact = anisotropy(model, tokenizer, TEXTS).values
    found = anisotropy(model.to(dtype), tokenizer, TEXTS).values
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05 if dtype is torch.bfloat16 else 1e-6)


def test_a_text_beyond_the_limit_is_cut(tokenizer: BertTokenizer) -> None:
    model = random_model(vocab_size=len(tokenizer), max_position_embeddings=8)
    assert anisotropy(model, tokenizer, ["a " * 100, "b"], special_tokens=True).vectors == 8 + 3


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (lambda model, tokenizer: (model, tokenizer, ["one text"]), InputError, "must be at least two"),
        (lambda model, tokenizer: (model, tokenizer, "one text"), InputError, "must be a list of texts"),
        (lambda model, tokenizer: (model, tokenizer, ["one", 2]), TextTypeError, "text 1 must be a string"),
        (lambda model, tokenizer: (model,), InputError, "a model needs a tokenizer and texts"),
        (lambda model, tokenizer: ("MiniLM", tokenizer, TEXTS), InputError, "model must be a BertModel"),
        (lambda model, tokenizer: ([],), InputError, "must be at least two"),
        (lambda model, tokenizer: ([torch.zeros(2, 3, 4)],), InputError, "must be a list of TextVectors"),
        (lambda model, tokenizer: (torch.zeros(2, 3, 4),), InputError, "must be a list of TextVectors"),
    ],
)
def test_mistakes(tokenizer: BertTokenizer, measure, arguments, error, message) -> None:
    model = random_model(vocab_size=len(tokenizer))
    with pytest.raises(error, match=message):
        measure(*arguments(model, tokenizer))
    with pytest.raises(InputError, match="training mode"):
        measure(random_model(vocab_size=len(tokenizer)).train(), tokenizer, TEXTS)


def test_a_word_in_too_few_texts(tokenizer: BertTokenizer) -> None:
    model = random_model(vocab_size=len(tokenizer), max_position_embeddings=30)
    with pytest.raises(InputError, match="no word is in 5 texts"):
        self_similarity(model, tokenizer, TEXTS)
    with pytest.raises(InputError, match="at_least must be an integer of at least 2"):
        self_similarity(model, tokenizer, TEXTS, at_least=1)
    with pytest.raises(InputError, match="words must be one of"):
        anisotropy(model, tokenizer, TEXTS, words="yes")


@pytest.fixture(scope="module")
def speeches(data: Callable[[str], Path]) -> list[str]:
    data("speeches")
    return sentences()


def test_one_dimension_of_minilm_makes_much_of_its_cosines(
    checkpoint: Path, tokenizer: BertTokenizer, speeches: list[str]
) -> None:
    """Dimension 223 is a rogue dimension in the sense of Timkey and van Schijndel, until the last layer removes it."""
    vectors = list(text_vectors(BertModel.from_pretrained(checkpoint), tokenizer, speeches))
    found = dimension_shares(vectors)
    assert [largest[0][0] for largest in found.top(1)[2:6]] == [223] * 4
    assert all(0.2 < share < 0.65 for share in found.shares[2:6, 223])
    assert found.shares[6].max() < 0.1
    assert found.error < 1e-12
    adjusted = intra_sentence_similarity(vectors).adjusted
    assert adjusted.min() > 0.15  # context makes the tokens of a text more alike than those of different texts
    assert torch.equal(anisotropy(vectors).values, found.cosine)


def test_words_of_minilm_depend_more_on_their_context_in_higher_layers(
    checkpoint: Path, tokenizer: BertTokenizer, speeches: list[str]
) -> None:
    """As Ethayarajh's figure 2 shows of BERT: adjusted self-similarity falls from the embeddings to the last layer."""
    adjusted = self_similarity(BertModel.from_pretrained(checkpoint), tokenizer, speeches).adjusted
    assert adjusted[0] > 0.75
    assert adjusted[-1] < 0.6
    assert (adjusted[:4].diff() < 0).all()


def test_bert_tiny(data, tokenizer: BertTokenizer) -> None:
    model = BertForMaskedLM.from_pretrained(data("bert-tiny"))
    found = dimension_shares(model, tokenizer, TEXTS)
    torch.testing.assert_close(
        found.values.sum(dim=-1), mean_cosine(one_by_one(model, tokenizer, False, False)), rtol=0, atol=1e-6
    )


def test_reactions(reactions: Path) -> None:
    texts = ["C C O . C C N > > C C", "O = C O . Br", "C N"]
    model = BertModel.from_pretrained(reactions / "bert_ft")
    found = dimension_shares(model, BertTokenizer.from_pretrained(reactions / "bert_ft"), texts)
    assert found.values.shape == (13, 256)
    torch.testing.assert_close(found.values.sum(dim=-1), found.cosine, rtol=0, atol=1e-6)
