"""What is the vector of *this word* in *this sentence*?

A model has vectors for tokens, and a word may be several of them: `juice` is one, `tokenization` is `token ##ization`.
Characters connect the two. The tokenizer normalises both the sentence and the word; the word is searched for among the
normalised characters, and its tokens are those that were cut from the characters found. Counting tokens by hand goes
wrong where it matters: [CLS] shifts every token by one.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from tokenizers import Encoding
from torch import Tensor, nn

from minibert.checks import as_integer, check_one_of, did_you_mean, shown
from minibert.errors import InputError, PoolingError, TextTypeError, WordError
from minibert.heads import bert_in
from minibert.model import BertModel
from minibert.tokenizer import BertTokenizer, check_text
from minibert.vectors.batches import by_length
from minibert.vectors.pooling import combine_layers
from minibert.vectors.similarity import pairwise_similarity

Subwords = Literal["first", "last", "mean", "sum"]
LayerChoice = int | str | Sequence[int]

# How the vectors of a word's tokens become one: (…, n, D) → (…, D).
SUBWORDS: dict[str, Callable[[Tensor], Tensor]] = {
    "first": lambda vectors: vectors[..., 0, :],
    "last": lambda vectors: vectors[..., -1, :],
    "mean": lambda vectors: vectors.mean(dim=-2),
    "sum": lambda vectors: vectors.sum(dim=-2),
}

# Scripts without spaces between words: there a word may begin and end wherever a token does.
SPACELESS = ("HIRAGANA", "KATAKANA", "CJK", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class WordLocation(NamedTuple):
    """Where a word is in a sentence."""

    span: tuple[int, int]  # start and end in characters: sentence[start:end]
    token_indices: list[int]  # its tokens, counted from [CLS], which is 0


class WordVector(NamedTuple):
    """The vector of a word in a sentence, and where it came from."""

    vector: Tensor  # (D,); (L + 1, D) for layer="all"
    tokens: list[str]  # the n tokens of the word
    token_indices: list[int]  # their positions in the sequence; [CLS] has position 0
    span: tuple[int, int]  # start and end of the word in characters: sentence[start:end]


class Character(NamedTuple):
    """One character of a sentence after normalisation."""

    text: str
    position: int  # in the original sentence
    tokens: frozenset[int]  # indices of the tokens cut from it: one, none for a space, several for 한


def embed_word(
    model: nn.Module,
    tokenizer: BertTokenizer,
    sentence: str,
    word: str,
    occurrence: int | None = None,
    layer: LayerChoice = -1,
    subwords: Subwords = "mean",
    how: str = "sum",
) -> WordVector:
    """Returns the vector of one word in its sentence.

    The word is compared after normalisation: an uncased model finds "Fly" for "fly", and accents count if they count
    for the tokenizer. Only whole words are found: "fly" is not in "flying". A phrase such as "New York" is fine, too.
    In scripts without spaces between words (Chinese, Japanese, Thai …) a word may begin and end wherever a token does.

    Args:
        model: a `BertModel`, or a model with a head, in evaluation mode.
        tokenizer: the tokenizer of the same checkpoint.
        sentence: one text.
        word: the word to look for in it.
        occurrence: which occurrence, counted from 0, if the word is in the sentence several times.
        layer: 0 for the embeddings, 1 for the first layer, -1 for the last; a list or a name of layers, as
            `combine_layers` takes them; or "all" for one vector per hidden state, (L + 1, D).
        subwords: how the vectors of several tokens become one: "mean", "sum", "first" or "last".
        how: how several layers become one vector: "sum", "mean" or "concat".

    Raises:
        WordError: the word is not in the sentence, occurs several times while `occurrence` is not given, is beyond the
            maximum number of tokens that the model takes, or is [UNK] to the vocabulary. The message shows the tokens.
        InputError: the model is in training mode, where dropout changes its output, or does not contain one BERT.
        PoolingError: an unknown layer, `subwords` or `how`.
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
    layer: LayerChoice = -1,
    subwords: Subwords = "mean",
    how: str = "sum",
) -> list[WordVector]:
    """Returns the vector of a word in each of several sentences, computed in batches.

    Args:
        sentences: N texts.
        words: one word to look for in all of them, or N words, one for each.
        occurrence: as for `embed_word`, one for all or N.
        model, tokenizer, layer, subwords, how: as for `embed_word`.

    Returns:
        N vectors, in the order of the sentences. They differ from those of `embed_word` by rounding.

    Raises:
        As `embed_word`; the message says which sentence.
    """
    bert = _bert_for_vectors(model)
    check_one_of("subwords", subwords, SUBWORDS, PoolingError)
    number = as_integer(layer)
    layers: Any = layer if number is None else [number]
    device = bert.embeddings.word_embeddings.weight.device
    encodings, locations = _locate_all(tokenizer, sentences, words, occurrence)
    vectors: dict[int, WordVector] = {}
    for batch in by_length([len(encoding) for encoding in encodings]):
        inputs = tokenizer.pad([encodings[index] for index in batch]).to(device)
        hidden_states = bert(**inputs, output_hidden_states=True).hidden_states  # L + 1 of (B, S, D)
        for row, index in enumerate(batch):
            location = locations[index]
            states = tuple(state[row, location.token_indices] for state in hidden_states)  # L + 1 of (B, S, D) → (n, D)
            # (L + 1, n, D), or (n, D)
            chosen = torch.stack(states) if layers == "all" else combine_layers(states, layers, how)
            vector = SUBWORDS[subwords](chosen)  # (…, n, D) → (…, D)
            tokens = encodings[index].tokens
            word_tokens = [tokens[each] for each in location.token_indices]
            vectors[index] = WordVector(vector, word_tokens, location.token_indices, location.span)
    return [vectors[index] for index in range(len(encodings))]


def layer_similarity(
    model: nn.Module,
    tokenizer: BertTokenizer,
    sentences: Sequence[str],
    words: str | Sequence[str],
    occurrence: int | Sequence[int | None] | None = None,
    subwords: Subwords = "mean",
) -> Tensor:
    """Returns the cosine of a word in one sentence and a word in another, at the embeddings and after each layer.

    Args:
        sentences: two texts; the same one twice, with two occurrences, is fine.
        words: one word for both, or two.
        model, tokenizer, occurrence, subwords: as for `embed_words`.

    Returns:
        (L + 1,)

    Raises:
        As `embed_words`.
    """
    if len(_as_list("sentences", sentences)) != 2:
        raise WordError(f"sentences must be exactly two, got {len(sentences)}")
    one, other = embed_words(model, tokenizer, sentences, words, occurrence, "all", subwords)
    return pairwise_similarity(one.vector, other.vector)  # (L + 1, D), (L + 1, D) → (L + 1,)


@torch.no_grad()
def static_word_embedding(
    model: nn.Module, tokenizer: BertTokenizer, words: str | Sequence[str], subwords: Subwords = "mean"
) -> Tensor:
    """Returns the word's row of the word embedding table, without position, segment and context.

    Args:
        words: one word, or N of them; the rows of a word of several tokens become one as `subwords` says.

    Returns:
        (D,), or (N, D) for a list.

    Raises:
        WordError: a word that the vocabulary cannot spell, for which the table has only [UNK].
    """
    table = _bert_for_vectors(model).embeddings.word_embeddings
    check_one_of("subwords", subwords, SUBWORDS, PoolingError)
    if not isinstance(words, str):
        rows = [static_word_embedding(model, tokenizer, word, subwords) for word in _as_list("words", words)]
        return torch.stack(rows)  # N of (D) → (N, D)
    tokens = tokenizer.tokenize(words)
    if not tokens or tokenizer.unk_token in tokens:
        raise WordError(f"{words!r} is not in the vocabulary, nor are its subwords: its tokens are {_shown(tokens)}")
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(tokens), device=table.weight.device)
    return SUBWORDS[subwords](table(ids))  # (n) → (n, D) → (D,)


def find_word(tokenizer: BertTokenizer, sentence: str, word: str) -> list[WordLocation]:
    """Returns every occurrence of a word in a sentence, in order; none if it is not there as a whole word.

    Raises:
        WordError: the word is empty, or has no character that the tokenizer keeps.
    """
    (encoding,) = tokenizer.encode([sentence])
    return _locate(tokenizer, sentence, word, encoding)


def _locate(tokenizer: BertTokenizer, sentence: str, word: str, encoding: Encoding) -> list[WordLocation]:
    """As `find_word`, with the encoding of the whole sentence."""
    check_text(word, "word")
    wanted = "".join(text for text, _ in normalised(tokenizer, word)).strip()
    if not wanted:
        raise WordError(f"word must have a character that the tokenizer keeps, got {word!r}")
    characters = sentence_characters(tokenizer, sentence, encoding)
    return [
        WordLocation(span(characters[start:end], sentence), token_indices(characters[start:end]))
        for start, end in occurrences(wanted, characters, encoding.word_ids)
    ]


def normalised(tokenizer: BertTokenizer, text: str) -> list[tuple[str, int]]:
    """Returns the characters of a text after normalisation, each with its position in the original.

    White space becomes a single space, however much there is; a character that the tokenizer removes is left out. Which
    is which, its normalizer decides: some characters that Python calls white space it removes, such as a form feed.
    """
    kept_of = {character: tokenizer.normalize(character) for character in set(text)}
    characters: list[tuple[str, int]] = []
    for position, character in enumerate(text):
        kept = kept_of[character]
        # The normalizer puts spaces around each Chinese character; the text has none there.
        visible = [each for each in kept if not each.isspace()]
        if visible:
            characters += [(each, position) for each in visible]
        elif kept and (not characters or characters[-1][0] != " "):
            characters.append((" ", position))
    return characters


def sentence_characters(tokenizer: BertTokenizer, sentence: str, encoding: Encoding) -> list[Character]:
    """Returns the characters of a sentence after normalisation, with their tokens in its `encoding`."""
    tokens: list[frozenset[int]] = [frozenset()] * len(sentence)  # by position in the original
    for index, (start, end) in enumerate(encoding.offsets):
        this = frozenset([index])  # one object for all its characters: a sentence may be long
        for position in range(start, end):
            tokens[position] = tokens[position] | this if tokens[position] else this
    return [Character(text, position, tokens[position]) for text, position in normalised(tokenizer, sentence)]


def occurrences(
    word: str, characters: Sequence[Character], word_ids: Sequence[int | None]
) -> Iterator[tuple[int, int]]:
    """Yields start and end, among the characters, of each occurrence of a whole word, without overlaps.

    `word_ids`, by token index, are those of the encoding.
    """
    text = "".join(character.text for character in characters)
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        is_whole = is_boundary(characters, start, word_ids) and is_boundary(characters, end, word_ids)
        if is_whole:
            yield start, end
        start = text.find(word, end if is_whole else start + 1)


def is_boundary(characters: Sequence[Character], index: int, word_ids: Sequence[int | None]) -> bool:
    """Whether a word may begin or end between the characters `index - 1` and `index`."""
    if index in (0, len(characters)):
        return True
    before, after = characters[index - 1], characters[index]
    if " " in (before.text, after.text):
        return True
    if not before.tokens or not after.tokens or before.tokens & after.tokens:
        return False  # inside a token
    if word_ids[max(before.tokens)] != word_ids[min(after.tokens)]:
        return True  # the tokenizer splits here before it cuts subwords: at punctuation, for example
    return any(unicodedata.name(each.text, "").startswith(SPACELESS) for each in (before, after))


def span(characters: Sequence[Character], sentence: str) -> tuple[int, int]:
    """Returns start and end of some characters in the original sentence, sentence[start:end]."""
    end = characters[-1].position + 1
    while end < len(sentence) and unicodedata.category(sentence[end]) == "Mn":
        end += 1  # a combining accent: the tokenizer removed it, and it belongs to the last character
    return characters[0].position, end


def token_indices(characters: Sequence[Character]) -> list[int]:
    """Returns the indices of all tokens cut from some characters, in order."""
    return sorted(set().union(*(character.tokens for character in characters)))


def _bert_for_vectors(model: nn.Module) -> BertModel:
    """The BERT inside a model, which must be in evaluation mode."""
    bert = bert_in(model)
    if model.training:
        raise InputError("the model is in training mode, where dropout changes its output: call model.eval()")
    return bert


def _locate_all(
    tokenizer: BertTokenizer,
    sentences: Sequence[str],
    words: str | Sequence[str],
    occurrence: int | Sequence[int | None] | None,
) -> tuple[list[Encoding], list[WordLocation]]:
    """Each sentence as the model will read it, and where its word is; see `embed_words`."""
    sentences = _as_list("sentences", sentences)
    wanted = _one_each("words", words, str, len(sentences))
    chosen = _one_each("occurrence", occurrence, int, len(sentences))
    encodings = tokenizer.encode(sentences)
    locations = []
    for index, (sentence, word) in enumerate(zip(sentences, wanted, strict=True)):
        try:
            found = _locate(tokenizer, sentence, word, encodings[index])
            location = _select(found, sentence, word, chosen[index], encodings[index])
            if len(encodings[index]) > tokenizer.model_max_length:
                location, encodings[index] = _cut(location, sentence, word, encodings[index], tokenizer)
            _check_spelled(location, word, encodings[index], tokenizer)
        except WordError as error:
            if len(sentences) == 1:
                raise
            raise WordError(f"sentence {index}: {error}") from None
        locations.append(location)
    return encodings, locations


def _select(
    found: list[WordLocation], sentence: str, word: str, occurrence: int | None, encoding: Encoding
) -> WordLocation:
    """The occurrence that is meant, of those found."""
    index = 0 if occurrence is None and len(found) == 1 else occurrence
    if index is not None and 0 <= index < len(found):
        return found[index]
    tokens = f"The tokens are: {_shown(encoding.tokens)}"
    if not found:
        there = [each.strip(".,;:!?()\"'") for each in sentence.split()]
        longer = [each for each in there if word.lower() in each.lower()]
        hint = f": did you mean {longer[0]}?" if longer else did_you_mean(word, there, most=1)
        raise WordError(f"{word!r} is not a word of {_quoted(sentence)}{hint or '.'} {tokens}")
    count = f"{word!r} occurs {'once' if len(found) == 1 else f'{len(found)} times'} in {_quoted(sentence)}"
    if occurrence is None:
        where = ", ".join(f"{index} at token {each.token_indices[0]}" for index, each in enumerate(found))
        raise WordError(f"{count}: choose an occurrence, {where}. {tokens}")
    allowed = "0" if len(found) == 1 else f"from 0 to {len(found) - 1}"
    raise WordError(f"occurrence must be {allowed}, got {occurrence}: {count}. {tokens}")


def _cut(
    location: WordLocation, sentence: str, word: str, encoding: Encoding, tokenizer: BertTokenizer
) -> tuple[WordLocation, Encoding]:
    """The sentence cut to what the model takes, and where the word is in it."""
    (kept,) = tokenizer.encode([sentence], tokenizer.model_max_length)
    shift = len(encoding) - len(kept) if tokenizer.truncation_side == "left" else 0
    indices = [index - shift for index in location.token_indices]
    if indices[0] < 1 or indices[-1] >= len(kept) - 1:  # the first token kept is [CLS], the last [SEP]
        raise WordError(
            f"{word!r} is cut off: it is at token {location.token_indices[-1]}, and the model takes {len(kept)} tokens"
            f", [CLS] and [SEP] included: shorten the sentence. The tokens kept are: {_shown(kept.tokens)}"
        )
    return WordLocation(location.span, indices), kept


def _check_spelled(location: WordLocation, word: str, encoding: Encoding, tokenizer: BertTokenizer) -> None:
    """Raises a `WordError` if the word is [UNK] to the vocabulary, so that the model does not see it."""
    tokens = encoding.tokens
    if tokenizer.unk_token in [tokens[index] for index in location.token_indices]:
        raise WordError(
            f"the vocabulary cannot spell {word!r}: the model reads {tokenizer.unk_token}, as for every unknown word. "
            f"The tokens are: {_shown(tokens)}"
        )


def _as_list(name: str, texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TextTypeError(f"{name} must be a list of strings, got {type(texts).__name__}")
    if not texts:
        raise WordError(f"{name} must not be empty")
    for index, text in enumerate(texts):
        check_text(text, f"{name}[{index}]")
    return list(texts)


def _one_each(name: str, value: Any, kind: type, count: int) -> list[Any]:
    """One value for each of `count` sentences: the same for all, or those of a list."""
    given = list(value) if isinstance(value, list | tuple) else [value] * count
    values = [as_integer(each) if kind is int else each for each in given]
    if not all(each is None or isinstance(values[index], kind) for index, each in enumerate(given)):
        raise TextTypeError(f"{name} must be {kind.__name__}, or a list of them, got {shown(value)}")
    if len(values) != count:
        raise WordError(f"{name} must be one for all sentences, or a list of {count}, got a list of {len(values)}")
    return values


def _quoted(text: str, most: int = 100) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}…")


def _shown(tokens: Sequence[str], most: int = 40) -> str:
    return " ".join(tokens) if len(tokens) <= most else f"{' '.join(tokens[:most])} … ({len(tokens)} in all)"
