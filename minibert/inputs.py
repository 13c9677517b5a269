"""Which inputs does a BERT accept?

PyTorch reports an id outside the vocabulary as "index out of range in self", and on a GPU as a device-side assertion
that ends the process. The checks here say which tensor, which value and what to do instead.
"""

import torch
from torch import Tensor

from minibert.checks import check_mask
from minibert.config import BertConfig
from minibert.errors import InputError


def check_inputs(
    config: BertConfig,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
) -> None:
    """Raises an `InputError` for the first input that a model of this `config` does not accept; see `BertModel`."""
    optional: dict[str, object] = {
        "attention_mask": attention_mask,
        "token_type_ids": token_type_ids,
        "position_ids": position_ids,
    }
    for name, value in {"input_ids": input_ids, **optional}.items():
        if not isinstance(value, Tensor) and not (value is None and name in optional):
            kind = type(value).__name__
            raise InputError(f"{name} must be a tensor, got {kind}: a tokenizer makes them, model(**tokenizer(texts))")
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        hint = ": add a batch dimension, input_ids[None]" if input_ids.dim() == 1 and len(input_ids) else ""
        raise InputError(f"input_ids must be (batch, sequence) and not empty, got {tuple(input_ids.shape)}{hint}")
    batch, sequence = input_ids.shape
    if sequence > config.max_position_embeddings:
        raise InputError(
            f"a sequence must have at most {config.max_position_embeddings} tokens, got {sequence}: "
            "shorten it, or split it into parts"
        )
    _check_ids("input_ids", input_ids, config.vocab_size, "entries in its vocabulary")
    if attention_mask is not None:
        _check_shape("attention_mask", attention_mask, (batch, sequence))
        check_mask(attention_mask)
    if token_type_ids is not None:
        _check_shape("token_type_ids", token_type_ids, (batch, sequence))
        _check_ids("token_type_ids", token_type_ids, config.type_vocab_size, "segments")
    if position_ids is not None:
        _check_shape("position_ids", position_ids, (batch, sequence), (1, sequence))
        _check_ids("position_ids", position_ids, config.max_position_embeddings, "positions")


def _check_shape(name: str, tensor: Tensor, *allowed: tuple[int, int]) -> None:
    if tuple(tensor.shape) not in allowed:
        shapes = " or ".join(map(str, allowed))
        raise InputError(f"{name} must be {shapes} to match input_ids, got {tuple(tensor.shape)}")


def _check_ids(name: str, ids: Tensor, count: int, what: str) -> None:
    if ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"{name} must be integers, torch.int64, got {ids.dtype}")
    smallest, largest = (int(bound) for bound in ids.aminmax())
    if smallest < 0 or largest >= count:
        wrong = smallest if smallest < 0 else largest
        raise InputError(
            f"{name} must be from 0 to {count - 1}, got {wrong}: this model has {count} {what}; "
            "does the tokenizer belong to this checkpoint?"
        )
