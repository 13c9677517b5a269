"""What do a model's heads, neurons and hidden states do over a corpus?

    found = survey(model, tokenizer, texts)
    found.heads["previous"]                     # (L, H): how much each head looks at the token before
    found = survey(model, tokenizer, texts, [], names="*.attention.context")
    with edit(model, "*.attention.context", found.means, heads=5): …

The corpus goes through once, in bounded memory, and may be a generator. With a folder, a survey that was killed goes on
from where it was. `counts` says what is counted, and how.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minibert.checkpoints.atomic import replace_file
from minibert.checks import check_integer, check_one_of, shown
from minibert.errors import InputError
from minibert.interpret.counts import OF_HEADS, Seen, Statistic, counters
from minibert.interpret.runs import bert_of
from minibert.interpret.texts import (
    FinishedTexts,
    Progress,
    as_progress,
    batches_of_window,
    check_made_from,
    check_texts,
    locked,
    made_from,
    windows_of,
)
from minibert.show.tables import table
from minibert.tokenizer import BertTokenizer
from minibert.trace.edits import Means
from minibert.trace.recording import record
from minibert.trace.values import matching
from minibert.vectors.batches import BATCH_TOKENS

SURVEY = "survey.safetensors"


@dataclass(frozen=True)
class Survey:
    """What a survey found, as float64 tensors."""

    texts: int
    heads: dict[str, Tensor]  # by statistic, (L, H)
    head_distances: Tensor | None  # (L·H, L·H)
    neurons: dict[
        str, Tensor
    ]  # mean and maximum (L, F); activation, text, position and id of the K strongest (L, F, K)
    means: Means  # by name; given to `edit`, it is mean ablation
    covariances: dict[str, Tensor]  # by name, (D, D)

    def __str__(self) -> str:
        rows = [("statistic", "mean over heads", "largest", "of layer", "head")]
        for name, values in self.heads.items():
            layer, head = divmod(int(values.argmax()), values.shape[1])
            rows.append((name, f"{values.mean():.3f}", f"{values.max():.3f}", str(layer), str(head)))
        lines = [f"survey of {self.texts:,} texts"]
        lines += [table(rows, right=[1, 2, 3, 4])] if self.heads else []
        others = {"head distances": self.head_distances is not None, "neurons": bool(self.neurons)}
        lines += [f"with {name}" for name, there in others.items() if there]
        lines += [f"with the means of {len(self.means)} values"] if self.means else []
        return "\n".join(lines)

    def plot(self, statistic: str) -> Any:
        """A picture of one statistic of all heads, by layer."""
        from minibert.show.plots import plot_matrix

        values = self.heads[check_one_of("statistic", statistic, self.heads)]
        layers, heads = values.shape
        rows, columns = [f"layer {layer}" for layer in range(layers)], [f"head {head}" for head in range(heads)]
        return plot_matrix(values, rows, columns, title=f"{statistic}, mean over {self.texts:,} texts")


@torch.no_grad()
def survey(
    model: nn.Module,
    tokenizer: BertTokenizer,
    texts: Iterable[str],
    statistics: Sequence[str] = tuple(OF_HEADS),
    *,
    names: str | Sequence[str] = (),
    covariance: bool = False,
    k: int = 5,
    batch_tokens: int = BATCH_TOKENS,
    folder: str | os.PathLike[str] | None = None,
) -> Survey:
    """Counts statistics over a corpus, in one pass.

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        tokenizer: the model's.
        texts: strings, from a list or from a generator of any length.
        statistics: which, see the module `counts`: of heads "entropy", "distance", "self", "previous", "next",
            "cls", "sep", "punctuation"; "head_distances"; "neurons".
        names: the values whose means are computed, as for `record`.
        covariance: whether to compute their covariances too, (D, D) each.
        k: how many tokens to keep for each neuron.
        batch_tokens: the maximum number of tokens in a batch, padding included.
        folder: where to keep what is known after each window of texts; called again with the same arguments, the survey
            goes on from there, and comes to the same bits. None keeps nothing.

    Raises:
        InputError: an unknown statistic or name, no texts, or a folder with a survey of something else.
        StoreError: the folder cannot be written to, or another run writes to it.
    """
    bert_of(model)
    check_texts(texts)
    k, batch_tokens = check_integer("k", k, 1), check_integer("batch_tokens", batch_tokens, 1)
    chosen = _check_statistics(statistics)
    axes = {name: value.axes for name, value in matching(model, names).items()} if names else {}
    for name, each in axes.items():
        if each.endswith("T"):
            raise InputError(f"{name} has no mean over texts of several lengths: its axes are {each}")
    counts = counters(chosen, axes, covariance, k)
    if not counts:
        raise InputError("statistics or names must be given: there is nothing to count")
    if folder is None:
        finished = _count(model, tokenizer, texts, counts, batch_tokens, None, {}, FinishedTexts())
    else:
        settings = made_from(
            model,
            tokenizer,
            statistics=chosen,
            names=list(axes),
            covariance=covariance,
            k=k,
            batch_tokens=batch_tokens,
        )
        with locked(folder) as path:
            done = FinishedTexts()
            progress = _resume(path / SURVEY, counts, settings)
            remaining = done.skip(texts, progress, path)
            finished = _count(model, tokenizer, remaining, counts, batch_tokens, path, settings, done)
    if not finished.count:
        raise InputError("texts must have at least one text, got none")
    return _result(finished.count, counts)


def _check_statistics(statistics: Any) -> list[str]:
    """The names of statistics as a list."""
    given = [statistics] if isinstance(statistics, str) else statistics
    if not isinstance(given, Sequence):
        raise InputError(f"statistics must be a name or a list of names, got {shown(statistics)}")
    return [check_one_of("statistics", name, (*OF_HEADS, "head_distances", "neurons")) for name in given]


def _count(
    model: nn.Module,
    tokenizer: BertTokenizer,
    texts: Iterable[str],
    counts: dict[str, Statistic],
    batch_tokens: int,
    folder: Path | None,
    settings: dict[str, Any],
    done: FinishedTexts,
) -> FinishedTexts:
    """Counts texts, and keeps the sums after each window."""
    bert = bert_of(model)
    layers = len(bert.encoder.layers)
    names = sorted({name for count in counts.values() for name in count.names(layers)})
    for window in windows_of(texts, done.count):
        for batch in batches_of_window(model, tokenizer, window, batch_tokens):
            with record(model, names) as trace:
                model(**batch.inputs)
            seen = Seen(trace, batch, layers)
            for count in counts.values():
                count.update(seen)
        done.add(window.texts)
        if folder is not None:
            progress = Progress(done.count, done.sha256, settings)
            replace_file(folder / SURVEY, partial(_write, counts=counts, progress=progress))
    return done


def _write(file: Path, counts: dict[str, Statistic], progress: Progress) -> None:
    tensors: dict[str, Tensor] = {}
    for name, count in counts.items():
        tensors |= {f"{name}/{key}": value.contiguous() for key, value in count.state.items()}
    save_file(tensors, file, {"progress": json.dumps(vars(progress), sort_keys=True)})


def _resume(file: Path, counts: dict[str, Statistic], settings: dict[str, Any]) -> Progress:
    """Reads the sums of an interrupted survey; without one, everything is still to do."""
    if not file.exists():
        return Progress(0, FinishedTexts().sha256, settings)
    try:
        with safe_open(file, "pt") as opened:
            progress = as_progress(json.loads((opened.metadata() or {})["progress"]))
        tensors = load_file(file)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        raise InputError(f"{file} must be a survey that was interrupted: give a new folder") from None
    check_made_from(file.parent, progress.made_from, settings)
    for name, tensor in tensors.items():
        statistic, _, key = name.partition("/")
        counts[statistic].state[key] = tensor
    return progress


def _result(texts: int, counts: dict[str, Statistic]) -> Survey:
    results = {name: count.result() for name, count in counts.items()}
    means, covariances = results.get("names", (Means(), {}))
    heads = {name: results[name] for name in OF_HEADS if name in results}
    return Survey(texts, heads, results.get("head_distances"), results.get("neurons", {}), means, covariances)
