"""How do token vectors become one vector? Pure functions: no argument is ever modified.

`hidden` is always (B, S, D), the hidden states of B sequences; `attention_mask` is (B, S), 1 for a token and 0 for
padding. Padding positions have hidden states too, which are not zero: every function here leaves them out, on whichever
side of the sequence they are.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from minibert.checks import as_integer, check_one_of, did_you_mean
from minibert.errors import PoolingError
from minibert.inputs import FLOATS, INTEGERS, check_device, check_mask, check_tensor, has_shape, has_values


def mean_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the mean of each sequence's token vectors, [CLS] and [SEP] included (Reimers & Gurevych 2019, section 3).

    Returns:
        (B, D)

    Raises:
        PoolingError: the shapes do not match, or a row is all padding.
    """
    padding = _padding(hidden, attention_mask)
    total = _sum(hidden, padding)
    return (total / (~padding).sum(dim=1)).to(hidden.dtype)  # (B, D) / (B, 1)


def mean_sqrt_len_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the sum of each sequence's token vectors divided by the square root of their number: (B, D).

    This is the mean times √length, so longer texts have longer vectors. Raises as `mean_pool` does.
    """
    padding = _padding(hidden, attention_mask)
    total = _sum(hidden, padding)
    return (total / (~padding).sum(dim=1, dtype=total.dtype).sqrt()).to(hidden.dtype)  # (B, D) / (B, 1)


def weighted_mean_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the mean with weights 1, 2, 3, … counted from each sequence's first token: (B, D).

    Meant for models with causal attention, where later tokens have seen more (Muennighoff 2022, "SGPT", equation 2).
    Raises as `mean_pool` does.
    """
    padding = _padding(hidden, attention_mask)
    weights = (~padding).cumsum(dim=1).masked_fill(padding, 0)  # (B, S, 1)
    weights = weights.to(torch.promote_types(hidden.dtype, torch.float32))
    return (_sum(hidden * weights, padding) / weights.sum(dim=1)).to(hidden.dtype)  # (B, D) / (B, 1)


def max_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the largest value of each dimension over each sequence's tokens: (B, D). Raises as `mean_pool` does."""
    padding = _padding(hidden, attention_mask)
    return hidden.masked_fill(padding, -torch.inf).amax(dim=1)  # (B, S, D) → (B, D)


def cls_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the vector of each sequence's first token, [CLS]: (B, D). Raises as `mean_pool` does."""
    tokens = ~_padding(hidden, attention_mask)[:, :, 0]  # (B, S, 1) → (B, S)
    first = tokens.int().argmax(dim=1)  # (B, S) → (B)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), first]  # (B, S, D) → (B, D)


def last_token_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the vector of each sequence's last token, for a BERT [SEP]: (B, D). Raises as `mean_pool` does."""
    tokens = ~_padding(hidden, attention_mask)[:, :, 0]  # (B, S, 1) → (B, S)
    last = tokens.shape[1] - 1 - tokens.flip(1).int().argmax(dim=1)  # (B, S) → (B)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]  # (B, S, D) → (B, D)


# By their names in the files of sentence-transformers.
POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": cls_pool,
    "max": max_pool,
    "mean": mean_pool,
    "mean_sqrt_len_tokens": mean_sqrt_len_pool,
    "weightedmean": weighted_mean_pool,
    "lasttoken": last_token_pool,
}


def combine_layers(hidden_states: Sequence[Tensor], layers: str | Sequence[int], how: str = "sum") -> Tensor:
    """Combines several layers into one vector per token (BERT, section 5.3, table 7).

    Args:
        hidden_states: L + 1 tensors (B, S, D) as a model returns them: the embeddings, then each layer.
        layers: which of them to take; 0 is the embeddings, 1 the first layer, -1 the last, -2 the second to last. Or
            a name: "embeddings", "last", "second to last", "last four", "all layers" (without the embeddings).
        how: "sum", "mean" or "concat".

    Returns:
        (B, S, D), or (B, S, len(layers)·D) for "concat", in the order of `layers`.

    Raises:
        PoolingError: no hidden states, no layers, a layer that the model does not have, or an unknown name or `how`.
    """
    check_one_of("how", how, ("sum", "mean", "concat"), PoolingError)
    chosen = [hidden_states[layer] for layer in _layer_indices(hidden_states, layers)]
    if how == "concat":
        return torch.cat(chosen, dim=-1)
    stacked = torch.stack(chosen)
    return stacked.sum(dim=0) if how == "sum" else stacked.mean(dim=0)


def _layer_indices(hidden_states: Sequence[Tensor], layers: str | Sequence[int]) -> Sequence[int]:
    """Indices into `hidden_states`, after validation of both arguments."""
    if hidden_states is None:
        raise PoolingError("hidden_states must be tensors, got None: call the model with output_hidden_states=True")
    shapes = {tuple(state.shape) if isinstance(state, Tensor) else None for state in hidden_states}
    if not isinstance(hidden_states, list | tuple) or None in shapes or len(shapes) != 1:
        raise PoolingError("hidden_states must be tensors of one shape: pass out.hidden_states, not the whole output")
    count = len(hidden_states)
    if isinstance(layers, str):
        named = {
            "embeddings": [0],
            "last": [-1],
            "second to last": [-2],
            "last four": [-4, -3, -2, -1],
            "all layers": list(range(1, count)),
        }
        if layers not in named:
            known = ", ".join(named)
            hint = did_you_mean(layers, named)
            raise PoolingError(f"layers must be a list of integers, or one of {known}, got {layers!r}{hint}")
        if not named[layers] or named[layers][0] <= -count:  # -count is the embeddings, which are not a layer
            raise PoolingError(f"there are too few layers for {layers!r}: the model has {count - 1}")
        return named[layers]
    given = list(layers) if isinstance(layers, Iterable) else [None]
    indices = [index for index in map(as_integer, given) if index is not None]
    if len(indices) != len(given):
        raise PoolingError(f"layers must be a list of integers, such as [-2, -1], got {layers!r}")
    wrong = [layer for layer in indices if not -count <= layer < count]
    if wrong or not indices:
        what = f"there is no layer {wrong[0]}" if wrong else "layers must not be empty"
        known = f"layers run from 0 to {count - 1}, or from -{count} to -1"
        raise PoolingError(f"{what}: with {count} hidden states, {known}")
    return indices


def _sum(hidden: Tensor, padding: Tensor) -> Tensor:
    """The sum over the tokens, (B, S, D) → (B, D), at least in float32: one of float16 overflows at 65,504."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return hidden.masked_fill(padding, 0).sum(dim=1, dtype=wide)


def _padding(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """True at padding, (B, S, 1), after validation of both arguments."""
    hint = "pass out.last_hidden_state and attention_mask"
    check_tensor("hidden", hidden, FLOATS, hint, PoolingError)
    check_tensor("attention_mask", attention_mask, INTEGERS + FLOATS, hint, PoolingError)
    check_device("attention_mask", attention_mask, "hidden", hidden, PoolingError)
    if hidden.dim() != 3 or not has_shape(attention_mask, hidden.shape[:2]):
        raise PoolingError(
            f"hidden must be (batch, sequence, size) and attention_mask (batch, sequence), "
            f"got {tuple(hidden.shape)} and {tuple(attention_mask.shape)}"
        )
    check_mask(attention_mask, PoolingError)
    padding = attention_mask == 0
    empty = padding.all(dim=1).nonzero().flatten().tolist() if has_values(padding) else []
    if empty:
        raise PoolingError(f"row {empty[0]} of attention_mask is all padding: there is nothing to pool")
    return padding[:, :, None]  # (B, S) → (B, S, 1)
