"""How do token vectors become one vector? Pure functions; no argument is ever modified.

`hidden` is always (B, S, D), the hidden states of B sequences; `attention_mask` is (B, S), 1 for a token and 0 for
padding. Padding positions hold vectors too, and they are not zero: every function here leaves them out, on whichever
side of the sequence they are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minibert.errors import PoolingError


def mean_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean of each sequence's token vectors, [CLS] and [SEP] included (Reimers & Gurevych 2019, section 3).

    Returns:
        (B, D)

    Raises:
        PoolingError: the shapes do not belong together, or a row is all padding.
    """
    padding = _padding(hidden, attention_mask)
    total = _sum(hidden, padding)
    return (total / (~padding).sum(dim=1)).to(hidden.dtype)  # (B, D) / (B, 1)


def mean_sqrt_len_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The sum of each sequence's token vectors over the square root of their number: (B, D).

    The mean times √length, so that longer texts have longer vectors. Raises as `mean_pool` does.
    """
    padding = _padding(hidden, attention_mask)
    total = _sum(hidden, padding)
    return (total / (~padding).sum(dim=1, dtype=total.dtype).sqrt()).to(hidden.dtype)  # (B, D) / (B, 1)


def weighted_mean_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean with weights 1, 2, 3, … from each sequence's first token on: (B, D).

    Made for models that read from left to right, whose later tokens know more (Muennighoff 2022, "SGPT", equation 2).
    Raises as `mean_pool` does.
    """
    padding = _padding(hidden, attention_mask)
    weights = (~padding).cumsum(dim=1).masked_fill(padding, 0)  # (B, S, 1)
    weights = weights.to(torch.promote_types(hidden.dtype, torch.float32))
    return (_sum(hidden * weights, padding) / weights.sum(dim=1)).to(hidden.dtype)  # (B, D) / (B, 1)


def max_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The largest value of each dimension over each sequence's tokens: (B, D). Raises as `mean_pool` does."""
    padding = _padding(hidden, attention_mask)
    return hidden.masked_fill(padding, -torch.inf).amax(dim=1)  # (B, S, D) → (B, D)


def cls_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The vector of each sequence's first token, [CLS]: (B, D). Raises as `mean_pool` does."""
    tokens = ~_padding(hidden, attention_mask)[:, :, 0]  # (B, S, 1) → (B, S)
    first = tokens.int().argmax(dim=1)  # (B, S) → (B)
    return hidden[torch.arange(len(hidden), device=hidden.device), first]  # (B, S, D) → (B, D)


def last_token_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The vector of each sequence's last token, which for a BERT is [SEP]: (B, D). Raises as `mean_pool` does."""
    tokens = ~_padding(hidden, attention_mask)[:, :, 0]  # (B, S, 1) → (B, S)
    last = tokens.shape[1] - 1 - tokens.flip(1).int().argmax(dim=1)  # (B, S) → (B)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]  # (B, S, D) → (B, D)


# By the names they have in the files of sentence-transformers.
POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": cls_pool,
    "max": max_pool,
    "mean": mean_pool,
    "mean_sqrt_len_tokens": mean_sqrt_len_pool,
    "weightedmean": weighted_mean_pool,
    "lasttoken": last_token_pool,
}


def combine_layers(hidden_states: Sequence[Tensor], layers: str | Sequence[int], how: str = "sum") -> Tensor:
    """One vector per token out of several layers (BERT, section 5.3, table 7).

    Args:
        hidden_states: L + 1 tensors (B, S, D) as a model returns them: the embeddings, then each layer.
        layers: which of them; 0 is the embeddings, 1 the first layer, -1 the last, -2 the second to last. Or a name:
            "embeddings", "last", "second to last", "last four", "all layers" (without the embeddings).
        how: "sum", "mean" or "concat".

    Returns:
        (B, S, D), or (B, S, len(layers)·D) for "concat", in the order of `layers`.

    Raises:
        PoolingError: no hidden states, no layers, a layer that is not there, or an unknown name or `how`.
    """
    chosen = [hidden_states[layer] for layer in _layer_numbers(hidden_states, layers)]
    if how == "concat":
        return torch.cat(chosen, dim=-1)
    if how == "sum":
        return torch.stack(chosen).sum(dim=0)
    if how == "mean":
        return torch.stack(chosen).mean(dim=0)
    raise PoolingError(f"how is {how!r}, and must be one of sum, mean, concat")


def _layer_numbers(hidden_states: Sequence[Tensor], layers: str | Sequence[int]) -> Sequence[int]:
    """Places in `hidden_states`, once both arguments are known to be sound."""
    if hidden_states is None:
        raise PoolingError("there are no hidden states: call the model with output_hidden_states=True")
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
            raise PoolingError(f"layers is {layers!r}, and must be a list of numbers, or one of {', '.join(named)}")
        if not named[layers] or named[layers][0] <= -count:  # -count is the embeddings, which are no layer
            raise PoolingError(f"there are no {layers!r} among {count - 1} layers")
        return named[layers]
    if not isinstance(layers, list | tuple | range) or not all(type(layer) is int for layer in layers):
        raise PoolingError(f"layers must be a list of whole numbers, such as [-2, -1]; it is {layers!r}")
    wrong = [layer for layer in layers if not -count <= layer < count]
    if wrong or not layers:
        what = f"layer {wrong[0]} is not there" if wrong else "no layer is named"
        raise PoolingError(f"{what}: with {count} hidden states, layers run from 0 to {count - 1}, or -{count} to -1")
    return layers


def _sum(hidden: Tensor, padding: Tensor) -> Tensor:
    """The sum over the tokens, (B, S, D) → (B, D), at least in float32: one of float16 overflows at 65,504."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return hidden.masked_fill(padding, 0).sum(dim=1, dtype=wide)


def _padding(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """True at padding, (B, S, 1), once both arguments are known to be sound."""
    for name, value in (("hidden", hidden), ("attention_mask", attention_mask)):
        if not isinstance(value, Tensor):
            raise PoolingError(
                f"{name} must be a tensor, not {type(value).__name__}: pool(out.last_hidden_state, mask)"
            )
    if not hidden.is_floating_point() or hidden.dim() != 3 or attention_mask.shape != hidden.shape[:2]:
        raise PoolingError(
            f"hidden must be floating-point numbers (batch, sequence, size) and attention_mask (batch, sequence); "
            f"they are {hidden.dtype} {tuple(hidden.shape)} and {tuple(attention_mask.shape)}"
        )
    if not ((attention_mask == 0) | (attention_mask == 1)).all():
        raise PoolingError("attention_mask must hold 1 for each token and 0 for each padding position, nothing else")
    padding = attention_mask == 0
    empty = padding.all(dim=1).nonzero().flatten().tolist()
    if empty:
        raise PoolingError(f"row {empty[0]} of attention_mask is all padding: there is nothing to pool")
    return padding[:, :, None]  # (B, S) → (B, S, 1)
