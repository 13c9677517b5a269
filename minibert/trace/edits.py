"""What does one usually put in the place of a value?

    edit(model, "encoder.layers.3.attention.context", zero, heads=5)        zero ablation
    edit(model, "*.feed_forward.contract", mean_of(model, inputs, "*.feed_forward.contract"))       mean ablation
    edit(model, "encoder.layers.3.attention_norm", resample(trace))         resample ablation, by values of other texts
    edit(model, "*.attention.context", gate(gates))                         each head times a number of its own

Zero takes a component out altogether, but the layers after it may never have seen such a value in training. The mean
over texts takes out what differs between texts and keeps what they share (Wang et al. 2023, section 2, on knockouts);
no text need have it either. Values of other texts are those that a model does compute (Chan et al. 2022, "Causal
Scrubbing").
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checks import check_integer, did_you_mean, shown
from minibert.errors import InputError
from minibert.trace.recording import record
from minibert.trace.values import aliases, layer_of, matching


def zero(value: Tensor) -> Tensor:
    """Returns zeros of the shape of a value."""
    return torch.zeros_like(value)


class Means(dict[str, Tensor]):
    """The mean of each named value: what remains of its axes without batch and sequence, such as (H, W) or (D).

    Given to `edit`, it puts the mean in the place of the value.
    """

    aliases: Mapping[str, str] = MappingProxyType({})  # as "hidden_states[3]", where the model is known

    def __missing__(self, name: str) -> Tensor:
        known = self.aliases.get(name, name)
        if known in self:
            return self[known]
        raise InputError(f"there is no mean of {name!r}{did_you_mean(name, self) or ': ask for it in mean_of'}")

    def __call__(self, value: Tensor, name: str) -> Tensor:
        mean = self[name].to(value)
        without_positions = value.shape[1:2] + value.shape[3:] if value.dim() == 4 else value.shape[-1:]
        if mean.shape != without_positions:
            raise InputError(
                f"the mean of {name} must be {tuple(without_positions)}, got {tuple(mean.shape)}: "
                "take the means of the model that is edited"
            )
        if value.dim() == 4:
            mean = mean[:, None]  # (H, W) → (H, 1, W)
        return mean.expand_as(value).clone()


@torch.no_grad()
def mean_of(
    model: nn.Module, inputs: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]], names: str | Sequence[str] = "*"
) -> Means:
    """Returns the means of named values over texts, for `edit`: mean ablation. Padding does not count.

    Args:
        model, names: as for `record`. Scores and probabilities (B, H, S, T) have no mean over texts of several lengths,
            and "*" leaves them out.
        inputs: what a tokenizer returns, or several of these.

    Raises:
        InputError: a value that has no mean, or no inputs.
    """
    found = matching(model, names)
    wanted = {name: value for name, value in found.items() if not value.axes.endswith("T")}
    if names not in ("*", ["*"]) and len(wanted) < len(found):
        one = next(name for name in found if name not in wanted)
        raise InputError(f"{one} has no mean over texts of several lengths: its axes are {found[one].axes}")
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for batch in _batches(inputs):
        with record(model, list(wanted)) as trace:
            model(**batch)
        for name, value in trace.items():
            vectors = real_positions(value, wanted[name].axes, batch)  # (n, …)
            sums[name] = sums.get(name, 0) + vectors.sum(dim=0, dtype=torch.float64)
            counts[name] = counts.get(name, 0) + len(vectors)
    if not sums:
        raise InputError("inputs must be what a tokenizer returns, or a list of these, got nothing")
    if not all(counts.values()):
        raise InputError("inputs must have at least one position that is not padding, got none")
    means = Means({name: total / counts[name] for name, total in sums.items()})
    means.aliases = aliases(model)
    return means


def _batches(inputs: Any) -> Iterator[Mapping[str, Tensor]]:
    several = [inputs] if isinstance(inputs, Mapping) or not isinstance(inputs, Iterable) else inputs
    for batch in several:
        if not isinstance(batch, Mapping) or "input_ids" not in batch:
            raise InputError(
                f"inputs must be what a tokenizer returns, or a list of these, got {shown(inputs)}: "
                "pass tokenizer(texts)"
            )
        yield batch


def real_positions(value: Tensor, axes: str, inputs: Mapping[str, Tensor]) -> Tensor:
    """Returns a value at each position that is not padding, one after the other: (B, S, D) → (n, D).

    A value with heads, (B, H, S, W), becomes (n, H, W); one of a whole text, (B, D), stays as it is.
    """
    letters = axes.split()
    if not {"S", "T"} & set(letters):
        return value
    if "H" in letters:
        value = value.transpose(1, 2)  # (B, H, S, W) → (B, S, H, W)
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    mask = (torch.ones_like(ids) if mask is None else mask).reshape(-1, ids.shape[-1])  # of choices: (B, N, S) → (B, S)
    return value.expand(*mask.shape, *value.shape[2:])[mask != 0]


def resample(values: Mapping[str, Tensor], seed: int = 0) -> Callable[[Tensor, str], Tensor]:
    """Returns a function for `edit` that puts the values of other texts in the place of these: resample ablation.

    Args:
        values: what `record` kept of other texts, of as many tokens as those of the edited run.
        seed: of the choice: a row of `values` for each row, the same row for all names.

    Raises:
        InputError: as the function is called, a name that is not in `values`, or a different number of tokens.
    """
    check_integer("seed", seed, 0)
    if not isinstance(values, Mapping):
        raise InputError(f"values must be what record kept, got {shown(values)}")

    def resampled(value: Tensor, name: str) -> Tensor:
        if name not in values:
            hint = did_you_mean(name, values) or ": record it under this name"
            raise InputError(f"values must have one of {name!r} to put in its place{hint}")
        others = values[name]
        if others.shape[1:] != value.shape[1:]:
            raise InputError(
                f"{name} must have the same shape in both texts but for the batch, got {tuple(others.shape)} for "
                f"{tuple(value.shape)}: use texts of the same number of tokens"
            )
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(others), (len(value),), generator=generator)
        return others[rows.to(others.device)].to(value)

    return resampled


def gate(gates: Tensor) -> Callable[[Tensor, str], Tensor]:
    """Returns a function for `edit` that multiplies each head by its gate: 1 leaves it, 0 switches it off.

    Args:
        gates: (L, H), of floats or bools. With `requires_grad`, their gradients are the sensitivity of each head
            (Michel et al. 2019, equation 2).

    Raises:
        InputError: as the function is called, a value outside the layers or without heads, or one whose heads or layer
            have no gates.
    """
    if not isinstance(gates, Tensor) or gates.dim() != 2 or gates.is_complex():
        raise InputError(f"gates must be a tensor (L, H) of real numbers, got {shown(gates)}")

    def gated(value: Tensor, name: str) -> Tensor:
        layer = layer_of(name)
        if layer is None or value.dim() != 4:
            raise InputError(f"{name} has no heads to gate: gate *.attention.context")
        if layer >= len(gates) or gates.shape[1] != value.shape[1]:
            raise InputError(f"gates must be (layers, {value.shape[1]}) for {name}, got {tuple(gates.shape)}")
        return value * gates[layer].to(value)[:, None, None]  # (H) → (H, 1, 1)

    return gated
