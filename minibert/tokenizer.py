"""How does text become ids, and ids words again?

WordPiece (Wu et al. 2016, section 4.1; BERT, section 3): text is cleaned, split at white space and punctuation, and
each word is cut, from the left, into the longest pieces that the vocabulary has; `##` marks a piece that continues a
word. The `tokenizers` library does the work; this room reads a checkpoint's files and makes model inputs.
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
        """The number of the word that each token is part of; None for special tokens and padding."""
        return self.encodings[row].word_ids

    def sequence_ids(self, row: int = 0) -> list[int | None]:
        """0 for tokens of the first text, 1 for those of its pair; None for special tokens and padding."""
        return self.encodings[row].sequence_ids

    def to(self, device: str | torch.device) -> "BatchEncoding":
        """The same inputs on another device, for a model there."""
        moved = BatchEncoding([])
        moved.update({name: tensor.to(device) for name, tensor in self.items()})
        moved.encodings = self.encodings
        return moved


class BertTokenizer:
    """Text → model inputs, for one checkpoint's vocabulary.

    Args:
        tokenizer: a WordPiece tokenizer of the `tokenizers` library.
        model_max_length: the most tokens the model takes, special tokens included.
        pad_token: the token that fills up shorter rows.
    """

    def __init__(self, tokenizer: Tokenizer, model_max_length: int = 512, pad_token: str = "[PAD]") -> None:
        if not isinstance(tokenizer.model, models.WordPiece):
            raise TokenizerError(f"BERT's tokens are WordPiece, and this tokenizer is {type(tokenizer.model).__name__}")
        pad_token_id = tokenizer.token_to_id(pad_token)
        if pad_token_id is None:
            raise TokenizerError(f"the vocabulary has no padding token {pad_token}")
        tokenizer.no_padding()  # some files carry settings of their training; ours are those of the call
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.model_max_length = model_max_length
        self.pad_token = pad_token
        self.pad_token_id = pad_token_id
        self._lock = threading.Lock()  # truncation is a state of the library's tokenizer, ours is one of the call

    def __reduce__(self) -> tuple[Any, ...]:  # a lock cannot be copied or sent to another process
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
        and the length limit; without it `tokenizer.json` or BERT's defaults hold (uncased).

        Args: as for `BertModel.from_pretrained`.

        Raises:
            CheckpointNotFoundError, DownloadError: no such checkpoint, no way to it, or no tokenizer in it.
            TokenizerError: a file that cannot be read or is no BERT vocabulary; the message names it.
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
            _apply(settings, tokenizer)
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
            "tokenizer_class": "PreTrainedTokenizerFast",  # which takes tokenizer.json as it is
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
        """The content of `tokenizer.json`: the vocabulary, and all that is done to a text."""
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
            text_pair: the second text of the pair, or a list of as many as `text` has.
            padding: fill up each row to the longest one (True or "longest"), or to "max_length".
            truncation: cut what is too long, the longer text of a pair first; otherwise it is an error.
            max_length: the most tokens, special tokens included; the model's limit when left out.
            padding_side: where padding goes.
            return_tensors: "pt", PyTorch's tensors: the only kind there is.

        Raises:
            TextTypeError: something that is not a text.
            TextError: an empty list, a text without any token, or one that is too long; an option that there is not.

        Warns:
            DoubledTokensWarning: a text begins with [CLS], which is added here.
        """
        _check_option("padding", padding, True, "longest", "max_length")
        _check_option("truncation", truncation, True, False)
        _check_option("padding_side", padding_side, "right", "left")
        _check_option("return_tensors", return_tensors, "pt")
        texts = _as_list(text, text_pair)
        limit = self.model_max_length if max_length is None else max_length
        pairs = isinstance(texts[0], tuple)
        least = self.tokenizer.num_special_tokens_to_add(pairs) + (2 if pairs else 1)
        if not isinstance(limit, int) or not least <= limit <= self.model_max_length:
            raise TextError(
                f"max_length is {limit!r}, and must be from {least}, for special tokens and one of each text, "
                f"to the model's limit of {self.model_max_length}"
            )
        encodings = self.encode(texts, limit if truncation else None)
        for row, encoding in enumerate(encodings):
            if len(encoding) > limit:
                raise TextError(
                    f"text {row} has {len(encoding)} tokens, and the limit is {limit}: pass truncation=True to cut it"
                )
        return self.pad(encodings, limit if padding == "max_length" else None, padding_side)

    def encode(self, texts: Sequence[Text], max_length: int | None = None, first: int = 0) -> list[Encoding]:
        """The texts as encodings of the `tokenizers` library: special tokens included, not yet padded.

        Args:
            texts: texts, or pairs of texts.
            max_length: where to cut; None does not, however long a text is. What is cut off is in `overflowing`.
            first: the number of the first text in messages.

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
        """Fills up encodings, in place, to one length, that of the longest if none is given: the inputs of a model."""
        length = length or max(map(len, encodings))
        for encoding in encodings:
            encoding.pad(length, direction=padding_side, pad_id=self.pad_token_id, pad_token=self.pad_token)
        return BatchEncoding(encodings)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, without special tokens."""
        check_text(text, "the text")
        (encoding,) = self._encode([text], None, add_special_tokens=False)
        return encoding.tokens

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """The id of a token, or of each in a list.

        Raises:
            TokenizerError: a token that is not in the vocabulary; a word has to be tokenised first.
        """
        if isinstance(tokens, list | tuple):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        check_text(tokens, "a token")
        found = self.tokenizer.token_to_id(tokens)
        if found is None:
            pieces = " ".join(self.tokenize(tokens)) or "nothing"
            raise TokenizerError(f"{tokens!r} is not in the vocabulary; tokenize() makes it {pieces}")
        return found

    @overload
    def convert_ids_to_tokens(self, ids: int) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int] | Tensor) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Sequence[int] | Tensor) -> str | list[str]:
        """The token of an id, or of each in a list or one-dimensional tensor.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        number = ids.tolist() if hasattr(ids, "tolist") else ids  # a tensor or array, of one number or a row
        if not isinstance(number, int):
            return [self.convert_ids_to_tokens(each) for each in _as_ids(ids)]
        found = self.tokenizer.id_to_token(number) if 0 <= number < 1 << 32 else None
        if found is None:
            raise TokenizerError(f"id {number} is not in the vocabulary of {len(self)} tokens")
        return found

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = False) -> str:
        """The text that a row of ids stands for, as far as it can be told: an uncased vocabulary has lost the case.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        numbers = _as_ids(ids)
        self.convert_ids_to_tokens(numbers)  # the library would pass over unknown ids
        return self.tokenizer.decode(numbers, skip_special_tokens=skip_special_tokens)

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
    """All accepted forms of texts as one list of texts or one list of pairs."""
    texts: list[Any] = list(text) if isinstance(text, list | tuple) else [text]
    if text_pair is not None:
        pairs: list[Any] = list(text_pair) if isinstance(text_pair, list | tuple) else [text_pair]
        if len(pairs) != len(texts):
            raise TextError(f"there are {len(texts)} texts and {len(pairs)} in text_pair: they must be as many")
        texts = list(zip(texts, pairs, strict=True))
    if not texts:
        raise TextError("the list of texts is empty")
    for row, item in enumerate(texts, first):
        if isinstance(item, tuple) and len(item) == 2:
            check_text(item[0], f"the first of pair {row}")
            check_text(item[1], f"the second of pair {row}")
        else:
            check_text(item, f"text {row}")
        if isinstance(item, tuple) != isinstance(texts[0], tuple):
            raise TextTypeError("texts and pairs cannot be mixed in one list")
    return texts


def check_text(text: object, what: str) -> None:
    """Raises a `TextTypeError` for what is no string, and a `TextError` for one that is no valid Unicode."""
    if not isinstance(text, str):
        raise TextTypeError(f"{what} must be a string, not {type(text).__name__}; several texts go in a list")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"{what} holds half of a surrogate pair at character {error.start}: no valid Unicode") from None


def _check_option(name: str, value: object, *allowed: object) -> None:
    if not any(value is each or (isinstance(value, str) and value == each) for each in allowed):
        raise TextError(f"{name} is {value!r}, and must be {' or '.join(map(repr, allowed))}")


def _as_ids(ids: object) -> list[int]:
    """A row of ids, from a list, a one-dimensional tensor or array."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if not isinstance(values, list | tuple) or any(isinstance(value, list | tuple) for value in values):
        shape = f", and its shape is {tuple(ids.shape)}: take ids[0]" if isinstance(ids, Tensor) else f", not {ids!r}"
        raise TokenizerError(f"ids must be one row of whole numbers{shape}")
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise TokenizerError(f"ids must be whole numbers, and {reprlib.repr(values)} are not") from None


def _from_vocabulary(file: Path) -> Tokenizer:
    """BERT's tokenizer around the vocabulary in `file`: one token a line, its id the number of the line."""
    try:
        with file.open(encoding="utf-8") as lines:
            vocabulary = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file} cannot be read as UTF-8 text: {error}") from None
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise TokenizerError(f"{file} is no BERT vocabulary: it has no {', '.join(missing)}")
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


def _apply(settings: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Does as `tokenizer_config.json` says about case, accents, Chinese characters and further tokens."""
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        for name, ours, optional in (
            ("do_lower_case", "lowercase", False),
            ("strip_accents", "strip_accents", True),
            ("tokenize_chinese_chars", "handle_chinese_chars", False),
        ):
            value = settings.get(name)
            if name not in settings or (value is None and not optional):
                continue
            if not isinstance(value, bool) and value is not None:
                raise TokenizerError(f"{name} in tokenizer_config.json must be true or false, not {value!r}")
            setattr(normalizer, ours, value)
    for token in SPECIAL_TOKENS:
        name = f"{token[1:-1].lower()}_token"
        value = settings.get(name) or token
        content = value.get("content") if isinstance(value, dict) else value
        if content != token and token != "[PAD]":
            raise TokenizerError(f"{name} in tokenizer_config.json is {content!r}, and only {token!r} is supported")
    if settings.get("truncation_side", "right") != "right":
        raise TokenizerError("truncation_side in tokenizer_config.json must be 'right': only ends of texts are cut")
    never_split = settings.get("never_split") or []
    if not isinstance(never_split, list) or not all(isinstance(token, str) and token for token in never_split):
        raise TokenizerError(f"never_split in tokenizer_config.json must be a list of tokens, not {never_split!r}")
    known = [token for token in never_split if tokenizer.token_to_id(token) is not None]
    tokenizer.add_tokens([AddedToken(token, normalized=False, single_word=True) for token in known])


def _add_tokens(folder: Path, settings: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Adds the tokens that a checkpoint's files have beside the vocabulary, each under the number it has there."""
    numbered: dict[int, AddedToken] = {}
    for content, number in _read_json(folder / "added_tokens.json").items():
        numbered[_token_number(number, content)] = AddedToken(content)
    decoder = settings.get("added_tokens_decoder") or {}
    for number, fields in decoder.items() if isinstance(decoder, dict) else ():
        known = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        try:
            token = AddedToken(**{name: fields[name] for name in known if name in fields})
        except (TypeError, AttributeError):
            raise TokenizerError(f"added_tokens_decoder has {reprlib.repr(fields)}, which is no token") from None
        numbered[_token_number(number, token.content)] = token
    for number, token in sorted(numbered.items()):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != number:
            raise TokenizerError(
                f"the token {token.content!r} is number {number} in the checkpoint's files, and would become "
                f"{tokenizer.token_to_id(token.content)}: a token before it is missing"
            )
    for fields in (_read_json(folder / "special_tokens_map.json"), settings):
        special = fields.get("additional_special_tokens") or []
        for entry in special if isinstance(special, list) else [special]:
            name = entry.get("content") if isinstance(entry, dict) else entry
            if not isinstance(name, str) or not name:
                raise TokenizerError(f"additional_special_tokens has {reprlib.repr(entry)}, which is no token")
            tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])


def _token_number(number: object, token: str) -> int:
    try:
        return int(str(number))
    except ValueError:
        raise TokenizerError(f"the added token {token!r} has the number {reprlib.repr(number)}") from None


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file that need not be there."""
    return read_object(file, TokenizerError) if file.exists() else {}
