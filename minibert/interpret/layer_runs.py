"""What does one layer mix, vector by vector?

A run's values, layer by layer, and how a vector from one position goes through attention, the residual connection, the
LayerNorms and the feed-forward block, everything that is not linear taken as it was in that run: attention weights, the
scales of the norms, the gates of the activation.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from minibert.interpret.readouts import activation_gate
from minibert.interpret.residual import normed
from minibert.model import BertModel, EncoderLayer
from minibert.trace.recording import Trace


@dataclass(frozen=True)
class LayerRun:
    """The values of one layer in a run."""

    layer: EncoderLayer
    trace: Trace
    name: str  # "encoder.layers.3."
    below: str  # the name of the hidden state that the layer reads

    @property
    def probabilities(self) -> Tensor:
        return self.trace[f"{self.name}attention.probabilities"]  # (B, H, S, T)

    @property
    def attention_norm(self) -> Tensor:
        return self.trace[f"{self.name}attention_norm"]

    @property
    def hidden(self) -> Tensor:
        return self.trace[f"{self.name}feed_forward_norm"]

    def attended(self) -> Tensor:
        """The vector that each position gets from each by attention, Σ α·f(x) over heads: (B, S, T, D)."""
        value, heads = self.trace[f"{self.name}attention.value"], self.probabilities.shape[1]
        columns = self.layer.attention.output.weight.unflatten(1, (heads, -1))  # (D, D) → (D, H, W)
        transformed = torch.einsum("bhtw,dhw->bhtd", value, columns)
        return torch.einsum("bhst,bhtd->bstd", self.probabilities, transformed)

    def attention_off(self, vectors: Tensor, real: Tensor) -> float:
        """How far these vectors and the bias are from the output of attention."""
        whole = self.trace[f"{self.name}attention.output"]
        return largest((vectors.sum(dim=2) + self.layer.attention.output.bias - whole)[real])

    def with_residual(self, vectors: Tensor) -> Tensor:
        """The vectors with what each position keeps of itself: (B, S, T, D)."""
        everywhere = torch.arange(vectors.shape[1], device=vectors.device)
        vectors = vectors.clone()
        vectors[:, everywhere, everywhere] += self.trace[self.below]
        return vectors

    def through_attention_norm(self, vectors: Tensor) -> Tensor:
        """The vectors (B, S, T, D) after the first LayerNorm, without its bias."""
        return normed(vectors, self.layer.attention_norm, self.trace[f"{self.name}attention_norm.scale"][:, :, None])

    def through_feed_forward_norm(self, vectors: Tensor) -> Tensor:
        """The vectors (B, S, T, D) after the second LayerNorm, past the feed-forward block, without its bias."""
        scale = self.trace[f"{self.name}feed_forward_norm.scale"]
        return normed(vectors, self.layer.feed_forward_norm, scale[:, :, None])

    def carried(self, parts: Tensor) -> Tensor:
        """Vectors by source, (B, C, S, D), from before this layer to after it; the last source gets all biases."""
        attention, block = self.layer.attention, self.layer.feed_forward
        heads = self.probabilities.shape[1]
        value = (parts @ attention.value.weight.T).unflatten(-1, (heads, -1))  # (B, C, T, D) → (B, C, T, H, W)
        value[:, -1] += attention.value.bias.unflatten(0, (heads, -1))
        context = torch.einsum("bhst,bcthw->bcshw", self.probabilities, value).flatten(3)
        mixed = context @ attention.output.weight.T
        mixed[:, -1] += attention.output.bias
        scale = self.trace[f"{self.name}attention_norm.scale"][:, None]
        parts = normed(parts + mixed, self.layer.attention_norm, scale)
        parts[:, -1] += self.layer.attention_norm.bias
        expanded = parts @ block.expand.weight.T
        expanded[:, -1] += block.expand.bias
        gates = activation_gate(block.activation, self.trace[f"{self.name}feed_forward.expand"])  # (B, S, F)
        contracted = (expanded * gates[:, None]) @ block.contract.weight.T
        contracted[:, -1] += block.contract.bias
        scale = self.trace[f"{self.name}feed_forward_norm.scale"][:, None]
        parts = normed(parts + contracted, self.layer.feed_forward_norm, scale)
        parts[:, -1] += self.layer.feed_forward_norm.bias
        return parts


def layer_runs(bert: BertModel, trace: Trace) -> Iterator[LayerRun]:
    """Yields the values of each layer in a run."""
    below = "embeddings.norm"
    for number, layer in enumerate(bert.encoder.layers):
        assert isinstance(layer, EncoderLayer)
        name = f"encoder.layers.{number}."
        yield LayerRun(layer, trace, name, below)
        below = f"{name}feed_forward_norm"


def largest(differences: Tensor) -> float:
    """The largest of these numbers by absolute value: 0 if there are none, NaN if one of them is."""
    return differences.abs().max().item() if differences.numel() else 0.0


def mixing_names(bert: BertModel) -> list[str]:
    """Returns the names of the values that these methods read."""
    names = ["embeddings.sum", "embeddings.norm", "embeddings.norm.scale"]
    inside = ("attention.probabilities", "attention.value", "attention.output", "attention_norm", "feed_forward_norm")
    for number in range(len(bert.encoder.layers)):
        names += [f"encoder.layers.{number}.{name}" for name in (*inside, "feed_forward.expand", "*_norm.scale")]
    return names
