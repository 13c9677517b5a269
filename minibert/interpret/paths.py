"""By which path does one head act on another, or on the output?

Patching a head changes everything after it. Path patching asks about the direct path alone: the sender has its value
from the clean run, and every other head stays as it is in the corrupted run, so that the change reaches the receiver
only through the residual connection (and through feed-forward blocks and LayerNorms, which are computed anew). What the
receiver then reads, its query, key and value, is put into a second corrupted run, in which everything else follows.

    path_patch(mlm, clean, corrupted, metric, sender=(1, 4), receiver=(4, 7)).value
    path_patch(mlm, clean, corrupted, metric, sender=(1, 4)).value                  # the direct path to the output

Wang et al. 2023, "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small", appendix
B; Goldowsky-Dill et al. 2023, "Localizing Model Behavior with Path Patching".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checks import check_one_of, shown
from minibert.errors import InputError
from minibert.interpret.interventions import check_alike
from minibert.interpret.runs import Head, Inputs, as_head, as_inputs, bert_of
from minibert.interpret.targets import TargetLike, as_target, measure
from minibert.model import BertModel
from minibert.trace.recording import edit, record

READS = ("query", "key", "value")


@dataclass(frozen=True)
class PathEffect:
    """By how much a change of the sender moves the metric on the direct path to the receiver."""

    each: Tensor  # (B,): for each pair of texts
    clean: float  # the metric of the clean texts, mean over pairs
    corrupted: float  # that of the corrupted texts
    of: str  # the metric

    @property
    def value(self) -> float:
        """The mean over pairs."""
        return self.each.mean().item()

    def __str__(self) -> str:
        ends = f"{self.of}: {self.clean:.4f} in the clean run, {self.corrupted:.4f} in the corrupted one"
        return f"{ends}\nby this path alone it moves by {self.value:+.4f}"


@torch.no_grad()
def path_patch(
    model: nn.Module,
    clean: Inputs,
    corrupted: Inputs,
    metric: TargetLike,
    sender: Head,
    receiver: Head | None = None,
    *,
    reads: str | Sequence[str] | None = None,
) -> PathEffect:
    """Returns by how much a head's clean value moves the metric on its direct path to another head, or to the output.

    Args:
        model, clean, corrupted, metric: as for `patch`.
        sender: layer and head, both counted from 0.
        receiver: a head of a later layer; None means the output.
        reads: through which of its inputs the receiver is reached: "query", "key", "value", or several; None means all.

    Raises:
        InputError: as for `patch`; no such head, or a receiver that is not in a later layer than the sender.
    """
    bert = bert_of(model)
    check_alike(as_inputs(clean), as_inputs(corrupted))
    listed = _check_reads(reads, receiver)
    first = _check_head("sender", sender, bert)
    contexts = "*.attention.context"
    with record(model, contexts) as source:
        at_clean = measure(model, clean, metric)
    with record(model, contexts) as frozen:
        before = measure(model, corrupted, metric)
    send = partial(_frozen_but, frozen, source, f"encoder.layers.{first[0]}.attention.context", first[1])
    if receiver is None:
        with edit(model, contexts, send):
            after = measure(model, corrupted, metric)
    else:
        second = _check_head("receiver", receiver, bert)
        if second[0] <= first[0]:
            raise InputError(f"the receiver must be in a later layer than the sender's {first[0]}, got {second[0]}")
        names = [f"encoder.layers.{second[0]}.attention.{each}" for each in listed]
        with edit(model, contexts, send), record(model, names) as read:
            measure(model, corrupted, metric)
        with edit(model, names, lambda value, name: read[name], heads=second[1]):
            after = measure(model, corrupted, metric)
    return PathEffect(after - before, at_clean.mean().item(), before.mean().item(), as_target(metric).name)


def _frozen_but(
    frozen: Mapping[str, Tensor], source: Mapping[str, Tensor], sender: str, head: int, value: Tensor, name: str
) -> Tensor:
    """The context of each head as it was in the corrupted run, but for the sender's."""
    value = frozen[name].clone()
    if name == sender:
        value[:, head] = source[name][:, head]
    return value


def _check_reads(reads: Any, receiver: Head | None) -> list[str]:
    """The inputs of the receiver, which the output does not have."""
    if reads is None:
        return list(READS)
    listed = reads if isinstance(reads, list | tuple) and reads else [reads]
    names = [check_one_of("reads", each, READS) for each in listed]
    if receiver is None:
        raise InputError(f"reads must be left out where the receiver is the output, got {shown(reads)}")
    return names


def _check_head(what: str, head: Any, bert: BertModel) -> Head:
    """A layer and a head that the model has."""
    layer, number = as_head(what, head)
    layers = len(bert.encoder.layers)
    if not 0 <= layer < layers:
        raise InputError(f"the layer of the {what} must be from 0 to {layers - 1}, got {layer}")
    heads = len(bert.config.kept_heads(layer))
    if not 0 <= number < heads:
        raise InputError(f"the head of the {what} must be from 0 to {heads - 1}, got {number}")
    return layer, number
