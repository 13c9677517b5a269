"""What is counted over a corpus?

A statistic sums something over batches and makes a result of the sums: sums can be added in any batches, kept, and gone
on with. Padding never counts, neither as a query nor as a key. All sums are in float64.

Of each head, mean over all real queries ([CLS] and [SEP] are queries as well; Clark et al. 2019, "What Does BERT Look
At?", sections 3 and 4):

    entropy         −Σ p·log p of a query's attention, in nats
    distance        Σ p·|s − t|, in tokens
    self, previous, next        the attention to the token itself, to the one before it and to the one after it
    cls, sep, punctuation       the attention to [CLS], to all [SEP], to tokens that are punctuation

Of all pairs of heads, `head_distances`: the Jensen-Shannon divergence of their attention, in nats (Clark et al. 2019,
section 6). Of each neuron of the feed-forward blocks, `neurons`: its mean, its maximum, and where it fires most.
"""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from minibert.errors import InputError
from minibert.interpret.texts import TextBatch
from minibert.trace.edits import Means, real_positions
from minibert.trace.recording import Trace

State = dict[str, Tensor]
PROBABILITIES, ACTIVATION = "attention.probabilities", "feed_forward.activation"


class Seen:
    """A batch, and the values of the model's run on it; what several statistics need is made once."""

    def __init__(self, trace: Trace, batch: TextBatch, layers: int) -> None:
        self.trace, self.batch, self.layers = trace, batch, layers
        self.real = batch.inputs["attention_mask"] != 0  # (B, S)

    @cached_property
    def attention(self) -> Tensor:
        """The attention probabilities of all layers: (L, B, H, S, T)."""
        attention = self.stacked(PROBABILITIES)
        # Sums in float16 lose what the statistics are about: the divergence of two heads comes out negative.
        return attention if attention.element_size() > 2 else attention.float()

    def stacked(self, short: str) -> Tensor:
        """A value of all layers, (L, B, …).

        Raises:
            InputError: layers of different numbers of heads, which make no table.
        """
        values = [self.trace[f"encoder.layers.{layer}.{short}"] for layer in range(self.layers)]
        if len({value.shape for value in values}) > 1:
            raise InputError("the layers must have the same number of heads for one table: this model is pruned")
        return torch.stack(values)


class Statistic(ABC):
    """Something that is summed over a corpus; `state` are its sums, by name."""

    def __init__(self) -> None:
        self.state: State = {}

    @abstractmethod
    def names(self, layers: int) -> list[str]:
        """The values that it reads."""

    @abstractmethod
    def update(self, seen: Seen) -> None:
        """Adds a batch."""

    @abstractmethod
    def result(self) -> Any:
        """What the sums come to."""

    def add(self, name: str, value: Tensor | float) -> None:
        """Adds to one of the sums."""
        value = torch.as_tensor(value, dtype=torch.float64).cpu()
        self.state[name] = self.state[name] + value if name in self.state else value


# --- of each head ----------------------------------------------------------------------------------------------------

# (attention (L, B, H, S, T), the batch) → a number for each query: (L, B, H, S)
OfQueries = Callable[[Tensor, TextBatch], Tensor]


def entropy(attention: Tensor, batch: TextBatch) -> Tensor:
    return torch.special.entr(attention).sum(dim=-1)


def distance(attention: Tensor, batch: TextBatch) -> Tensor:
    positions = torch.arange(attention.shape[-1], device=attention.device)
    apart = (positions[:, None] - positions).abs().to(attention)
    return torch.einsum("lbhst,st->lbhs", attention, apart)


def to_offset(offset: int) -> OfQueries:
    """The attention to the token at a distance, 0 where there is none."""

    def share(attention: Tensor, batch: TextBatch) -> Tensor:
        found = torch.zeros_like(attention[..., 0])
        there = attention.diagonal(offset, dim1=-2, dim2=-1)  # queries s with a key at s + offset
        queries = slice(max(0, -offset), found.shape[-1] - max(0, offset))
        found[..., queries] = there
        return found

    return share


def to_tokens(is_one: Callable[[str], bool]) -> OfQueries:
    """The attention to all tokens of a kind."""

    def share(attention: Tensor, batch: TextBatch) -> Tensor:
        chosen = [[is_one(token) for token in batch.inputs.tokens(row)] for row in range(len(batch.texts))]
        return torch.einsum("lbhst,bt->lbhs", attention, torch.tensor(chosen).to(attention))

    return share


@cache  # a vocabulary has few tokens, and a corpus many
def is_punctuation(token: str) -> bool:
    """Whether a token has nothing but punctuation and symbols, as `.` and `$` have."""
    text = token.removeprefix("##")
    return bool(text) and all(unicodedata.category(character)[0] in "PS" for character in text)


OF_HEADS: dict[str, OfQueries] = {
    "entropy": entropy,
    "distance": distance,
    "self": to_offset(0),
    "previous": to_offset(-1),
    "next": to_offset(1),
    "cls": to_tokens(lambda token: token == "[CLS]"),
    "sep": to_tokens(lambda token: token == "[SEP]"),
    "punctuation": to_tokens(is_punctuation),
}


class OfHeads(Statistic):
    """A mean over queries, for each head: (L, H)."""

    def __init__(self, of_queries: OfQueries) -> None:
        super().__init__()
        self.of_queries = of_queries

    def names(self, layers: int) -> list[str]:
        return [f"encoder.layers.{layer}.{PROBABILITIES}" for layer in range(layers)]

    def update(self, seen: Seen) -> None:
        values = self.of_queries(seen.attention, seen.batch) * seen.real[:, None]  # (L, B, H, S)
        self.add("sum", values.sum(dim=(1, 3), dtype=torch.float64))
        self.add("queries", seen.real.sum())

    def result(self) -> Tensor:
        return self.state["sum"] / self.state["queries"]


class HeadDistances(OfHeads):
    """The Jensen-Shannon divergence of each pair of heads, mean over queries: (L·H, L·H)."""

    def __init__(self) -> None:
        super().__init__(entropy)

    def update(self, seen: Seen) -> None:
        # The real queries of all texts, one after the other: (L, B, H, S, T) → (L·H, N, T)
        heads = seen.attention.transpose(1, 2).flatten(0, 1)[:, seen.real]
        own = torch.special.entr(heads).sum(dim=(1, 2), dtype=torch.float64)  # (L·H)
        rows = []
        for head in heads:  # a row at a time: all pairs at once would be (L·H)² patterns
            rows.append(torch.special.entr((head + heads) / 2).sum(dim=(1, 2), dtype=torch.float64))
        self.add("sum", torch.stack(rows) - (own[:, None] + own) / 2)
        self.add("queries", seen.real.sum())

    def result(self) -> Tensor:
        return super().result().clamp(min=0)  # of equal heads, rounding may leave −1e-9


# --- of each neuron --------------------------------------------------------------------------------------------------


class OfNeurons(Statistic):
    """Of each neuron its mean, its maximum, and the K tokens on which it fires most: (L, F) and (L, F, K).

    A token is given by the number of its text, its position, and its id.
    """

    def __init__(self, k: int = 5) -> None:
        super().__init__()
        self.k = k

    def names(self, layers: int) -> list[str]:
        return [f"encoder.layers.{layer}.{ACTIVATION}" for layer in range(layers)]

    def update(self, seen: Seen) -> None:
        real, batch = seen.real, seen.batch
        fired = seen.stacked(ACTIVATION)[:, real].transpose(1, 2)  # (L, B, S, F) → (L, N, F) → (L, F, N)
        self.add("sum", fired.sum(dim=2, dtype=torch.float64))
        self.add("tokens", real.sum())
        rows, positions = real.nonzero(as_tuple=True)  # of the N tokens
        numbers = torch.tensor(batch.numbers, device=rows.device)[rows]
        of_tokens = {"text": numbers, "position": positions, "id": batch.inputs["input_ids"][real]}
        # Soon most neurons have fired more strongly in earlier batches: only the others are sorted.
        better = torch.ones(fired.shape[:2], dtype=torch.bool, device=fired.device)
        if "activation" in self.state and self.state["activation"].shape[2] == self.k:
            weakest = self.state["activation"][..., -1]
            better = ~(fired.amax(dim=2).cpu().double() < weakest)  # so that NaN is chosen too
        chosen = fired[better.to(fired.device)]  # (L, F, N) → (M, N)
        top = chosen.topk(min(self.k, fired.shape[2]), dim=1)
        found = {"activation": top.values.double()} | {name: each[top.indices] for name, each in of_tokens.items()}
        self._keep_best({name: value.cpu() for name, value in found.items()}, better.cpu())

    def _keep_best(self, found: State, better: Tensor) -> None:
        """Of the strongest so far and those of a batch, the strongest; of equal ones, that of the earlier text.

        Args:
            found: those of a batch, (M, K) each.
            better: (L, F), which M neurons these are.
        """
        if "activation" not in self.state:
            self.state |= {name: value.unflatten(0, better.shape)[..., :0] for name, value in found.items()}
        found = {name: torch.cat([self.state[name][better], value], dim=1) for name, value in found.items()}
        order = found["position"].argsort(dim=1, stable=True)
        for name in ("text", "activation"):
            by = found[name].gather(1, order)
            order = order.gather(1, by.argsort(dim=1, stable=True, descending=name == "activation"))
        for name, value in found.items():
            best = value.gather(1, order[:, : self.k])  # (M, K)
            if best.shape[1] > self.state[name].shape[2]:  # the first batches may have fewer than K tokens
                self.state[name] = best.unflatten(0, better.shape)
            else:
                self.state[name] = self.state[name].masked_scatter(better[..., None], best)

    def result(self) -> State:
        top = {name: self.state[name] for name in ("activation", "text", "position", "id")}
        return {"mean": self.state["sum"] / self.state["tokens"], "maximum": top["activation"][..., 0], **top}


# --- of each name ----------------------------------------------------------------------------------------------------


class OfNames(Statistic):
    """The mean of named values over real positions, for mean ablation, and their covariance if that is asked for.

    Sums are of differences from the first batch's mean, so that large means cost no digits.
    """

    def __init__(self, axes: dict[str, str], covariance: bool) -> None:
        super().__init__()
        self.axes, self.covariance = axes, covariance

    def names(self, layers: int) -> list[str]:
        return list(self.axes)

    def update(self, seen: Seen) -> None:
        for name, axes in self.axes.items():
            vectors = real_positions(seen.trace[name], axes, seen.batch.inputs).double()  # (N, …)
            origin = self.state.setdefault(f"{name}/origin", vectors.mean(dim=0).cpu()).to(vectors.device)
            apart = vectors - origin
            self.add(f"{name}/count", len(vectors))
            self.add(f"{name}/sum", apart.sum(dim=0))
            if self.covariance:
                flat = apart.flatten(1)  # (N, H, W) → (N, D)
                self.add(f"{name}/squares", flat.T @ flat)

    def result(self) -> tuple[Means, State]:
        means, covariances = Means(), {}
        for name in self.axes:
            origin, count = self.state[f"{name}/origin"], self.state[f"{name}/count"]
            shift = self.state[f"{name}/sum"] / count
            means[name] = origin + shift
            if self.covariance:
                flat = shift.flatten()
                covariances[name] = self.state[f"{name}/squares"] / count - torch.outer(flat, flat)
        return means, covariances


def counters(statistics: Sequence[str], axes: dict[str, str], covariance: bool, k: int) -> dict[str, Statistic]:
    """Returns the statistics of these names."""
    chosen: dict[str, Statistic] = {}
    for name in statistics:
        if name == "head_distances":
            chosen[name] = HeadDistances()
        elif name == "neurons":
            chosen[name] = OfNeurons(k)
        else:
            chosen[name] = OfHeads(OF_HEADS[name])
    if axes:
        chosen["names"] = OfNames(axes, covariance)
    return chosen
