"""What is a hidden state, or a logit, made of?

Every hidden state is a sum: each part of the network (an embedding, a head, a feed-forward block, a bias) adds its
output to the residual connection. In a BERT a LayerNorm follows each sum, which is not linear; but with its scale 1/σ
taken as it was in this run, it is, and the sum goes through it part by part. This is direct attribution:

    parts = decompose(model, inputs, by="head")
    parts.values            # (C, B, S, D): 100 parts for a BERT of 6 layers and 12 heads
    parts.error             # how far their sum is from the hidden state: rounding

    decompose(mlm, inputs, to="logit", token="river")           # which part speaks for "river" at the [MASK]?

The head of a masked language model has one step more, an activation x·Φ(x), whose gate Φ(x) is taken as it was in the
same way. What each part adds to one number is computed backwards: the direction of the number is pulled back through
the scales, and each part is projected on it.

*Direct* says what is left out: how a part changes what later heads attend to, what later neurons fire on, and the
scales themselves. `patch` answers that, by changing the part and running the rest of the model.

Mickus, Paperno and Constant 2022, "How to Dissect a Muppet: The Structure of Transformer Embedding Spaces", derive the
sum for BERT; Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", use it for logits. Two things
differ from the four terms of the former. A LayerNorm subtracts the mean of the sum: they count all means as bias, here
each part loses its own. And they count what the bias of the values adds as bias, here it is part of its head.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minibert.checks import as_integer, check_integer, check_one_of, shown
from minibert.errors import InputError
from minibert.interpret.readouts import read_out
from minibert.interpret.residual import Run, pulled_back, pushed_forward
from minibert.interpret.runs import Inputs, as_inputs, bert_of, mask_of, position_of
from minibert.show.tables import table

HIDDEN = "hidden state"


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The parts of a hidden state, or of one number, in the order computed."""

    values: Tensor  # (C, B, S, D), (C, B, D) at one position; of a number (C,), (C, B) for several texts, (C, B, S)
    labels: list[str]  # C names
    whole: Tensor  # what they sum to: `values` without the first axis
    of: str  # what the whole is
    mask: Tensor | None = None  # (B, S), True for tokens: padding counts in no mean and in no error; None: all count

    @property
    def error(self) -> float:
        """The largest distance of the sum of the parts from the whole."""
        distances = (self.values.sum(dim=0) - self.whole).abs()
        return (distances if self.mask is None else distances[self.mask]).max().item()

    @property
    def shares(self) -> Tensor:
        """How much of the whole each part is: its projection on it. The shares sum to 1; of a whole that is 0, to 0.

        Shape: (C, B, S) for hidden states (C, B, S, D); otherwise that of the values.
        """
        dtype = torch.promote_types(self.values.dtype, torch.float32)  # a square of float16 overflows at 256
        values, whole = self.values.to(dtype), self.whole.to(dtype)
        if self.of != HIDDEN:
            return _divided(values, whole)
        return _divided((values * whole).sum(dim=-1), whole.square().sum(dim=-1))

    def top(self, k: int = 10) -> list[tuple[str, float]]:
        """The k largest parts by absolute value, and how much each adds: to a number in its own unit, to a hidden state
        as a share; the mean over texts, or over all tokens.
        """
        check_integer("k", k, 1)
        added = self._mean(self.shares if self.of == HIDDEN else self.values)
        order = added.abs().argsort(descending=True, stable=True)[:k].tolist()
        return [(self.labels[index], added[index].item()) for index in order]

    def table(self, k: int = 10) -> str:
        """The k largest parts, and what all others are together."""
        top, whole = self.top(k), 1.0 if self.of == HIDDEN else self._mean(self.whole[None]).item()
        rows = [("part", "share" if self.of == HIDDEN else "adds")]
        rows += [(label, f"{added:+.3f}") for label, added in top]
        if len(top) < len(self.labels):
            others = whole - sum(added for _, added in top)
            rows.append((f"the other {len(self.labels) - len(top)}", f"{others:+.3f}"))
        ends = self.of if self.of == HIDDEN else f"{self.of}, {whole:.3f}"
        lines = [f"{ends}: the largest of {len(self.labels)} parts", table(rows, right=[1])]
        return "\n".join([*lines, f"the sum of all parts is off by {self.error:.1e}"])

    def __str__(self) -> str:
        return self.table()

    def plot(self, k: int = 20) -> Any:
        """A picture of the k largest parts."""
        from minibert.show.plots import plot_bars

        labels, added = zip(*self.top(k), strict=True)
        return plot_bars(list(added), labels, quantity="share" if self.of == HIDDEN else "adds", title=self.of)

    def _mean(self, numbers: Tensor) -> Tensor:
        """The mean over texts and tokens, without padding: (C, …) → (C)."""
        if numbers.dim() == 1:
            return numbers
        counted = numbers.flatten(1) if self.mask is None else numbers[:, self.mask]
        return counted.mean(dim=1)


@torch.no_grad()
def decompose(
    model: nn.Module,
    inputs: Inputs,
    *,
    to: Literal["hidden", "logit"] | Tensor = "hidden",
    layer: int = -1,
    by: Literal["part", "head", "neuron"] = "part",
    position: int | None = None,
    token: str | int | None = None,
) -> Decomposition:
    """Takes a hidden state, a logit, or a projection of a hidden state apart, so that the parts sum to it exactly.

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        inputs: what a tokenizer returns, (B, S).
        to: "hidden", the hidden states themselves; a direction (D,), on which they are projected; or "logit", the score
            of a token or class, which needs a model with a head for masked words, next sentences, texts or tokens.
        layer: of which hidden state, 0 (the embeddings) to L, or from the end: -1 is the last. A logit is of the last.
        by: how attention and feed-forward blocks are divided: "part" not at all; "head" each attention into its heads
            and the bias of its output; "neuron" each feed-forward block into its neurons as well.
        position: at one position of each text; None means all. For a logit, None is the only [MASK]; the score of a
            text is read at [CLS], and has no other position.
        token: for a logit, the token of the vocabulary, or the class, by itself or its number.

    Returns:
        Parts (C, …), their labels, the whole, and the error of their sum. For BERT-base by head there are 196: three
        embeddings, the bias of their norm, and in each layer 12 heads, the bias of their output, the feed-forward block
        (with its bias) and the biases of both norms; a logit has the biases of its head as well.

    Raises:
        InputError: something that does not fit the model or each other; hidden states of all positions by neuron, which
            are too many numbers.
    """
    bert = bert_of(model)
    as_inputs(inputs)
    check_one_of("by", by, ("part", "head", "neuron"))
    layers = len(bert.encoder.layers)
    number = as_integer(layer)
    if number is None or not -layers - 1 <= number <= layers:
        raise InputError(f"layer must be a hidden state from 0 to {layers}, got {shown(layer)}")
    number %= layers + 1
    if token is not None and (isinstance(to, Tensor) or to == "hidden"):
        raise InputError(f"token must be left out unless to is 'logit', got {shown(token)}")
    mask = None if position is not None or not mask_of(inputs).any() else mask_of(inputs)
    if isinstance(to, Tensor):
        positions = None if position is None else position_of(position, inputs)
        return _of_projection(Run(bert, inputs, positions, number), to, by, mask)
    check_one_of("to", to, ("hidden", "logit"))
    if to == "logit":
        if number != layers:
            raise InputError(f"layer must be -1 for a logit, which is computed from the last hidden state, got {layer}")
        return _of_logit(model, inputs, by, position, token)
    if by == "neuron" and position is None:
        raise InputError("position must be given for hidden states by neuron: all of them are too many numbers")
    run = Run(bert, inputs, None if position is None else position_of(position, inputs), number)
    values, labels = pushed_forward(run, by)
    if position is None:
        return Decomposition(values, labels, run.hidden, HIDDEN, mask)
    return Decomposition(values[:, :, 0], labels, run.hidden[:, 0], HIDDEN)  # (C, B, 1, D) → (C, B, D)


def _of_projection(run: Run, direction: Tensor, by: str, mask: Tensor | None) -> Decomposition:
    """The parts of a hidden state's projection on a direction (D,)."""
    size = run.hidden.shape[-1]
    if direction.shape != (size,):
        raise InputError(f"the direction must be a tensor ({size},), got {tuple(direction.shape)}")
    if direction.is_complex():
        raise InputError(f"the direction must have real numbers, got {direction.dtype}")
    directions = direction.to(run.hidden).expand_as(run.hidden)  # (D) → (B, P, D)
    values, labels = pulled_back(run, directions, by)
    whole = (run.hidden * directions).sum(dim=-1)
    if run.positions is None:
        return Decomposition(values, labels, whole, "projection", mask)
    return Decomposition(*_of_one_text(values[..., 0], labels, whole[..., 0]), "projection")


def _of_logit(model: nn.Module, inputs: Inputs, by: str, position: int | None, token: Any) -> Decomposition:
    """The parts of the score of a token or a class."""
    bert = bert_of(model)
    readout = read_out(model, inputs, position, token)
    run = Run(bert, inputs, readout.positions, len(bert.encoder.layers))
    values, labels = pulled_back(run, readout.direction[:, None], by)
    values = torch.cat([values[..., 0], torch.stack(list(readout.biases.values()))])  # (C, B, 1) → (C, B)
    return Decomposition(*_of_one_text(values, labels + list(readout.biases), readout.scores), readout.name)


def _of_one_text(values: Tensor, labels: list[str], whole: Tensor) -> tuple[Tensor, list[str], Tensor]:
    """Without the axis of the batch for one number: (C, 1) → (C,)."""
    if values.dim() == 2 and values.shape[1] == 1:
        return values[:, 0], labels, whole[0]
    return values, labels, whole


def _divided(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole == 0, torch.zeros_like(part), part / torch.where(whole == 0, 1, whole))
