"""What happens inside, and what if I change it?

    with record(model) as trace:                    every intermediate value, by name, in the order computed
        model(**inputs)
    trace["encoder.layers.3.attention.probabilities"]       # (B, H, S, T)

    with edit(model, "encoder.layers.3.attention.probabilities", without_head_5):
        model(**inputs)                             the same model with one value changed on the way

Both are made of PyTorch's hooks; for the values inside attention, `TracedAttention` takes the place of the model's own
function, the same operations with a hook at each step. `model.py` knows nothing of them, and nothing stays behind
after the block.
"""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minibert.checks import did_you_mean
from minibert.errors import InputError
from minibert.heads import bert_in
from minibert.model import ATTENTION, Attention, AttentionFunction, BertModel, eager_attention
from minibert.show.tables import table

Hook = Callable[[str, Tensor], Tensor]  # hook(name, value) returns the value to go on with


class Value(NamedTuple):
    """Where a named value is: what a module reads or returns, or a step inside an `Attention`."""

    axes: str  # its shape, in the letters of `model.py`
    module: str
    side: Literal["input", "output", "inside"]


# Every value that has a name, in the order computed. Those of a layer, and their modules, are named without the
# "encoder.layers.0." that they begin with: that is the short name.
EMBEDDINGS = {
    "embeddings.word_embeddings": Value("B S D", "embeddings.word_embeddings", "output"),
    "embeddings.token_type_embeddings": Value("B S D", "embeddings.token_type_embeddings", "output"),
    "embeddings.position_embeddings": Value("1 S D", "embeddings.position_embeddings", "output"),
    "embeddings.sum": Value("B S D", "embeddings.norm", "input"),
    "embeddings.norm": Value("B S D", "embeddings.norm", "output"),
}
LAYER = {
    "attention.query": Value("B H S W", "attention", "inside"),  # with its bias, split into heads
    "attention.key": Value("B H T W", "attention", "inside"),
    "attention.value": Value("B H T W", "attention", "inside"),
    "attention.scores": Value("B H S T", "attention", "inside"),  # Q·Kᵀ
    "attention.scaled_scores": Value("B H S T", "attention", "inside"),  # / √W
    "attention.masked_scores": Value("B H S T", "attention", "inside"),  # + mask
    "attention.probabilities": Value("B H S T", "attention", "inside"),  # softmax
    "attention.context": Value("B H S W", "attention", "inside"),  # · V
    "attention.output": Value("B S D", "attention.output", "output"),
    "attention_sum": Value("B S D", "attention_norm", "input"),  # with the residual connection
    "attention_norm": Value("B S D", "attention_norm", "output"),
    "feed_forward.expand": Value("B S F", "feed_forward.expand", "output"),
    "feed_forward.activation": Value("B S F", "feed_forward.contract", "input"),
    "feed_forward.contract": Value("B S D", "feed_forward.contract", "output"),
    "feed_forward_sum": Value("B S D", "feed_forward_norm", "input"),
    "feed_forward_norm": Value("B S D", "feed_forward_norm", "output"),
}
POOLER = {
    "pooler.dense": Value("B D", "pooler.dense", "output"),
    "pooler.tanh": Value("B D", "pooler", "output"),
}
VALUES = EMBEDDINGS | LAYER | POOLER
# Formed by eager attention alone: the fused operation goes from query, key and value to the context in one step.
STEPS = ("attention.scores", "attention.scaled_scores", "attention.masked_scores", "attention.probabilities")


class Trace(dict[str, Tensor]):
    """The values of the last forward pass, by name, in the order computed."""

    def __missing__(self, name: str) -> Tensor:
        raise InputError(_unknown(name, list(self)) if self else f"there is no {name!r} yet: call the model first")

    def summary(self) -> str:
        """A table of all names, with their shapes in letters and in numbers."""
        rows = [(name, axes_of(name), " × ".join(map(str, value.shape))) for name, value in self.items()]
        return table([("name", "axes", "shape"), *rows])


@contextmanager
def record(model: nn.Module, names: str | Sequence[str] = "*") -> Iterator[Trace]:
    """Records named values of every forward pass inside the block; the trace holds those of the last.

    Args:
        model: a `BertModel`, or anything that contains one.
        names: which, one or several, with * and ? as in file names: "*norm", "encoder.layers.3.*". The steps inside
            attention are formed by eager attention only: if one of them is asked for, it computes the call, whichever
            attention the model was loaded with; the two differ by rounding.

    The model itself is changed inside the block: its forward passes in other threads are recorded too.

    Raises:
        InputError: no value has such a name.
    """
    bert = bert_in(model)
    wanted = _matching(bert, names)
    trace = Trace()

    def keep(name: str, value: Tensor) -> Tensor:
        trace[name] = value
        return value

    with ExitStack() as stack:
        stack.callback(bert.register_forward_pre_hook(lambda *_: trace.clear()).remove)
        for handle in _register(bert, keep, wanted, first=False):
            stack.callback(handle.remove)
        yield trace


@contextmanager
def edit(model: nn.Module, names: str | Sequence[str], function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Puts function(value) in the place of a named value, for every forward pass inside the block.

    Args:
        model, names: as for `record`.
        function: gets the value, which it must not change in place, and returns a new one of the same shape. To switch
            head 5 off: `lambda p: p.index_fill(1, torch.tensor([5]), 0)` at "….attention.probabilities".

    Of two edits of one value, the inner acts first, as in outer(inner(value)). `record` sees what all of them return,
    whichever block began first. The model itself is changed inside the block: its forward passes in other threads are
    edited too.

    Raises:
        InputError: no value has such a name, or the function returns something of a different shape.
    """
    bert = bert_in(model)
    wanted = _matching(bert, names)

    def change(name: str, value: Tensor) -> Tensor:
        changed = function(value)
        if not isinstance(changed, Tensor) or changed.shape != value.shape:
            given = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise InputError(f"the function for {name} must return a tensor {tuple(value.shape)}, not {given}")
        return changed

    with ExitStack() as stack:
        for handle in _register(bert, change, wanted, first=True):
            stack.callback(handle.remove)
        yield


def value_names(model: nn.Module) -> list[str]:
    """The names of all values that `record` and `edit` know in a model, in the order computed."""
    bert = bert_in(model)
    names = list(EMBEDDINGS)
    if not bert.embeddings.absolute:
        names.remove("embeddings.position_embeddings")
    for number in range(len(bert.encoder.layers)):
        names += [f"encoder.layers.{number}.{name}" for name in LAYER]
    return names + ([] if bert.pooler is None else list(POOLER))


def short_name(name: str) -> str:
    """The name of a value without its layer: "encoder.layers.3.attention.query" → "attention.query"."""
    return re.sub(r"^encoder\.layers\.\d+\.", "", name)


def axes_of(name: str) -> str:
    """The shape of a named value, in the letters of `model.py`: "encoder.layers.0.attention.query" → "B H S W"."""
    return VALUES[short_name(name)].axes


# --- attention, with a hook at each step -----------------------------------------------------------------------------


class TracedAttention:
    """`eager_attention`, one method for each step, with hooks on each value. A known bug overrides one of the steps."""

    def __init__(self, *hooks: Hook) -> None:
        self.hooks = hooks

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.transpose(2, 3)  # (B, H, S, W) @ (B, H, W, T) → (B, H, S, T)

    def scale(self, scores: Tensor, head_size: int) -> Tensor:
        return scores * head_size**-0.5

    def add_mask(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        return scores if mask is None else scores + mask

    def softmax(self, scores: Tensor) -> Tensor:
        return F.softmax(scores, dim=-1)

    def weigh(self, probabilities: Tensor, value: Tensor) -> Tensor:
        return probabilities @ value  # (B, H, S, T) @ (B, H, T, W) → (B, H, S, W)

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.hook("query", query), self.hook("key", key), self.hook("value", value)
        scores = self.hook("scores", self.score(query, key))
        scores = self.hook("scaled_scores", self.scale(scores, int(query.shape[-1])))
        scores = self.hook("masked_scores", self.add_mask(scores, mask))
        probabilities = self.hook("probabilities", self.softmax(scores))
        probabilities = F.dropout(probabilities, dropout, training=dropout > 0)
        return self.hook("context", self.weigh(probabilities, value)), probabilities

    def hook(self, name: str, value: Tensor) -> Tensor:
        for hook in self.hooks:
            value = hook(name, value)
        return value

    def with_hooks(self, *hooks: Hook) -> "TracedAttention":
        """The same attention with these hooks and no others."""
        traced = copy.copy(self)
        traced.hooks = hooks
        return traced


class TracedFunction(TracedAttention):
    """An attention function whose steps are its own affair: query, key, value and context alone have hooks."""

    def __init__(self, attend: AttentionFunction, *hooks: Hook) -> None:
        super().__init__(*hooks)
        self.attend = attend

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.hook("query", query), self.hook("key", key), self.hook("value", value)
        context, probabilities = self.attend(query, key, value, mask, dropout)
        return self.hook("context", context), probabilities


@contextmanager
def replace_attention(module: Attention, attention: TracedAttention) -> Iterator[None]:
    """An `Attention` module computes by this function inside the block; hooks that are there see its values."""
    handle = _change_attention(module, lambda attend: attention.with_hooks(*_traced(attend).hooks))
    try:
        yield
    finally:
        handle.remove()


def hook_attention(module: Attention, hook: Hook, steps: bool, first: bool) -> RemovableHandle:
    """Calls hook(name, value) at the values inside an `Attention`; with `steps`, eager attention forms all of them."""

    def add(attend: AttentionFunction) -> TracedAttention:
        traced = _traced(attend, steps)
        return traced.with_hooks(*((hook, *traced.hooks) if first else (*traced.hooks, hook)))

    return _change_attention(module, add)


def _traced(attend: AttentionFunction, steps: bool = False) -> TracedAttention:
    """An attention function as one that has hooks; with `steps` at every step, where it is one of the model's own."""
    if not isinstance(attend, TracedAttention):
        attend = TracedFunction(attend)
    if steps and isinstance(attend, TracedFunction) and attend.attend in ATTENTION.values():
        return TracedAttention(*attend.hooks)
    return attend


def _change_attention(module: Attention, change: Callable[[AttentionFunction], AttentionFunction]) -> RemovableHandle:
    """Before each forward pass, puts change(function) in the place of the attention function that was handed over."""

    def pre_hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        named = dict(zip(("hidden", "mask", "attend"), arguments, strict=False)) | named
        attend = named.get("attend", eager_attention)
        return (named["hidden"], named.get("mask"), change(attend)), {}

    return module.register_forward_pre_hook(pre_hook, with_kwargs=True)


# --- hooks on the wanted values --------------------------------------------------------------------------------------


def hook_output(module: nn.Module, hook: Hook, name: str, first: bool) -> RemovableHandle:
    """Calls hook(name, value) with what a module returns."""
    return module.register_forward_hook(lambda _, arguments, value: hook(name, value), prepend=first)


def hook_input(module: nn.Module, hook: Hook, name: str, first: bool) -> RemovableHandle:
    """Calls hook(name, value) with the first argument of a module."""
    return module.register_forward_pre_hook(
        lambda _, arguments: (hook(name, arguments[0]), *arguments[1:]), prepend=first
    )


def _register(bert: BertModel, hook: Hook, wanted: list[str], first: bool) -> Iterator[RemovableHandle]:
    """Registers a hook at each wanted value; `first` puts it before the hooks that are there."""
    inside: dict[str, list[str]] = {}  # layer → the wanted values inside its attention
    for name in wanted:
        short = short_name(name)
        layer, value = name.removesuffix(short), VALUES[short]
        if value.side == "inside":
            inside.setdefault(layer, []).append(short)
        elif value.side == "input":
            yield hook_input(bert.get_submodule(layer + value.module), hook, name, first)
        else:
            yield hook_output(bert.get_submodule(layer + value.module), hook, name, first)
    for layer, names in inside.items():
        attention = bert.get_submodule(f"{layer}attention")
        assert isinstance(attention, Attention)
        steps = not set(STEPS).isdisjoint(names)
        yield hook_attention(attention, partial(_hook_wanted, hook, layer, names), steps, first)


def _hook_wanted(hook: Hook, layer: str, wanted: list[str], step: str, value: Tensor) -> Tensor:
    """Calls a hook at the wanted values of one attention module, by their full names."""
    name = f"attention.{step}"
    return hook(layer + name, value) if name in wanted else value


def _matching(bert: BertModel, patterns: str | Sequence[str]) -> list[str]:
    known = value_names(bert)
    wanted = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = {name for name in known if fnmatchcase(name, pattern)}
        if not found:
            raise InputError(_unknown(pattern, known))
        wanted |= found
    return [name for name in known if name in wanted]


def _unknown(name: str, known: list[str]) -> str:
    hint = did_you_mean(name, known) or ": trace.value_names(model) lists all names"
    return f"no value here is named {name!r}{hint}"
