"""How does text become ids, and ids words again?

WordPiece (Wu et al. 2016, section 4.1; BERT, section 3): text is cleaned, split at white space and punctuation, and
each word is cut, from the left, into the longest pieces that the vocabulary has; `##` marks a piece that continues a
word. The `tokenizers` library does the work; this room reads a checkpoint's files and makes model inputs.
"""

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from minibert import store
from minibert.errors import CheckpointNotFoundError, TextError, TextTypeError, TokenizerError

FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "config.json")
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
        for a `vocab.txt`, and the length limit; without it BERT's defaults hold (uncased).

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
            tokenizer = _from_vocabulary(file, settings)
        else:
            raise CheckpointNotFoundError(f"{folder} has neither tokenizer.json nor vocab.txt")
        positions = _read_json(folder / "config.json").get("max_position_embeddings", 512)
        limits = [limit for limit in (settings.get("model_max_length"), positions) if isinstance(limit, int)]
        pad_token = settings.get("pad_token") or "[PAD]"
        try:
            return cls(tokenizer, min(limits), pad_token["content"] if isinstance(pad_token, dict) else pad_token)
        except TokenizerError as error:
            raise TokenizerError(f"{file}: {error}") from None

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(
        self,
        text: Text | Sequence[Text],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: Literal["longest", "max_length"] = "longest",
        truncation: bool = False,
        max_length: int | None = None,
        padding_side: Literal["right", "left"] = "right",
    ) -> BatchEncoding:
        """Makes the inputs of a model: `[CLS] text [SEP]`, or `[CLS] text [SEP] pair [SEP]`, padded to one length.

        Args:
            text: a text, a list of texts, or a list of pairs (tuples of two texts).
            text_pair: the second text of the pair, or a list of as many as `text` has.
            padding: fill up each row to the longest one, or to `max_length`.
            truncation: cut what is too long, the longer text of a pair first; otherwise it is an error.
            max_length: the most tokens, special tokens included; the model's limit when left out.
            padding_side: where padding goes.

        Raises:
            TextTypeError: something that is not a text.
            TextError: an empty list, a text without any token, or one that is too long.
        """
        texts = _as_list(text, text_pair)
        limit = self.model_max_length if max_length is None else max_length
        least = 1 + self.tokenizer.num_special_tokens_to_add(isinstance(texts[0], tuple))
        if not least <= limit <= self.model_max_length:
            raise TextError(
                f"max_length is {limit}, and must be from {least}, to hold special tokens and one more, "
                f"to the model's limit of {self.model_max_length}"
            )
        encodings = self._encode(texts, limit if truncation else None)
        for row, encoding in enumerate(encodings):
            present = set(encoding.sequence_ids) - {None}
            if len(present) < (2 if isinstance(texts[row], tuple) else 1):
                raise TextError(f"text {row} has nothing to encode: {texts[row]!r}")
            if len(encoding) > limit:
                raise TextError(
                    f"text {row} has {len(encoding)} tokens, and the limit is {limit}: pass truncation=True to cut it"
                )
        length = limit if padding == "max_length" else max(map(len, encodings))
        for encoding in encodings:
            encoding.pad(length, direction=padding_side, pad_id=self.pad_token_id, pad_token=self.pad_token)
        return BatchEncoding(encodings)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, without special tokens."""
        _check_text(text, "the text")
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
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
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
        if isinstance(ids, Tensor):
            if ids.dim() > 1:
                raise TokenizerError(f"ids must be one row, and its shape is {tuple(ids.shape)}: take ids[0]")
            ids = ids.tolist()
        if not isinstance(ids, int):
            return [self.convert_ids_to_tokens(number) for number in ids]
        found = self.tokenizer.id_to_token(ids) if 0 <= ids < 1 << 32 else None
        if found is None:
            raise TokenizerError(f"id {ids} is not in the vocabulary of {len(self)} tokens")
        return found

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = False) -> str:
        """The text that a row of ids stands for, as far as it can be told: an uncased vocabulary has lost the case.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        self.convert_ids_to_tokens(ids)  # the library would pass over unknown ids
        return self.tokenizer.decode(numbers, skip_special_tokens=skip_special_tokens)

    def _encode(self, texts: list[Text], limit: int | None, add_special_tokens: bool = True) -> list[Encoding]:
        with self._lock:
            if limit is None:
                self.tokenizer.no_truncation()
            else:
                self.tokenizer.enable_truncation(limit)
            return self.tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)


def _as_list(text: Text | Sequence[Text], text_pair: str | Sequence[str] | None) -> list[Text]:
    """All accepted forms of texts as one list of texts or one list of pairs."""
    texts: list[Any] = list(text) if isinstance(text, list | tuple) else [text]
    if text_pair is not None:
        pairs: list[Any] = list(text_pair) if isinstance(text_pair, list | tuple) else [text_pair]
        if len(pairs) != len(texts):
            raise TextError(f"there are {len(texts)} texts and {len(pairs)} in text_pair: they must be as many")
        texts = list(zip(texts, pairs, strict=True))
    if not texts:
        raise TextError("the list of texts is empty")
    for row, item in enumerate(texts):
        if isinstance(item, tuple) and len(item) == 2:
            _check_text(item[0], f"the first of pair {row}")
            _check_text(item[1], f"the second of pair {row}")
        else:
            _check_text(item, f"text {row}")
        if isinstance(item, tuple) != isinstance(texts[0], tuple):
            raise TextTypeError("texts and pairs cannot be mixed in one list")
    return texts


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise TextTypeError(f"{what} must be a string, not {type(text).__name__}; several texts go in a list")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"{what} holds half of a surrogate pair at character {error.start}: no valid Unicode") from None


def _from_vocabulary(file: Path, settings: dict[str, Any]) -> Tokenizer:
    """BERT's tokenizer around the vocabulary in `file`: one token a line, its id the number of the line."""
    try:
        with file.open(encoding="utf-8") as lines:
            vocabulary = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{file} is no UTF-8 text: {error}") from None
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise TokenizerError(f"{file} is no BERT vocabulary: it has no {', '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file that need not be there."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(fields, dict):
        raise TokenizerError(f"{file} holds a JSON {type(fields).__name__}, not an object")
    return fields
