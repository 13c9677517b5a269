"""What is added to the residual connection of a BERT, stage by stage?

A stage is a sum and the LayerNorm after it: the embeddings first, then attention and the feed-forward block of each
layer. `pushed_forward` carries each part on to a hidden state. `pulled_back` carries a direction back from there, and
projects each part on it, which takes no memory for the parts themselves.

Shapes have P for the number of the chosen positions: S, or 1; C counts parts, I the inputs of a linear map.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from minibert.interpret.runs import Inputs
from minibert.model import BertModel, EncoderLayer
from minibert.trace.recording import record


class Run:
    """One run of a BERT, with the values at the chosen positions that a hidden state is made of."""

    def __init__(self, bert: BertModel, inputs: Inputs, positions: Tensor | None, layer: int) -> None:
        self.bert, self.layer = bert, layer
        layers = [f"encoder.layers.{number}." for number in range(layer)]
        names = ["embeddings.*_embeddings", "embeddings.norm.scale", f"hidden_states[{layer}]"]
        for each in layers:
            names += [each + name for name in ("attention.context", "feed_forward.activation", "*_norm.scale")]
        with record(bert, names) as trace:
            bert(**inputs)
        self.trace = trace
        self.positions = positions
        self.hidden = self.at(trace[f"hidden_states[{layer}]"])  # (B, P, D)

    def at(self, value: Tensor) -> Tensor:
        """A value at the chosen positions: (B, S, …) → (B, P, …)."""
        batch = self.trace["embeddings.word_embeddings"].shape[0]
        value = value.expand(batch, *value.shape[1:])
        if self.positions is None:
            return value
        return value[torch.arange(batch, device=value.device), self.positions][:, None]


class Vectors:
    """Parts that are vectors: the embeddings."""

    def __init__(self, labels: list[str], vectors: list[Tensor]) -> None:
        self.labels, self.vectors = labels, torch.stack(vectors)  # n of (B, P, D) → (n, B, P, D)

    def parts(self) -> Tensor:
        return self.vectors

    def projected(self, direction: Tensor) -> Tensor:
        return (self.vectors * direction).sum(dim=-1)  # (n, B, P, D) → (n, B, P)


class Block:
    """Parts that a linear map makes: its inputs in groups, such as heads or neurons, each times its own columns.

    Args:
        labels: of the groups, and of the bias if it is a part of its own; otherwise there is one group, with the bias.
        linear: the map, with weight (D, I).
        inputs: (B, P, I).
    """

    def __init__(self, labels: list[str], linear: nn.Linear, inputs: Tensor) -> None:
        self.labels, self.linear, self.inputs = labels, linear, inputs
        self.groups = max(1, len(labels) - 1)

    def parts(self) -> Tensor:
        inputs = self.inputs.unflatten(-1, (self.groups, -1))  # (B, P, I) → (B, P, G, n)
        weight = self.linear.weight.unflatten(-1, (self.groups, -1))  # (D, I) → (D, G, n)
        groups = torch.einsum("bpgn,dgn->gbpd", inputs, weight)
        if len(self.labels) == 1:
            return groups + self.linear.bias
        return torch.cat([groups, self.linear.bias.expand_as(groups[:1])])

    def projected(self, direction: Tensor) -> Tensor:
        inputs = self.inputs * (direction @ self.linear.weight)  # (B, P, D) @ (D, I) → (B, P, I)
        groups = inputs.unflatten(-1, (self.groups, -1)).sum(dim=-1).movedim(-1, 0)  # → (B, P, G) → (G, B, P)
        bias = (direction @ self.linear.bias)[None]
        return groups + bias if len(self.labels) == 1 else torch.cat([groups, bias])


@dataclass(frozen=True)
class Stage:
    """What is added to the residual connection, and the LayerNorm that follows."""

    added: Vectors | Block
    norm: nn.LayerNorm
    scale: Tensor  # (B, P, 1)
    bias_label: str


def stages(run: Run, by: str) -> Iterator[Stage]:
    """Yields what the hidden state of a run is the sum of, stage by stage."""
    trace, embeddings = run.trace, run.bert.embeddings
    kinds = {"word": "word", "segment": "token_type", "position": "position"}
    vectors = {f"{kind} embedding": trace.get(f"embeddings.{name}_embeddings") for kind, name in kinds.items()}
    there = {label: run.at(vector) for label, vector in vectors.items() if vector is not None}
    yield Stage(
        Vectors(list(there), list(there.values())),
        embeddings.norm,
        run.at(trace["embeddings.norm.scale"]),
        "embeddings norm bias",
    )
    layers = cast(list[EncoderLayer], list(run.bert.encoder.layers))
    for number, layer in enumerate(layers[: run.layer]):
        prefix, label = f"encoder.layers.{number}.", f"layer {number}"
        context = trace[prefix + "attention.context"]
        heads = [f"{label} head {head}" for head in range(context.shape[1])]
        yield Stage(
            Block(
                [f"{label} attention"] if by == "part" else [*heads, f"{label} attention bias"],
                layer.attention.output,
                run.at(context.transpose(1, 2).flatten(2)),  # (B, H, S, W) → (B, S, D)
            ),
            layer.attention_norm,
            run.at(trace[prefix + "attention_norm.scale"]),
            f"{label} attention norm bias",
        )
        activation = run.at(trace[prefix + "feed_forward.activation"])
        neurons = [f"{label} neuron {neuron}" for neuron in range(activation.shape[-1])]
        yield Stage(
            Block(
                [*neurons, f"{label} feed-forward bias"] if by == "neuron" else [f"{label} feed-forward"],
                layer.feed_forward.contract,
                activation,
            ),
            layer.feed_forward_norm,
            run.at(trace[prefix + "feed_forward_norm.scale"]),
            f"{label} feed-forward norm bias",
        )


def pushed_forward(run: Run, by: str) -> tuple[Tensor, list[str]]:
    """Returns each part as it is in the hidden state, (C, B, P, D), and its label."""
    labels: list[str] = []
    parts = run.hidden.new_zeros(0, *run.hidden.shape)
    for stage in stages(run, by):
        parts = torch.cat([parts, stage.added.parts()])
        parts = normed(parts, stage.norm, stage.scale)
        parts = torch.cat([parts, stage.norm.bias.expand_as(parts[:1])])
        labels += [*stage.added.labels, stage.bias_label]
    return parts, labels


def pulled_back(run: Run, direction: Tensor, by: str) -> tuple[Tensor, list[str]]:
    """Returns how much each part adds along a direction (B, P, D) of the hidden state: (C, B, P), and its label."""
    values: list[Tensor] = []
    labels: list[str] = []
    for stage in reversed(list(stages(run, by))):
        bias = (direction @ stage.norm.bias)[None]
        direction = through_norm(direction, stage.norm, stage.scale)
        values = [stage.added.projected(direction), bias, *values]
        labels = [*stage.added.labels, stage.bias_label, *labels]
    return torch.cat(values), labels


def normed(vectors: Tensor, norm: nn.LayerNorm, scale: Tensor) -> Tensor:
    """Vectors (…, D) after a LayerNorm without its bias, the scale as it was."""
    return (vectors - vectors.mean(dim=-1, keepdim=True)) * scale * norm.weight


def through_norm(direction: Tensor, norm: nn.LayerNorm, scale: Tensor) -> Tensor:
    """Returns the direction (…, D) before a LayerNorm that is this direction after it, its scale taken as it was."""
    weighted = direction * norm.weight
    return (weighted - weighted.mean(dim=-1, keepdim=True)) * scale
