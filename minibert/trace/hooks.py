"""How is a function called at a named value?

Each value that is edited or recorded has one hook of PyTorch's on its module, and behind it a list of functions: first
the edits, in the order in which they were added, then the recordings, which see what all edits have returned. The hook
is removed with its last function.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minibert.errors import InputError
from minibert.heads import bert_in
from minibert.model import Attention, AttentionFunction
from minibert.trace.attention import TracedAttention, TracedFunction, change_attention, traced
from minibert.trace.values import HEAD_OUTPUTS, STEPS, Value, head_in

Edit = Callable[[Tensor], Tensor]
Recording = Callable[[Tensor], None]


class ValueHooks:
    """The functions that are called at one named value."""

    def __init__(self, module: nn.Module, name: str, value: Value, head_size: int) -> None:
        self.edits: list[Edit] = []
        self.recordings: list[Recording] = []
        self.handle = register(module, name, value, head_size, self)

    def __call__(self, value: Tensor) -> Tensor:
        for edit in self.edits:
            value = edit(value)
        for record in self.recordings:
            record(value)
        return value


# By module and value, so that a second block adds its functions to those of the first.
_HOOKS: WeakKeyDictionary[nn.Module, dict[str, ValueHooks]] = WeakKeyDictionary()


@contextmanager
def hooked(model: nn.Module, name: str, value: Value) -> Iterator[ValueHooks]:
    """The functions that are called at a value, for a block that adds its own and removes them in the end."""
    module = module_of(model, value)
    on_module = _HOOKS.setdefault(module, {})
    if name not in on_module:
        on_module[name] = ValueHooks(module, name, value, head_size=bert_in(model).config.head_size)
    hooks = on_module[name]
    try:
        yield hooks
    finally:
        if not hooks.edits and not hooks.recordings and name in on_module:
            on_module.pop(name).handle.remove()


def module_of(model: nn.Module, value: Value) -> nn.Module:
    """Returns the module that reads or returns a value: inside the BERT, or beside it in a model with a head."""
    is_of_head = value.module.partition(".")[0] not in ("embeddings", "encoder", "pooler")
    owner = head_in(model) if is_of_head else bert_in(model)
    assert owner is not None
    return owner.get_submodule(value.module)


def register(module: nn.Module, name: str, value: Value, head_size: int, function: Edit) -> RemovableHandle:
    """Puts function(tensor) in the place of a value, by a hook of PyTorch's on its module."""
    if value.side == "input":
        return module.register_forward_pre_hook(lambda _, arguments: (function(arguments[0]), *arguments[1:]))
    if value.side == "output":
        return module.register_forward_hook(lambda _, arguments, output: function(output))
    step = name.rpartition(".")[2]
    if value.side == "inside":
        assert isinstance(module, Attention)
        return change_attention(module, lambda attend: _with_step(attend, name, step, function))
    derived = HeadOutputs(module, name, head_size) if step == HEAD_OUTPUTS else Scale(module, name)
    # First of all hooks on this module: what follows is the output that is made of the derived value.
    return module.register_forward_hook(derived.hook(function), prepend=True)


def _with_step(attend: AttentionFunction, name: str, step: str, function: Edit) -> TracedAttention:
    """The attention function with a hook at one of its steps. What it does not compute is not recorded."""
    of_eager = f"attention.{step}" in STEPS
    changed = traced(attend, of_eager)
    if of_eager and isinstance(changed, TracedFunction) and isinstance(function, ValueHooks) and function.edits:
        raise InputError(
            f"{name} must be computed to be edited, and the model's own attention function does not show it"
        )
    return changed.hooked_at(step, function)


# --- derived values --------------------------------------------------------------------------------------------------


class Derived(ABC):
    """A value that a module's output is made of, although the module does not compute it on the way.

    With an edit, the output changes by as much as the value that is computed from the parts does: an edit that returns
    the same numbers changes no bit of it. Gradients flow through the parts.
    """

    @abstractmethod
    def form(self, given: Tensor) -> Tensor:
        """Returns the value, from what the module reads."""

    @abstractmethod
    def combine(self, given: Tensor, parts: Tensor) -> Tensor:
        """Returns the module's output as it is made of the value."""

    def hook(self, function: Edit) -> Callable[..., Tensor | None]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            parts = self.form(arguments[0])
            changed = function(parts)
            if changed is parts and not parts.requires_grad:
                return None  # the output as it is
            before = self.combine(arguments[0], parts).detach()
            return output.detach() + (self.combine(arguments[0], changed) - before)

        return hook


class HeadOutputs(Derived):
    """What each head adds to the output of attention: its context times its columns of the output matrix."""

    def __init__(self, module: nn.Module, name: str, head_size: int) -> None:
        if type(module) is not nn.Linear:
            raise InputError(f"{name} is derived from an nn.Linear, got {type(module).__name__}")
        self.linear, self.head_size = module, head_size

    def form(self, given: Tensor) -> Tensor:
        context = given.unflatten(-1, (-1, self.head_size))  # (B, S, D) → (B, S, H, W)
        columns = self.linear.weight.unflatten(-1, (-1, self.head_size))  # (D, D) → (D, H, W)
        return torch.einsum("bshw,dhw->bhsd", context, columns)

    def combine(self, given: Tensor, parts: Tensor) -> Tensor:
        return parts.sum(dim=1) + self.linear.bias  # (B, H, S, D) → (B, S, D)


class Scale(Derived):
    """What a LayerNorm multiplies by at each position: 1/σ, the inverse of the standard deviation."""

    def __init__(self, module: nn.Module, name: str) -> None:
        if type(module) is not nn.LayerNorm:
            raise InputError(f"{name} is derived from an nn.LayerNorm, got {type(module).__name__}")
        self.norm = module

    def form(self, given: Tensor) -> Tensor:
        return layer_norm_scale(given, self.norm.eps)

    def combine(self, given: Tensor, parts: Tensor) -> Tensor:
        return (given - given.mean(dim=-1, keepdim=True)) * parts * self.norm.weight + self.norm.bias


def layer_norm_scale(given: Tensor, eps: float) -> Tensor:
    """Returns the 1/σ that a LayerNorm multiplies by, (…, D) → (…, 1)."""
    wide = given.to(torch.promote_types(given.dtype, torch.float32))  # in float16, eps of 1e-12 is 0
    return (wide.var(dim=-1, correction=0, keepdim=True) + eps).rsqrt().to(given.dtype)
