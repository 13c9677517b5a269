"""Which tokens does a number come from, by its gradient?

    ig = integrated_gradients(mlm, inputs, token_logit("river"))
    ig.scores[0]                # (S,): what each token adds to the logit, compared with the baseline
    ig.error                    # how far their sum is from the difference that they explain

Integrated gradients go in a straight line from a baseline, a text that says nothing, to the text, and sum the gradient
along the way: the sum is the difference of the target between the two (completeness; Sundararajan, Taly and Yan 2017,
"Axiomatic Attribution for Deep Networks", equation 1 and proposition 1). `saliency` is the length of the gradient at
the text alone (Simonyan et al. 2014; Li et al. 2016), `input_x_gradient` its product with the value (Shrikumar et al.
2016): quicker, but they sum to nothing in particular, since a gradient says what a small change does, not where a
number comes from.

All of them work at any named value: at a feed-forward block's activations, integrated gradients are the attributions of
knowledge neurons (Dai et al. 2022, section 3.2), if the baseline is 0 at one position alone: as in the code of the
paper, all neurons there grow together, where its equation changes one at a time. At attention probabilities, they are
those of self-attention attribution (Hao et al. 2021).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minibert.checks import check_integer, check_one_of, shown
from minibert.errors import CompletenessWarning, InputError, warn
from minibert.interpret.runs import (
    Inputs,
    as_inputs,
    bert_of,
    check_row,
    differentiable,
    differentiable_inputs,
    mask_of,
    rows_of,
    tokens_of,
)
from minibert.interpret.targets import TargetLike, as_target, measure
from minibert.interpret.whole_words import word_groups, word_label
from minibert.show.tables import table
from minibert.tokenizer import BatchEncoding
from minibert.trace.recording import edit, record
from minibert.trace.values import matching

WORDS = "embeddings.word_embeddings"
KEPT = ("[CLS]", "[SEP]", "[MASK]", "[PAD]")  # these are the same in the baseline
TOLERANCE = 0.01  # of the difference that is explained


@dataclass(frozen=True)
class Attribution:
    """What each number of a value adds to the target, or how the target moves with it."""

    values: Tensor  # (B, S, D), or the shape of the value
    scores: Tensor  # (B, S) for each position; (B,) of a value without positions
    tokens: list[list[str]]  # B lists of S
    target: Tensor  # (B,), of the texts
    baseline_target: Tensor | None  # (B,), of the baselines; only integrated gradients have one
    error: float | None  # how far the sum is from the difference, or from the target; a saliency has no sum
    of: str
    inputs: Inputs

    @property
    def words(self) -> list[list[tuple[str, float]]]:
        """For each text its words, [CLS] and [SEP] included, and the sum of the scores of each word's tokens.

        Raises:
            InputError: inputs that no tokenizer made, or a value without positions.
        """
        self._check_positions("words")
        found = []
        for row, scores in enumerate(self.scores):
            groups = word_groups(self.inputs, row)
            found.append([(word_label(self.inputs, row, group), scores[group].sum().item()) for group in groups])
        return found

    def labelled(self, row: int = 0) -> list[tuple[str, float]]:
        """The tokens of a text that are not padding, each with its score.

        Raises:
            InputError: a value without positions, or a text that is not there.
        """
        self._check_positions("tokens")
        row = check_row(row, self.inputs)
        real = mask_of(self.inputs)[row].tolist()
        pairs = zip(self.tokens[row], self.scores[row].tolist(), real, strict=True)
        return [(token, score) for token, score, there in pairs if there]

    def __str__(self) -> str:
        if self.scores.dim() < 2:
            return f"{self.of}: {', '.join(f'{score:+.4f}' for score in self.scores.tolist())}"
        rows = [("token", "score"), *((token, f"{score:+.4f}") for token, score in self.labelled())]
        ends = f"{self.of}: {self.target[0].item():.4f}"
        if self.baseline_target is not None:
            ends += f", {self.baseline_target[0].item():.4f} for the baseline"
        lines = [ends, table(rows, right=[1])]
        return "\n".join(lines if self.error is None else [*lines, f"the sum is off by {self.error:.1e}"])

    def plot(self, row: int = 0) -> Any:
        """A picture of the scores of one text; raises as `labelled` does."""
        from minibert.show.plots import plot_bars

        tokens, scores = zip(*self.labelled(row), strict=True)
        return plot_bars(list(scores), tokens, quantity="score", title=self.of)

    def _check_positions(self, what: str) -> None:
        if self.scores.dim() < 2:
            raise InputError(f"{what} need scores of positions, which this value does not have")


def integrated_gradients(
    model: nn.Module,
    inputs: Inputs,
    target: TargetLike,
    *,
    at: str = WORDS,
    baseline: Literal["pad", "mask", "zero"] | Tensor | None = None,
    steps: int = 50,
    batch: int = 32,
) -> Attribution:
    """Returns what each number of a value adds to the target, compared with a baseline; the sum is the difference.

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        inputs: what a tokenizer returns, (B, S).
        target: what is explained: a target of `minibert.interpret.targets`, or a function of the model's output that
            returns one number for each row, of that row alone: each point of the path is a row, too.
        at: the value, by its name in `record`.
        baseline: "pad", "mask" or "zero", the embedding of that token, or zeros, in the place of every other token but
            [CLS], [SEP], [MASK] and padding, which are the same in both (only a tokenizer's inputs tell the first
            three); or a tensor that broadcasts to the value. None means "pad" at the word embeddings, and "zero" at any
            other value, where that is zeros at every position.
        steps: at how many points the gradient is taken, the nodes of Gauss and Legendre: more make the error smaller.
        batch: at most how many rows have their gradient computed at once; texts that are compared stay together.

    Raises:
        InputError: something that does not fit the model or each other, or a target that does not depend on the value.

    Warns:
        CompletenessWarning: the error is more than 1 % of the difference, or not a number.
    """
    bert_of(model)
    steps, batch = check_integer("steps", steps, 1), check_integer("batch", batch, 1)
    name, value, after = _value_at(model, inputs, target, at)
    start = _baseline(model, inputs, name, value, baseline)
    before = _target_at(model, inputs, target, name, start)
    together = as_target(target).rows  # of texts that are compared, the pair explains the difference

    def gradient_at(rows: list[int], points: Tensor) -> Tensor:
        return _gradient(model, rows_of(inputs, rows), target, name, points)

    mean = _mean_gradient(gradient_at, start, value, steps=steps, batch=batch, together=together)
    values = (mean * (value - start)).to(value.dtype)
    sums = values.double().flatten(1).sum(dim=1).view(-1, together).sum(dim=1)
    difference = (after - before)[::together]
    off = (sums - difference).abs()
    _warn_unless_complete(off, difference, steps)
    scores = _scores(values, model, name)
    return _attribution(values, scores, inputs, target, after, before, off.max().item())


def input_x_gradient(model: nn.Module, inputs: Inputs, target: TargetLike, *, at: str = WORDS) -> Attribution:
    """Returns the value times the gradient of the target: what a linear target would be made of.

    A BERT is not linear, and nothing makes these sum to the target: `.error` says by how much they do not.

    Args, raises: as for `integrated_gradients`.
    """
    bert_of(model)
    name, value, after = _value_at(model, inputs, target, at)
    values = value * _gradient(model, inputs, target, name, value)
    together = as_target(target).rows
    sums = values.double().flatten(1).sum(dim=1).view(-1, together).sum(dim=1)
    off = (sums - after[::together]).abs().max().item()
    return _attribution(values, _scores(values, model, name), inputs, target, after, None, off)


def saliency(model: nn.Module, inputs: Inputs, target: TargetLike, *, at: str = WORDS) -> Attribution:
    """Returns the gradient of the target, and as the score of a position its length: how far a small change moves it.

    Args, raises: as for `integrated_gradients`.
    """
    bert_of(model)
    name, value, after = _value_at(model, inputs, target, at)
    values = _gradient(model, inputs, target, name, value)
    lengths = _scores(values.double().square(), model, name).sqrt().to(values)  # in float16, 1e-4² would be 0
    return _attribution(values, lengths, inputs, target, after, None, None)


def _attribution(
    values: Tensor, scores: Tensor, inputs: Inputs, target: Any, after: Tensor, before: Tensor | None, off: float | None
) -> Attribution:
    return Attribution(values, scores, tokens_of(inputs), after, before, off, as_target(target).name, inputs)


# --- gradients at a value --------------------------------------------------------------------------------------------


def _value_at(model: nn.Module, inputs: Inputs, target: TargetLike, at: str) -> tuple[str, Tensor, Tensor]:
    """The name of a value, the value itself, and the target."""
    as_inputs(inputs)
    found = matching(model, at)
    if len(found) > 1:
        raise InputError(f"at must be the name of one value, got {shown(at)}, which is {len(found)}")
    ((name, value),) = found.items()
    if "B" not in value.axes.split():
        raise InputError(f"{name} is the same for all texts: attribute to {WORDS}, or to embeddings.sum")
    with torch.no_grad(), record(model, name) as trace:
        measured = measure(model, inputs, target)
    return name, trace[name], measured


def _target_at(model: nn.Module, inputs: Inputs, target: TargetLike, name: str, value: Tensor) -> Tensor:
    """The target with another value in the place of a named one."""
    with torch.no_grad(), edit(model, name, lambda _: value):
        return measure(model, inputs, target)


def _gradient(model: nn.Module, inputs: Inputs, target: TargetLike, name: str, value: Tensor) -> Tensor:
    """The gradient of the target of each row, with this value in the place of the named one."""
    with differentiable(model):
        leaf = value.clone().requires_grad_()  # a copy: no gradient can be taken at a tensor of inference mode
        with edit(model, name, lambda _: leaf):
            measured = measure(model, differentiable_inputs(inputs), target)
        gradient = None
        if measured.requires_grad:
            numbers = measured[:: as_target(target).rows]
            (gradient,) = torch.autograd.grad(numbers.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise InputError(f"the target must depend on {name}, and {as_target(target).name} does not")
    return gradient


def _mean_gradient(
    gradient_at: Callable[[list[int], Tensor], Tensor],
    start: Tensor,
    value: Tensor,
    *,
    steps: int,
    batch: int,
    together: int,
) -> Tensor:
    """The mean gradient along the straight line from one value to another, in float64.

    Args:
        gradient_at: returns the gradient of these rows of the inputs, with these values.
        together: how many rows that follow each other are never computed apart.
    """
    nodes, weights = gauss_legendre(steps)
    mean = torch.zeros_like(value, dtype=torch.float64)
    each = (-1, *[1] * value.dim())  # one point, all rows
    for rows in torch.arange(len(value)).split(max(1, batch // together) * together):
        first, last = start[rows], value[rows]  # (B, S, D) → (R, S, D)
        points = max(1, batch // len(rows))
        for node, weight in zip(nodes.split(points), weights.split(points), strict=True):
            path = first + node.to(value).view(each) * (last - first)  # (P, R, S, D)
            gradient = gradient_at(rows.tolist() * len(node), path.flatten(0, 1)).view(path.shape)
            mean[rows] += (gradient * weight.to(mean).view(each)).sum(dim=0)  # (P, R, S, D) → (R, S, D)
    return mean


def _warn_unless_complete(off: Tensor, difference: Tensor, steps: int) -> None:
    if (off <= TOLERANCE * difference.abs()).all():  # NaN is no agreement either
        return
    message = f"the attributions sum to the difference within {off.max().item():.1e} only"
    if not off.isfinite().all():
        message += ": the model, the baseline or the target has NaN or infinity"
    else:
        message += f", which is more than 1 % of it: take more than {steps} steps"
        if difference.dtype in (torch.float16, torch.bfloat16):
            message += ", or a model in float32, which rounds less"
    warn(message, CompletenessWarning)


def _scores(values: Tensor, model: nn.Module, name: str) -> Tensor:
    """The sum of a value's numbers at each position, of queries where there are queries and keys: (B, S)."""
    letters = matching(model, name)[name].axes.split()
    position = next((index for index, letter in enumerate(letters) if letter in "ST"), 0)
    others = [index for index in range(values.dim()) if index not in (0, position)]
    return values.sum(dim=others) if others else values


def gauss_legendre(steps: int) -> tuple[Tensor, Tensor]:
    """Returns the nodes and weights (N,) that integrate a polynomial of degree 2·N − 1 exactly from 0 to 1.

    They are the eigenvalues of a symmetric matrix and the squares of its eigenvectors' first numbers (Golub and Welsch
    1969, "Calculation of Gauss Quadrature Rules").
    """
    number = torch.arange(1, steps, dtype=torch.float64)
    beside = number / (4 * number.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(beside.diag(1) + beside.diag(-1) if steps > 1 else torch.zeros(1, 1).double())
    return (nodes + 1) / 2, vectors[0].square()  # from [−1, 1] to [0, 1], where the weights sum to 1


def _baseline(model: nn.Module, inputs: Inputs, name: str, value: Tensor, baseline: Any) -> Tensor:
    """The value that the path begins at."""
    if isinstance(baseline, Tensor):
        try:
            return baseline.detach().to(value).expand_as(value)
        except RuntimeError:
            shapes = f"{tuple(value.shape)}, got {tuple(baseline.shape)}"
            raise InputError(f"baseline must broadcast to the shape of {name}, {shapes}") from None
    kind = ("pad" if name == WORDS else "zero") if baseline is None else baseline
    check_one_of("baseline", kind, ("pad", "mask", "zero"))
    if name != WORDS:
        if kind != "zero":
            raise InputError(f"baseline must be 'zero' or a tensor at {name}: {kind!r} is a word embedding")
        return torch.zeros_like(value)
    table_of_words = bert_of(model).embeddings.word_embeddings.weight.detach()
    vector = torch.zeros_like(table_of_words[0]) if kind == "zero" else table_of_words[_id_of(model, inputs, kind)]
    return torch.where(_kept(inputs)[..., None], value, vector)


def _id_of(model: nn.Module, inputs: Inputs, kind: str) -> int:
    """The id of [PAD] or [MASK]."""
    tokenizer = getattr(inputs, "tokenizer", None)
    if tokenizer is not None:
        return int(tokenizer.pad_token_id if kind == "pad" else tokenizer.convert_tokens_to_ids("[MASK]"))
    padding = bert_of(model).config.pad_token_id
    if kind == "mask" or padding is None:
        raise InputError(f"the id of [{kind.upper()}] is known to a tokenizer: give inputs made by one, or a tensor")
    return padding


def _kept(inputs: Inputs) -> Tensor:
    """True at the positions that are the same in the baseline: special tokens, if a tokenizer says so, and padding."""
    kept = ~mask_of(inputs)
    if isinstance(inputs, BatchEncoding):
        special = [[token in KEPT for token in row] for row in tokens_of(inputs)]
        kept = kept | torch.tensor(special, device=kept.device)
    return kept
