"""What is the vector of *this word* in *this sentence*?

A model has vectors for tokens, and a word may be several of them: `juice` is one, `tokenization` is `token ##ization`.
The way from a word to its tokens leads through the characters: the word is looked for in the sentence as the tokenizer
normalises both, and the tokens are those that were cut from these characters. Counting by hand goes wrong where it
matters: [CLS] shifts every token by one.
"""

import difflib
import reprlib
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from tokenizers import Encoding
from torch import Tensor, nn

from minibert.errors import InputError, PoolingError, TextTypeError, WordError
from minibert.heads import bert_in
from minibert.model import BertModel
from minibert.tokenizer import BertTokenizer, check_text
from minibert.vectors.batches import by_length
from minibert.vectors.pooling import combine_layers
from minibert.vectors.similarity import pairwise_similarity

Subwords = Literal["first", "last", "mean", "sum"]
Layer = int | str | Sequence[int]

# Scripts that write no spaces between words: there a word may end where a token does.
SPACELESS = ("HIRAGANA", "KATAKANA", "CJK", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class WordPlace(NamedTuple):
    """Where a word stands in a sentence."""

    span: tuple[int, int]  # start and end in characters: sentence[start:end]
    token_indices: list[int]  # its tokens, [CLS] being number 0


class WordVector(NamedTuple):
    """The vector of a word in a sentence, and where it came from."""

    vector: Tensor  # (D,); (L + 1, D) for layer="all"
    tokens: list[str]  # the n tokens it was made of
    token_indices: list[int]  # their places in the sequence, [CLS] being number 0
    span: tuple[int, int]  # start and end of the word in characters: sentence[start:end]


def embed_word(
    model: nn.Module,
    tokenizer: BertTokenizer,
    sentence: str,
    word: str,
    occurrence: int | None = None,
    layer: Layer = -1,
    subwords: Subwords = "mean",
    how: str = "sum",
) -> WordVector:
    """The vector of one word in its sentence.

    The word is found as the tokenizer normalises it: an uncased model finds "Fly" for "fly", and accents count as much
    as they do for the tokenizer. It must be whole, "fly" is not in "flying"; it may be several words, "New York". In
    scripts without spaces between words (Chinese, Japanese, Thai …) it may begin and end wherever a token does.

    Args:
        model: a `BertModel`, or a model with a head, in evaluation mode.
        tokenizer: of the same checkpoint.
        sentence: one text.
        word: what to look for in it.
        occurrence: which one, counted from 0, if the word is there several times.
        layer: 0 for the embeddings, 1 for the first layer, -1 for the last; a list or a name of layers, as
            `combine_layers` takes them; or "all" for one vector per hidden state, (L + 1, D).
        subwords: how the vectors of several tokens become one: "mean", "sum", "first" or "last".
        how: how several layers become one vector: "sum", "mean" or "concat".

    Raises:
        WordError: the word is not there, is there several times and `occurrence` is not given, is beyond the most
            tokens that the model takes, or is [UNK] to the vocabulary. The message shows the tokens.
        InputError: the model is in training mode, where dropout makes every call another, or is no BERT.
        PoolingError: there is no such layer, `subwords` or `how`.
    """
    (vector,) = embed_words(model, tokenizer, [sentence], word, occurrence, layer, subwords, how)
    return vector


@torch.no_grad()
def embed_words(
    model: nn.Module,
    tokenizer: BertTokenizer,
    sentences: Sequence[str],
    words: str | Sequence[str],
    occurrence: int | Sequence[int | None] | None = None,
    layer: Layer = -1,
    subwords: Subwords = "mean",
    how: str = "sum",
) -> list[WordVector]:
    """The vector of a word in each of several sentences, computed in batches.

    Args:
        sentences: N texts.
        words: one word to look for in all of them, or N: one for each.
        occurrence: as `embed_word` takes it, one for all or N.
        model, tokenizer, layer, subwords, how: as `embed_word` takes them.

    Returns:
        N vectors, in the order of the sentences. They differ by rounding from those of `embed_word`.

    Raises:
        As `embed_word`; the message says which sentence.
    """
    bert = _bert_for_vectors(model)
    device = bert.embeddings.word_embeddings.weight.device
    sentences = _as_list("sentences", sentences)
    looked_for = _one_each("words", words, str, len(sentences))
    occurrences = _one_each("occurrence", occurrence, int, len(sentences))
    encodings = tokenizer.encode(sentences)
    places = []
    for number, (sentence, word, encoding) in enumerate(zip(sentences, looked_for, encodings, strict=True)):
        try:
            place = _choose(_find(tokenizer, sentence, word, encoding), sentence, word, occurrences[number], encoding)
            if len(encoding) > tokenizer.model_max_length:
                (encodings[number],) = tokenizer.encode([sentence], tokenizer.model_max_length)
            _check_place(place, word, encodings[number])
        except WordError as error:
            raise error if len(sentences) == 1 else WordError(f"sentence {number}: {error}") from None
        places.append(place)
    vectors: dict[int, WordVector] = {}
    for batch in by_length([len(encoding) for encoding in encodings]):
        inputs = tokenizer.pad([encodings[number] for number in batch]).to(device)
        hidden_states = bert(**inputs, output_hidden_states=True).hidden_states  # L + 1 of (B, S, D)
        for row, number in enumerate(batch):
            span, indices = places[number]
            pieces = tuple(state[row, indices] for state in hidden_states)  # (B, S, D) → (n, D)
            if layer == "all":
                chosen = torch.stack(pieces)  # (L + 1, n, D)
            else:
                chosen = combine_layers(pieces, [layer] if isinstance(layer, int) else layer, how)  # (n, D)
            tokens = [inputs.tokens(row)[index] for index in indices]
            vectors[number] = WordVector(_join(chosen, subwords), tokens, indices, span)
    return [vectors[number] for number in range(len(sentences))]


def layer_similarity(
    model: nn.Module,
    tokenizer: BertTokenizer,
    sentences: Sequence[str],
    words: str | Sequence[str],
    occurrence: int | Sequence[int | None] | None = None,
    subwords: Subwords = "mean",
) -> Tensor:
    """The cosine of a word in one sentence with a word in another, at the embeddings and after each layer.

    Args:
        sentences: two texts; the same one twice, with two occurrences, is fine.
        words: one word for both, or two.
        model, tokenizer, occurrence, subwords: as `embed_words` takes them.

    Returns:
        (L + 1,)

    Raises:
        As `embed_words`.
    """
    if len(_as_list("sentences", sentences)) != 2:
        raise WordError(f"sentences must be two to be compared; there are {len(sentences)}")
    one, other = embed_words(model, tokenizer, sentences, words, occurrence, "all", subwords)
    return pairwise_similarity(one.vector, other.vector)  # (L + 1, D), (L + 1, D) → (L + 1,)


@torch.no_grad()
def static_word_embedding(
    model: nn.Module, tokenizer: BertTokenizer, words: str | Sequence[str], subwords: Subwords = "mean"
) -> Tensor:
    """The word's row of the input table, before position, segment and context: the same in every sentence.

    Args:
        words: one word, or N of them; of a word of several tokens, their rows become one by `subwords`.

    Returns:
        (D,), or (N, D) for a list.

    Raises:
        WordError: a word that the vocabulary cannot spell, for which the table has only [UNK].
    """
    table = _bert_for_vectors(model).embeddings.word_embeddings
    if not isinstance(words, str):
        return torch.stack(
            [static_word_embedding(model, tokenizer, word, subwords) for word in _as_list("words", words)]
        )
    tokens = tokenizer.tokenize(words)
    if not tokens or "[UNK]" in tokens:
        raise WordError(f"{words!r} is not in the vocabulary, nor its pieces: its tokens are {_shown(tokens)}")
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(tokens), device=table.weight.device)
    return _join(table(ids), subwords)  # (n) → (n, D) → (D,)


def find_word(tokenizer: BertTokenizer, sentence: str, word: str) -> list[WordPlace]:
    """Every place of a word in a sentence, in order; none if it is not there as a whole word.

    Raises:
        WordError: the word is empty, or holds nothing that the tokenizer keeps.
    """
    (encoding,) = tokenizer.encode([sentence])
    return _find(tokenizer, sentence, word, encoding)


def _bert_for_vectors(model: nn.Module) -> BertModel:
    """The BERT inside a model, which must be in evaluation mode."""
    bert = bert_in(model)
    if model.training:
        raise InputError("the model is in training mode, where dropout changes its output: call model.eval()")
    return bert


def _find(tokenizer: BertTokenizer, sentence: str, word: str, encoding: Encoding) -> list[WordPlace]:
    """As `find_word`, with the encoding of the whole sentence."""
    check_text(word, "the word")
    wanted, _ = _normalised(tokenizer, word)
    wanted = wanted.strip()
    if not wanted:
        raise WordError(f"the word to look for is empty: {word!r}")
    text, origins = _normalised(tokenizer, sentence)
    cut_from: list[set[int]] = [set() for _ in sentence]  # for each character its tokens: one, or several for 한
    for index, (start, end) in enumerate(encoding.offsets):
        for character in range(start, end):
            cut_from[character].add(index)
    tokens = [cut_from[origin] for origin in origins]

    def is_edge(place: int) -> bool:
        """Does a word begin or end between the characters `place - 1` and `place` of the normalised text?"""
        if place in (0, len(text)) or " " in text[place - 1 : place + 1]:
            return True
        before, after = tokens[place - 1], tokens[place]
        if not before or not after or before & after:
            return False
        return encoding.word_ids[max(before)] != encoding.word_ids[min(after)] or any(
            unicodedata.name(character, "").startswith(SPACELESS) for character in text[place - 1 : place + 1]
        )

    places: list[WordPlace] = []
    start = text.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        whole = is_edge(start) and is_edge(end)
        if whole:
            indices = sorted(set().union(*tokens[start:end]))
            after = origins[end - 1] + 1
            while after < len(sentence) and unicodedata.category(sentence[after]) == "Mn":  # an accent, taken off
                after += 1
            places.append(WordPlace((origins[start], after), indices))
        start = text.find(wanted, end if whole else start + 1)
    return places


def _choose(places: list[WordPlace], sentence: str, word: str, occurrence: int | None, encoding: Encoding) -> WordPlace:
    """The place of the word that is meant."""
    number = 0 if occurrence is None and len(places) == 1 else occurrence
    if number is not None and 0 <= number < len(places):
        return places[number]
    tokens = f"The tokens are: {_shown(encoding.tokens)}"
    if not places:
        written = [piece.strip(".,;:!?()\"'") for piece in sentence.split()]
        part_of = [piece for piece in written if word.lower() in piece.lower()]
        close = part_of or difflib.get_close_matches(word, written, n=1, cutoff=0.7)
        hint = f"; it has {close[0]!r}" if close else ""
        raise WordError(f"{word!r} is no word of {_quoted(sentence)}{hint}. {tokens}")
    there = f"{word!r} is {len(places)} times in {_quoted(sentence)}"
    if occurrence is None:
        where = ", ".join(f"{number} at token {place.token_indices[0]}" for number, place in enumerate(places))
        raise WordError(f"{there}: say which occurrence, {where}. {tokens}")
    raise WordError(f"occurrence is {occurrence!r}, counted from 0, and {there}. {tokens}")


def _check_place(place: WordPlace, word: str, encoding: Encoding) -> None:
    """Is the word among the tokens that the model will see, and more than [UNK] there?"""
    last, kept = place.token_indices[-1], encoding.tokens
    if encoding.overflowing and last >= len(kept) - 1:  # the last one is [SEP]
        raise WordError(
            f"{word!r} is cut off: it is at token {last}, and the model takes {len(kept)}, with [CLS] and [SEP]: "
            f"shorten the sentence. Kept were: {_shown(kept)}"
        )
    if "[UNK]" in [kept[index] for index in place.token_indices]:
        raise WordError(
            f"the vocabulary cannot spell {word!r}: the model reads [UNK] instead, as for other words. "
            f"The tokens are: {_shown(kept)}"
        )


def _join(pieces: Tensor, subwords: str) -> Tensor:
    """(…, n, D) → (…, D)"""
    if subwords == "first":
        return pieces[..., 0, :]
    if subwords == "last":
        return pieces[..., -1, :]
    if subwords == "mean":
        return pieces.mean(dim=-2)
    if subwords == "sum":
        return pieces.sum(dim=-2)
    raise PoolingError(f"subwords is {subwords!r}, and must be one of first, last, mean, sum")


def _normalised(tokenizer: BertTokenizer, text: str) -> tuple[str, list[int]]:
    """A text as the tokenizer sees it, any white space as one space; and each character's place in the original."""
    normalizer = tokenizer.tokenizer.normalizer
    characters: list[str] = []
    origins: list[int] = []
    for place, character in enumerate(text):
        if character.isspace():
            kept = "" if characters[-1:] == [" "] else " "
        else:  # without the spaces that are put around Chinese characters
            kept = "".join(normalizer.normalize_str(character).split()) if normalizer else character
        characters += kept
        origins += [place] * len(kept)
    return "".join(characters), origins


def _as_list(name: str, texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TextTypeError(f"{name} must be a list of strings, not {type(texts).__name__}")
    if not texts:
        raise WordError(f"{name} is an empty list")
    for number, text in enumerate(texts):
        check_text(text, f"number {number} of {name}")
    return list(texts)


def _one_each(name: str, value: Any, kind: type, count: int) -> list[Any]:
    """The value for each of `count` sentences: one for all, or as many as there are."""
    values = [value] * count if value is None or type(value) is kind else value
    if not isinstance(values, list | tuple) or not all(each is None or type(each) is kind for each in values):
        raise TextTypeError(f"{name} must be {kind.__name__}, or a list of them, not {reprlib.repr(value)}")
    if len(values) != count:
        raise WordError(f"there are {count} sentences and {len(values)} in {name}: give one for all, or one for each")
    return list(values)


def _quoted(text: str, most: int = 100) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}…")


def _shown(tokens: Sequence[str], most: int = 40) -> str:
    return " ".join(tokens) if len(tokens) <= most else f"{' '.join(tokens[:most])} … ({len(tokens)} in all)"
