"""What happens inside, and what if I change it?

    with record(model) as trace:                    every intermediate value, by name, in the order computed
        model(**inputs)
    trace["encoder.layers.3.attention.probabilities"]       # (B, H, S, T)

    with edit(model, "encoder.layers.3.attention.probabilities", without_head_5):
        model(**inputs)                             the same model with one value changed on the way

Both are made of PyTorch's hooks, and of an attention function that stands in for the model's own where the steps of
attention itself are asked for. `model.py` knows nothing of them, and nothing stays behind after the block.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle as Handle

from minibert.errors import InputError
from minibert.model import ATTENTION, AttentionFunction, BertModel, EncoderLayer, eager_attention
from minibert.show.tables import table

Tap = Callable[[str, Tensor], Tensor]  # gets a name and a value, and returns the value to go on with

# Every value that has a name, in the order computed, with its shape in the letters of `model.py`.
EMBEDDINGS = {
    "word_embeddings": "B S D",
    "token_type_embeddings": "B S D",
    "position_embeddings": "1 S D",
    "sum": "B S D",  # what the norm reads
    "norm": "B S D",
}
LAYER = {
    "attention.query": "B H S W",  # with their biases, cut into heads
    "attention.key": "B H T W",
    "attention.value": "B H T W",
    "attention.scores": "B H S T",  # Q·Kᵀ
    "attention.scaled_scores": "B H S T",  # / √W
    "attention.masked_scores": "B H S T",  # + mask
    "attention.probabilities": "B H S T",  # softmax
    "attention.context": "B H S W",  # · V
    "attention.output": "B S D",
    "attention_sum": "B S D",  # with the residual line; what the norm reads
    "attention_norm": "B S D",
    "feed_forward.expand": "B S F",
    "feed_forward.activation": "B S F",
    "feed_forward.contract": "B S D",
    "feed_forward_sum": "B S D",
    "feed_forward_norm": "B S D",
}
POOLER = {"dense": "B D", "tanh": "B D"}


class Trace(dict[str, Tensor]):
    """The values of the last forward pass, by name, in the order computed."""

    def __missing__(self, name: str) -> Tensor:
        raise InputError(_no_such(name, list(self)) if self else f"there is no {name!r} yet: call the model first")

    def summary(self) -> str:
        """A table of all names, with their shapes in letters and in numbers."""
        rows = [(name, letters(name), " × ".join(map(str, value.shape))) for name, value in self.items()]
        return table([("name", "letters", "shape"), *rows])


@contextmanager
def record(model: nn.Module, names: str | Sequence[str] = "*") -> Iterator[Trace]:
    """Records named values of every forward pass inside the block; the trace holds those of the last.

    Args:
        model: a `BertModel`, or anything that contains one.
        names: which, one or several, with * and ? as in file names: "*norm", "encoder.layers.3.*". The steps inside
            attention are formed by eager attention only: if one of them is asked for, it computes the call, whichever
            attention the model was loaded with; the two differ by rounding.

    Raises:
        InputError: nothing goes by these names.
    """
    bert = bert_of(model)
    wanted = _matching(bert, names)
    trace = Trace()

    def tap(name: str, value: Tensor) -> Tensor:
        if name in wanted:
            trace[name] = value
        return value

    with ExitStack() as stack:
        stack.callback(bert.register_forward_pre_hook(lambda *_: trace.clear()).remove)
        _install(stack, bert, tap, wanted, first=False)
        yield trace


@contextmanager
def edit(model: nn.Module, names: str | Sequence[str], function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Puts function(value) in the place of a named value, for every forward pass inside the block.

    Args:
        model, names: as for `record`.
        function: gets the value, which it must not change in place, and returns another of the same shape. To switch
            head 5 off: `lambda p: p.index_fill(1, torch.tensor([5]), 0)` at "….attention.probabilities".

    Raises:
        InputError: nothing goes by these names, or the function returns something of another shape.
    """
    bert = bert_of(model)
    wanted = _matching(bert, names)

    def tap(name: str, value: Tensor) -> Tensor:
        if name not in wanted:
            return value
        changed = function(value)
        if not isinstance(changed, Tensor) or changed.shape != value.shape:
            given = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise InputError(f"the function for {name} must return a tensor {tuple(value.shape)}, not {given}")
        return changed

    with ExitStack() as stack:
        _install(stack, bert, tap, wanted, first=True)
        yield


def names_of(model: nn.Module) -> list[str]:
    """The names of all values that `record` and `edit` know in a model, in the order computed."""
    bert = bert_of(model)
    names = [f"embeddings.{name}" for name in EMBEDDINGS]
    if not bert.embeddings.absolute:
        names.remove("embeddings.position_embeddings")
    for number in range(len(bert.encoder.layers)):
        names += [f"encoder.layers.{number}.{name}" for name in LAYER]
    return names + ([] if bert.pooler is None else [f"pooler.{name}" for name in POOLER])


def letters(name: str) -> str:
    """The shape of a named value, in the letters of `model.py`: "encoder.layers.0.attention.query" → "B H S W"."""
    whole = {f"embeddings.{key}": value for key, value in EMBEDDINGS.items()}
    whole |= LAYER | {f"pooler.{key}": value for key, value in POOLER.items()}
    return whole[re.sub(r"^encoder\.layers\.\d+\.", "", name)]


# Attention, step by step, under the names of what each step forms. The same operations as `eager_attention`.
Steps = dict[str, Callable[..., Tensor]]
EAGER_STEPS: Steps = {
    "scores": lambda query, key: query @ key.transpose(2, 3),  # (B, H, S, W) @ (B, H, W, T) → (B, H, S, T)
    "scaled_scores": lambda scores, width: scores * width**-0.5,
    "masked_scores": lambda scores, mask: scores if mask is None else scores + mask,
    "probabilities": lambda scores, mask: F.softmax(scores, dim=-1),
    "context": lambda probabilities, value: probabilities @ value,  # (B, H, S, T) @ (B, H, T, W) → (B, H, S, W)
}


@dataclass
class OpenAttention:
    """An attention function whose values can be seen and changed on the way, and whose steps can be exchanged.

    Args:
        inner: the attention function it stands in for.
        steps: how to compute instead, step by step; None leaves it to `inner`.
        taps: what is called with each value.
    """

    inner: AttentionFunction = eager_attention
    steps: Steps | None = None
    taps: tuple[Tap, ...] = ()

    def tap(self, name: str, value: Tensor) -> Tensor:
        for tap in self.taps:
            value = tap(name, value)
        return value

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.tap("query", query), self.tap("key", key), self.tap("value", value)
        if self.steps is None:
            context, formed = self.inner(query, key, value, mask, dropout)
            return self.tap("context", context), formed
        step = self.steps
        scores = self.tap("scores", step["scores"](query, key))
        scores = self.tap("scaled_scores", step["scaled_scores"](scores, query.shape[-1]))
        scores = self.tap("masked_scores", step["masked_scores"](scores, mask))
        probabilities = F.dropout(self.tap("probabilities", step["probabilities"](scores, mask)), dropout)
        return self.tap("context", step["context"](probabilities, value)), probabilities


def through(attention: nn.Module, change: Callable[[OpenAttention], OpenAttention]) -> Handle:
    """Lets an `Attention` module compute by change(what it computes by now), until the handle is removed."""

    def exchange(
        _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = dict(zip(("hidden", "mask", "attend"), inputs, strict=False)) | named
        attend = named.get("attend", eager_attention)
        open_ = change(attend if isinstance(attend, OpenAttention) else OpenAttention(attend))
        return (named["hidden"], named.get("mask"), open_), {}

    return attention.register_forward_pre_hook(exchange, with_kwargs=True)


def _install(stack: ExitStack, bert: BertModel, tap: Tap, wanted: set[str], first: bool) -> None:
    """Hooks that call `tap`, taken away when the stack closes. `first` puts them before those that are there."""

    def output(module: nn.Module, name: str) -> None:
        def hook(_: nn.Module, inputs: tuple[Any, ...], value: Tensor) -> Tensor:
            return tap(name, value)

        if name in wanted:
            stack.callback(module.register_forward_hook(hook, prepend=first).remove)

    def reads(module: nn.Module, name: str) -> None:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return tap(name, inputs[0]), *inputs[1:]

        if name in wanted:
            stack.callback(module.register_forward_pre_hook(hook, prepend=first).remove)

    def attention(module: nn.Module, prefix: str) -> None:
        def tap_inside(name: str, value: Tensor) -> Tensor:
            return tap(prefix + name, value)

        def opened(attend: OpenAttention) -> OpenAttention:
            open_up = attend.steps is None and formed and attend.inner in ATTENTION.values()
            steps = EAGER_STEPS if open_up else attend.steps
            return OpenAttention(
                attend.inner, steps, (tap_inside, *attend.taps) if first else (*attend.taps, tap_inside)
            )

        inside = {name.removeprefix(prefix) for name in wanted if name.startswith(prefix)} - {"output"}
        formed = not inside.isdisjoint(EAGER_STEPS.keys() - {"context"})  # is something wanted that sdpa never forms?
        if inside:
            stack.callback(through(module, opened).remove)

    embeddings = bert.embeddings
    for part in ("word_embeddings", "token_type_embeddings", "position_embeddings", "norm"):
        output(getattr(embeddings, part), f"embeddings.{part}")
    reads(embeddings.norm, "embeddings.sum")
    for number, layer in enumerate(bert.encoder.layers):
        assert isinstance(layer, EncoderLayer)
        prefix = f"encoder.layers.{number}."
        attention(layer.attention, f"{prefix}attention.")
        output(layer.attention.output, f"{prefix}attention.output")
        reads(layer.attention_norm, f"{prefix}attention_sum")
        output(layer.attention_norm, f"{prefix}attention_norm")
        output(layer.feed_forward.expand, f"{prefix}feed_forward.expand")
        reads(layer.feed_forward.contract, f"{prefix}feed_forward.activation")
        output(layer.feed_forward.contract, f"{prefix}feed_forward.contract")
        reads(layer.feed_forward_norm, f"{prefix}feed_forward_sum")
        output(layer.feed_forward_norm, f"{prefix}feed_forward_norm")
    if bert.pooler is not None:
        output(bert.pooler.dense, "pooler.dense")
        output(bert.pooler, "pooler.tanh")


def bert_of(model: nn.Module) -> BertModel:
    """The one BERT inside a model."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    found = [module for module in modules if isinstance(module, BertModel)]
    if len(found) != 1:
        raise InputError(f"a model with one BertModel in it is needed, not {type(model).__name__}")
    return found[0]


def _matching(bert: BertModel, names: str | Sequence[str]) -> set[str]:
    there, wanted = names_of(bert), set()
    for pattern in [names] if isinstance(names, str) else names:
        found = {name for name in there if fnmatchcase(name, pattern)}
        if not found:
            raise InputError(_no_such(pattern, there))
        wanted |= found
    return wanted


def _no_such(name: str, there: list[str]) -> str:
    close = difflib.get_close_matches(name, there, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "recording.names_of(model) lists all names"
    return f"nothing goes by the name {name!r} here: {hint}"
