"""What five well-known notebooks compute step by step, in one call each, and the mistakes in them made loud.

The reference for every number is `transformers`, computed as the notebooks do where they are right.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import scipy.spatial.distance
import sklearn.metrics.pairwise
import torch
import transformers
from support.texts import SIX
from torch import Tensor

from minibert import (
    BertModel,
    BertTokenizer,
    SentenceEncoder,
    combine_layers,
    cosine_distance,
    cosine_similarity,
    embed_word,
    mean_pool,
    semantic_search,
)
from minibert.cli.demo import BANKS, FLIES
from minibert.errors import DoubledTokensWarning, PoolingError, TextTypeError
from minibert.vectors.static import StaticVectors
from minibert.vectors.words import layer_similarity, static_word_embedding

SOUP, JUICE, _ = FLIES
PEASANTS = "Mao Zhedong believes the peasants are taken advantage of by capitalists "


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> BertModel:
    return BertModel.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> Callable[[str], tuple[tuple[Tensor, ...], Tensor]]:
    """The hidden states and the pooled vector of one text, without its batch dimension."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    reference = transformers.BertModel.from_pretrained(checkpoint)

    @torch.no_grad()
    def compute(text: str) -> tuple[tuple[Tensor, ...], Tensor]:
        out = reference(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        return tuple(state[0] for state in out.hidden_states), out.pooler_output[0]

    return compute


def test_a_word_in_two_sentences(model, tokenizer, theirs) -> None:
    """The distance of "fly" from "fly"; by an index from a list without [CLS] it was that of "a" from "a"."""
    soup, juice = theirs(SOUP)[0][-1], theirs(JUICE)[0][-1]
    distance = scipy.spatial.distance.cosine(soup[4], juice[4])
    assert (1 - layer_similarity(model, tokenizer, [SOUP, JUICE], "fly"))[-1].item() == pytest.approx(
        distance, abs=1e-6
    )
    fly, other = (embed_word(model, tokenizer, sentence, "fly") for sentence in (SOUP, JUICE))
    assert cosine_distance(fly.vector, other.vector).item() == pytest.approx(distance, abs=1e-6)
    off_by_one = tokenizer.tokenize(SOUP).index("fly")
    assert tokenizer(SOUP).tokens()[off_by_one] == "a"
    assert fly.token_indices == [off_by_one + 1]
    assert scipy.spatial.distance.cosine(soup[3], juice[3]) != pytest.approx(distance, abs=1e-2)


def test_the_matrix_of_eight_words(model, tokenizer, checkpoint: Path) -> None:
    words = ["king", "queen", "man", "woman", "dog", "cat", "apple", "pear"]
    table = transformers.BertModel.from_pretrained(checkpoint).embeddings.word_embeddings
    ids = transformers.AutoTokenizer.from_pretrained(checkpoint).convert_tokens_to_ids(words)
    rows = table(torch.tensor(ids)).detach()
    expected = torch.nn.CosineSimilarity(dim=-1)(rows[:, None], rows[None])
    torch.testing.assert_close(cosine_similarity(static_word_embedding(model, tokenizer, words)), expected)
    assert expected[0, 1].item() == pytest.approx(0.6273, abs=1e-4)


def test_layers_as_features(model, tokenizer, theirs) -> None:
    """The sum of the last four layers, and the mean of the second to last; by its number it was the last."""
    states, _ = theirs(PEASANTS)
    inputs = tokenizer(PEASANTS)
    hidden_states = model(**inputs, output_hidden_states=True).hidden_states
    assert inputs.tokens()[8:10] == ["are", "taken"]
    summed = combine_layers(hidden_states, "last four")[0]
    assert torch.equal(summed, torch.stack(states[-4:]).sum(dim=0))
    second = mean_pool(combine_layers(hidden_states, "second to last"), inputs["attention_mask"])[0]
    torch.testing.assert_close(second, states[5].mean(dim=0), atol=1e-6, rtol=0)
    assert (second - states[-1].mean(dim=0)).abs().max() > 0.1
    with pytest.raises(PoolingError, match="there is no layer 11: with 7 hidden states, layers run from 0 to 6"):
        combine_layers(hidden_states, [11])
    with pytest.warns(DoubledTokensWarning):
        tokenizer(f"[CLS] {PEASANTS} [SEP]")


def test_sentence_vectors(checkpoint: Path, tokenizer, theirs) -> None:
    """A row of cosines, from texts padded to 128; padding cannot get into the mean."""
    inputs = tokenizer(SIX, padding="max_length", max_length=128)
    assert inputs["attention_mask"].sum(dim=1).tolist() == [15, 22, 15, 16, 12, 14]
    means = torch.stack([theirs(text)[0][-1].mean(dim=0) for text in SIX])
    expected = torch.from_numpy(sklearn.metrics.pairwise.cosine_similarity(means[:1], means[1:]))
    vectors = SentenceEncoder.from_pretrained(checkpoint).encode(SIX)
    torch.testing.assert_close(cosine_similarity(vectors[0], vectors[1:]), expected, atol=1e-5, rtol=0)
    hidden = BertModel.from_pretrained(checkpoint)(**inputs).last_hidden_state
    pooled = mean_pool(hidden, inputs["attention_mask"])
    torch.testing.assert_close(pooled, means, atol=1e-5, rtol=0)
    assert cosine_similarity(hidden.mean(dim=1)[0], means[0]).item() < 0.9  # what it costs to forget the mask
    with pytest.raises(TypeError, match="attention_mask"):
        mean_pool(hidden)


def test_documents(checkpoint: Path, tokenizer, theirs) -> None:
    """Pooled and mean vectors of four sentences, each computed alone there and as one batch here."""
    assert tokenizer("Hello, how are you?")["input_ids"][0].tolist() == [101, 7592, 1010, 2129, 2024, 2017, 1029, 102]
    out = BertModel.from_pretrained(checkpoint)(**tokenizer(BANKS))
    pooled = torch.stack([theirs(text)[1] for text in BANKS])
    torch.testing.assert_close(cosine_similarity(out.pooler_output), cosine_similarity(pooled), atol=1e-5, rtol=0)
    means = torch.stack([theirs(text)[0][-1].mean(dim=0) for text in BANKS])
    encoder = SentenceEncoder.from_pretrained(checkpoint)
    torch.testing.assert_close(encoder.similarity(encoder.encode(BANKS)), cosine_similarity(means), atol=1e-5, rtol=0)


def test_words_and_not_characters(data: Callable[[str], Path]) -> None:
    """The averages that were of characters, so that every pair was alike; and a search by them."""
    glove = StaticVectors.load(data("glove-6b-50d"))
    characters = torch.stack([torch.stack([glove[c] for c in text.lower() if c != " "]).mean(dim=0) for text in BANKS])
    assert cosine_similarity(characters).min() > 0.97
    average = glove.average_vectors(BANKS)
    assert cosine_similarity(average.vectors).min() < 0.9
    assert average.missing == [[], [], [], []]
    with pytest.raises(TextTypeError, match="pass whole texts, not their words"):
        glove.average_vectors([text.split() for text in BANKS])
    documents = ["A man is eating food.", "A monkey is playing drums.", "A cheetah is running behind its prey."]
    query = glove.average_vectors("Someone in a gorilla costume is playing a set of drums.").vectors
    hits = semantic_search(query, glove.average_vectors(documents).vectors, top_k=1)
    assert documents[hits[0][0].corpus_id] == "A monkey is playing drums."


def test_the_tokenizer_of_the_first_lesson(tokenizer: BertTokenizer) -> None:
    tokens = ["[CLS]", "let", "'", "s", "token", "##ize", "something", "?", "[SEP]"]
    assert tokenizer("let's tokenize something?").tokens() == tokens
