"""How does text become ids, and how do ids become text again?

WordPiece (Wu et al. 2016, section 4.1; BERT, section 3): text is normalised and split at white space and punctuation.
Each word is then split, from the left, into the longest subwords that the vocabulary has; `##` marks a subword that
continues a word. The `tokenizers` library does the work; this module reads a checkpoint's files and makes model inputs.
"""

import json
import math
import operator
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, overload

import torch
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from minibert.checkpoints import layout, store
from minibert.checkpoints.atomic import reading, write_atomically
from minibert.checkpoints.json_files import read_object, read_text
from minibert.checks import check_integer, check_one_of, shown
from minibert.errors import (
    CheckpointNotFoundError,
    DoubledTokensWarning,
    MinibertError,
    TextError,
    TextTypeError,
    TokenizerError,
    warn,
)

FILES = (*layout.TOKENIZER, layout.CONFIG)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Settings of tokenizer_config.json, the attribute of the library's normalizer, and whether null is a value of its own.
NORMALIZER_SETTINGS = (
    ("do_lower_case", "lowercase", False),
    ("strip_accents", "strip_accents", True),
    ("tokenize_chinese_chars", "handle_chinese_chars", False),
)
TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token
# The settings that name special tokens: one each, and with what BERT's class takes if they are silent; or several.
SPECIAL_TOKEN_SETTINGS = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
SEVERAL_SPECIAL_TOKENS = ("extra_special_tokens", "additional_special_tokens")
MODEL_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
USUAL_TOKEN_SETTINGS = ("bos_token", "eos_token", *SPECIAL_TOKEN_SETTINGS)
SIDES = ("right", "left")
UNLIMITED = 10**9  # from here on a length limit means none: transformers writes 10**30
MOST_GROWTH = 100  # characters that a normalizer may make of one; that of NFKC makes 18
CHARACTERS_PER_TOKEN = 16  # with this many, nearly every text has more tokens than its limit

# Values of `tokenizer_class`, without the "Fast" at the end of some. These cut texts as BERT's own tokenizer does. Like
# transformers, they take only vocabulary, tokens and sides from tokenizer.json, and build the rest from the settings.
BERT_CLASSES = (
    "BertTokenizer",
    "DistilBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "SqueezeBertTokenizer",
)
# These do what tokenizer.json says, whatever the other settings are.
GENERIC_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")
# The inputs of a model without segments, which these classes mean if model_input_names is silent.
WITHOUT_SEGMENTS = ("input_ids", "attention_mask")
CLASSES_WITHOUT_SEGMENTS = ("DistilBertTokenizer", *GENERIC_CLASSES)

# Settings of slow tokenizers that choose another way of cutting, with the values that mean BERT's.
CUTTING_SETTINGS: dict[str, tuple[Any, ...]] = {
    "auto_map": (None,),
    "do_basic_tokenize": (None, True),
    "do_word_tokenize": (None, True),
    "do_subword_tokenize": (None, True),
    "word_tokenizer_type": (None, "basic"),
    "subword_tokenizer_type": (None, "wordpiece"),
}

Text = str | tuple[str, str]  # one text, or a pair of texts


class BatchEncoding(dict[str, Tensor]):
    """The inputs of a model, for `model(**inputs)`, and where in the text each token came from.

    Keys: `input_ids`, `token_type_ids`, `attention_mask`, each (B, S) int64; without `token_type_ids` if the
    checkpoint's settings say that its model does not take them, so that all tokens are in segment 0.
    """

    def __init__(
        self,
        encodings: Sequence[Encoding],
        names: Sequence[str] = MODEL_INPUTS,
        tokenizer: "BertTokenizer | None" = None,
    ) -> None:
        rows = {
            "input_ids": [encoding.ids for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
        }
        super().__init__({name: torch.tensor(rows[name]) for name in names})
        self.encodings = list(encodings)
        self.tokenizer = tokenizer  # whose tokens these are: it turns the ids that a model predicts into tokens

    def tokens(self, row: int = 0) -> list[str]:
        """The S tokens of one row, special tokens and padding included: `tokens()[i]` has the vector `[row, i]`."""
        return self.encodings[row].tokens

    def offsets(self, row: int = 0) -> list[tuple[int, int]]:
        """Start and end of each token in the text, in characters; (0, 0) for special tokens and padding."""
        return self.encodings[row].offsets

    def word_ids(self, row: int = 0) -> list[int | None]:
        """The index of the word that each token is part of; None for special tokens and padding."""
        return self.encodings[row].word_ids

    def sequence_ids(self, row: int = 0) -> list[int | None]:
        """0 for tokens of the first text, 1 for those of the second; None for special tokens and padding."""
        return self.encodings[row].sequence_ids

    def to(self, device: str | torch.device) -> "BatchEncoding":
        """Returns the same inputs on a device, for a model there."""
        return self._with({name: tensor.to(device) for name, tensor in self.items()}, self.encodings)

    def rows(self, indices: Sequence[int]) -> "BatchEncoding":
        """Returns these rows, in this order; the same row may be there several times."""
        chosen = {name: tensor[list(indices)] for name, tensor in self.items()}
        return self._with(chosen, [self.encodings[index] for index in indices])

    def _with(self, tensors: dict[str, Tensor], encodings: list[Encoding]) -> "BatchEncoding":
        new = BatchEncoding([], tokenizer=self.tokenizer)
        new.update(tensors)
        for name in set(new) - set(tensors):
            del new[name]
        new.encodings = encodings
        return new


class BertTokenizer:
    """Turns text into model inputs, with one checkpoint's vocabulary.

    Args:
        tokenizer: a WordPiece tokenizer of the `tokenizers` library.
        model_max_length: the maximum number of tokens that the model takes, special tokens included.
        pad_token: the token that pads shorter rows.
        model_input_names: the inputs that the model takes, of `MODEL_INPUTS`.
        padding_side, truncation_side: "right" or "left": where rows are padded, and where long texts are cut.

    Raises:
        TokenizerError: `tokenizer` is something else, or one of the other arguments does not fit it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        model_max_length: int = 512,
        pad_token: str = "[PAD]",
        *,
        model_input_names: Sequence[str] = MODEL_INPUTS,
        padding_side: str = "right",
        truncation_side: str = "right",
    ) -> None:
        if not isinstance(tokenizer, Tokenizer):
            raise TokenizerError(
                f"tokenizer must be one of the tokenizers library, got {shown(tokenizer)}: "
                "to read files, use BertTokenizer.from_pretrained(folder)"
            )
        _check_wordpiece(tokenizer)
        pad_token_id = tokenizer.token_to_id(pad_token) if isinstance(pad_token, str) else None
        if pad_token_id is None:
            raise TokenizerError(f"the vocabulary has no padding token {pad_token}")
        self.model_max_length = check_integer("model_max_length", model_max_length, 1, error=TokenizerError)
        self.padding_side = check_one_of("padding_side", padding_side, SIDES, TokenizerError)
        self.truncation_side = check_one_of("truncation_side", truncation_side, SIDES, TokenizerError)
        if not isinstance(model_input_names, list | tuple) or "input_ids" not in model_input_names:
            raise TokenizerError(f"model_input_names must be a list with 'input_ids', got {model_input_names!r}")
        for name in model_input_names:
            check_one_of("each of model_input_names", name, MODEL_INPUTS, TokenizerError)
        self.model_input_names = tuple(name for name in MODEL_INPUTS if name in model_input_names)
        added = tokenizer.num_special_tokens_to_add(False)
        if added >= self.model_max_length:
            raise TokenizerError(
                f"post_processor must leave room for a text, got {added:,} tokens around it: "
                f"the model takes {self.model_max_length:,}"
            )
        tokenizer.no_padding()  # some files keep settings from training; here each call has its own
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.pad_token = pad_token
        self.pad_token_id = pad_token_id
        self._lock = threading.Lock()  # truncation is state of the library's tokenizer, and each call sets it
        with _forking:
            _ALIVE.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is copied and pickled: a copy has a tokenizer and a lock of its own."""
        return _restore, (self.to_json(), self.tokenizer.encode_special_tokens, self._options())

    def _options(self) -> dict[str, Any]:
        """The arguments of the constructor besides the library's tokenizer."""
        names = ("model_max_length", "pad_token", "model_input_names", "padding_side", "truncation_side")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> "BertTokenizer":
        """Reads a checkpoint's `tokenizer.json`, or builds the tokenizer from its `vocab.txt`.

        What the files say is done as `transformers` does it, or refused by name. By `tokenizer_class` there are two
        kinds. For BERT's own class, also if none is named, the settings of `tokenizer_config.json` and BERT's defaults
        (uncased) determine case, accents, Chinese characters and the special tokens; a `tokenizer.json` that says
        something else where they are silent is refused. For a generic class, such as `PreTrainedTokenizerFast`,
        `tokenizer.json` is taken as it is. Added tokens, sides, the length limit and the inputs that the model takes
        are read for both.

        Args: as for `BertModel.from_pretrained`.

        Raises:
            CheckpointNotFoundError, DownloadError: no such checkpoint, no connection to it, or no tokenizer in it.
            TokenizerError: a file that cannot be read or is not a BERT vocabulary, or a setting that is not supported;
                the message names it.
        """
        folder = store.resolve(name_or_folder, FILES, revision=revision, token=token, local_files_only=local_files_only)
        with reading(folder):
            return cls._read(folder)

    @classmethod
    def _read(cls, folder: Path) -> "BertTokenizer":
        """The tokenizer in a folder; raises as `from_pretrained`."""
        settings = _read_json(folder / "tokenizer_config.json")
        config = _read_json(folder / "config.json")
        file = next((folder / name for name in ("tokenizer.json", "vocab.txt") if (folder / name).is_file()), None)
        if file is None:
            raise CheckpointNotFoundError(f"{folder} has neither tokenizer.json nor vocab.txt")
        try:
            with _errors_as_ours("it cannot be read as a tokenizer"):
                kind = _check_class(settings, config)
                if file.name == "tokenizer.json":
                    loaded = Tokenizer.from_str(read_text(file, TokenizerError))
                    _check_wordpiece(loaded)
                    tokenizer = _checked_generic(loaded) if kind in GENERIC_CLASSES else _rebuilt(loaded, settings)
                else:
                    kind = "BertTokenizer" if kind in GENERIC_CLASSES else kind
                    loaded = tokenizer = _build(_read_vocabulary(file), settings)
                pad_token = _add_tokens(folder, settings, loaded, tokenizer, kind)
                made = cls(tokenizer, pad_token=pad_token, **_read_options(settings, config, loaded, kind))
                made._encode(["a"], None)  # a file that contradicts itself is known before its first text
                return made
        except TokenizerError as error:
            prefix = "" if str(error).startswith(str(folder)) else f"{file}: "
            raise TokenizerError(f"{prefix}{error}") from None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, which `transformers` reads as well.

        Raises:
            StoreError: the folder cannot be written to.
        """
        special = {token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special}
        settings: dict[str, Any] = {
            **self._options(),
            "tokenizer_class": "PreTrainedTokenizerFast",  # it reads tokenizer.json unchanged
            **{name: token for name, token in SPECIAL_TOKEN_SETTINGS.items() if token in special},
        }
        if self.pad_token == "[PAD]" and self.pad_token not in special:
            settings.pop("pad_token")  # the default; naming it would make it special, in texts as well
        else:
            settings["pad_token"] = self.pad_token
        if self.tokenizer.encode_special_tokens:
            settings["split_special_tokens"] = True
        text = json.dumps(settings, indent=2) + "\n"
        with write_atomically(folder, owns=layout.TOKENIZER) as incoming:
            (incoming / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")
            (incoming / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def to_json(self) -> str:
        """Returns the content of `tokenizer.json`: the vocabulary, and every step from text to ids."""
        with self._lock:
            self.tokenizer.no_truncation()
            return self.tokenizer.to_str(pretty=True)

    def __len__(self) -> int:
        """The largest id + 1: how many rows a table of embeddings needs. Ids below it may have no token."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def __call__(
        self,
        text: str | Sequence[Text],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: Literal[True, "longest", "max_length"] = True,
        truncation: bool = False,
        max_length: int | None = None,
        padding_side: Literal["right", "left"] | None = None,
        return_tensors: Literal["pt"] = "pt",
    ) -> BatchEncoding:
        """Makes the inputs of a model: `[CLS] text [SEP]`, or `[CLS] text [SEP] pair [SEP]`, padded to one length.

        Args:
            text: a text, a list of texts, or a list of pairs (tuples of two texts).
            text_pair: the second text of the pair, or a list with one for each of `text`.
            padding: pad each row to the longest one (True or "longest"), or to "max_length".
            truncation: cut what is too long, the longer text of a pair first; False makes it an error.
            max_length: the maximum number of tokens, special tokens included; None means the model's limit.
            padding_side: the side on which rows are padded; None means the tokenizer's own.
            return_tensors: "pt", PyTorch's tensors; no others are supported.

        Raises:
            TextTypeError: something that is not a text.
            TextError: an empty list, a text without any token, one that is too long, or an unknown option.

        Warns:
            DoubledTokensWarning: a text begins with [CLS], which is added here.
        """
        check_one_of("padding", padding, (True, "longest", "max_length"), TextError)
        check_one_of("truncation", truncation, (True, False), TextError)
        padding_side = self.padding_side if padding_side is None else padding_side
        check_one_of("padding_side", padding_side, SIDES, TextError)
        check_one_of("return_tensors", return_tensors, ("pt",), TextError)
        texts = _as_list(text, text_pair)
        limit = self.model_max_length if max_length is None else max_length
        pairs = isinstance(texts[0], tuple)
        shortest = self.tokenizer.num_special_tokens_to_add(pairs) + (2 if pairs else 1)  # one token of each text
        limit = check_integer("max_length", limit, shortest, self.model_max_length, TextError)
        encodings = self.encode(texts, limit if truncation else None)
        for row, encoding in enumerate(encodings):
            if len(encoding) > limit:
                raise TextError(
                    f"text {row} must have at most {limit} tokens, got {len(encoding)}: pass truncation=True to cut it"
                )
        return self.pad(encodings, limit if padding == "max_length" else None, padding_side)

    def encode(self, texts: Sequence[Text], max_length: int | None = None, first: int = 0) -> list[Encoding]:
        """Returns the texts as encodings of the `tokenizers` library: with special tokens, not yet padded.

        Args:
            texts: texts, or pairs of texts.
            max_length: the number of tokens to cut to; None cuts nothing. What is cut off is in `overflowing`.
            first: the index of the first text in messages.

        Raises:
            TextTypeError: something that is not a text.
            TextError: an empty list, or a text without any token.

        Warns:
            DoubledTokensWarning: a text begins with [CLS], which is added here.
        """
        texts = _as_list(texts, None, first)
        encodings = self._encode(texts if max_length is None else self._beginnings(texts, max_length), max_length)
        special = self.tokenizer.num_special_tokens_to_add(False)
        for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True), first):
            parts = (text,) if isinstance(text, str) else text
            if len(encoding) <= special or (len(parts) == 2 and set(encoding.sequence_ids) < {0, 1, None}):
                raise TextError(f"text {row} has nothing to encode: {shown(text)}")
            if parts[0].startswith("[CLS]"):
                warn(
                    f"text {row} begins with [CLS], which the tokenizer adds itself: leave out [CLS] and [SEP], "
                    f"or the model reads them twice: {' '.join(encoding.tokens[:4])} …",
                    DoubledTokensWarning,
                )
        return encodings

    def pad(
        self,
        encodings: Sequence[Encoding],
        length: int | None = None,
        padding_side: str = "right",
    ) -> BatchEncoding:
        """Pads encodings, in place, to `length` tokens or to the longest, and returns them as the inputs of a model."""
        length = length or max(map(len, encodings))
        for encoding in encodings:
            encoding.pad(length, direction=padding_side, pad_id=self.pad_token_id, pad_token=self.pad_token)
        return BatchEncoding(encodings, self.model_input_names, self)

    def tokenize(self, text: str) -> list[str]:
        """Returns the tokens of a text, without special tokens."""
        check_text(text, "text")
        (encoding,) = self._encode([text], None, add_special_tokens=False)
        return encoding.tokens

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of texts without special tokens; none for a text without any token."""
        return [encoding.ids for encoding in self._encode(texts, None, add_special_tokens=False)]

    def normalize(self, text: str) -> str:
        """Returns a text as it is before it is split into words: lower case, for example, and without accents."""
        check_text(text, "text")
        normalizer = self.tokenizer.normalizer
        with _errors_as_ours("the normalizer of this tokenizer fails on the text"):
            normalised: str = normalizer.normalize_str(text) if normalizer else text
        return normalised

    @property
    def unk_token(self) -> str:
        """The token that stands for every word that the vocabulary cannot spell."""
        name: str = self.tokenizer.model.unk_token
        return name

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """Returns the id of a token, or of each in a list.

        Raises:
            TokenizerError: a token that is not in the vocabulary; words have to be tokenised first.
        """
        if isinstance(tokens, list | tuple):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        check_text(tokens, "token")
        found = self.tokenizer.token_to_id(tokens)
        if found is None:
            subwords = " ".join(self.tokenize(tokens)) or "nothing"
            raise TokenizerError(f"{tokens!r} is not in the vocabulary: tokenize() splits it into {subwords}")
        return found

    @overload
    def convert_ids_to_tokens(self, ids: int) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int] | Tensor) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Sequence[int] | Tensor) -> str | list[str]:
        """Returns the token of an id, or of each in a list or one-dimensional tensor.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        one = ids.tolist() if hasattr(ids, "tolist") else ids  # a tensor or array may hold one id or a row
        if not isinstance(one, int):
            return [self.convert_ids_to_tokens(each) for each in _as_ids(ids)]
        found = self.tokenizer.id_to_token(one) if 0 <= one < 1 << 32 else None  # the library takes 32 bits
        if found is None and 0 <= one < len(self):
            raise TokenizerError(f"id {one} has no token in this vocabulary: a line of its vocab.txt occurs twice")
        if found is None:
            raise TokenizerError(f"id must be in the vocabulary, from 0 to {len(self) - 1}, got {one}")
        return found

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = False) -> str:
        """Returns the text of a row of ids, as far as it can be recovered: an uncased vocabulary has lost the case.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        row = _as_ids(ids)
        self.convert_ids_to_tokens(row)  # raises for unknown ids, which the library would ignore
        with _errors_as_ours("the decoder of this tokenizer fails on these ids"):
            return self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens)

    def _beginnings(self, texts: Sequence[Text], limit: int) -> list[Text]:
        """The texts, long ones shortened to a beginning that has more than `limit` tokens, which are then cut.

        A text of 10 MB would take 1.5 GB to tokenise. If normalisation goes character by character and splitting looks
        at neighbours alone, as BERT's do, what follows the beginning can change only two things in it: its last word,
        and an added token that it cuts in two. Such a token of n characters is split into n tokens at most.
        """
        normalizer = self.tokenizer.normalizer
        is_local = normalizer is None or _goes_by_character(json.loads(normalizer.__getstate__()))
        is_local = is_local and isinstance(self.tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        if not is_local or self.truncation_side == "left":
            return list(texts)
        added = max((len(token.content) for token in self.tokenizer.get_added_tokens_decoder().values()), default=0)

        def beginning(text: str) -> str:
            length = CHARACTERS_PER_TOKEN * limit
            while length < len(text):
                (encoding,) = self._encode([text[:length]], None, add_special_tokens=False)
                words = encoding.word_ids
                if len(words) - added > limit and words.index(words[-1]) > limit:
                    return text[:length]
                length *= 2
            return text

        def beginnings(first: str, second: str) -> tuple[str, str]:
            if len(first) > len(second):
                return beginnings(second, first)[::-1]
            if len(second) <= CHARACTERS_PER_TOKEN * limit or beginning(first) != first:
                return first, second
            # If both have more tokens than the limit, their whole lengths decide which keeps one more.
            is_short = len(self._encode([first], None, add_special_tokens=False)[0]) <= limit
            return first, beginning(second) if is_short else second

        return [beginning(text) if isinstance(text, str) else beginnings(*text) for text in texts]

    def _encode(self, texts: Sequence[Text], limit: int | None, add_special_tokens: bool = True) -> list[Encoding]:
        with self._lock:
            if limit is None:
                self.tokenizer.no_truncation()
            else:
                self.tokenizer.enable_truncation(limit, direction=self.truncation_side)
            with _errors_as_ours("a step of this tokenizer, such as its post_processor, fails on the text"):
                return self.tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)


# --- the library's tokenizer: its errors, its lock -------------------------------------------------------------------


def _goes_by_character(step: Mapping[str, Any]) -> bool:
    """Whether what a normalizer makes of a character does not depend on the ones around it, accents aside."""
    if step["type"] == "Sequence":
        return all(_goes_by_character(each) for each in step["normalizers"])
    return step["type"] in ("BertNormalizer", "Lowercase")


@contextmanager
def _errors_as_ours(problem: str) -> Iterator[None]:
    """Turns what the `tokenizers` library raises into a `TokenizerError`: it has no type of its own, and it panics."""
    try:
        yield
    except MinibertError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # KeyboardInterrupt and its like
        cause = shorten(str(error), 200, placeholder=" …") or type(error).__name__
        raise TokenizerError(f"{problem}; the tokenizers library says: {cause}") from None


def _restore(content: str, splits_special_tokens: bool, options: Mapping[str, Any]) -> BertTokenizer:
    """The tokenizer that `BertTokenizer.__reduce__` describes."""
    tokenizer = Tokenizer.from_str(content)
    tokenizer.encode_special_tokens = splits_special_tokens
    return BertTokenizer(tokenizer, **options)


# A process that forks while another thread encodes would copy a lock that nobody opens again. So forking waits for it.
_ALIVE: "weakref.WeakSet[BertTokenizer]" = weakref.WeakSet()
_forking = threading.Lock()  # of _ALIVE
_held_by_fork: list[threading.Lock] = []


def _before_fork() -> None:
    _forking.acquire()
    _held_by_fork.append(_forking)
    for tokenizer in list(_ALIVE):
        tokenizer._lock.acquire()
        _held_by_fork.append(tokenizer._lock)


def _after_fork() -> None:
    while _held_by_fork:
        _held_by_fork.pop().release()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


# --- texts and ids -------------------------------------------------------------------------------------------------


def _as_list(text: Text | Sequence[Text], text_pair: str | Sequence[str] | None, first: int = 0) -> list[Text]:
    """Everything that `BertTokenizer` accepts, as one list of texts or one list of pairs."""
    texts: list[Any] = list(text) if isinstance(text, list | tuple) else [text]
    if text_pair is not None:
        pairs: list[Any] = list(text_pair) if isinstance(text_pair, list | tuple) else [text_pair]
        if len(pairs) != len(texts):
            raise TextError(f"text_pair must have as many texts as text, {len(texts)}, got {len(pairs)}")
        texts = list(zip(texts, pairs, strict=True))
    if not texts:
        raise TextError("text must not be an empty list")
    for row, item in enumerate(texts, first):
        if isinstance(item, tuple) and len(item) == 2:
            check_text(item[0], f"the first of pair {row}")
            check_text(item[1], f"the second of pair {row}")
        else:
            check_text(item, f"text {row}")
        if isinstance(item, tuple) != isinstance(texts[0], tuple):
            raise TextTypeError("text must be all texts or all pairs, got both in one list")
    return texts


def check_text(text: object, name: str) -> None:
    """Raises a `TextTypeError` unless `text` is a string, and a `TextError` unless it is valid Unicode."""
    if not isinstance(text, str):
        raise TextTypeError(f"{name} must be a string, got {type(text).__name__}: pass several texts as a list")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"half of a surrogate pair at character {error.start}"
        raise TextError(f"{name} must be valid Unicode, got {problem}") from None


def _as_ids(ids: object) -> list[int]:
    """A row of ids, from a list, a one-dimensional tensor or array."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if not isinstance(values, list | tuple) or any(isinstance(value, list | tuple) for value in values):
        got = f"shape {tuple(ids.shape)}: take ids[0]" if isinstance(ids, Tensor) else shown(ids)
        raise TokenizerError(f"ids must be one row of integers, got {got}")
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise TokenizerError(f"ids must be integers, got {shown(values)}") from None


# --- a checkpoint's files --------------------------------------------------------------------------------------------


def _check_class(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Returns `tokenizer_class` without "Fast", BertTokenizer if none is named, if it cuts texts as BERT's does."""
    file, name = "tokenizer_config.json", settings.get("tokenizer_class")
    if name is None:
        file, name = "config.json", config.get("tokenizer_class")
    kind = "BertTokenizer" if name is None else str(name).removesuffix("Fast")
    if kind not in (*BERT_CLASSES, *GENERIC_CLASSES):
        raise TokenizerError(
            f"tokenizer_class in {file} must be BertTokenizer or one that cuts texts alike, got {name!r}: "
            "minibert would cut them differently from what the model was trained on"
        )
    for setting, supported in CUTTING_SETTINGS.items():
        value = settings.get(setting)
        if not any(value is each or value == each for each in supported):
            raise TokenizerError(f"{setting} in tokenizer_config.json is not supported, got {shown(value)}")
    return kind


def _read_vocabulary(file: Path) -> dict[str, int]:
    """Reads a vocab.txt: one token a line, whose id is the line's index; of a line that occurs twice, the last."""
    read_text(file, TokenizerError)  # for its checks; the library decides what a line is and which white space counts
    vocabulary: dict[str, int] = models.WordPiece.read_file(str(file))
    return vocabulary


def _build(vocabulary: dict[str, int], settings: Mapping[str, Any]) -> Tokenizer:
    """Builds BERT's tokenizer with the settings of case, accents, Chinese characters, and tokens that are not split."""
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise TokenizerError(f"it is not a BERT vocabulary: it has no {', '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    normalizer = normalizers.BertNormalizer()
    for name, attribute, optional in NORMALIZER_SETTINGS:
        value = settings.get(name)
        if name not in settings or (value is None and not optional):
            continue
        if not isinstance(value, bool) and value is not None:
            raise TokenizerError(f"{name} in tokenizer_config.json must be true or false, got {value!r}")
        setattr(normalizer, attribute, value)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # [CLS] text [SEP], and [CLS] text [SEP] pair [SEP] (BERT, figure 2)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    never_split = settings.get("never_split") or []
    if not isinstance(never_split, list) or not all(isinstance(token, str) and token for token in never_split):
        raise TokenizerError(f"never_split in tokenizer_config.json must be a list of tokens, got {never_split!r}")
    known = [token for token in never_split if token in vocabulary]
    tokenizer.add_tokens([AddedToken(token, normalized=False, single_word=True) for token in known])
    return tokenizer


def _check_wordpiece(tokenizer: Tokenizer) -> None:
    kind = type(tokenizer.model).__name__
    if kind != "WordPiece":
        raise TokenizerError(f"the tokenizer must be WordPiece, as BERT's is, got {kind}")


def _checked_generic(loaded: Tokenizer) -> Tokenizer:
    """Returns what a tokenizer.json holds, if it says where [CLS] and [SEP] are added, and does not inflate texts."""
    if loaded.post_processor is None:
        raise TokenizerError("post_processor must say where [CLS] and [SEP] are added, got none: add one to the file")
    for name in ("normalizer", "decoder"):
        part = getattr(loaded, name)
        growth = _growth(json.loads(part.__getstate__())) if part else 1
        if growth > MOST_GROWTH:
            raise TokenizerError(
                f"{name} must make at most {MOST_GROWTH} characters of one, got {growth:,}: texts would fill the memory"
            )
    return loaded


def _growth(step: Mapping[str, Any]) -> int:
    """How many characters the replacements in a normalizer or decoder make of one."""
    if step["type"] == "Sequence":
        return math.prod(_growth(each) for each in step.get("normalizers") or step.get("decoders") or ())
    if step["type"] != "Replace":
        return 1
    pattern = step["pattern"].get("String")  # None: a regular expression, which may match between all characters
    return math.ceil(len(step["content"]) / len(pattern)) or 1 if pattern else len(step["content"]) + 1


def _rebuilt(loaded: Tokenizer, settings: Mapping[str, Any]) -> Tokenizer:
    """BERT's tokenizer with the vocabulary of a tokenizer.json, if the file says the same as the settings.

    transformers ignores what else the file says; here a difference that no setting explains is an error.
    """
    built = _build(loaded.get_vocab(with_added_tokens=False), settings)
    expected = {**_parts(built), "post_processor": _shown_template(built, built.post_processor)}
    found = _parts(loaded)
    if loaded.post_processor:  # the library's trainer leaves it out
        found["post_processor"] = _shown_template(built, loaded.post_processor)
    for name, value in found.items():
        setting = next((each for each, attribute, _ in NORMALIZER_SETTINGS if name == f"normalizer.{attribute}"), None)
        if value != expected.get(name) and settings.get(setting or "") is None:
            say_so = f"{setting} in tokenizer_config.json, or " if setting else ""
            raise TokenizerError(
                f"{name} must be {expected.get(name)!r} for BERT's tokenizer class, got {value!r}: set {say_so}"
                "tokenizer_class to PreTrainedTokenizerFast, which takes this file as it is"
            )
    return built


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer does to a text before it looks words up, by the names in tokenizer.json."""
    parts: dict[str, Any] = {}
    for name in ("normalizer", "pre_tokenizer"):
        part = getattr(tokenizer, name)
        fields = json.loads(part.__getstate__()) if part else {"type": None}
        parts.update({f"{name}.{field}": value for field, value in fields.items()})
    for field in ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word"):
        parts[f"model.{field}"] = getattr(tokenizer.model, field)
    return parts


def _shown_template(built: Tokenizer, post_processor: Any) -> str:
    """What a post-processor puts around a text and around a pair, each token with its segment."""
    text = built.encode("a", add_special_tokens=False)
    encodings = (post_processor.process(text), post_processor.process(text, text))
    return " and ".join(" ".join(map("{}:{}".format, each.tokens, each.type_ids)) for each in encodings)


def _read_options(
    settings: Mapping[str, Any], config: Mapping[str, Any], loaded: Tokenizer, kind: str
) -> dict[str, Any]:
    """The arguments of `BertTokenizer` that the files name."""
    limits = [settings.get("model_max_length"), config.get("max_position_embeddings")]
    known = [limit for limit in limits if type(limit) is int and len(SPECIAL_TOKENS) < limit < UNLIMITED]
    options: dict[str, Any] = {}
    for name, of_file in (("padding_side", loaded.padding), ("truncation_side", loaded.truncation)):
        side = settings.get(name) or (of_file or {}).get("direction")
        if side is not None:
            options[name] = side.lower() if isinstance(side, str) else side
    inputs = settings.get("model_input_names")
    if inputs is None:
        inputs = WITHOUT_SEGMENTS if kind in CLASSES_WITHOUT_SEGMENTS else MODEL_INPUTS
    return {**options, "model_input_names": inputs, "model_max_length": min(known, default=512)}


def _add_tokens(folder: Path, settings: Mapping[str, Any], loaded: Tokenizer, tokenizer: Tokenizer, kind: str) -> str:
    """Adds the tokens that the files have besides the vocabulary, and returns the one that pads.

    As in transformers, `added_tokens_decoder` in tokenizer_config.json replaces special_tokens_map.json,
    added_tokens.json and the tokens of tokenizer.json.
    """
    decoder = settings.get("added_tokens_decoder")
    special_map = _read_json(folder / "special_tokens_map.json") if decoder is None else {}
    named, several = _named_tokens({**settings, **special_map}), _several_tokens(settings, special_map)
    if decoder is not None:
        by_id = _read_decoder(decoder)
    else:
        by_id = {}
        # As in transformers, a token that only the map lists is not special here.
        special = {token.content for token in (*named.values(), *_several_tokens(settings, {}))}
        for content, value in _read_json(folder / "added_tokens.json").items():
            is_special = content in special
            token = AddedToken(content, special=is_special, normalized=not is_special)
            by_id[_token_id(value, content)] = token
        by_id.update(loaded.get_added_tokens_decoder())
    named = _with_defaults(named, loaded, kind)
    _add_under_their_ids(by_id, {token.content for token in named.values()}, tokenizer)
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([token for token in (*named.values(), *several) if token.content not in added])
    _check_new_ids(tokenizer)
    splits = settings.get("split_special_tokens")
    if splits not in (None, True, False):
        raise TokenizerError(f"split_special_tokens in tokenizer_config.json must be true or false, got {splits!r}")
    tokenizer.encode_special_tokens = bool(splits)
    return named["pad_token"].content if "pad_token" in named else "[PAD]"


def _add_under_their_ids(by_id: Mapping[int, AddedToken], special: set[str], tokenizer: Tokenizer) -> None:
    """Adds tokens, and raises a `TokenizerError` if one of them gets a different id."""
    for token in by_id.values():
        token.special = token.special or token.content in special
    tokenizer.add_tokens([token for _, token in sorted(by_id.items())])  # in one call: each indexes all tokens anew
    for token_id, token in by_id.items():
        if tokenizer.token_to_id(token.content) != token_id:
            raise TokenizerError(
                f"the token {token.content!r} has id {token_id} in the checkpoint's files, and would get "
                f"{tokenizer.token_to_id(token.content)} here: a token before it is missing"
            )


def _check_new_ids(tokenizer: Tokenizer) -> None:
    """Raises a `TokenizerError` if a new token got an id that a token of the vocabulary has.

    The library takes the number of tokens for the next id, which is too small if a line of vocab.txt occurs twice.
    """
    if tokenizer.get_vocab_size() == tokenizer.get_vocab_size(with_added_tokens=False):
        return  # no new token, as in nearly all checkpoints
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    of_id = {token_id: token for token, token_id in vocabulary.items()}
    for token, token_id in tokenizer.get_vocab().items():
        if token not in vocabulary and token_id in of_id:
            raise TokenizerError(
                f"the new token {token!r} would get the id {token_id} of {of_id[token_id]!r}: "
                "a line of vocab.txt occurs twice, so make the second one unique, such as [unused1]"
            )


def _read_decoder(decoder: Any) -> dict[int, AddedToken]:
    """The tokens of `added_tokens_decoder`, by id."""
    if not isinstance(decoder, dict):
        raise TokenizerError(f"added_tokens_decoder must be tokens by their ids, got {shown(decoder)}")
    tokens = [(value, _added_token(fields, "added_tokens_decoder")) for value, fields in decoder.items()]
    return {_token_id(value, token.content): token for value, token in tokens}


def _named_tokens(fields: Mapping[str, Any]) -> dict[str, AddedToken]:
    """The special tokens that the settings name one by one, by the names of the settings.

    Also what only some models name: {"image_token": "<image>"}, but not {"add_bos_token": true}.
    """
    values = {name: fields[name] for name in USUAL_TOKEN_SETTINGS if fields.get(name)}  # in the order of their new ids
    own = {
        name: value for name, value in fields.items() if name.endswith("_token") and isinstance(value, str) and value
    }
    values |= {name: value for name, value in own.items() if name not in values}
    extra = fields.get("extra_special_tokens")
    values |= extra if isinstance(extra, dict) else {}  # names, each with a token
    return {name: _added_token(value, name, special=True) for name, value in values.items()}


def _several_tokens(settings: Mapping[str, Any], special_map: Mapping[str, Any]) -> list[AddedToken]:
    """The special tokens that the settings list; as in transformers, one list replaces the others."""
    extra, additional = (settings.get(name) for name in SEVERAL_SPECIAL_TOKENS)
    of_map = special_map.get("additional_special_tokens")
    if isinstance(extra, dict):  # these are named one by one
        several = of_map or additional
    elif extra is None:
        several = additional or of_map
    else:
        several = extra or additional
    several = several if isinstance(several, list) else [several] if several else []
    return [_added_token(each, "additional_special_tokens", special=True) for each in several]


def _with_defaults(named: dict[str, AddedToken], loaded: Tokenizer, kind: str) -> dict[str, AddedToken]:
    """The named special tokens, with those that the class and the padding of tokenizer.json name besides."""
    usual = {} if kind in GENERIC_CLASSES else SPECIAL_TOKEN_SETTINGS
    for name, expected in usual.items():
        if name in named and named[name].content != expected and name != "pad_token":
            content = named[name].content
            raise TokenizerError(f"{name} in the tokenizer's settings must be {expected!r}, got {content!r}")
    of_padding = {"pad_token": loaded.padding["pad_token"]} if loaded.padding else {}
    return {name: AddedToken(token, special=True) for name, token in {**usual, **of_padding}.items()} | named


def _added_token(value: Any, name: str, special: bool | None = None) -> AddedToken:
    """A token that the settings hold as a string or as an object."""
    fields = value if isinstance(value, dict) else {"content": value}
    fields = {field: fields[field] for field in TOKEN_FIELDS if field in fields}
    try:
        if not fields["content"]:
            raise ValueError
        return AddedToken(**{**fields, **({} if special is None else {"special": special})})
    except (KeyError, TypeError, ValueError):
        raise TokenizerError(f"{name} in the tokenizer's settings must be a token, got {shown(value)}") from None


def _token_id(value: object, token: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise TokenizerError(f"the id of the added token {token!r} must be an integer, got {shown(value)}") from None


def _read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object; {} if there is no such file."""
    return read_object(file, TokenizerError) if file.exists() else {}
