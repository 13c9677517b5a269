"""What did a student's code change that is not its own?

It may write into a model's weights through `.data`, replace a module, or put a function of its own in the place of
`torch.allclose`, by accident or to try something out. What it changed is named, and put back.
"""

import builtins
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors have the same shape, dtype and bits: 0.0 and −0.0 differ, and NaN is itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    first, second = (each.detach().resolve_neg().contiguous().reshape(-1).view(torch.uint8) for each in (a, b))
    return torch.equal(first, second)


@contextmanager
def undone(model: nn.Module, untouched: nn.Module) -> Iterator[list[str]]:
    """Puts back at the end of the block what was changed in it: in a model, and among the functions of PyTorch.

    Args:
        model: the model that the code in the block can reach.
        untouched: a deep copy of it that the code cannot reach.

    Returns:
        A list that is empty until the end of the block, and then names what was changed.
    """
    changed: list[str] = []
    functions = [(owner, dict(vars(owner))) for owner in _owners()]
    modules = [(name, module, _copied(vars(module))) for name, module in model.named_modules()]
    tensors = {name: (tensor, tensor.data) for name, tensor in _tensors(model).items()}
    get_dtype, set_dtype = torch.get_default_dtype, torch.set_default_dtype
    dtype = get_dtype()
    try:
        yield changed
    finally:
        if get_dtype() != dtype:  # before the functions: setting it also replaces torch.Storage
            set_dtype(dtype)
            changed.append("the default dtype of PyTorch")
        # Before what follows, which compares with these functions.
        changed += [name for owner, before in functions for name in _restore_functions(owner, before)]
        changed += [f"the module {name or 'self'}" for name, *state in modules if _restore_module(*state)]
        expected = _tensors(untouched)
        changed += [_weights(name) for name, state in tensors.items() if _restore_tensor(*state, expected[name])]


def _owners() -> list[Any]:
    """The modules and classes whose functions we compute with."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("minibert.")]
    classes = [each for module in ours for each in vars(module).values() if isinstance(each, type)]
    layers = [nn.Module, nn.Linear, nn.LayerNorm, nn.Embedding, nn.Dropout]
    own = [each for each in classes if each.__module__.startswith("minibert.")]
    return list(dict.fromkeys([builtins, math, torch, F, nn, Tensor, *layers, *ours, *own]))


def _restore_functions(owner: Any, before: dict[str, Any]) -> Iterator[str]:
    """Puts back the functions of a module or class, and gives the names of those that had been replaced."""
    now = dict(vars(owner))
    # A class inherits: what is added to it hides what it had. A module gains names whenever something is imported.
    names = before if isinstance(owner, ModuleType) else before | now
    for name in names:
        old, new = before.get(name), now.get(name)
        if old is new or not (callable(old) or callable(new)):
            continue
        if name in before:
            setattr(owner, name, old)
        else:
            delattr(owner, name)
        prefix = owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__name__}"
        yield f"{prefix}.{name}"


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of an object, and the entries of those that are dictionaries: hooks, parameters, submodules."""
    return {name: (value, dict(value) if isinstance(value, dict) else None) for name, value in attributes.items()}


def _restore_module(module: nn.Module, before: dict[str, Any]) -> bool:
    """Puts back a module's attributes; returns whether one had been changed."""
    now = vars(module)
    same = now.keys() == before.keys()
    for name, (value, entries) in before.items():
        same = same and now[name] is value
        if entries is not None:
            same = same and _same_entries(value, entries)
            value.clear()  # the dictionary itself stays: handles of hooks refer to it
            value.update(entries)
    if not same:
        now.clear()
        now.update({name: value for name, (value, _) in before.items()})
    return not same


def _same_entries(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    return now.keys() == before.keys() and all(now[key] is before[key] for key in before)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])


def _restore_tensor(tensor: Tensor, data: Tensor, expected: Tensor) -> bool:
    """Puts back a parameter's values; returns whether they had been changed."""
    same = tensor.layout == data.layout and tensor.data_ptr() == data.data_ptr() and same_bits(tensor, expected)
    if not same:
        tensor.data = data
        data.copy_(expected)
    return not same


def _weights(name: str) -> str:
    """ "pooler.dense.weight" → "the weights of pooler.dense"."""
    module, _, kind = name.rpartition(".")
    return f"the {'weights' if kind == 'weight' else kind} of {module or 'the model'}"
