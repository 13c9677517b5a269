"""How are the values of a corpus kept, that does not fit into memory?

    store = save_values(model, tokenizer, texts, ["hidden_states[3]", "last_hidden_state"], "folder")
    store[5]["last_hidden_state"]               # (S, D): those of text 5
    store.features("last_hidden_state")         # (N, D): those of all tokens, for a probe
    edit(model, names, store.means())           # mean ablation

Texts go through in windows. The values of a window are one file of safetensors, and an index lists the files. A run
that was killed goes on from there, and comes to the same bytes. Padding is not kept.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minibert.checkpoints.atomic import replace_file
from minibert.checkpoints.json_files import read_object
from minibert.checks import check_integer, did_you_mean
from minibert.errors import InputError
from minibert.interpret.runs import bert_of
from minibert.interpret.texts import (
    FinishedTexts,
    Progress,
    Window,
    as_folder,
    as_progress,
    batches_of_window,
    check_made_from,
    check_texts,
    locked,
    made_from,
    windows_of,
)
from minibert.tokenizer import BertTokenizer
from minibert.trace.edits import Means, real_positions
from minibert.trace.recording import record
from minibert.trace.values import Value, aliases, matching
from minibert.vectors.batches import BATCH_TOKENS

INDEX = "index.json"
IDS, LENGTHS = "input_ids", "lengths"  # beside the values: (N,) the id of each token, (texts,) how many each text has


class Store:
    """The values of a corpus in a folder; `store[i]` are those of text i.

    Raises:
        InputError: the folder has no index, or one that is not of such values.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = as_folder(folder)
        if not (self.folder / INDEX).is_file():
            raise InputError(f"{self.folder} must be a folder that save_values wrote, and has no {INDEX}")
        index = read_object(self.folder / INDEX, InputError)
        try:
            self.progress = as_progress(index["progress"])
            self.axes: dict[str, str] = index["axes"]
            self.aliases: dict[str, str] = index["aliases"]
            self.shards = [(str(shard["file"]), int(shard["texts"]), int(shard["tokens"])) for shard in index["shards"]]
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{self.folder / INDEX} must be an index that save_values wrote") from None

    @property
    def names(self) -> list[str]:
        """The names of the values."""
        return list(self.axes)

    def __len__(self) -> int:
        """The number of texts."""
        return self.progress.texts

    @property
    def tokens(self) -> int:
        """The number of tokens of all texts."""
        return sum(tokens for _, _, tokens in self.shards)

    def __getitem__(self, text: int) -> dict[str, Tensor]:
        """The values of one text by name, (S, …), and its `input_ids`, (S)."""
        number = check_integer("text", text, 0, len(self) - 1)
        for file, texts, _ in self.shards:
            if number < texts:
                return self._of_text(file, number)
            number -= texts
        raise AssertionError("the shards have all texts")

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Goes through all texts, with the values of one at a time in memory."""
        return (self._of_text(file, number) for file, texts, _ in self.shards for number in range(texts))

    def features(self, name: str) -> Tensor:
        """Returns a value at all tokens of all texts, one after the other: (N, …). It must fit into memory."""
        known = self._known(name)
        return torch.cat([self._open(file, known) for file, _, _ in self.shards])

    def input_ids(self) -> Tensor:
        """Returns the id of each token, (N,), in the order of `features`."""
        return torch.cat([self._open(file, IDS) for file, _, _ in self.shards])

    def text_numbers(self) -> Tensor:
        """Returns the number of the text that each token is from, (N,): the groups for a probe."""
        lengths = torch.cat([self._open(file, LENGTHS) for file, _, _ in self.shards])
        return torch.arange(len(lengths)).repeat_interleave(lengths)

    def means(self) -> Means:
        """Returns the mean of each value over all tokens, or texts, for `edit`."""
        means = Means()
        for name in self.names:
            total, count = torch.zeros(()), 0
            for file, _, _ in self.shards:
                values = self._open(file, name).double()
                total, count = total + values.sum(dim=0), count + len(values)
            means[name] = total / count
        return means

    def _known(self, name: str) -> str:
        known = self.aliases.get(name, name)
        if known not in self.axes:
            hint = did_you_mean(name, self.names) or f": there are {', '.join(self.names)}"
            raise InputError(f"no value in {self.folder} is named {name!r}{hint}")
        return known

    def _open(self, file: str, name: str) -> Tensor:
        with self._reading(file) as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor

    def _of_text(self, file: str, number: int) -> dict[str, Tensor]:
        with self._reading(file) as opened:
            ends = opened.get_tensor(LENGTHS).cumsum(0).tolist()
            tokens = slice(ends[number - 1] if number else 0, ends[number])
            found = {IDS: opened.get_slice(IDS)[tokens]}
            for name, axes in self.axes.items():
                rows = tokens if _has_positions(axes) else slice(number, number + 1)
                values = opened.get_slice(name)[rows]
                found[name] = values if _has_positions(axes) else values[0]
            return found

    def _reading(self, file: str) -> Any:
        try:
            return safe_open(self.folder / file, "pt")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.folder / file} must be a file that save_values wrote: {error}") from None


@torch.no_grad()
def save_values(
    model: nn.Module,
    tokenizer: BertTokenizer,
    texts: Iterable[str],
    names: str | Sequence[str],
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Store:
    """Writes the values of a corpus into a folder, in bounded memory; called again after it was killed, it goes on.

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        tokenizer: the model's.
        texts: strings, from a list or from a generator of any length.
        names: the values, as for `record`; those with keys as their last axis, such as scores, cannot be kept.
        folder: where.
        dtype: the floating-point type to keep them in, such as torch.float16; None keeps each as it is.
        batch_tokens: the maximum number of tokens in a batch, padding included.

    Raises:
        InputError: an unknown name, no texts, or a folder with values of something else.
        StoreError: the folder cannot be written to, or another run writes to it.
    """
    bert_of(model)
    check_texts(texts)
    batch_tokens = check_integer("batch_tokens", batch_tokens, 1)
    values = matching(model, names)
    for name, value in values.items():
        if value.axes.endswith("T") or "B" not in value.axes.split():
            raise InputError(f"{name} cannot be kept by token: its axes are {value.axes}")
    axes = {name: value.axes for name, value in values.items()}
    settings = made_from(model, tokenizer, axes=axes, dtype=str(dtype), batch_tokens=batch_tokens)
    with locked(folder) as path:
        progress, shards = _resume(path, settings)
        done = FinishedTexts()
        remaining = done.skip(texts, progress, path)
        for window in windows_of(remaining, done.count):
            tensors = _values_of(model, tokenizer, window, values, dtype, batch_tokens)
            file = f"values-{len(shards):05d}.safetensors"
            replace_file(path / file, partial(save_file, tensors))
            done.add(window.texts)
            shards.append({"file": file, "texts": len(window.texts), "tokens": len(tensors[IDS])})
            also = {alias: name for alias, name in aliases(model).items() if name in axes}
            progress = Progress(done.count, done.sha256, settings)
            index = {"axes": axes, "aliases": also, "shards": shards, "progress": vars(progress)}
            replace_file(path / INDEX, partial(_write_index, index=index))
        if not done.count:
            raise InputError("texts must have at least one text, got none")
    return Store(folder)


def _values_of(
    model: nn.Module,
    tokenizer: BertTokenizer,
    window: Window,
    values: dict[str, Value],
    dtype: torch.dtype | None,
    batch_tokens: int,
) -> dict[str, Tensor]:
    """The values of a window's texts, in the order of the texts."""
    by_text: dict[int, dict[str, Tensor]] = {}
    for batch in batches_of_window(model, tokenizer, window, batch_tokens):
        with record(model, list(values), to="cpu", dtype=dtype) as trace:
            model(**batch.inputs)
        for row, number in enumerate(batch.numbers):
            one = {name: tensor[row : row + 1].cpu() for name, tensor in batch.inputs.items()}
            by_text[number] = {IDS: one[IDS][one["attention_mask"] != 0]}
            for name, value in values.items():
                by_text[number][name] = real_positions(trace[name][row : row + 1], value.axes, one).clone()
    ordered = [by_text[number] for number in sorted(by_text)]
    tensors = {name: torch.cat([each[name] for each in ordered]).contiguous() for name in (IDS, *values)}
    return tensors | {LENGTHS: torch.tensor([len(each[IDS]) for each in ordered])}


def _resume(folder: Path, settings: dict[str, Any]) -> tuple[Progress, list[dict[str, Any]]]:
    """What is in a folder already; without an index, everything is still to do."""
    if not (folder / INDEX).exists():
        return Progress(0, FinishedTexts().sha256, settings), []
    store = Store(folder)
    check_made_from(folder, store.progress.made_from, settings)
    return store.progress, [{"file": file, "texts": texts, "tokens": tokens} for file, texts, tokens in store.shards]


def _write_index(file: Path, index: dict[str, Any]) -> None:
    file.write_text(json.dumps(index, indent=1, sort_keys=True), encoding="utf-8")


def _has_positions(axes: str) -> bool:
    return bool({"S", "T"} & set(axes.split()))
