"""How does text become ids, and how do ids become text again?

WordPiece (Wu et al. 2016, section 4.1; BERT, section 3): text is normalised and split at white space and punctuation.
Each word is then split, from the left, into the longest subwords that the vocabulary has; `##` marks a subword that
continues a word. The `tokenizers` library does the work; this module reads a checkpoint's files and makes model inputs.
"""

import json
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
# The settings that name special tokens: one each, or several.
SPECIAL_TOKEN_SETTINGS = tuple(f"{name}_token" for name in ("pad", "unk", "cls", "sep", "mask", "bos", "eos"))
SEVERAL_SPECIAL_TOKENS = ("additional_special_tokens", "extra_special_tokens")
MODEL_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
SIDES = ("right", "left")
CHARACTERS_PER_TOKEN = 16  # with this many, nearly every text has more tokens than its limit

# Values of `tokenizer_class`, without the "Fast" at the end of some. These cut texts as BERT's own tokenizer does:
BERT_CLASSES = (
    "BertTokenizer",
    "ConvBertTokenizer",
    "DistilBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "RetriBertTokenizer",
    "SqueezeBertTokenizer",
)
# and these do what tokenizer.json says, whatever the other settings are.
GENERIC_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")

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

    def __init__(self, encodings: Sequence[Encoding], names: Sequence[str] = MODEL_INPUTS) -> None:
        rows = {
            "input_ids": [encoding.ids for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
        }
        super().__init__({name: torch.tensor(rows[name]) for name in names})
        self.encodings = list(encodings)

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
        moved = BatchEncoding([])
        moved.update({name: tensor.to(device) for name, tensor in self.items()})
        moved.encodings = self.encodings
        return moved


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
        for name in model_input_names:
            check_one_of("each of model_input_names", name, MODEL_INPUTS, TokenizerError)
        self.model_input_names = tuple(name for name in MODEL_INPUTS if name in model_input_names)
        tokenizer.no_padding()  # some files keep settings from training; here each call has its own
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.pad_token = pad_token
        self.pad_token_id = pad_token_id
        self._lock = threading.Lock()  # truncation is state of the library's tokenizer, and each call sets it
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

        What the files say is done as `transformers` does it, or refused by name: the settings of
        `tokenizer_config.json` (case, accents, Chinese characters, special and added tokens, sides, the length limit
        and the inputs that the model takes), those of `tokenizer.json`, and BERT's defaults (uncased) where both are
        silent. If `tokenizer_class` is not one of BERT's but a generic one, `tokenizer.json` is taken as it is.

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
                is_generic = _check_class(settings, config) and file.name == "tokenizer.json"
                if file.name == "tokenizer.json":
                    tokenizer = Tokenizer.from_str(read_text(file, TokenizerError))
                    _check_wordpiece(tokenizer)
                    _check_post_processor(tokenizer, is_generic)
                else:
                    tokenizer = _from_vocabulary(file)
                if not is_generic:
                    _apply_settings(settings, tokenizer)
                _add_tokens(folder, settings, tokenizer)
                return cls(tokenizer, **_read_options(settings, config, tokenizer))
        except TokenizerError as error:
            prefix = "" if str(error).startswith(str(folder)) else f"{file}: "
            raise TokenizerError(f"{prefix}{error}") from None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, which `transformers` reads as well.

        Raises:
            StoreError: the folder cannot be written to.
        """
        settings = {
            **self._options(),
            "tokenizer_class": "PreTrainedTokenizerFast",  # it reads tokenizer.json unchanged
            **{f"{name[1:-1].lower()}_token": name for name in SPECIAL_TOKENS if name != "[PAD]"},
        }
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
        padding_side = check_one_of("padding_side", padding_side or self.padding_side, SIDES, TextError)
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
        return BatchEncoding(encodings, self.model_input_names)

    def tokenize(self, text: str) -> list[str]:
        """Returns the tokens of a text, without special tokens."""
        check_text(text, "text")
        (encoding,) = self._encode([text], None, add_special_tokens=False)
        return encoding.tokens

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
        with _errors_as_ours("the vocabulary cannot decode these ids"):
            return self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens)

    def _beginnings(self, texts: Sequence[Text], limit: int) -> list[Text]:
        """The texts, long ones shortened to a beginning that has more than `limit` tokens, which are then cut.

        A text of 10 MB would take 1.5 GB to tokenise. The first tokens do not change with what follows, as long as
        normalisation goes character by character, as BERT's does, and the last word of the beginning is not counted.
        """
        local = isinstance(self.tokenizer.normalizer, normalizers.BertNormalizer | None)
        local = local and isinstance(self.tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        if not local or self.truncation_side == "left":
            return list(texts)
        added = max((len(token.content) for token in self.tokenizer.get_added_tokens_decoder().values()), default=0)

        def beginning(text: str) -> str:
            length = CHARACTERS_PER_TOKEN * limit
            while length < len(text):
                (encoding,) = self._encode([text[:length]], None, add_special_tokens=False)
                words, last = encoding.word_ids, encoding.word_ids[-1] if encoding.word_ids else None
                certain = [
                    word != last and end < length - added
                    for word, (_, end) in zip(words, encoding.offsets, strict=True)
                ]
                if sum(certain) > limit:
                    return text[:length]
                length *= 2
            return text

        # Of a pair, which text is cut depends on the whole length of both.
        return [beginning(text) if isinstance(text, str) else text for text in texts]

    def _encode(self, texts: Sequence[Text], limit: int | None, add_special_tokens: bool = True) -> list[Encoding]:
        with self._lock:
            if limit is None:
                self.tokenizer.no_truncation()
            else:
                self.tokenizer.enable_truncation(limit, direction=self.truncation_side)
            with _errors_as_ours("this vocabulary cannot encode the text"):
                return self.tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)


# --- the library's tokenizer: its errors, its lock -------------------------------------------------------------------


@contextmanager
def _errors_as_ours(problem: str) -> Iterator[None]:
    """Turns what the `tokenizers` library raises into a `TokenizerError`: it has no type of its own, and it panics."""
    try:
        yield
    except (TokenizerError, CheckpointNotFoundError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # PanicException, which is not an Exception
        raise TokenizerError(f"{problem}: {shorten(str(error), 500, placeholder=' …')}") from None


def _restore(content: str, splits_special_tokens: bool, options: Mapping[str, Any]) -> BertTokenizer:
    """The tokenizer that `BertTokenizer.__reduce__` describes."""
    tokenizer = Tokenizer.from_str(content)
    tokenizer.encode_special_tokens = splits_special_tokens
    return BertTokenizer(tokenizer, **options)


# A process that forks while another thread encodes would copy a lock that nobody opens again. So forking waits for it.
_ALIVE: "weakref.WeakSet[BertTokenizer]" = weakref.WeakSet()
_held_by_fork: list[threading.Lock] = []


def _before_fork() -> None:
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


def _check_class(settings: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Returns whether `tokenizer_class` is a generic one; a `TokenizerError` if it is not BERT's either."""
    file, name = "tokenizer_config.json", settings.get("tokenizer_class")
    if name is None:
        file, name = "config.json", config.get("tokenizer_class")
    known = (*BERT_CLASSES, *GENERIC_CLASSES)
    plain = name.removesuffix("Fast") if isinstance(name, str) else name
    if plain is not None and plain not in known:
        raise TokenizerError(
            f"tokenizer_class in {file} must be BertTokenizer or one that cuts texts alike, got {name!r}: "
            "minibert would cut them differently from what the model was trained on"
        )
    for setting, supported in CUTTING_SETTINGS.items():
        value = settings.get(setting)
        if not any(value is each or value == each for each in supported):
            raise TokenizerError(f"{setting} in tokenizer_config.json is not supported, got {shown(value)}")
    return plain in GENERIC_CLASSES


def _from_vocabulary(file: Path) -> Tokenizer:
    """Builds BERT's tokenizer from the vocabulary in `file`: one token a line, whose id is the line's index."""
    lines = read_text(file, TokenizerError).removesuffix("\n").split("\n")
    vocabulary = {line: index for index, line in enumerate(lines)}  # of a line that occurs twice, the last
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise TokenizerError(f"{file} is not a BERT vocabulary: it has no {', '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    _add_special_tokens_around(tokenizer)
    return tokenizer


def _check_wordpiece(tokenizer: Tokenizer) -> None:
    kind = type(tokenizer.model).__name__
    if kind != "WordPiece":
        raise TokenizerError(f"the tokenizer must be WordPiece, as BERT's is, got {kind}")


def _check_post_processor(tokenizer: Tokenizer, is_generic: bool) -> None:
    """Makes sure that [CLS] and [SEP] are added to texts; a file that the library's trainer wrote does not say so."""
    if tokenizer.post_processor is None:
        if is_generic:
            raise TokenizerError(
                "post_processor must say where [CLS] and [SEP] are added, got none: add one to the file"
            )
        _add_special_tokens_around(tokenizer)


def _add_special_tokens_around(tokenizer: Tokenizer) -> None:
    """[CLS] text [SEP], and [CLS] text [SEP] pair [SEP] (BERT, figure 2)."""
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    for token, token_id in ids:
        if token_id is None:
            raise TokenizerError(f"the vocabulary has no {token}: it is not BERT's")
    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _apply_settings(settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Applies `tokenizer_config.json`: case, accents, Chinese characters, and tokens that are never split."""
    for token in SPECIAL_TOKENS:
        name = f"{token[1:-1].lower()}_token"
        content = _content(settings.get(name), name)
        if content not in (None, token) and token != "[PAD]":
            raise TokenizerError(f"{name} in tokenizer_config.json must be {token!r}, got {content!r}")
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        for name, attribute, optional in NORMALIZER_SETTINGS:
            value = settings.get(name)
            if name not in settings or (value is None and not optional):
                continue
            if not isinstance(value, bool) and value is not None:
                raise TokenizerError(f"{name} in tokenizer_config.json must be true or false, got {value!r}")
            setattr(normalizer, attribute, value)
    never_split = settings.get("never_split") or []
    if not isinstance(never_split, list) or not all(isinstance(token, str) and token for token in never_split):
        raise TokenizerError(f"never_split in tokenizer_config.json must be a list of tokens, got {never_split!r}")
    known = [token for token in never_split if tokenizer.token_to_id(token) is not None]
    tokenizer.add_tokens([AddedToken(token, normalized=False, single_word=True) for token in known])


def _read_options(settings: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The arguments of `BertTokenizer` that the files name."""
    limits = [settings.get("model_max_length"), config.get("max_position_embeddings")]
    known = [limit for limit in limits if isinstance(limit, int) and limit > len(SPECIAL_TOKENS)]
    options: dict[str, Any] = {}
    for name, of_file in (("padding_side", tokenizer.padding), ("truncation_side", tokenizer.truncation)):
        side = settings.get(name) or (of_file or {}).get("direction")
        if side is not None:
            options[name] = side.lower() if isinstance(side, str) else side
    inputs = settings.get("model_input_names")
    if inputs is not None:
        if not isinstance(inputs, list) or "input_ids" not in inputs:
            raise TokenizerError(f"model_input_names in tokenizer_config.json must list inputs, got {inputs!r}")
        options["model_input_names"] = inputs
    pad_token = _content(settings.get("pad_token"), "pad_token") or "[PAD]"
    return {**options, "model_max_length": min(known, default=512), "pad_token": pad_token}


def _add_tokens(folder: Path, settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Adds the tokens that a checkpoint's files have besides the vocabulary, each under the id it has there."""
    by_id: dict[int, AddedToken] = {}
    for content, value in _read_json(folder / "added_tokens.json").items():
        by_id[_token_id(value, content)] = AddedToken(content)
    decoder = settings.get("added_tokens_decoder") or {}
    for value, fields in decoder.items() if isinstance(decoder, dict) else ():
        try:
            token = AddedToken(**{name: fields[name] for name in TOKEN_FIELDS if name in fields})
        except (TypeError, AttributeError):
            raise TokenizerError(f"added_tokens_decoder must hold tokens, got {shown(fields)}") from None
        by_id[_token_id(value, token.content)] = token
    tokenizer.add_tokens([token for _, token in sorted(by_id.items())])  # in one call: each indexes all tokens anew
    for token_id, token in by_id.items():
        if tokenizer.token_to_id(token.content) != token_id:
            raise TokenizerError(
                f"the token {token.content!r} has id {token_id} in the checkpoint's files, and would get "
                f"{tokenizer.token_to_id(token.content)} here: a token before it is missing"
            )
    special = [
        token for fields in (_read_json(folder / "special_tokens_map.json"), settings) for token in _special(fields)
    ]
    present = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is not None]
    names = dict.fromkeys([*present, *special])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    splits = settings.get("split_special_tokens")
    if splits not in (None, True, False):
        raise TokenizerError(f"split_special_tokens in tokenizer_config.json must be true or false, got {splits!r}")
    tokenizer.encode_special_tokens = bool(splits)


def _special(fields: Mapping[str, Any]) -> list[str]:
    """The special tokens that a settings file names."""
    tokens = [_content(fields.get(name), name) for name in SPECIAL_TOKEN_SETTINGS]
    for name in SEVERAL_SPECIAL_TOKENS:
        value = fields.get(name) or []
        if isinstance(value, dict) and "content" not in value:  # names of attributes, each with a token
            value = list(value.values())
        tokens += [_content(each, name) for each in (value if isinstance(value, list) else [value])]
    return [token for token in tokens if token]


def _content(value: Any, name: str) -> str | None:
    """The text of a token, which the settings hold as a string or as an object; None if there is none."""
    content = value.get("content") if isinstance(value, dict) else value
    if content is not None and (not isinstance(content, str) or not content):
        raise TokenizerError(f"{name} in the tokenizer's settings must be a token, got {shown(value)}")
    return content


def _token_id(value: object, token: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise TokenizerError(f"the id of the added token {token!r} must be an integer, got {shown(value)}") from None


def _read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object; {} if there is no such file."""
    return read_object(file, TokenizerError) if file.exists() else {}
