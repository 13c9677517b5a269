"""How do texts become vectors, one for each text?

A sentence encoder is a BERT, a pooling, and the steps after it; a sentence-transformers checkpoint lists them. A plain
BERT with a pooling works too, but was not trained for it: all its cosines are high, and only their order is of use.

A text's way through this file: `encode` → `encode_windows` → `_token_ids` → `_encode_window` → `_vectors`.
"""

import copy
import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, overload

import torch
import torch.nn.functional as F
from tokenizers import Encoding, normalizers
from torch import Tensor, nn

from minibert.checkpoints import layout, store
from minibert.checkpoints.atomic import reading, write_atomically
from minibert.checkpoints.fingerprint import parameters_digest
from minibert.checks import as_integer, check_integer, shown
from minibert.errors import ConfigError, InputError, TextError, TextTypeError, TruncationWarning, warn
from minibert.fast import applies_to, calls_only_forward, last_hidden_states
from minibert.model import BertModel
from minibert.sentences.recipe import Dense, Recipe, check_recipe, read_recipe, transformer_folder, write_recipe
from minibert.tokenizer import BertTokenizer, check_text
from minibert.vectors.batches import BATCH_TOKENS, by_length
from minibert.vectors.pooling import POOLING
from minibert.vectors.similarity import Hit, semantic_search, similarity

WINDOW = 4096  # texts of a stream that are held in memory: enough to find many of equal length
CHUNK = 256  # texts tokenised at a time: an `Encoding` takes ten times the memory of its token ids


class SentenceEncoder(nn.Module):
    """Texts → vectors.

    `SentenceEncoder.from_pretrained(name_or_folder)` loads one; the constructor assembles one from its parts.

    Args:
        model: a `BertModel`, which becomes part of the encoder.
        tokenizer: that of the same checkpoint.
        recipe: how token vectors become one vector, and the other settings; by default, the mean of all tokens.
        fast: whether `encode` uses `fast.py`, which rounds differently, for a model that `fast.applies_to`. For others,
            such as one with hooks or adapters, it uses `model.py`, as `forward` always does.

    Raises:
        InputError: `model` or `tokenizer` is something else.
        ConfigError: an invalid setting of the recipe, a step that does not fit the size of its input, or a tokenizer
            that pads on the left or puts single texts into segment 1.
    """

    def __init__(
        self, model: BertModel, tokenizer: BertTokenizer, recipe: Recipe | None = None, fast: bool = True
    ) -> None:
        super().__init__()
        _check_parts(model, tokenizer)
        _check_inputs(tokenizer)
        self.recipe = check_recipe(recipe or Recipe())
        self.model = model
        self.tokenizer = _lower_casing(tokenizer) if self.recipe.do_lower_case else tokenizer
        self.fast = fast
        self.final_steps = nn.Sequential(*self.recipe.final_steps).to(model.embeddings.word_embeddings.weight.dtype)
        self.dimension = _output_size(self.recipe, model.config.hidden_size)  # E, the size of a vector
        positions = model.config.max_position_embeddings
        self.max_seq_length = min(self.recipe.max_seq_length or tokenizer.model_max_length, positions)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        pooling: str | Sequence[str] | None = None,
        layer: int = -1,
        fast: bool = True,
        attention: str = "sdpa",
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> "SentenceEncoder":
        """Loads a sentence-transformers checkpoint with all its steps, or a plain BERT.

        Args:
            name_or_folder: a folder, or a name such as `sentence-transformers/all-MiniLM-L6-v2`; see `store.resolve`.
            pooling: a name of `pooling.POOLING`, or several, which are concatenated. None means the checkpoint's own,
                and the mean for a plain BERT.
            layer: the layer whose output is pooled, 1 for the first, -1 for the last. The layers above it are dropped.
            fast: as in the constructor.
            attention, revision, token, local_files_only: as for `BertModel.from_pretrained`; `attention` applies to
                `forward`.

        Returns:
            The encoder in evaluation mode.

        Raises:
            CheckpointNotFoundError, DownloadError: there is no such checkpoint, or it cannot be reached.
            ConfigError: its files have a step or setting that minibert does not support, or `pooling` or `layer` does
                not exist.
            CheckpointError: its tensors are damaged, or do not fit the model.
        """
        folder = store.resolve(name_or_folder, revision=revision, token=token, local_files_only=local_files_only)
        with reading(folder):
            recipe = read_recipe(folder) if (folder / "modules.json").is_file() else Recipe()
            if pooling is not None:
                recipe = dataclasses.replace(recipe, pooling=(pooling,) if isinstance(pooling, str) else tuple(pooling))
            inner = transformer_folder(folder)
            tokenizer = BertTokenizer.from_pretrained(inner)
            model = BertModel.from_pretrained(inner, attention=attention)
            _drop_layers_above(model, layer)
            return cls(model, tokenizer, recipe, fast).eval()

    @property
    def max_seq_length(self) -> int:
        """The maximum number of tokens of a text, [CLS] and [SEP] included; longer texts are cut. It can be set."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        positions = self.model.config.max_position_embeddings
        self._max_seq_length = check_integer("max_seq_length", length, 3, positions, ConfigError)

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and where vectors are computed."""
        return self.model.embeddings.word_embeddings.weight.device

    def fingerprint(self) -> str:
        """The sha256 of everything that determines a vector: parameters, vocabulary, steps and settings."""
        digest = parameters_digest(self)
        elsewhere = {"prompts": None, "default_prompt_name": None, "max_seq_length": None}  # or of no influence
        fields = {**vars(self.recipe), "final_steps": str(self.final_steps), **elsewhere}
        config = dataclasses.replace(self.model.config, dtype=None)  # the tensors say it, and a saved config repeats it
        unsaid = f"{self.tokenizer.truncation_side} {self.tokenizer.tokenizer.encode_special_tokens}"  # by to_json()
        digest.update(f"{self.tokenizer.to_json()} {unsaid} {self.max_seq_length} {fields} {config}".encode())
        return digest.hexdigest()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        prompt_length: int = 0,
    ) -> Tensor:
        """Model inputs → vectors, bit-equal to sentence-transformers; `encoder(**tokenizer(texts))`.

        Args:
            input_ids, attention_mask, token_type_ids: (B, S), as for `BertModel`; padded on either side.
            prompt_length: the number of tokens at the start that are not pooled.

        Returns:
            (B, E)
        """
        hidden = self.model(input_ids, attention_mask, token_type_ids).last_hidden_state
        return self.final_steps(self._pool(hidden, attention_mask, prompt_length))  # (B, S, D) → (B, modes·D) → (B, E)

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        batch_tokens: int = BATCH_TOKENS,
        show_progress_bar: bool | None = None,
    ) -> Tensor:
        """The vectors of texts, in the order given.

        A batch holds texts of similar length, so that little time is spent on padding. The batch that a text is in
        changes the rounding of its vector: by less than 1e-6 for vectors of length 1.

        Args:
            texts: a text, or any iterable of texts; of a generator, only a window of texts is held in memory.
            prompt_name: which of the checkpoint's prompts goes before each text; see `recipe.prompts`.
            prompt: the prompt itself, instead of its name.
            normalize_embeddings: scale every vector to length 1, even if the checkpoint does not.
            batch_tokens: the maximum number of tokens in a batch.
            show_progress_bar: None shows one in a terminal, if encoding takes more than two seconds.

        Returns:
            (N, E) float32, on the CPU; (E,) for a single text.

        Raises:
            TextTypeError: one of the texts, or the prompt, is not a string.
            TextError: a text is empty (the message has its index), a prompt is unknown or too long, or `batch_tokens`
                is not a positive integer.
            InputError: the encoder is in training mode.

        Warns:
            TruncationWarning: texts were longer than `max_seq_length` tokens, and were cut.
        """
        single = isinstance(texts, str)
        windows = self.encode_stream(
            [texts] if isinstance(texts, str) else texts,
            prompt_name=prompt_name,
            prompt=prompt,
            normalize_embeddings=normalize_embeddings,
            batch_tokens=batch_tokens,
            show_progress_bar=show_progress_bar,
        )
        vectors = torch.cat([torch.empty(0, self.dimension), *windows])
        return vectors[0] if single else vectors

    def encode_stream(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        batch_tokens: int = BATCH_TOKENS,
        show_progress_bar: bool | None = None,
        first: int = 0,
    ) -> Iterator[Tensor]:
        """Encodes a stream of any length: yields the vectors of 4,096 texts at a time, (n, E), in the order given.

        Arguments and errors as for `encode`; `first` is the index of the first text in messages.
        """
        windows = self.encode_windows(
            texts,
            prompt=self.prompt(prompt_name, prompt),
            normalize_embeddings=normalize_embeddings,
            batch_tokens=batch_tokens,
            show_progress_bar=show_progress_bar,
            first=first,
        )
        for _, vectors in windows:
            yield vectors

    def encode_windows(
        self,
        texts: Iterable[str],
        *,
        prompt: str = "",
        normalize_embeddings: bool = False,
        batch_tokens: int = BATCH_TOKENS,
        show_progress_bar: bool | None = None,
        first: int = 0,
    ) -> Iterator[tuple[list[str], Tensor]]:
        """As `encode_stream`, with the prompt itself; yields the texts of each window and their vectors."""
        check_iterable(texts)
        if self.training:
            raise InputError("the encoder is in training mode, so dropout changes every result: call .eval() first")
        batch_tokens = check_integer("batch_tokens", batch_tokens, 1, error=TextError)
        prompt_tokens = self._prompt_tokens(prompt)
        done = truncated = 0
        with _progress_bar(texts, show_progress_bar) as bar:
            for window in _windows(texts, WINDOW):
                ids, cut = self._token_ids(window, prompt, first + done)
                vectors = self._encode_window(ids, prompt_tokens, batch_tokens, bar)
                self._check_finite(vectors, first + done)
                yield window, F.normalize(vectors) if normalize_embeddings else vectors
                done += len(window)
                truncated += cut
        if truncated:
            warn(
                f"{truncated:,} of {done:,} texts are longer than {self.max_seq_length} tokens and were cut: "
                "their vectors do not depend on the rest",
                TruncationWarning,
            )

    def _token_ids(self, texts: list[str], prompt: str, first: int) -> tuple[list[list[int]], int]:
        """The token ids of each text, [CLS], prompt and [SEP] included; and how many texts were cut."""
        ids: list[list[int]] = []
        truncated = 0
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            for number, text in enumerate(chunk, first + start):
                check_text(text, f"text {number}")
            encodings = self.tokenizer.encode([prompt + text for text in chunk], self.max_seq_length, first + start)
            for number, (text, encoding) in enumerate(zip(chunk, encodings, strict=True), first + start):
                if prompt and not _reaches_beyond(prompt, encoding):
                    raise TextError(f"text {number} has nothing to encode: {shown(text)}")
            ids += [encoding.ids for encoding in encodings]
            truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        return ids, truncated

    def _encode_window(self, ids: list[list[int]], prompt_tokens: int, batch_tokens: int, bar: Any) -> Tensor:
        """The vectors of N texts, (N, E) float32 on the CPU, computed in batches of similar length."""
        vectors = torch.empty(len(ids), self.dimension)
        fast = self._can_be_fast()
        for batch in by_length([len(row) for row in ids], batch_tokens):
            vectors[batch] = self._vectors([ids[row] for row in batch], prompt_tokens, fast)
            bar.update(len(batch))
        return vectors

    @torch.inference_mode()
    def _vectors(self, ids: list[list[int]], prompt_tokens: int, fast: bool) -> Tensor:
        """The vectors of one batch, (B, E) float32 on the CPU, from the token ids of B texts."""
        if fast:
            pooled = []
            for hidden in last_hidden_states(self.model, ids):  # (b, S, D), b texts of equal length
                all_tokens = torch.ones(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
                pooled.append(self._pool(hidden, all_tokens, prompt_tokens))
            vectors = self.final_steps(torch.cat(pooled))  # (B, modes·D) → (B, E)
        else:
            vectors = self(*self._padded(ids), prompt_length=prompt_tokens)
        return vectors.float().cpu()

    def _can_be_fast(self) -> bool:
        """Whether `fast.py` computes what calling this encoder would compute now."""
        own_forward = type(self).forward is SentenceEncoder.forward and calls_only_forward(self)
        return self.fast and own_forward and applies_to(self.model)

    def _padded(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of one batch, each (B, S)."""
        longest = max(map(len, ids))
        padded = [row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in ids]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
        return torch.tensor(padded, device=self.device), torch.tensor(mask, device=self.device)

    def _pool(self, hidden: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """(B, S, D) → (B, modes·D), without the first `prompt_length` tokens after any padding."""
        if prompt_length:
            attention_mask = attention_mask * (attention_mask.cumsum(1) > prompt_length)
        return torch.cat([POOLING[mode](hidden, attention_mask) for mode in self.recipe.pooling], dim=-1)

    def _check_finite(self, vectors: Tensor, first: int) -> None:
        """Raises a `TextError` for the first vector that is not finite; `first` is the index of the first text."""
        wrong = ~vectors.isfinite().all(dim=1)  # (N, E) → (N)
        if wrong.any():
            dtype = str(self.model.embeddings.word_embeddings.weight.dtype).removeprefix("torch.")
            raise TextError(
                f"text {first + int(wrong.nonzero()[0])} has a vector with NaN or infinity: its numbers are too large "
                f"for {dtype}, or a parameter is damaged. Compute in float32: encoder.float()"
            )

    def _prompt_tokens(self, prompt: str) -> int:
        """How many tokens at the start of every text are not pooled: [CLS] and the prompt, or none."""
        if not prompt:
            return 0
        around = self.tokenizer.tokenizer.num_special_tokens_to_add(False)  # [CLS] and [SEP]
        count = len(self.tokenizer.tokenize(prompt)) + around - 1  # without [SEP]
        if count >= self.max_seq_length - 1 and self.tokenizer.truncation_side == "right":
            raise TextError(
                f"the prompt has {count} tokens and max_seq_length is {self.max_seq_length}, so no text fits: "
                "shorten the prompt"
            )
        return 0 if self.recipe.include_prompt else count

    def similarity(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """The score that the checkpoint was made for, cosine in most: (N, E), (M, E) → (N, M). `b` defaults to `a`.

        Raises:
            PoolingError: as `minibert.vectors.similarity` does.
        """
        return similarity(a, b, self.recipe.similarity_fn_name)

    @overload
    def search(
        self, queries: str, corpus: Sequence[str] | Tensor, top_k: int = 5, *, corpus_prompt: str | None = None
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        queries: list[str] | tuple[str, ...],
        corpus: Sequence[str] | Tensor,
        top_k: int = 5,
        *,
        corpus_prompt: str | None = None,
    ) -> list[list[Hit]]: ...
    def search(
        self,
        queries: str | list[str] | tuple[str, ...],
        corpus: Sequence[str] | Tensor,
        top_k: int = 5,
        *,
        corpus_prompt: str | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """The texts of a corpus that are closest to a query; for several queries, to each.

        Args:
            queries: a text, or N texts. The checkpoint's prompt "query" goes before them, if it has one.
            corpus: M texts; or their vectors (M, E) from `encode`, for searching them repeatedly. The checkpoint's
                prompt "document" or "passage" goes before texts, if it has one.
            top_k: how many hits to return.
            corpus_prompt: the prompt that the texts of the corpus were encoded with, if they are given as vectors. It
                must be given for a checkpoint with a prompt for documents that `encode` does not use unless asked.

        Returns:
            Hits with `.corpus_id`, the index in the corpus, and `.score`, best first; for several queries, a list of
            such lists.

        Raises:
            As `encode`, and as `semantic_search`.
        """
        if isinstance(corpus, str):
            raise TextTypeError("corpus must be a list of texts, or their vectors, got a single text")
        prompt = self.corpus_prompt()
        if not isinstance(corpus, Tensor):
            corpus = self.encode(corpus, prompt=prompt if corpus_prompt is None else corpus_prompt)
        elif corpus_prompt is None and prompt != self.prompt():  # what `encode` uses if it is not told
            raise InputError(
                f"this checkpoint puts {prompt!r} before the texts of a corpus, and vectors do not show whether that "
                f"was done: encode the texts with prompt={prompt!r}, and search with corpus_prompt={prompt!r}"
            )
        vectors = self.encode(queries, prompt_name=self._first_prompt("query"))
        hits = semantic_search(vectors, corpus, top_k, self.recipe.similarity_fn_name)
        return hits[0] if isinstance(queries, str) else hits

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes everything to a folder, which sentence-transformers and minibert can load.

        If it is interrupted, the folder has the old encoder or the new one, whole.

        Raises:
            StoreError: the folder cannot be written.
        """
        recipe = dataclasses.replace(self.recipe, max_seq_length=self.max_seq_length)
        owns = (*layout.SAVED_MODEL, *layout.TOKENIZER, *layout.SAVED_RECIPE, *layout.SAVED_STEPS)
        with write_atomically(folder, owns) as incoming:
            self.model.save_pretrained(incoming)
            self.tokenizer.save_pretrained(incoming)
            write_recipe(recipe, incoming, self.model.config.hidden_size)

    def prompt(self, name: str | None = None, prompt: str | None = None) -> str:
        """The text that goes before each text, for arguments as `encode` takes them. Raises as `encode` does."""
        if prompt is not None:
            if name is not None or not isinstance(prompt, str):
                raise TextTypeError("give either prompt, which must be a string, or prompt_name, not both")
            return prompt
        name = self.recipe.default_prompt_name if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.recipe.prompts:
            known = ", ".join(self.recipe.prompts) or "none"
            raise TextError(f"unknown prompt {name!r}: this checkpoint has {known}")
        return self.recipe.prompts[name]

    def corpus_prompt(self) -> str:
        """The prompt that `search` puts before the texts of a corpus; "" if the checkpoint has none."""
        return self.prompt(self._first_prompt("document", "passage"))

    def _first_prompt(self, *names: str) -> str | None:
        """The first of these names whose prompt is not empty; else the first that the checkpoint has at all."""
        known = [name for name in names if name in self.recipe.prompts]
        return next(filter(self.recipe.prompts.get, known), known[0] if known else None)


def check_iterable(texts: object) -> None:
    """Raises a `TextTypeError` for anything but several texts: a string; a table, which iterates over its columns."""
    kind = type(texts).__name__
    if isinstance(texts, Mapping) or hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise TextTypeError(f"texts must be a list of strings, got {kind}: choose one column, such as table['text']")
    without_length = getattr(texts, "ndim", 1) == 0  # an array of one string cannot be iterated over
    if isinstance(texts, str | bytes | bytearray) or not isinstance(texts, Iterable) or without_length:
        raise TextTypeError(f"texts must be a list or another iterable of strings, got {kind}")
    if isinstance(texts, set | frozenset):
        raise TextTypeError(f"texts must have an order, got {kind}: pass sorted(texts), to know which vector is whose")


def _reaches_beyond(prompt: str, encoding: Encoding) -> bool:
    """Whether a text has a token after its prompt."""
    return bool(encoding.overflowing) or max(end for _, end in encoding.offsets) > len(prompt)


def _check_parts(model: object, tokenizer: object) -> None:
    if type(model) is not BertModel or type(tokenizer) is not BertTokenizer:
        given = f"{type(model).__name__} and {type(tokenizer).__name__}"
        raise InputError(f"an encoder must be made from a BertModel and a BertTokenizer, got {given}")


def _check_inputs(tokenizer: BertTokenizer) -> None:
    """Raises a `ConfigError` for settings with which the vector of a text would not be that of the text alone."""
    if tokenizer.padding_side != "right":
        raise ConfigError(
            f"padding_side of an encoder's tokenizer must be 'right', got {tokenizer.padding_side!r}: BERT counts "
            "positions from the left, so each vector would change with its batch. Set tokenizer.padding_side = 'right'"
        )
    (encoding,) = tokenizer.encode(["a"])
    if any(encoding.type_ids) and "token_type_ids" in tokenizer.model_input_names:
        raise ConfigError(
            f"post_processor of an encoder's tokenizer must put a single text into segment 0, got {encoding.type_ids}: "
            "set model_input_names to input_ids and attention_mask if the model does not take segments"
        )


def _output_size(recipe: Recipe, hidden_size: int) -> int:
    """E, the size of a vector after all steps; raises a `ConfigError` if a step does not fit its input."""
    size = hidden_size * len(recipe.pooling)
    for step in recipe.final_steps:
        if isinstance(step, Dense):
            if step.linear.in_features != size:
                raise ConfigError(f"a Dense step takes vectors of {step.linear.in_features} numbers, got {size}")
            size = step.linear.out_features
    return size


def _lower_casing(tokenizer: BertTokenizer) -> BertTokenizer:
    """A copy of a tokenizer that converts texts to lower case before its own normalisation; itself, if it does so."""
    normalizer = tokenizer.tokenizer.normalizer
    steps = [normalizer] if normalizer else []
    if isinstance(normalizer, normalizers.Sequence):
        steps = [normalizer[index] for index in range(len(normalizer))]
    if any(isinstance(step, normalizers.Lowercase) for step in steps):
        return tokenizer
    lower = copy.copy(tokenizer)
    lower.tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
    return lower


def _drop_layers_above(model: BertModel, layer: int) -> None:
    """Keeps the layers up to `layer`, which is from 1 to L, or from -L to -1."""
    layers = model.encoder.layers
    count = len(layers)
    number = as_integer(layer) or 0
    if not 1 <= abs(number) <= count:
        raise ConfigError(f"layer must be an integer from 1 to {count}, or from -{count} to -1, got {layer!r}")
    kept = number if number > 0 else count + 1 + number
    model.encoder.layers = layers[:kept]
    pruned = tuple((number, heads) for number, heads in model.config.pruned_heads if number < kept)
    model.config = dataclasses.replace(model.config, num_hidden_layers=kept, pruned_heads=pruned)


def _windows(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The texts in lists of `size`; the last may be shorter."""
    stream = iter(texts)
    while window := list(islice(stream, size)):
        yield window


def _progress_bar(texts: Iterable[str], show: bool | None) -> Any:
    """A progress bar over texts; `show` as for `encode`."""
    from tqdm import tqdm  # here, because few programs need it

    total = len(texts) if isinstance(texts, Sequence) else None
    if sys.stderr is None:  # closed, as by 2>&- or under pythonw
        show = False
    if show is None:
        return tqdm(total=total, unit=" texts", delay=2, disable=None)  # None: only in a terminal
    return tqdm(total=total, unit=" texts", disable=not show)
