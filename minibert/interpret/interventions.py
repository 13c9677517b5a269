"""What can be replaced in a run, and how are many replacements computed at once?

A place is a value, or a head or a position of it. Replacements in many places are the rows of one batch, and layers
that come before all of them return the hidden states that are known already.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minibert.checks import as_integer, check_integer, check_one_of, shown
from minibert.errors import InputError
from minibert.interpret.runs import Inputs, bert_of, mask_of, rows_of, tokens_of
from minibert.model import BertModel
from minibert.trace.recording import edit
from minibert.trace.values import layer_of, matching, short_name

# What is patched in each layer.
AT = {
    "hidden": "encoder.layers.*.feed_forward_norm",
    "attention": "encoder.layers.*.attention.output",
    "feed_forward": "encoder.layers.*.feed_forward.contract",
    "head": "encoder.layers.*.attention.context",
    "pattern": "encoder.layers.*.attention.probabilities",
}


@dataclass(frozen=True)
class Noise:
    """Corrupts a run by noise on the word embeddings of some positions: causal tracing (Meng et al. 2022, section 2.1).

    Args:
        positions: those of the subject, whose embeddings get the noise.
        sigmas: its standard deviation, in standard deviations of the numbers in the word embedding table.
        draws: how many times it is drawn; effects are means over the draws.
        seed: of the draws.
    """

    positions: int | Sequence[int]
    sigmas: float = 3.0
    draws: int = 10
    seed: int = 0


class Place(NamedTuple):
    """What one patch replaces: a value, or a head or position of it."""

    name: str
    head: int | None
    position: int | None

    @property
    def slices(self) -> tuple[Any, ...]:
        """The place in the value of a text: (H, S, …) or (S, …)."""
        if self.head is not None:
            return (self.head,) if self.position is None else (self.head, self.position)
        return () if self.position is None else (..., self.position, slice(None))


class Places(NamedTuple):
    """Everything that is replaced in turn, and the table that the effects make."""

    listed: list[Place]
    names: list[str]
    axes: str  # such as "L H S"
    sizes: list[int]


class Runs(NamedTuple):
    """What is run: B texts that are patched, and those whose values are put into them."""

    patched: Inputs
    source: Inputs
    noise: Tensor | None  # (B, S, D), added to the word embeddings of the run that is patched


def check_alike(clean: Inputs, corrupted: Inputs) -> None:
    """Raises an `InputError` unless two batches have the same number of texts, and of tokens in each pair."""
    ours, theirs = mask_of(clean), mask_of(corrupted)
    if len(ours) != len(theirs):
        raise InputError(f"clean and corrupted must have as many texts, got {len(ours)} and {len(theirs)}")
    counts = list(zip(ours.sum(dim=1).tolist(), theirs.sum(dim=1).tolist(), strict=True))
    for row, (first, second) in enumerate(counts):
        if first != second:
            raise InputError(
                f"clean and corrupted must have the same number of tokens, got {first} and {second} in pair {row}: "
                f"{' '.join(tokens_of(clean)[row])} | {' '.join(tokens_of(corrupted)[row])}"
            )
    if ours.shape != theirs.shape or not torch.equal(ours, theirs):
        raise InputError("clean and corrupted must be padded alike: pad both on the same side to the same length")


def noisy(bert: BertModel, clean: Inputs, noise: Noise) -> Runs:
    """Returns each clean text as often as noise is drawn for it, to be patched and as the source of its patches."""
    if not isinstance(noise.sigmas, int | float) or not 0 <= noise.sigmas < math.inf:
        raise InputError(f"sigmas must be a finite number from 0 on, got {shown(noise.sigmas)}")
    draws, seed = check_integer("draws", noise.draws, 1), check_integer("seed", noise.seed, 0)
    length = clean["input_ids"].shape[1]
    listed = noise.positions if isinstance(noise.positions, list | tuple | range) else [noise.positions]
    positions = [as_integer(position) for position in listed]
    if not positions or any(position is None or not -length <= position < length for position in positions):
        what = f"integers from 0 to {length - 1}"
        raise InputError(f"the positions of noise must be {what}, got {shown(noise.positions)}")
    many = rows_of(clean, list(range(len(clean["input_ids"]))) * draws)
    weight = bert.embeddings.word_embeddings.weight.detach()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(many["input_ids"]), length, weight.shape[1], generator=generator).to(weight)
    is_subject = torch.zeros(length, 1, dtype=torch.bool, device=weight.device)
    is_subject[positions] = True
    return Runs(many, many, drawn * is_subject * noise.sigmas * weight.std())


def parts_of(runs: Runs, batch: int, together: int) -> Iterator[Runs]:
    """Yields the runs of as many texts as are computed at once; texts that are compared stay together."""
    count, size = len(runs.patched["input_ids"]), max(together, batch // together * together)
    for start in range(0, count, size):
        rows = list(range(start, min(start + size, count)))
        noise = None if runs.noise is None else runs.noise[rows]
        yield Runs(rows_of(runs.patched, rows), rows_of(runs.source, rows), noise)


def all_places(model: nn.Module, at: str, positions: bool | None, inputs: Inputs) -> Places:
    """Returns everything that is replaced in turn.

    Raises:
        InputError: values without positions where these are asked for, of a different number of heads, or of all texts;
            positions of texts of different lengths.
    """
    values = matching(model, AT.get(at, at))
    letters = [set(value.axes.split()) for value in values.values()]
    by_head = all("H" in each for each in letters)
    if positions is None:
        positions = not by_head and all(each & {"S", "T"} for each in letters)
    check_one_of("positions", positions, (True, False))
    for name, value in values.items():
        if "1" in value.axes.split()[:1] or (positions and not {"S", "T"} & set(value.axes.split())):
            raise InputError(f"{name} has no {'texts' if '1' in value.axes else 'positions'} to replace one at a time")
    mask = mask_of(inputs)
    if positions and not (mask == mask[0]).all():
        raise InputError(
            "texts of different lengths have no positions in common: pass positions=False, or texts of one length"
        )
    kept_heads = bert_of(model).config.kept_heads
    heads = {len(kept_heads(layer_of(name) or 0)) if by_head else 1 for name in values}
    if len(heads) > 1:
        raise InputError("the layers must have the same number of heads for one table: patch one layer, by its name")
    count, length = heads.pop(), inputs["input_ids"].shape[1] if positions else 1
    listed = [
        Place(name, head if by_head else None, position if positions else None)
        for name in values
        for head in range(count)
        for position in range(length)
    ]
    sizes = {"L": len(values)} | ({"H": count} if by_head else {}) | ({"S": length} if positions else {})
    return Places(listed, list(values), " ".join(sizes), list(sizes.values()))


@contextmanager
def noise_on(bert: BertModel, noise: Tensor | None, times: int = 1) -> Iterator[None]:
    """Inside the block, noise (B, S, D) is added to the word embeddings, which have B rows so many times."""
    if noise is None:
        yield
        return
    with edit(bert, "embeddings.word_embeddings", lambda value: value + noise.repeat(times, 1, 1)):
        yield


class KnownLayer(nn.Module):
    """A layer that returns a hidden state that is known already."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_: Any) -> tuple[Tensor, None]:
        return self.hidden, None


@contextmanager
def known_layers(bert: BertModel, hidden: list[Tensor]) -> Iterator[None]:
    """Inside the block, the first layers return these hidden states instead of computing them again."""
    layers = bert.encoder.layers
    bert.encoder.layers = nn.ModuleList([*map(KnownLayer, hidden), *layers[len(hidden) :]])
    try:
        yield
    finally:
        bert.encoder.layers = layers


def first_layer(bert: BertModel, name: str) -> int:
    """Returns the first layer that must be computed for a change of this value to be seen."""
    layer = layer_of(name)
    if layer is not None:
        return layer + 1 if short_name(name) == "feed_forward_norm" else layer
    return 0 if name.startswith("embeddings") else len(bert.encoder.layers)
