"""Texts in, one vector for each out.

A sentence encoder is a BERT, a pooling, and what comes after it; a sentence-transformers checkpoint says which. A plain
BERT with a pooling makes one too, but was not trained for it: its cosines are all high, so rank by them.
"""

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save
from tokenizers import normalizers
from torch import Tensor, nn

from minibert.checkpoints import store
from minibert.errors import ConfigError, InputError, StoreError, TextError, TextTypeError, TruncationWarning, warn
from minibert.fast import FastBert
from minibert.model import BertModel
from minibert.sentences.recipe import Dense, Recipe, check_recipe, read_recipe, transformer_folder, write_recipe
from minibert.tokenizer import BertTokenizer
from minibert.vectors.batches import BATCH_TOKENS, by_length
from minibert.vectors.pooling import POOLING
from minibert.vectors.similarity import Hit, semantic_search, similarity

WINDOW = 4096  # texts of a stream that are held at a time: enough to find many of one length


class SentenceEncoder(nn.Module):
    """Texts → vectors.

    `SentenceEncoder.from_pretrained(name_or_folder)` reads one; the constructor puts one together.

    Args:
        model: a `BertModel`, which from here on is part of the encoder.
        tokenizer: of the same checkpoint.
        recipe: how token vectors become one, and what else there is to know; the mean of all tokens if left out.
        fast: whether `encode` computes by `fast.py`, in other batches and with other rounding, or by `model.py` itself.
            `forward` is always that of `model.py`.

    Raises:
        ConfigError: a setting of the recipe that cannot be, or steps whose widths do not follow each other.
    """

    def __init__(
        self, model: BertModel, tokenizer: BertTokenizer, recipe: Recipe | None = None, fast: bool = True
    ) -> None:
        super().__init__()
        parts: list[object] = [model, tokenizer]
        if [type(part) for part in parts] != [BertModel, BertTokenizer]:
            given = " and ".join(type(part).__name__ for part in parts)
            raise InputError(f"an encoder is made of a BertModel and a BertTokenizer, not of {given}")
        self.recipe = check_recipe(recipe or Recipe())
        self.model = model
        self.tokenizer = tokenizer
        # Relative positions change the scores, and those are formed in the readable path alone.
        self.fast = fast and model.config.position_embedding_type == "absolute"
        self._fast_model: FastBert | None = None
        self.after = nn.Sequential(*self.recipe.after).to(model.embeddings.word_embeddings.weight.dtype)
        self.dimension = model.config.hidden_size * len(self.recipe.pooling)  # E, the width of the vectors
        for step in self.recipe.after:
            if isinstance(step, Dense):
                if step.linear.in_features != self.dimension:
                    raise ConfigError(
                        f"a Dense step takes vectors of {step.linear.in_features} numbers, and gets {self.dimension}"
                    )
                self.dimension = step.linear.out_features
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
            pooling: a name of `pooling.POOLING`, or several, which are joined. None takes the checkpoint's own, and
                for a plain BERT the mean.
            layer: the layer whose output is pooled, 1 for the first, -1 for the last. Those above it are left out.
            fast: as in the constructor.
            attention, revision, token, local_files_only: as for `BertModel.from_pretrained`; attention is that of
                `forward`.

        Returns:
            The encoder in evaluation mode.

        Raises:
            CheckpointNotFoundError, DownloadError: there is no such checkpoint, or no way to reach it.
            ConfigError: a step or setting in its files that minibert does not have, or no such pooling or layer.
            CheckpointError: its tensors are damaged, or not this model's.
        """
        folder = store.resolve(name_or_folder, revision=revision, token=token, local_files_only=local_files_only)
        recipe = read_recipe(folder) if (folder / "modules.json").is_file() else Recipe()
        if pooling is not None:
            recipe = dataclasses.replace(recipe, pooling=(pooling,) if isinstance(pooling, str) else tuple(pooling))
        inner = transformer_folder(folder)
        tokenizer = BertTokenizer.from_pretrained(inner)
        if recipe.do_lower_case:
            parts = [normalizers.Lowercase(), *filter(None, [tokenizer.tokenizer.normalizer])]
            tokenizer.tokenizer.normalizer = normalizers.Sequence(parts)
        model = BertModel.from_pretrained(inner, attention=attention)
        layers = model.encoder.layers
        if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= abs(layer) <= len(layers):
            raise ConfigError(f"layer is {layer!r}, and must be from 1 to {len(layers)}, or from -{len(layers)} to -1")
        kept = layer if layer > 0 else len(layers) + 1 + layer
        model.encoder.layers = layers[:kept]
        model.config = dataclasses.replace(model.config, num_hidden_layers=kept)
        return cls(model, tokenizer, recipe, fast).eval()

    @property
    def max_seq_length(self) -> int:
        """Where texts are cut, in tokens, [CLS] and [SEP] included; it can be set."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        positions = self.model.config.max_position_embeddings
        if isinstance(length, bool) or not isinstance(length, int) or not 3 <= length <= positions:
            raise ConfigError(
                f"max_seq_length must be a whole number from 3 to the model's {positions}, not {length!r}"
            )
        self._max_seq_length = length

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and texts are computed."""
        return self.model.embeddings.word_embeddings.weight.device

    def fingerprint(self) -> str:
        """The sha256 of all that decides a vector: parameters, vocabulary, steps and settings."""
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(save({"": tensor.cpu().contiguous()}))
        fields = {**vars(self.recipe), "after": str(self.after), "prompts": None, "default_prompt_name": None}
        digest.update(f"{self.tokenizer.to_json()} {self.max_seq_length} {fields} {self.model.config}".encode())
        return digest.hexdigest()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        prompt_length: int = 0,
    ) -> Tensor:
        """Model inputs → vectors, bit for bit as sentence-transformers; `encoder(**tokenizer(texts))`.

        Args:
            input_ids, attention_mask, token_type_ids: (B, S), as for `BertModel`; padded on the right.
            prompt_length: how many of the first tokens are not pooled.

        Returns:
            (B, E)
        """
        hidden = self.model(input_ids, attention_mask, token_type_ids).last_hidden_state
        return self.after(self._pool(hidden, attention_mask, prompt_length))  # (B, S, D) → (B, modes·D) → (B, E)

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

        Texts are computed in batches of one length, so the time goes into tokens and not into padding. How they are
        batched changes a vector by rounding, less than 1e-6 for vectors of length 1.

        Args:
            texts: a text, or any iterable of texts; of a generator, only a window is held in memory.
            prompt_name: which of the checkpoint's prompts to put before each text; see `recipe.prompts`.
            prompt: the prompt itself, instead of a name.
            normalize_embeddings: bring every vector to length 1, also if the checkpoint does not.
            batch_tokens: the most tokens that are computed at a time.
            show_progress_bar: None shows one in a terminal, when it takes more than two seconds.

        Returns:
            (N, E) float32, on the CPU; (E,) for a single text.

        Raises:
            TextTypeError: something that is not a text.
            TextError: a text with nothing in it, named by its number; a prompt that there is not.
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

        Arguments and errors as for `encode`; `first` is the number of the first text in messages.
        """
        from tqdm import tqdm  # here, because few programs need it

        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise TextTypeError(f"texts must be a list or another iterable of strings, not {type(texts).__name__}")
        if self.training:
            raise InputError("the encoder is in training mode, and its dropout makes every call another: call .eval()")
        if isinstance(batch_tokens, bool) or not isinstance(batch_tokens, int) or batch_tokens < 1:
            raise TextError(f"batch_tokens is {batch_tokens!r}, and must be a whole number from 1")
        before = self.prompt(prompt_name, prompt)
        excluded = 0 if self.recipe.include_prompt or not before else len(self.tokenizer.encode([before])[0]) - 1
        if excluded >= self.max_seq_length - 1:
            raise TextError(
                f"the prompt has {excluded} tokens, and max_seq_length is {self.max_seq_length}: no text fits"
            )
        total = len(texts) if isinstance(texts, Sequence) else None
        disable = None if show_progress_bar is None else not show_progress_bar
        stream, done, cut = iter(texts), 0, 0
        with tqdm(total=total, unit=" texts", delay=2 if disable is None else 0, disable=disable) as bar:
            while window := list(islice(stream, WINDOW)):
                ids: list[list[int]] = []
                for start in range(0, len(window), 256):  # an encoding holds ten times what its ids take
                    piece, number = window[start : start + 256], first + done + start
                    encodings = self.tokenizer.encode(_with_prompt(before, piece, number), self.max_seq_length, number)
                    cut += sum(bool(encoding.overflowing) for encoding in encodings)
                    ids += [encoding.ids for encoding in encodings]
                fast = self._fast_bert()
                vectors = torch.empty(len(window), self.dimension)
                for batch in by_length([len(row) for row in ids], batch_tokens):
                    with torch.inference_mode():
                        vectors[batch] = self._compute([ids[row] for row in batch], excluded, fast).float().cpu()
                    bar.update(len(batch))
                done += len(window)
                yield F.normalize(vectors) if normalize_embeddings else vectors
        if cut:
            warn(
                f"{cut:,} of {done:,} texts are longer than {self.max_seq_length} tokens and were cut: the rest "
                "has no part in their vectors",
                TruncationWarning,
            )

    def _compute(self, ids: list[list[int]], prompt_length: int, fast: FastBert | None) -> Tensor:
        """The vectors of one batch, (B, E), from the token ids of each text."""
        if fast is None:
            longest = max(map(len, ids))
            padded = [row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in ids]
            mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
            return self(
                torch.tensor(padded, device=self.device),
                torch.tensor(mask, device=self.device),
                prompt_length=prompt_length,
            )
        pooled = []
        for hidden in fast(ids):  # (b, S, D), all of one length
            mask_of_ones = torch.ones(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
            pooled.append(self._pool(hidden, mask_of_ones, prompt_length))
        return self.after(torch.cat(pooled))  # (B, modes·D) → (B, E)

    def _fast_bert(self) -> FastBert | None:
        """The fast path of the model as it is now; None if the readable path is to be taken."""
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())
        if not self.fast or hooked:  # a hook, of `recording` or of anybody, is called by the readable path alone
            return None
        if self._fast_model is None or not self._fast_model.matches(self.model):
            with torch.inference_mode():
                self._fast_model = FastBert(self.model)
        return self._fast_model

    def _pool(self, hidden: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """(B, S, D) → (B, modes·D)"""
        if prompt_length:
            attention_mask = attention_mask.clone()
            attention_mask[:, :prompt_length] = 0
        return torch.cat([POOLING[mode](hidden, attention_mask) for mode in self.recipe.pooling], dim=-1)

    def similarity(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """The score that the checkpoint was made for, cosine in most: (N, E), (M, E) → (N, M). `b` defaults to `a`.

        Raises:
            PoolingError: as `minibert.vectors.similarity` does.
        """
        return similarity(a, b, self.recipe.similarity_fn_name)

    @overload
    def search(self, queries: str, corpus: Sequence[str] | Tensor, top_k: int = 5) -> list[Hit]: ...
    @overload
    def search(
        self, queries: list[str] | tuple[str, ...], corpus: Sequence[str] | Tensor, top_k: int = 5
    ) -> list[list[Hit]]: ...
    def search(
        self, queries: str | list[str] | tuple[str, ...], corpus: Sequence[str] | Tensor, top_k: int = 5
    ) -> list[Hit] | list[list[Hit]]:
        """The texts of a corpus that are closest to a query; for several queries, to each.

        Args:
            queries: a text, or N texts. The checkpoint's prompt "query" is put before them, if it has one.
            corpus: M texts; or their vectors (M, E) from `encode`, to search them again and again. The checkpoint's
                prompt "document" or "passage" is put before texts, if it has one.
            top_k: how many hits to return.

        Returns:
            Hits with `.corpus_id`, the place in the corpus, and `.score`, best first; a list of them for each of
            several queries.

        Raises:
            As `encode`, and as `semantic_search`.
        """
        if isinstance(corpus, str):
            raise TextTypeError("the corpus must be a list of texts, or their vectors, not a single text")
        if not isinstance(corpus, Tensor):
            corpus = self.encode(corpus, prompt_name=self._first_prompt("document", "passage"))
        vectors = self.encode(queries, prompt_name=self._first_prompt("query"))
        hits = semantic_search(vectors, corpus, top_k, self.recipe.similarity_fn_name)
        return hits[0] if isinstance(queries, str) else hits

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes everything as a folder that sentence-transformers loads, and minibert as well.

        All files are written beside their places first, and then moved there, `modules.json` last.

        Raises:
            StoreError: the folder cannot be written to.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as incoming:
                self.model.save_pretrained(incoming)
                self.tokenizer.save_pretrained(incoming)
                recipe = dataclasses.replace(self.recipe, max_seq_length=self.max_seq_length)
                write_recipe(recipe, Path(incoming), self.model.config.hidden_size)
                files = [file.relative_to(incoming) for file in Path(incoming).rglob("*") if file.is_file()]
                for file in sorted(files, key=lambda file: (file.name == "modules.json", file)):
                    (folder / file).parent.mkdir(exist_ok=True)
                    (incoming / file).replace(folder / file)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"cannot save to the folder {folder}: {error}") from error

    def prompt(self, name: str | None = None, prompt: str | None = None) -> str:
        """The text that goes before each text, for arguments as `encode` takes them. Raises as `encode` does."""
        if prompt is not None:
            if name is not None or not isinstance(prompt, str):
                raise TextTypeError("give a prompt, which is a string, or a prompt_name, and not both")
            return prompt
        name = self.recipe.default_prompt_name if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.recipe.prompts:
            there = ", ".join(self.recipe.prompts) or "none"
            raise TextError(f"there is no prompt {name!r}; this checkpoint has {there}")
        return self.recipe.prompts[name]

    def _first_prompt(self, *names: str) -> str | None:
        """The first of these names that has a prompt; one that is there and empty, if none has."""
        there = [name for name in names if name in self.recipe.prompts]
        return next(filter(self.recipe.prompts.get, there), there[0] if there else None)


def _with_prompt(prompt: str, texts: list[str], first: int) -> list[str]:
    for number, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise TextTypeError(f"text {number} must be a string, not {type(text).__name__}")
        if prompt and not text.strip():  # a prompt alone would be encoded without complaint
            raise TextError(f"text {number} has nothing to encode: {text!r}")
    return [prompt + text for text in texts] if prompt else texts
