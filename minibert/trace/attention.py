"""How are the steps inside attention seen?

`TracedAttention` takes the place of the model's own attention function: the same operations, with a hook at each step.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minibert.model import ATTENTION, Attention, AttentionFunction, eager_attention

StepHook = Callable[[str, Tensor], Tensor]  # hook(step, value) returns the value to go on with


def no_hook(step: str, value: Tensor) -> Tensor:
    return value


class TracedAttention:
    """`eager_attention`, one method for each step, with a hook on each value. A known bug overrides one step."""

    def __init__(self, hook: StepHook = no_hook) -> None:
        self.hook = hook

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

    def with_hook(self, hook: StepHook) -> "TracedAttention":
        """Returns the same attention with this hook in the place of its own."""
        changed = copy.copy(self)
        changed.hook = hook
        return changed

    def hooked_at(self, step: str, function: Callable[[Tensor], Tensor]) -> "TracedAttention":
        """Returns the same attention that also calls a function at one of its steps."""
        others = self.hook
        return self.with_hook(lambda name, value: function(value) if name == step else others(name, value))


class TracedFunction(TracedAttention):
    """An attention function whose steps are its own affair: query, key, value and context alone have hooks."""

    def __init__(self, attend: AttentionFunction, hook: StepHook = no_hook) -> None:
        super().__init__(hook)
        self.attend = attend

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.hook("query", query), self.hook("key", key), self.hook("value", value)
        context, probabilities = self.attend(query, key, value, mask, dropout)
        return self.hook("context", context), probabilities


@contextmanager
def replace_attention(module: Attention, attention: TracedAttention) -> Iterator[None]:
    """An `Attention` module computes by this function inside the block; a hook that is there sees its values."""
    handle = change_attention(module, lambda attend: attention.with_hook(traced(attend).hook))
    try:
        yield
    finally:
        handle.remove()


def traced(attend: AttentionFunction, steps: bool = False) -> TracedAttention:
    """Returns an attention function with a hook; with `steps` at every step, if it is one of the model's own."""
    if not isinstance(attend, TracedAttention):
        attend = TracedFunction(attend)
    if steps and isinstance(attend, TracedFunction) and attend.attend in ATTENTION.values():
        return TracedAttention(attend.hook)
    return attend


def change_attention(module: Attention, change: Callable[[AttentionFunction], AttentionFunction]) -> RemovableHandle:
    """Before each forward pass, puts change(function) in the place of the attention function that was handed over."""

    def pre_hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        named = dict(zip(("hidden", "mask", "attend"), arguments, strict=False)) | named
        attend = named.get("attend", eager_attention)
        return (named["hidden"], named.get("mask"), change(attend)), {}

    return module.register_forward_pre_hook(pre_hook, with_kwargs=True)
