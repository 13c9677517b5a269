"""Where in the network is the difference between two texts computed?

Activation patching runs a model on a corrupted text and puts one value of the clean text's run in its place, such as
the hidden state of one layer at one position, or one head. If the metric moves towards that of the clean text, what the
value says matters there:

    clean, corrupted = tokenizer("He had to fly for [MASK] hours."), tokenizer("He had to walk for [MASK] hours.")
    effects = patch(mlm, clean, corrupted, token_logit("1500"), at="head")
    effects.values                      # (L, H): by how much the metric moves
    effects.recovered                   # the same as a share of the way from corrupted to clean

`patch` puts clean values into the corrupted run (denoising); swap the two texts for noising. Many patches are the rows
of one batch, and the layers before a patch are not computed again. `path_patch` asks by which path a head acts.

Vig et al. 2020, "Causal Mediation Analysis for Interpreting Neural NLP"; Meng et al. 2022, "Locating and Editing
Factual Associations in GPT" (causal tracing: `Noise`); Nanda 2023, "Attribution Patching: Activation Patching At
Industrial Scale" (`how="gradient"`); Wang et al. 2023, "Interpretability in the Wild" (path patching).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minibert.checks import check_integer, check_one_of
from minibert.errors import InputError
from minibert.interpret.interventions import (
    Noise,
    Place,
    Places,
    Runs,
    all_places,
    check_alike,
    first_layer,
    known_layers,
    noise_on,
    noisy,
    parts_of,
)
from minibert.interpret.runs import (
    Inputs,
    as_inputs,
    bert_of,
    differentiable,
    differentiable_inputs,
    record_leaves,
    rows_of,
    tokens_of,
)
from minibert.interpret.targets import TargetLike, as_target, measure
from minibert.model import BertModel
from minibert.show.tables import table
from minibert.trace.edits import Means, mean_of
from minibert.trace.recording import edit, record
from minibert.trace.values import layer_of, short_name


@dataclass(frozen=True)
class Effects:
    """By how much each patch moves the metric; L counts values, one in each layer, H heads and S positions."""

    values: Tensor  # (L, S), (L, H), (L, H, S) or (L,): the metric with the patch minus that without, mean over pairs
    each: Tensor  # (B, …) of each pair of texts, each draw of the noise, or each two texts that have one number
    clean: float  # the metric of the clean run, mean over pairs
    corrupted: float | None  # that of the corrupted run, mean over pairs; an ablation has none
    how: str
    names: list[str]  # L
    axes: str  # of `values`, in the letters above
    tokens: list[str]  # S, of the first text that is patched
    of: str  # the metric

    @property
    def recovered(self) -> Tensor:
        """The effects as shares of the way from the metric of the corrupted run to that of the clean one."""
        if self.corrupted is None:
            raise InputError("shares are of patches between two runs, and an ablation has one: divide by .clean")
        if self.clean == self.corrupted:
            raise InputError(f"the {self.of} is {self.clean} for both texts: there is no way between to take shares of")
        return self.values / (self.clean - self.corrupted)

    @property
    def interval(self) -> Tensor:
        """Half of the 95 % confidence interval of each mean: 1.96 standard errors; it needs at least two pairs."""
        if len(self.each) < 2:
            raise InputError("an interval needs at least two pairs of texts, got one")
        return 1.96 * self.each.std(dim=0) / len(self.each) ** 0.5

    def top(self, k: int = 10) -> list[tuple[str, float]]:
        """The k largest effects by absolute value, with what was patched."""
        check_integer("k", k, 1)
        order = self.values.abs().flatten().argsort(descending=True, stable=True)[:k].tolist()
        return [(self._label(index), self.values.flatten()[index].item()) for index in order]

    def _label(self, index: int) -> str:
        indices = [int(each) for each in torch.unravel_index(torch.tensor(index), self.values.shape)]
        at = dict(zip(self.axes.split(), indices, strict=True))
        words = [self._rows[at["L"]]]
        words += [f"head {at['H']}"] if "H" in at else []
        words += [f"position {at['S']} {self.tokens[at['S']]}"] if "S" in at else []
        return " ".join(words)

    @property
    def _rows(self) -> list[str]:
        """The names as they are printed: "encoder.layers.3.attention.output" → "layer 3 attention.output"."""
        layers = [layer_of(name) for name in self.names]
        pairs = zip(self.names, layers, strict=True)
        return [name if layer is None else f"layer {layer} {short_name(name)}" for name, layer in pairs]

    def __str__(self) -> str:
        rows = [("patched", "effect"), *((label, f"{effect:+.4f}") for label, effect in self.top())]
        ends = f"{self.of}: {self.clean:.4f} in the clean run"
        if self.corrupted is not None:
            ends += f", {self.corrupted:.4f} in the corrupted one"
        return f"{ends}\n{table(rows, right=[1])}"

    def plot(self) -> Any:
        """A picture of the effects: layers by positions or by heads; of both, the positions are summed."""
        from minibert.show.plots import plot_bars, plot_matrix

        values = self.values.sum(dim=-1) if self.values.dim() == 3 else self.values
        if values.dim() == 1:
            return plot_bars(values, self._rows, quantity=f"effect on the {self.of}")
        columns = self.tokens if self.axes.endswith("S") and self.values.dim() == 2 else None
        if columns is None:
            columns = [f"head {head}" for head in range(values.shape[1])]
        return plot_matrix(values, self._rows, columns, title=f"effect on the {self.of}")


def patch(
    model: nn.Module,
    clean: Inputs,
    corrupted: Inputs | Noise,
    metric: TargetLike,
    *,
    at: str = "hidden",
    positions: bool | None = None,
    how: Literal["patch", "gradient", "ablate", "trace"] = "patch",
    batch: int = 32,
) -> Effects:
    """Replaces one value at a time, and measures by how much the metric moves.

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        clean, corrupted: what a tokenizer returns for a text, or for B texts, which are compared pair by pair and must
            have the same number of tokens. Instead of a corrupted text, `Noise` corrupts the embeddings of the clean
            one. For "ablate", corrupted are the texts that the mean is taken over, any number of them; the metric is
            not computed on these.
        metric: a target of `minibert.interpret.targets`, or a function of the model's output.
        at: what is replaced in each layer: "hidden" (its output), "attention" or "feed_forward" (what each adds),
            "head" (a head's context), "pattern" (a head's attention probabilities); or a name as for `record`.
        positions: whether one position at a time is replaced, or all at once; None means one at a time, except for
            heads. Texts of different lengths have no positions in common, and need False.
        how: "patch" puts the clean value into the corrupted run, which is exact. "gradient" estimates all effects from
            one gradient, (clean − corrupted) · ∂metric: exact only where the metric is linear in the value. "ablate"
            puts the mean of the corrupted texts' real positions into the *clean* run. "trace" is "patch" with `Noise`.
        batch: how many rows are computed at once, at most.

    Returns:
        Effects (L, S), for heads (L, H), or (L, H, S).

    Raises:
        InputError: texts of different numbers of tokens, a metric that this model does not have, or something that
            cannot be patched so.
    """
    bert = bert_of(model)
    check_one_of("how", how, ("patch", "gradient", "ablate", "trace"))
    check_integer("batch", batch, 1)
    as_inputs(clean)
    runs = runs_of(bert, clean, corrupted, how)
    places = all_places(model, at, positions, runs.patched)
    effects: Callable[..., Found] = by_gradient if how == "gradient" else by_patches
    if how == "ablate":
        effects = partial(by_means, mean_of(model, as_inputs(corrupted), places.names))
    together = as_target(metric).rows  # texts that are compared have one effect
    found = [effects(model, each, metric, places, batch) for each in parts_of(runs, batch, together)]
    each, at_clean, at_corrupted = (torch.cat(tensors) for tensors in zip(*found, strict=True))
    each = each[::together].reshape(-1, *places.sizes)  # (B, P) → (B, …)
    ends = (at_clean.mean().item(), None if how == "ablate" else at_corrupted.mean().item())
    tokens = tokens_of(runs.patched)[0]
    return Effects(each.mean(dim=0), each, *ends, how, places.names, places.axes, tokens, as_target(metric).name)


def runs_of(bert: BertModel, clean: Inputs, corrupted: Inputs | Noise, how: str) -> Runs:
    """Returns what is run: the texts that are patched, and those whose values are put into them."""
    if how == "trace" and not isinstance(corrupted, Noise):
        raise InputError(f"corrupted must be Noise(positions) to trace, got {type(corrupted).__name__}")
    if how == "ablate":
        return Runs(clean, clean, None)
    if isinstance(corrupted, Noise):
        return noisy(bert, clean, corrupted)
    check_alike(clean, as_inputs(corrupted))
    return Runs(corrupted, clean, None)


# --- effects ---------------------------------------------------------------------------------------------------------

# The effect of each patch on each text, (B, P), and the metric of the clean and of the corrupted texts, (B,) each.
Found = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def by_patches(model: nn.Module, runs: Runs, metric: TargetLike, places: Places, batch: int) -> Found:
    """Returns the effect of putting the source's value into each place.

    Every run has the same number of rows: then a patch that changes nothing has an effect of exactly 0.
    """
    rows = repeated_rows(runs, places, batch)
    with record(model, places.names) as source:
        clean = measure(model, rows_of(runs.source, rows), metric)
    effects, corrupted = sweep(model, runs, metric, places, rows, source)
    return effects, clean[: len(corrupted)], corrupted


@torch.no_grad()
def by_means(means: Means, model: nn.Module, runs: Runs, metric: TargetLike, places: Places, batch: int) -> Found:
    """Returns the effect of putting the mean of each value into each place of the clean run."""
    rows = repeated_rows(runs, places, batch)
    with record(model, places.names) as trace:
        measure(model, rows_of(runs.patched, rows), metric)
    source = {name: means(value, name) for name, value in trace.items()}
    effects, clean = sweep(model, runs, metric, places, rows, source)
    return effects, clean, clean


def by_gradient(model: nn.Module, runs: Runs, metric: TargetLike, places: Places, batch: int) -> Found:
    """Returns the estimate of each effect from one gradient: (source − patched) · ∂metric (Nanda 2023)."""
    bert = bert_of(model)
    with torch.no_grad(), record(model, places.names) as source:
        clean = measure(model, runs.source, metric)
    with differentiable(model), noise_on(bert, runs.noise), record_leaves(model, places.names) as values:
        corrupted = measure(model, differentiable_inputs(runs.patched), metric)
        gradients = torch.autograd.grad(corrupted.sum(), list(values.values()), allow_unused=True)
    change = {}
    for (name, value), gradient in zip(values.items(), gradients, strict=True):
        change[name] = torch.zeros_like(value) if gradient is None else (source[name] - value.detach()) * gradient
    effects = []
    for place in places.listed:
        everywhere = (slice(None), *place.slices)  # in all texts
        effects.append(change[place.name][everywhere].flatten(1).sum(dim=1))
    by_text = torch.stack(effects, dim=1)  # (B, P)
    together = as_target(metric).rows  # texts that are compared have one metric, which the sum has counted for each
    shared = by_text.unflatten(0, (-1, together)).mean(dim=1, keepdim=True)  # (B, P) → (B / rows, 1, P)
    return shared.expand(-1, together, -1).flatten(0, 1), clean, corrupted.detach()


def repeated_rows(runs: Runs, places: Places, batch: int) -> list[int]:
    """Returns the rows of a run in which several patches of each text are computed at once.

    At most a sixteenth of the patches: before them, two runs of as many rows compute what is the same in all rows.
    """
    count = len(runs.patched["input_ids"])
    return list(range(count)) * max(1, min(batch // count, math.ceil(len(places.listed) / 16)))


def sweep(
    model: nn.Module, runs: Runs, metric: TargetLike, places: Places, rows: list[int], source: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Returns the effect of each patch on each text, (B, P), and the metric without a patch, (B,)."""
    bert, count = bert_of(model), len(runs.patched["input_ids"])
    at_once, patched = len(rows) // count, rows_of(runs.patched, rows)
    states = [f"hidden_states[{layer + 1}]" for layer in range(len(bert.encoder.layers))]
    with noise_on(bert, runs.noise, at_once), record(model, states) as known, edit(model, places.names, unchanged):
        before = measure(model, patched, metric)
    hidden = [known[state] for state in states]
    effects = []
    for start in range(0, len(places.listed), at_once):
        chunk = places.listed[start : start + at_once]
        first = min(first_layer(bert, place.name) for place in chunk)
        put = partial(_put, chunk, source, count)
        # The output of a layer is known too, but for the places in it that are patched.
        outputs = [
            put(value.clone(), f"encoder.layers.{layer}.feed_forward_norm")
            for layer, value in enumerate(hidden[:first])
        ]
        with noise_on(bert, runs.noise, at_once), edit(model, places.names, put), known_layers(bert, outputs):
            after = measure(model, patched, metric)
        effects.append((after - before).view(at_once, count)[: len(chunk)])
    return torch.cat(effects).T, before[:count]  # (P, B) → (B, P)


def unchanged(value: Tensor) -> Tensor:
    """An edit that changes nothing, so that a run has the hooks which decide by which attention it is computed."""
    return value


def _put(places: list[Place], source: Mapping[str, Tensor], count: int, value: Tensor, name: str) -> Tensor:
    """A value with its places replaced, each in the rows of its own run: (P·B, …)."""
    for number, place in enumerate(places):
        if place.name == name:
            index = (slice(number * count, (number + 1) * count), *place.slices)
            value[index] = source[name][index]
    return value
