"""Which heads does a model need, and what remains without the others?

    importance = head_importance(model, batches, loss)          # (L, H), from one gradient a batch
    curve = prune_curve(model, importance.order, metric)        # the metric with more and more heads switched off
    smaller = prune_heads(model, {3: [0, 5], 4: [1]})           # a model without them

A head is important if the loss moves when its gate moves from 1: the gradient of the gate, which is the product of the
head's context with the gradient there (Michel, Levy and Neubig 2019, "Are Sixteen Heads Really Better than One?",
equation 2). It is a local measure, and two heads that do the same each seem unimportant: the curve shows what happens.

Switching a head off puts 0 in the place of its context, or its mean over texts. To prune it takes its rows and columns
out of the matrices: the model computes the same as with the head at 0, with fewer parameters.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checks import check_integer, required_arguments, shown
from minibert.errors import InputError
from minibert.interpret.runs import (
    Head,
    Inputs,
    as_head,
    as_inputs,
    bert_of,
    differentiable,
    differentiable_inputs,
    record_leaves,
)
from minibert.interpret.targets import Target, measure
from minibert.model import EncoderLayer
from minibert.show.tables import table
from minibert.trace.edits import Means
from minibert.trace.recording import edit

CONTEXT = "*.attention.context"


@dataclass(frozen=True)
class HeadImportance:
    """How much the loss moves with each head's gate; 0 for heads that are pruned already."""

    values: Tensor  # (L, H), mean over texts
    texts: int
    heads: tuple[Head, ...]  # those that the model has

    @property
    def normalised(self) -> Tensor:
        """The same with each layer's values divided by their Euclidean norm, as Michel et al. compare layers."""
        norms = self.values.norm(dim=1, keepdim=True)
        return self.values / torch.where(norms == 0, 1, norms)

    @property
    def order(self) -> list[Head]:
        """The heads that the model has, the least important first."""
        values = torch.stack([self.values[head] for head in self.heads])
        return [self.heads[index] for index in values.argsort(stable=True).tolist()]

    def __str__(self) -> str:
        numbers = [str(head) for head in range(self.values.shape[1])]
        rows = [["layer", *numbers]]
        rows += [[str(layer), *(f"{value:.1e}" for value in line)] for layer, line in enumerate(self.values.tolist())]
        return f"importance of each head, mean over {self.texts} texts\n{table(rows, right=range(1, len(numbers) + 1))}"

    def plot(self) -> Any:
        """A picture of the importance of each head, by layer."""
        from minibert.show.plots import plot_matrix

        layers, heads = self.values.shape
        rows, columns = [f"layer {layer}" for layer in range(layers)], [f"head {head}" for head in range(heads)]
        return plot_matrix(self.values, rows, columns, title="importance of each head")


def head_importance(
    model: nn.Module, batches: Inputs | Iterable[Inputs], loss: Target | Callable[..., Tensor] | None = None
) -> HeadImportance:
    """Returns how much a loss moves with the gate of each head, the absolute value for each text, mean over texts.

    As in the paper's equation, a text has one absolute value, after the sum over its positions; the code of Michel et
    al. has one for each position. Nor are layers normalised, as they are there: `.normalised` is.

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        batches: the inputs of some texts each, what a tokenizer returns; with `labels`, if the model has a loss.
        loss: one of `targets`; or a function of the output, or of the output and the inputs, that returns a number for
            each text (B,), or their mean (). None means the loss that a model with a head returns for the labels. A
            mean is taken to be one of equal weights: where texts have different numbers of labels, pass them one by
            one.

    Raises:
        InputError: no batches, or something that is not a loss.
    """
    bert = bert_of(model)
    config = bert.config
    total = torch.zeros(config.num_hidden_layers, config.num_attention_heads, dtype=torch.float64)
    texts = 0
    for inputs in _as_batches(batches):
        as_inputs(inputs)
        for layer, moved in enumerate(_gate_gradients(model, inputs, loss)):
            total[layer, list(config.kept_heads(layer))] += moved.abs().sum(dim=0).double().cpu()  # (B, H) → (H)
        texts += len(inputs["input_ids"])
    if not texts:
        raise InputError("batches must be the inputs of some texts, got none")
    heads = tuple((layer, head) for layer in range(config.num_hidden_layers) for head in config.kept_heads(layer))
    return HeadImportance(total / texts, texts, heads)


def _as_batches(batches: Any) -> Iterable[Inputs]:
    if isinstance(batches, Mapping):
        return [batches]
    if not isinstance(batches, Iterable):
        raise InputError(f"batches must be the inputs of some texts, or a list of these, got {shown(batches)}")
    return batches


def _gate_gradients(model: nn.Module, inputs: Inputs, loss: Target | Callable[..., Tensor] | None) -> list[Tensor]:
    """The gradient of each head's gate for each text, L of (B, H): ⟨context, gradient there⟩."""
    with differentiable(model), record_leaves(model, CONTEXT) as contexts:
        value = _loss(model, differentiable_inputs(inputs), loss)
        if not value.requires_grad:
            raise InputError("the loss must depend on the model's output")
        gradients = torch.autograd.grad(value, list(contexts.values()), materialize_grads=True)
    products = [context.detach() * gradient for context, gradient in zip(contexts.values(), gradients, strict=True)]
    return [product.sum(dim=(2, 3)) for product in products]  # (B, H, S, W) → (B, H)


def _loss(model: nn.Module, inputs: Inputs, loss: Target | Callable[..., Tensor] | None) -> Tensor:
    """The sum of the losses of all texts."""
    if isinstance(loss, Target):
        return measure(model, inputs, loss).sum()
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a function of the output, or one of minibert.interpret's, got {shown(loss)}")
    output, count = model(**inputs), len(inputs["input_ids"])
    if loss is None:
        value = getattr(output, "loss", None)
        if value is None:
            raise InputError("loss must be given, or the inputs must have labels for a model with a head")
    else:
        value = loss(output, inputs) if required_arguments(loss) > 1 else loss(output)
    if not isinstance(value, Tensor) or value.shape not in ((), (count,)):
        what = tuple(value.shape) if isinstance(value, Tensor) else shown(value)
        raise InputError(f"loss must return one number for each text, ({count},), or their mean, (), got {what}")
    return value * count if value.dim() == 0 else value.sum()


@dataclass(frozen=True)
class PruneCurve:
    """A metric with more and more heads switched off."""

    removed: list[int]  # how many heads are off
    values: list[float]  # the metric

    def __str__(self) -> str:
        points = zip(self.removed, self.values, strict=True)
        return table([("heads off", "metric"), *((str(n), f"{value:.4f}") for n, value in points)], right=[0, 1])

    def plot(self) -> Any:
        """A picture of the metric, a bar for each number of heads."""
        from minibert.show.plots import plot_bars

        return plot_bars(torch.tensor(self.values), [f"{count} heads off" for count in self.removed], quantity="metric")


@torch.no_grad()
def prune_curve(
    model: nn.Module,
    order: Sequence[Head],
    metric: Callable[[nn.Module], float],
    *,
    removed: Sequence[int] | None = None,
    means: Means | None = None,
) -> PruneCurve:
    """Returns a metric with the first 0, 1, 2 … heads of an order switched off (Michel et al. 2019, figure 2).

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        order: the heads, the first to go first: `head_importance(…).order`, or any other for comparison.
        metric: a function of the model, which is called with the heads off.
        removed: how many are off at each point; None means eleven points from none to all of the order.
        means: what a head's context becomes, by `mean_of(model, inputs, "*.attention.context")`; None means 0.

    Raises:
        InputError: a head that the model does not have, or that is there twice; more heads than the order has; or a
            metric that is not a number.
    """
    bert = bert_of(model)
    if not isinstance(order, Sequence):
        raise InputError(f"order must be a list of heads, each (layer, head), got {shown(order)}")
    if not callable(metric):
        raise InputError(f"metric must be a function of the model that returns a number, got {shown(metric)}")
    heads = [_check_head(bert.config, head) for head in order]
    if len(set(heads)) < len(heads):
        raise InputError("order must have each head once, got one several times")
    if removed is None:
        removed = sorted({round(len(heads) * tenth / 10) for tenth in range(11)})
    counts = [check_integer("removed", count, 0, len(heads)) for count in removed]
    values = []
    for count in counts:
        off: dict[int, list[int]] = {}
        for layer, head in heads[:count]:
            off.setdefault(layer, []).append(bert.config.kept_heads(layer).index(head))

        def without(value: Tensor, name: str, off: dict[int, list[int]] = off) -> Tensor:
            chosen = off.get(int(name.split(".")[2]), [])
            value[:, chosen] = 0 if means is None else means(value, name)[:, chosen]
            return value

        with edit(model, CONTEXT, without):
            values.append(_as_number(metric(model)))
    return PruneCurve(counts, values)


def _as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # what NumPy and PyTorch raise for several numbers
        what = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
        raise InputError(f"metric must return one number, got {what}") from None


@torch.no_grad()
def prune_heads(model: nn.Module, heads: Mapping[int, Sequence[int]]) -> nn.Module:
    """Returns a smaller model without these heads; the one that is given is not changed.

    It computes what the model does with these heads' contexts at 0, saves and loads like any other, and its config
    lists `pruned_heads`, as in transformers 4 (version 5 can neither prune nor load it).

    Args:
        model: a `BertModel`, or one with a head.
        heads: for each layer, counted from 0, the heads to remove, by their numbers before any were pruned.

    Raises:
        InputError: a head that the model does not have, or one that is pruned already.
        ConfigError: a layer would be left without a head.
    """
    config = bert_of(model).config
    if not isinstance(heads, Mapping):
        raise InputError(f"heads must be a mapping from layers to lists of heads, got {shown(heads)}")
    for layer, listed in heads.items():
        if not isinstance(listed, Iterable):
            raise InputError(f"heads must map layer {layer} to a list of heads, got {shown(listed)}")
    removed = [_check_head(config, (layer, head)) for layer, listed in heads.items() for head in listed]
    pruned = {layer: list(listed) for layer, listed in config.pruned_heads}
    for layer, head in removed:
        pruned.setdefault(layer, []).append(head)
    smaller_config = replace(config, pruned_heads=tuple((layer, tuple(each)) for layer, each in pruned.items()))
    smaller = copy.deepcopy(model)
    holders: list[Any] = [module for module in smaller.modules() if getattr(module, "config", None) == config]
    for holder in holders:
        holder.config = smaller_config
    for number, module in enumerate(bert_of(smaller).encoder.layers):
        assert isinstance(module, EncoderLayer)
        before, after = config.kept_heads(number), smaller_config.kept_heads(number)
        if before != after:
            _keep_heads(module, [before.index(head) for head in after], config.head_size)
    return smaller


def _keep_heads(layer: EncoderLayer, heads: list[int], head_size: int) -> None:
    """Removes the rows and columns of all other heads from the matrices of a layer."""
    kept = torch.cat([torch.arange(head * head_size, (head + 1) * head_size) for head in heads])
    attention = layer.attention
    for linear in (attention.query, attention.key, attention.value):
        _resize(linear, linear.weight[kept], linear.bias[kept])
    _resize(attention.output, attention.output.weight[:, kept], attention.output.bias)


def _resize(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    requires_grad = linear.weight.requires_grad
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight.clone(), requires_grad)
    linear.bias = nn.Parameter(bias.clone(), requires_grad)


def _check_head(config: Any, head: Any) -> Head:
    """A head that the model has."""
    layer, number = as_head("a head", head)
    if not 0 <= layer < config.num_hidden_layers or number not in config.kept_heads(layer):
        raise InputError(f"the model must have each head to remove, and has no head {number} in layer {layer}")
    return layer, number
