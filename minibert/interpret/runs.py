"""How is a model run, to be taken apart?

In evaluation mode, where dropout does not change the numbers, and on inputs that may be repeated: many interventions on
one text are the rows of a few batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checks import as_integer, check_integer, shown
from minibert.errors import InputError
from minibert.heads import bert_in
from minibert.inputs import IDS, check_tensor
from minibert.model import BertModel
from minibert.tokenizer import BatchEncoding
from minibert.trace.recording import edit

Inputs = Mapping[str, Tensor]  # what a tokenizer returns, or a dict of tensors with the same names
Head = tuple[int, int]  # layer, head, both counted from 0


def bert_of(model: nn.Module) -> BertModel:
    """Returns the one BERT inside a model.

    Raises:
        InputError: there is none, there are several, or the model is in training mode.
    """
    bert = bert_in(model)
    if any(module.training for module in model.modules()):  # one part in training mode is enough
        raise InputError("the model is in training mode, where dropout changes its output: call model.eval()")
    return bert


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Gradients are computed inside the block, also for a caller who has switched them off.

    No gradient can pass a parameter that was made in inference mode: inside the block a copy is in its place.
    """
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        copies: dict[nn.Parameter, nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is None or not parameter.is_inference():
                    continue
                if parameter not in copies:  # two modules may share it
                    copies[parameter] = nn.Parameter(parameter.clone(), requires_grad=False)
                stack.callback(module._parameters.__setitem__, name, parameter)
                module._parameters[name] = copies[parameter]
        yield


def differentiable_inputs(inputs: Inputs) -> Inputs:
    """Returns the inputs, or copies of those made in inference mode, for use inside `differentiable`."""
    if not any(tensor.is_inference() for tensor in inputs.values()):
        return inputs
    if isinstance(inputs, BatchEncoding):
        return inputs.rows(range(len(inputs["input_ids"])))
    return {name: tensor.clone() for name, tensor in inputs.items()}


@contextmanager
def record_leaves(model: nn.Module, names: str | list[str]) -> Iterator[dict[str, Tensor]]:
    """Records values that a gradient can be taken at, also where no parameter requires one; inside `differentiable`."""
    leaves: dict[str, Tensor] = {}

    def keep(value: Tensor, name: str) -> Tensor:
        leaves[name] = value if value.requires_grad else value.requires_grad_()
        return leaves[name]

    with edit(model, names, keep):
        yield leaves


def as_head(what: str, head: Any) -> Head:
    """Returns a layer and a head as two integers; whether the model has them is not asked.

    Raises:
        InputError: something else.
    """
    pair = [as_integer(each) for each in head] if isinstance(head, list | tuple) and len(head) == 2 else [None]
    if None in pair:
        raise InputError(f"{what} must be (layer, head), got {shown(head)}")
    return int(pair[0] or 0), int(pair[1] or 0)


def as_inputs(inputs: Any) -> Inputs:
    """Returns the inputs of a model, (B, S) each.

    Raises:
        InputError: a text where its encoding is expected, or no input_ids (B, S).
    """
    if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
        raise InputError(f"inputs must be what a tokenizer returns, got {shown(inputs)}: pass tokenizer(text)")
    ids = inputs["input_ids"]
    check_tensor("input_ids", ids, IDS, "a tokenizer makes them, tokenizer(texts)")
    if ids.dim() != 2 or 0 in ids.shape:
        raise InputError(f"input_ids must be (B, S) and not empty, got {tuple(ids.shape)}")
    return inputs


def mask_of(inputs: Inputs) -> Tensor:
    """Returns the attention mask, (B, S): True for tokens, False for padding."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask != 0


def check_row(row: Any, inputs: Inputs) -> int:
    """Returns the number of a text, counted from the end if negative."""
    count = len(inputs["input_ids"])
    return check_integer("row", row, -count, count - 1) % count


def rows_of(inputs: Inputs, indices: Sequence[int]) -> Inputs:
    """Returns these rows of the inputs, in this order; the same row may be there several times."""
    if isinstance(inputs, BatchEncoding):
        return inputs.rows(indices)
    # Position ids may be (1, S), for all rows.
    return {
        name: tensor[list(indices)] if len(tensor) > 1 else tensor.expand(len(indices), *tensor.shape[1:])
        for name, tensor in inputs.items()
    }


def tokens_of(inputs: Inputs) -> list[list[str]]:
    """Returns a label for each position, B lists of S: its token, or its id if no tokenizer made the inputs."""
    if isinstance(inputs, BatchEncoding):
        if inputs.tokenizer is None:
            return [list(encoding.tokens) for encoding in inputs.encodings]
        # Of the ids, as they are now: a token may have been replaced by [MASK].
        name = inputs.tokenizer.tokenizer.id_to_token
        return [[name(each) or str(each) for each in row] for row in inputs["input_ids"].tolist()]
    return [[str(each) for each in row] for row in inputs["input_ids"].tolist()]


def token_id(token: str | int, inputs: Inputs, model: nn.Module) -> int:
    """Returns the id of a token of the vocabulary, given as the token itself or as its id.

    Raises:
        InputError: the id is not in the vocabulary, or the inputs are not those of a tokenizer, which knows the ids.
        TokenizerError: the token is not in the vocabulary.
    """
    if isinstance(token, str):
        tokenizer = getattr(inputs, "tokenizer", None)
        if tokenizer is None:
            raise InputError(f"the id of {shown(token)} is known to a tokenizer: give inputs made by one, or the id")
        token = int(tokenizer.convert_tokens_to_ids(token))
    number, size = as_integer(token), bert_in(model).config.vocab_size
    if number is None or not 0 <= number < size:
        raise InputError(f"token must be a token or an id from 0 to {size - 1:,}, got {shown(token)}")
    return number


def position_of(position: int | None, inputs: Inputs) -> Tensor:
    """Returns a position for each row, (B,): the one given, counted from the end if negative; None means the [MASK].

    Raises:
        InputError: a position outside the sequence, or a row without [MASK], or with several.
    """
    ids = inputs["input_ids"]
    if position is None:
        tokenizer = getattr(inputs, "tokenizer", None)
        if tokenizer is None:
            raise InputError("position must be given for inputs that no tokenizer made: [MASK] has no known id")
        found = ids == tokenizer.convert_tokens_to_ids("[MASK]")
        if not (found.sum(dim=1) == 1).all():
            counts = ", ".join(map(str, found.sum(dim=1).tolist()))
            raise InputError(f"position must be given, for a text has not exactly one [MASK]: the rows have {counts}")
        return found.int().argmax(dim=1)
    number, length = as_integer(position), ids.shape[1]
    if number is None or not -length <= number < length:
        raise InputError(f"position must be an integer from 0 to {length - 1}, got {shown(position)}")
    return torch.full((len(ids),), number % length, device=ids.device)
