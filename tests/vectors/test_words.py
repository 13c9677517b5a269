import contextlib
import copy
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import assume, given
from hypothesis import strategies as st
from real_data import read_vocabulary
from support.examples import examples

from minibert import BertConfig, BertForMaskedLM, BertModel, BertTokenizer, combine_layers, embed_word
from minibert.errors import (
    DoubledTokensWarning,
    InputError,
    MinibertError,
    PoolingError,
    TextError,
    TextTypeError,
    WordError,
)
from minibert.vectors.words import SPACELESS, embed_words, find_word, layer_similarity, static_word_embedding

SOUP = "There was a fly drinking from my soup"
JUICE = "There is a fly swimming in my juice"
PILOT = "To become a commercial pilot, he had to fly for 1500 hours."
BANK = "The bank by the river bank"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> BertModel:
    return BertModel.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def from_list(data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BertTokenizer]:
    """Builds tokenizers from other real vocabularies."""

    def build(name: str, settings: str = "{}") -> BertTokenizer:
        folder = tmp_path_factory.mktemp(name)
        tokens = read_vocabulary(data("vocabularies") / f"{name}.i2w")
        (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
        return BertTokenizer.from_pretrained(folder)

    return build


@pytest.mark.parametrize(
    "sentence,word,tokens,indices,shown",
    [
        (SOUP, "fly", ["fly"], [4], "fly"),
        (SOUP, "Fly", ["fly"], [4], "fly"),
        ("FLY, you fools", "fly", ["fly"], [1], "FLY"),
        ("the 'fly', they say", "fly", ["fly"], [3], "fly"),
        ("the 'fly', they say", "'fly'", ["'", "fly", "'"], [2, 3, 4], "'fly'"),
        ("a fly-by", "fly", ["fly"], [2], "fly"),
        ("Tokenization helps", "tokenization", ["token", "##ization"], [1, 2], "Tokenization"),
        ("he doesn't know", "doesn't", ["doesn", "'", "t"], [2, 3, 4], "doesn't"),
        ("I love New \t York City", "new york", ["new", "york"], [3, 4], "New \t York"),
        ("I love New \t York City", " york  city ", ["york", "city"], [4, 5], "York City"),
        ("un café noir", "cafe", ["cafe"], [2], "café"),
        ("un cafe\u0301 noir", "CAFÉ", ["cafe"], [2], "cafe\u0301"),
        ("東京は日本の首都です", "日本", ["日", "本"], [4, 5], "日本"),
        ("私は食べるのが好き", "食べる", ["食", "へ", "##る"], [3, 4, 5], "食べる"),  # no space after it
        ("나 한 사람", "한", ["ᄒ", "##ᅡ", "##ᆫ"], [3, 4, 5], "한"),  # one character, three tokens
        ("soft\u00adly she fly\u200bs", "softly", ["softly"], [1], "soft\u00adly"),  # characters that are not kept
        ("who [MASK] it", "[MASK]", ["[MASK]"], [2], "[MASK]"),
        ("fly", "fly", ["fly"], [1], "fly"),
        ("a\ufe0f fly", "a", ["a"], [1], "a\ufe0f"),
    ],
)
def test_the_tokens_and_the_span_of_a_word(
    model, tokenizer, sentence: str, word: str, tokens: list[str], indices: list[int], shown: str
) -> None:
    found = embed_word(model, tokenizer, sentence, word)
    assert (found.tokens, found.token_indices) == (tokens, indices)
    assert sentence[slice(*found.span)] == shown
    hidden = model(**tokenizer(sentence)).last_hidden_state[0]
    assert torch.equal(found.vector, hidden[indices].mean(dim=0))


WORDS = [
    "fly",
    "Flying",
    "café",
    "tokenization",
    "New York",
    "U.S.A.",
    "don't",
    "日本",
    "naïve",
    "internationalisation",
]


@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), gap=st.sampled_from([" ", "  ", ", ", " - ", "\n"])
)
def test_each_word_of_a_sentence_is_found(tokenizer, theirs, words: list[str], gap: str) -> None:
    """At the characters where it was put, and with the tokens that transformers has for these characters."""
    sentence = gap.join(words)
    encoded = theirs(sentence)
    starts = [len(gap.join([*words[:number], ""])) for number in range(len(words))]
    for word in set(words):
        found = find_word(tokenizer, sentence, word)
        expected = [start for start, each in zip(starts, words, strict=True) if each == word]
        assert [location.span for location in found] == [(start, start + len(word)) for start in expected]
        for start, location in zip(expected, found, strict=True):
            their_tokens = {encoded.char_to_token(start + offset) for offset in range(len(word))} - {None}
            assert location.token_indices == sorted(their_tokens)


def test_a_cased_vocabulary_knows_case_and_accents(from_list) -> None:
    cased = from_list("bert_base_cased_tok", '{"do_lower_case": false}')
    assert [location.span for location in find_word(cased, "Fly or fly", "fly")] == [(7, 10)]
    assert not find_word(cased, "un café", "cafe")
    (location,) = find_word(cased, "un café", "café")
    assert cased("un café").tokens()[location.token_indices[0]].startswith("ca")


def test_chinese(from_list) -> None:
    chinese = from_list("bert_chinese")
    sentence = "我爱北京天安门, 北京!"
    assert [location.token_indices for location in find_word(chinese, sentence, "北京")] == [[3, 4], [9, 10]]
    assert [sentence[slice(*location.span)] for location in find_word(chinese, sentence, "天安门")] == ["天安门"]


def test_repeated_words(model, tokenizer) -> None:
    first, second = (embed_word(model, tokenizer, BANK, "bank", occurrence=number) for number in (0, 1))
    assert (first.token_indices, second.token_indices) == ([2], [6])
    assert not torch.equal(first.vector, second.vector)
    assert [location.span[0] for location in find_word(tokenizer, "ha ha ha ha ha", "ha ha")] == [0, 6]


def test_layers(model, tokenizer) -> None:
    states = model(**tokenizer(SOUP), output_hidden_states=True).hidden_states
    assert torch.equal(embed_word(model, tokenizer, SOUP, "fly").vector, states[6][0, 4])
    assert torch.equal(embed_word(model, tokenizer, SOUP, "fly", layer=0).vector, states[0][0, 4])
    assert torch.equal(embed_word(model, tokenizer, SOUP, "fly", layer=2).vector, states[2][0, 4])
    for how in ("sum", "mean", "concat"):
        for layers in ([1, -1], "last four", "second to last"):
            combined = combine_layers(states, layers, how)[0, 4]
            assert torch.equal(embed_word(model, tokenizer, SOUP, "fly", layer=layers, how=how).vector, combined)
    every = embed_word(model, tokenizer, SOUP, "fly", layer="all").vector
    assert torch.equal(every, torch.stack([state[0, 4] for state in states]))


def test_subwords(model, tokenizer) -> None:
    hidden = model(**tokenizer("the tokenization")).last_hidden_state[0]

    def vector(subwords: str, **options) -> torch.Tensor:
        return embed_word(model, tokenizer, "the tokenization", "tokenization", subwords=subwords, **options).vector

    assert torch.equal(vector("first"), hidden[2])
    assert torch.equal(vector("last"), hidden[3])
    assert torch.equal(vector("mean"), (hidden[2] + hidden[3]) / 2)
    assert torch.equal(vector("sum"), hidden[2] + hidden[3])
    assert vector("mean", layer="all").shape == (7, 384)


def test_many_sentences(model, tokenizer) -> None:
    sentences = [SOUP, PILOT, JUICE, BANK] * 20
    words = ["fly", "fly", "juice", "bank"] * 20
    vectors = embed_words(model, tokenizer, sentences, words, [None, 0, None, 1] * 20)
    for sentence, word, vector in zip(sentences[:4], words, vectors[40:], strict=False):
        alone = embed_word(model, tokenizer, sentence, word, 1 if word == "bank" else None)
        torch.testing.assert_close(vector.vector, alone.vector, rtol=0, atol=3e-6)
        assert vector[1:] == alone[1:]
    assert not vectors[0].vector.requires_grad


def test_a_model_with_a_head_and_half_precision(tokenizer) -> None:
    config = BertConfig(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    masked = BertForMaskedLM(config).eval()
    ours = embed_word(masked, tokenizer, SOUP, "fly", layer=1)
    assert torch.equal(ours.vector, embed_word(masked.bert, tokenizer, SOUP, "fly", layer=1).vector)
    assert embed_word(masked.bfloat16(), tokenizer, SOUP, "fly").vector.dtype == torch.bfloat16


def test_layer_similarity(model, tokenizer) -> None:
    cosines = layer_similarity(model, tokenizer, [SOUP, JUICE], "fly")
    expected = torch.tensor([1.0000, 0.9947, 0.9824, 0.9812, 0.9828, 0.9834, 0.9406])
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-4)
    banks = layer_similarity(model, tokenizer, [BANK, BANK], ["bank", "river"], [1, None])
    assert banks.shape == (7,)


def test_static_word_embedding(model, tokenizer) -> None:
    table = model.embeddings.word_embeddings.weight
    king, queen = tokenizer.convert_tokens_to_ids(["king", "queen"])
    assert torch.equal(static_word_embedding(model, tokenizer, "King"), table[king])
    assert torch.equal(static_word_embedding(model, tokenizer, ["king", "queen"]), table[[king, queen]])
    token, ization = tokenizer.convert_tokens_to_ids(["token", "##ization"])
    expected = (table[token] + table[ization]) / 2
    assert torch.equal(static_word_embedding(model, tokenizer, "tokenization"), expected)
    assert not static_word_embedding(model, tokenizer, "king").requires_grad


@pytest.mark.parametrize(
    "sentence,word,options,error,message",
    [
        (
            SOUP,
            "soups",
            {},
            WordError,
            r"'soups' is not a word of .*: did you mean soup\? The tokens are: .CLS. there was a fly",
        ),
        ("a butterfly", "fly", {}, WordError, r"'fly' is not a word of 'a butterfly': did you mean butterfly\?"),
        ("flying", "fly", {}, WordError, r"not a word of 'flying': did .* flying\? The tokens are: .CLS. flying .SEP."),
        (SOUP, "elephant", {}, WordError, f"'elephant' is not a word of '{SOUP}'. The tokens"),
        (
            BANK,
            "bank",
            {},
            WordError,
            "'bank' occurs 2 times in .*: choose an occurrence, 0 at token 2, 1 at token 6. T",
        ),
        (BANK, "bank", {"occurrence": 2}, WordError, "occurrence must be from 0 to 1, got 2: 'bank' occurs 2 times in"),
        (BANK, "bank", {"occurrence": -1}, WordError, "occurrence must be from 0 to 1, got -1: 'bank' occurs"),
        (BANK, "river", {"occurrence": 1}, WordError, "occurrence must be 0, got 1: 'river' occurs once in"),
        ("so " * 600 + "fly", "fly", {}, WordError, "'fly' is cut off: it is at token 601, and the model takes 512 t"),
        ("so " * 510 + "fly", "fly", {}, WordError, "'fly' is cut off: it is at token 511"),
        ("nice 🙂", "🙂", {}, WordError, r"cannot spell '🙂': the model reads \[UNK\], as"),
        (SOUP, "", {}, WordError, "word must have a character that the tokenizer keeps, got ''"),
        (SOUP, "\u200b", {}, WordError, "word must have a character that the tokenizer keeps, got"),
        ("", "fly", {}, TextError, "text 0 has nothing to encode: ''"),
        (SOUP, ["fly", "soup"], {}, WordError, "words must be one for all sentences, or a list of 1, got a list of 2"),
        (SOUP, 7, {}, TextTypeError, "words must be str, or a list of them, got 7"),
        (["a", SOUP], "fly", {}, TextTypeError, r"sentences\[0\] must be a string, got list"),
        (SOUP, "\ud800", {}, TextError, "word must be valid Unicode, got half of a surrogate pair"),
        (SOUP, "fly", {"occurrence": 0.0}, TextTypeError, "occurrence must be int, or a list of them, got 0.0"),
        (SOUP, "fly", {"occurrence": True}, TextTypeError, "occurrence must be int, or a list of them, got True"),
        (SOUP, "fly", {"layer": True}, PoolingError, "layers must be a list of integers"),
        (SOUP, "fly", {"layer": 7}, PoolingError, "there is no layer 7: with 7 hidden states, layers run from 0 to 6"),
        (SOUP, "fly", {"layer": "top"}, PoolingError, "layers must be a list .*, got 'top'"),
        (
            SOUP,
            "fly",
            {"subwords": "max"},
            PoolingError,
            "subwords must be one of first, last, mean, sum, got 'max'",
        ),
        (SOUP, "fly", {"layer": [1, 2], "how": "max"}, PoolingError, "how must be one of sum, mean, concat, got 'max'"),
    ],
)
def test_mistakes(model, tokenizer, sentence, word, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        embed_word(model, tokenizer, sentence, word, **options)


def test_the_last_position_that_is_not_cut_off(model, tokenizer) -> None:
    assert embed_word(model, tokenizer, "so " * 509 + "fly", "fly").token_indices == [510]
    assert embed_word(model, tokenizer, "fly " + "so " * 600, "fly").token_indices == [1]


def test_a_model_in_training_mode_is_refused(checkpoint, tokenizer) -> None:
    with pytest.raises(InputError, match=r"in training mode, .* call model\.eval\(\)"):
        embed_word(BertModel.from_pretrained(checkpoint).train(), tokenizer, SOUP, "fly")


def test_a_model_without_a_bert_is_refused(tokenizer) -> None:
    with pytest.raises(InputError, match="model must contain exactly one BertModel, and Linear has 0"):
        embed_word(torch.nn.Linear(2, 2), tokenizer, SOUP, "fly")


@pytest.mark.parametrize(
    "sentences,words,occurrence,error,message",
    [
        (SOUP, "fly", None, TextTypeError, "sentences must be a list of strings, got str"),
        ([], "fly", None, WordError, "sentences must not be empty"),
        ([SOUP, JUICE], "fly", [0], WordError, "occurrence must be one for all sentences, or a list of 2, got a list"),
        (["a fly", "b"], "fly", None, WordError, "sentence 1: 'fly' is not a word of 'b'"),
    ],
)
def test_mistakes_in_lists(model, tokenizer, sentences, words, occurrence, error, message: str) -> None:
    with pytest.raises(error, match=message):
        embed_words(model, tokenizer, sentences, words, occurrence)


def test_layer_similarity_compares_two_sentences(model, tokenizer) -> None:
    with pytest.raises(WordError, match="sentences must be exactly two, got 3"):
        layer_similarity(model, tokenizer, [SOUP, JUICE, PILOT], "fly")


@pytest.mark.parametrize(
    "words,error,message",
    [
        ("🙂", WordError, r"'🙂' is not in the vocabulary, nor are its subwords: its tokens are \[UNK\]"),
        ((1, 2), TextTypeError, r"words\[0\] must be a string, got int"),
        ([], WordError, "words must not be empty"),
    ],
)
def test_words_without_a_static_embedding(model, tokenizer, words, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        static_word_embedding(model, tokenizer, words)


def test_doubled_special_tokens_warn_at_the_callers_line(model, tokenizer) -> None:
    with pytest.warns(DoubledTokensWarning) as caught:
        embed_word(model, tokenizer, "[CLS] fly", "fly")
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    "character", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\u200b", "\x00", "\ufeff"]
)
def test_words_that_the_tokenizer_fuses_are_not_two_words(tokenizer: BertTokenizer, character: str) -> None:
    """It removes these characters, some of which Python calls white space."""
    sentence = f"the end of this page{character}next year we go on"
    fused = "pagenext" in "".join(tokenizer.tokenize(sentence)).replace("##", "")
    assert fused
    assert find_word(tokenizer, sentence, "next") == find_word(tokenizer, sentence, "page") == []
    assert len(find_word(tokenizer, sentence, "year")) == 1


@pytest.mark.parametrize("character", [" ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\u2028"])
def test_white_space_is_what_the_tokenizer_takes_for_it(tokenizer: BertTokenizer, character: str) -> None:
    sentence = f"the end of this page{character}next year we go on"
    assert len(find_word(tokenizer, sentence, "next")) == len(find_word(tokenizer, sentence, "page")) == 1


BETWEEN = st.text(
    st.one_of(st.sampled_from(" \t\n\x00\x0c\x1c\x85\u00ad\u0301\u200b\u2028\ufeff-.'_1"), st.characters(codec="utf-8"))
)


@examples(200)
@given(before=BETWEEN, between=BETWEEN, after=BETWEEN)
def test_a_word_is_found_where_the_tokenizer_makes_it_one(
    tokenizer: BertTokenizer, theirs: transformers.PreTrainedTokenizerBase, before: str, between: str, after: str
) -> None:
    """As often as there are words that spell it; whatever stands around it."""
    sentence = f"{before}page{between}next{after}"
    assume(not any(unicodedata.name(each, "").startswith(SPACELESS) for each in sentence))
    encoded = theirs(sentence)
    words: dict[int, str] = {}
    for token, word in zip(encoded.tokens(), encoded.word_ids(), strict=True):
        if word is not None:
            words[word] = words.get(word, "") + token.removeprefix("##")
    for wanted in ("page", "next"):
        found = find_word(tokenizer, sentence, wanted)
        assert len(found) == list(words.values()).count(wanted)
        for location in found:
            assert [encoded.tokens()[index] for index in location.token_indices] == [wanted]


@examples(100)
@given(sentence=st.text(max_size=30), word=st.text(max_size=3), occurrence=st.sampled_from([None, 0, 1, -1]))
def test_any_sentence_and_any_word(model, tokenizer, sentence: str, word: str, occurrence: int | None) -> None:
    """The vector of tokens that are there, or an error of ours."""
    with contextlib.suppress(MinibertError):
        found = embed_word(model, tokenizer, sentence, word, occurrence)
        assert found.tokens == [tokenizer(sentence).tokens()[index] for index in found.token_indices]
        assert found.vector.shape == (384,)


def test_a_sentence_that_is_cut_at_its_start(model: BertModel, tokenizer: BertTokenizer) -> None:
    """The word's tokens are counted in what the model reads."""
    options = {**tokenizer._options(), "model_max_length": 12, "truncation_side": "left"}
    left = BertTokenizer(copy.copy(tokenizer).tokenizer, **options)
    sentence = "one " * 20 + "fly over two roofs"
    found = embed_word(model, left, sentence, "fly")
    inputs = left(sentence, truncation=True)
    assert inputs.tokens()[found.token_indices[0]] == "fly" == sentence[slice(*found.span)]
    hidden = model(**inputs).last_hidden_state[0]
    assert torch.allclose(found.vector, hidden[found.token_indices].mean(dim=0), atol=1e-6)
    with pytest.raises(WordError, match="'two' is cut off: it is at token 1, and the model takes 12 tokens"):
        embed_word(model, left, "two " + "one " * 20, "two")


def test_an_unknown_word_that_has_another_name(model: BertModel, tokenizer: BertTokenizer) -> None:
    """A generic tokenizer.json may call it differently."""
    renamed = copy.copy(tokenizer)
    renamed.tokenizer.model.unk_token = "unused"
    assert renamed.convert_tokens_to_ids("unused")
    with pytest.raises(WordError, match="the model reads unused, as for every unknown word"):
        embed_word(model, renamed, "a \U0001fa77 flew", "\U0001fa77")
    with pytest.raises(WordError, match="is not in the vocabulary"):
        static_word_embedding(model, renamed, "\U0001fa77")
