"""What does a BERT accept?

PyTorch reports an id outside the vocabulary as "index out of range in self", and on a GPU as a device-side assertion
that ends the process. The checks here say which tensor, which value and what to do instead.

A check of values needs values. While PyTorch traces, exports or compiles a model there are none, or those of an example
that a decision would make valid for every later input: then `has_values` is False, and these checks are left out.
"""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch._subclasses.fake_tensor import FakeTensor

from minibert.checks import check_dense, shown
from minibert.config import BertConfig
from minibert.errors import ConfigError, InputError, MinibertError

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
IDS = (torch.int64, torch.int32)


def check_config(config: Any) -> BertConfig:
    """Returns a `BertConfig`; raises a `ConfigError` for anything else."""
    if not isinstance(config, BertConfig):
        raise ConfigError(
            f"config must be a BertConfig, got {shown(config)}: BertConfig.from_dict takes a dict, "
            "and from_pretrained the name or folder of a checkpoint"
        )
    return config


def check_inputs(
    config: BertConfig,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    device: torch.device | None = None,
) -> None:
    """Raises an `InputError` for the first input that a model of this `config` does not accept; see `BertModel`.

    `device` is where the model's embeddings are; None does not compare it.
    """
    hint = "a tokenizer makes them, model(**tokenizer(texts))"
    check_tensor("input_ids", input_ids, IDS, hint)
    if device is not None and input_ids.device != device:
        raise InputError(f"input_ids must be on {device}, where the model is, got {input_ids.device}: move one of them")
    for name, value, dtypes in (
        ("attention_mask", attention_mask, INTEGERS + FLOATS),
        ("token_type_ids", token_type_ids, IDS),
        ("position_ids", position_ids, IDS),
    ):
        if value is not None:
            check_tensor(name, value, dtypes, hint)
            check_device(name, value, "input_ids", input_ids)
    if torch.jit.is_tracing():  # then even shapes are not numbers but recorded values
        return
    _check_sequences(config, input_ids)
    _check_ids("input_ids", input_ids, config.vocab_size, "entries in its vocabulary")
    shape = tuple(input_ids.shape)
    if attention_mask is not None:
        _check_shape("attention_mask", attention_mask, shape)
        check_mask(attention_mask)
    if token_type_ids is not None:
        _check_shape("token_type_ids", token_type_ids, shape)
        _check_ids("token_type_ids", token_type_ids, config.type_vocab_size, "segments")
    if position_ids is not None:
        _check_shape("position_ids", position_ids, shape, (1, shape[1]))
        _check_ids("position_ids", position_ids, config.max_position_embeddings, "positions")


def check_tensor(
    name: str,
    value: Any,
    dtypes: tuple[torch.dtype, ...],
    hint: str = "",
    error: type[MinibertError] = InputError,
) -> None:
    """Raises an error unless the value is a dense tensor of one of these dtypes."""
    if not isinstance(value, Tensor):
        next_step = hint or f"torch.as_tensor({name})"
        raise error(f"{name} must be a tensor, got {type(value).__name__}: {next_step}")
    check_dense(name, value, error)
    if value.dtype not in dtypes:
        if set(dtypes) <= set(FLOATS):
            raise error(f"{name} must be floating-point numbers, got {value.dtype}: call {name}.float()")
        what = "integers" if set(dtypes) <= set(INTEGERS) else "numbers"
        raise error(f"{name} must be {what}, {dtypes[0]}, got {value.dtype}: convert it, {name}.long()")


def check_device(
    name: str, tensor: Tensor, beside: str, other: Tensor, error: type[MinibertError] = InputError
) -> None:
    """Raises an error unless a tensor is on the device of the other one, which the message calls `beside`."""
    if tensor.device != other.device:
        raise error(f"{name} must be on {other.device} like {beside}, got {tensor.device}: move one of them")


def has_shape(tensor: Tensor, *shapes: tuple[int, ...]) -> bool:
    """Whether a tensor has one of these shapes; always while torch.jit.trace records shapes, to be other ones later."""
    return torch.jit.is_tracing() or tuple(tensor.shape) in shapes


def check_mask(mask: Tensor, error: type[MinibertError] = InputError) -> None:
    """Raises an error unless an attention mask consists of ones and zeros."""
    if has_values(mask) and not ((mask == 0) | (mask == 1)).all():
        raise error("attention_mask must be 1 for each token and 0 for each padding position, got other values")


def hides_nothing(mask: Tensor) -> bool:
    """Whether an attention mask has no padding. While PyTorch traces, it may have some in a later call."""
    return has_values(mask) and bool(mask.all())


def has_values(tensor: Tensor) -> bool:
    """Whether Python may decide by a tensor's values.

    Not on the meta device, nor while PyTorch records its operations to run them on other tensors: torch.compile,
    torch.export, torch.jit.trace, a CUDA graph, torch.func.vmap. transformers decides likewise (`is_tracing`).
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or tensor.is_meta
        or isinstance(tensor, FakeTensor)
        or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None  # make_fx
        or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
        or any(each.key() == TransformType.Vmap for each in retrieve_all_functorch_interpreters())
    )


def _check_sequences(config: BertConfig, input_ids: Tensor) -> None:
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        hint = ": add a batch dimension, input_ids[None]" if input_ids.dim() == 1 and len(input_ids) else ""
        raise InputError(f"input_ids must be (batch, sequence) and not empty, got {tuple(input_ids.shape)}{hint}")
    sequence = input_ids.shape[1]
    if sequence > config.max_position_embeddings:
        raise InputError(
            f"a sequence must have at most {config.max_position_embeddings} tokens, got {sequence}: "
            "shorten it, or split it into parts"
        )


def _check_shape(name: str, tensor: Tensor, *allowed: tuple[int, ...]) -> None:
    if not has_shape(tensor, *allowed):
        shapes = " or ".join(map(str, allowed))
        raise InputError(f"{name} must be {shapes} to match input_ids, got {tuple(tensor.shape)}")


def _check_ids(name: str, ids: Tensor, count: int, what: str) -> None:
    if not has_values(ids):
        return
    smallest, largest = (int(bound) for bound in ids.aminmax())
    if smallest < 0 or largest >= count:
        wrong = smallest if smallest < 0 else largest
        raise InputError(
            f"{name} must be from 0 to {count - 1}, got {wrong}: this model has {count} {what}; "
            "does the tokenizer belong to this checkpoint?"
        )
