"""How does text become ids, and how do ids become text again?

WordPiece (Wu et al. 2016, section 4.1; BERT, section 3): text is normalised and split at white space and punctuation.
Each word is then split, from the left, into the longest subwords that the vocabulary has; `##` marks a subword that
continues a word. The `tokenizers` library does the work; this module reads a checkpoint's files and makes model inputs.
"""

import json
import operator
import os
import reprlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from minibert.checkpoints import layout, store
from minibert.checkpoints.atomic import write_atomically
from minibert.checkpoints.json_files import read_object
from minibert.checks import check_integer, check_one_of
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

Text = str | tuple[str, str]  # one text, or a pair of texts


class BatchEncoding(dict[str, Tensor]):
    """The inputs of a model, for `model(**inputs)`, and where in the text each token came from.

    Keys: `input_ids`, `token_type_ids`, `attention_mask`, each (B, S) int64.
    """

    def __init__(self, encodings: Sequence[Encoding]) -> None:
        super().__init__(
            input_ids=torch.tensor([encoding.ids for encoding in encodings]),
            token_type_ids=torch.tensor([encoding.type_ids for encoding in encodings]),
            attention_mask=torch.tensor([encoding.attention_mask for encoding in encodings]),
        )
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
    """

    def __init__(self, tokenizer: Tokenizer, model_max_length: int = 512, pad_token: str = "[PAD]") -> None:
        if not isinstance(tokenizer.model, models.WordPiece):
            raise TokenizerError(f"tokenizer must be WordPiece, as BERT's is, got {type(tokenizer.model).__name__}")
        pad_token_id = tokenizer.token_to_id(pad_token)
        if pad_token_id is None:
            raise TokenizerError(f"the vocabulary has no padding token {pad_token}")
        tokenizer.no_padding()  # some files keep settings from training; here each call has its own
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.model_max_length = model_max_length
        self.pad_token = pad_token
        self.pad_token_id = pad_token_id
        self._lock = threading.Lock()  # truncation is state of the library's tokenizer, and each call sets it

    def __reduce__(self) -> tuple[Any, ...]:  # a lock cannot be copied or pickled
        return BertTokenizer, (self.tokenizer, self.model_max_length, self.pad_token)

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

        `tokenizer_config.json`, where there is one, gives `do_lower_case`, `strip_accents`, `tokenize_chinese_chars`
        and the length limit; without it, those of `tokenizer.json` or BERT's defaults (uncased) apply.

        Args: as for `BertModel.from_pretrained`.

        Raises:
            CheckpointNotFoundError, DownloadError: no such checkpoint, no connection to it, or no tokenizer in it.
            TokenizerError: a file that cannot be read or is not a BERT vocabulary; the message names it.
        """
        folder = store.resolve(name_or_folder, FILES, revision=revision, token=token, local_files_only=local_files_only)
        settings = _read_json(folder / "tokenizer_config.json")
        if (folder / "tokenizer.json").is_file():
            file = folder / "tokenizer.json"
            try:
                tokenizer = Tokenizer.from_file(str(file))
            except Exception as error:  # the library raises no narrower type
                raise TokenizerError(f"{file} cannot be read as a tokenizer: {error}") from None
        elif (folder / "vocab.txt").is_file():
            file = folder / "vocab.txt"
            tokenizer = _from_vocabulary(file)
        else:
            raise CheckpointNotFoundError(f"{folder} has neither tokenizer.json nor vocab.txt")
        try:
            _apply_settings(settings, tokenizer)
            _add_tokens(folder, settings, tokenizer)
            pad_token = settings.get("pad_token") or "[PAD]"
            pad_token = pad_token.get("content") if isinstance(pad_token, dict) else pad_token
            positions = _read_json(folder / "config.json").get("max_position_embeddings")
            limits = [settings.get("model_max_length"), positions]
            known = [limit for limit in limits if isinstance(limit, int) and limit > len(SPECIAL_TOKENS)]
            return cls(tokenizer, min(known, default=512), str(pad_token))
        except TokenizerError as error:
            raise TokenizerError(f"{file}: {error}") from None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, which `transformers` reads as well.

        Raises:
            StoreError: the folder cannot be written to.
        """
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",  # it reads tokenizer.json unchanged
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "model_max_length": self.model_max_length,
            "pad_token": self.pad_token,
            **{f"{name[1:-1].lower()}_token": name for name in SPECIAL_TOKENS if name != "[PAD]"},
        }
        text = json.dumps(settings, indent=2) + "\n"
        with write_atomically(folder, last="tokenizer_config.json") as incoming:
            (incoming / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")
            (incoming / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def to_json(self) -> str:
        """Returns the content of `tokenizer.json`: the vocabulary, and every step from text to ids."""
        with self._lock:
            self.tokenizer.no_truncation()
            return self.tokenizer.to_str(pretty=True)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(
        self,
        text: str | Sequence[Text],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: Literal[True, "longest", "max_length"] = True,
        truncation: bool = False,
        max_length: int | None = None,
        padding_side: Literal["right", "left"] = "right",
        return_tensors: Literal["pt"] = "pt",
    ) -> BatchEncoding:
        """Makes the inputs of a model: `[CLS] text [SEP]`, or `[CLS] text [SEP] pair [SEP]`, padded to one length.

        Args:
            text: a text, a list of texts, or a list of pairs (tuples of two texts).
            text_pair: the second text of the pair, or a list with one for each of `text`.
            padding: pad each row to the longest one (True or "longest"), or to "max_length".
            truncation: cut what is too long, the longer text of a pair first; False makes it an error.
            max_length: the maximum number of tokens, special tokens included; None means the model's limit.
            padding_side: the side on which rows are padded.
            return_tensors: "pt", PyTorch's tensors; no others are supported.

        Raises:
            TextTypeError: something that is not a text.
            TextError: an empty list, a text without any token, one that is too long, or an unknown option.

        Warns:
            DoubledTokensWarning: a text begins with [CLS], which is added here.
        """
        check_one_of("padding", padding, (True, "longest", "max_length"), TextError)
        check_one_of("truncation", truncation, (True, False), TextError)
        check_one_of("padding_side", padding_side, ("right", "left"), TextError)
        check_one_of("return_tensors", return_tensors, ("pt",), TextError)
        texts = _as_list(text, text_pair)
        limit = self.model_max_length if max_length is None else max_length
        pairs = isinstance(texts[0], tuple)
        shortest = self.tokenizer.num_special_tokens_to_add(pairs) + (2 if pairs else 1)  # one token of each text
        check_integer("max_length", limit, shortest, self.model_max_length, TextError)
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
        encodings = self._encode(texts, max_length)
        special = self.tokenizer.num_special_tokens_to_add(False)
        for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True), first):
            parts = (text,) if isinstance(text, str) else text
            if len(encoding) <= special or (len(parts) == 2 and set(encoding.sequence_ids) < {0, 1, None}):
                raise TextError(f"text {row} has nothing to encode: {reprlib.repr(text)}")
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
        padding_side: Literal["right", "left"] = "right",
    ) -> BatchEncoding:
        """Pads encodings, in place, to `length` tokens or to the longest, and returns them as the inputs of a model."""
        length = length or max(map(len, encodings))
        for encoding in encodings:
            encoding.pad(length, direction=padding_side, pad_id=self.pad_token_id, pad_token=self.pad_token)
        return BatchEncoding(encodings)

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
        return self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens)

    def _encode(self, texts: Sequence[Text], limit: int | None, add_special_tokens: bool = True) -> list[Encoding]:
        with self._lock:
            if limit is None:
                self.tokenizer.no_truncation()
            else:
                self.tokenizer.enable_truncation(limit)
            try:
                return self.tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
            except Exception as error:  # the library raises no narrower type
                raise TokenizerError(f"this vocabulary cannot encode the text: {error}") from None


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
        got = f"shape {tuple(ids.shape)}: take ids[0]" if isinstance(ids, Tensor) else reprlib.repr(ids)
        raise TokenizerError(f"ids must be one row of integers, got {got}")
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise TokenizerError(f"ids must be integers, got {reprlib.repr(values)}") from None


def _from_vocabulary(file: Path) -> Tokenizer:
    """Builds BERT's tokenizer from the vocabulary in `file`: one token a line, whose id is the line's index."""
    try:
        with file.open(encoding="utf-8") as lines:
            vocabulary = {line.rstrip("\n"): index for index, line in enumerate(lines)}
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file} cannot be read as UTF-8 text: {error}") from None
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise TokenizerError(f"{file} is not a BERT vocabulary: it has no {', '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _apply_settings(settings: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Applies `tokenizer_config.json`: case, accents, Chinese characters, and tokens that are never split."""
    _check_supported(settings)
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


def _check_supported(settings: dict[str, Any]) -> None:
    """Raises a `TokenizerError` for special tokens or a truncation side that are not BERT's."""
    for token in SPECIAL_TOKENS:
        name = f"{token[1:-1].lower()}_token"
        value = settings.get(name) or token
        content = value.get("content") if isinstance(value, dict) else value
        if content != token and token != "[PAD]":
            raise TokenizerError(f"{name} in tokenizer_config.json must be {token!r}, got {content!r}")
    side = settings.get("truncation_side", "right")
    if side != "right":
        raise TokenizerError(f"truncation_side in tokenizer_config.json must be 'right', got {side!r}")


def _add_tokens(folder: Path, settings: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Adds the tokens that a checkpoint's files have besides the vocabulary, each under the id it has there."""
    by_id: dict[int, AddedToken] = {}
    for content, value in _read_json(folder / "added_tokens.json").items():
        by_id[_token_id(value, content)] = AddedToken(content)
    decoder = settings.get("added_tokens_decoder") or {}
    for value, fields in decoder.items() if isinstance(decoder, dict) else ():
        try:
            token = AddedToken(**{name: fields[name] for name in TOKEN_FIELDS if name in fields})
        except (TypeError, AttributeError):
            raise TokenizerError(f"added_tokens_decoder must hold tokens, got {reprlib.repr(fields)}") from None
        by_id[_token_id(value, token.content)] = token
    for token_id, token in sorted(by_id.items()):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != token_id:
            raise TokenizerError(
                f"the token {token.content!r} has id {token_id} in the checkpoint's files, and would get "
                f"{tokenizer.token_to_id(token.content)} here: a token before it is missing"
            )
    for fields in (_read_json(folder / "special_tokens_map.json"), settings):
        special = fields.get("additional_special_tokens") or []
        for entry in special if isinstance(special, list) else [special]:
            name = entry.get("content") if isinstance(entry, dict) else entry
            if not isinstance(name, str) or not name:
                raise TokenizerError(f"additional_special_tokens must hold tokens, got {reprlib.repr(entry)}")
            tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])


def _token_id(value: object, token: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise TokenizerError(
            f"the id of the added token {token!r} must be an integer, got {reprlib.repr(value)}"
        ) from None


def _read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object; {} if there is no such file."""
    return read_object(file, TokenizerError) if file.exists() else {}
