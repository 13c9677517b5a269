"""Which steps does an analysis of a model consist of, where do people slip, and how is each step called?

Each function is one step, on tensors; `interpret` does the same on whole models. `call_…` applies a function to what a
model returned, in such a way that the usual slips show.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minibert.model import BertOutput

Function = Callable[..., Any]


def mean_ablation(value: Tensor, attention_mask: Tensor) -> Tensor:
    """The value (B, S, D) with its mean over the real positions of all texts at every position: (B, S, D)."""
    mean = value[attention_mask != 0].mean(dim=0)  # (n, D) → (D)
    return mean.expand_as(value)


def normed_part(part: Tensor, total: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What a part of a sum is after the LayerNorm of the sum, without its bias: (B, S, D) → (B, S, D).

    The parts of a sum, each taken through here, sum to the LayerNorm of the sum, but for its bias.
    """
    scale = (total.var(dim=-1, correction=0, keepdim=True) + eps).rsqrt()  # 1/σ of the sum, not of the part
    return (part - part.mean(dim=-1, keepdim=True)) * scale * weight


def linear_attribution(value: Tensor, baseline: Tensor, gradient: Tensor) -> Tensor:
    """What each position adds to a number that is linear in the value, compared with a baseline: (B, S, D) → (B, S)."""
    return ((value - baseline) * gradient).sum(dim=-1)


def layer_output(hidden_states: Sequence[Tensor], layer: int) -> Tensor:
    """The output of a layer, counted from 0: L + 1 of (B, S, D), the embeddings first → (B, S, D)."""
    return hidden_states[layer + 1]


def word_attention(attention: Tensor, words: Sequence[int]) -> Tensor:
    """Attention between tokens (S, S) as attention between words (N, N) (Clark et al. 2019, section 4.1).

    To a word goes the sum over its tokens, from a word comes their mean; `words` are S numbers from 0 to N − 1.
    """
    members = torch.eye(max(words) + 1).to(attention)[list(words)].T  # (N, S): 1 where a token is of a word
    return (members / members.sum(dim=1, keepdim=True)) @ attention @ members.T


def mean_entropy(attention: Tensor, attention_mask: Tensor) -> Tensor:
    """The entropy of attention (B, S, T) in nats, mean over the queries that are not padding: ()."""
    entropy = torch.special.entr(attention).sum(dim=-1)  # (B, S, T) → (B, S)
    return entropy[attention_mask != 0].mean()


# --- applied to a model's output -------------------------------------------------------------------------------------


def call_mean_ablation(function: Function, out: BertOutput, inputs: Any) -> Tensor | None:
    mask = inputs.get("attention_mask")
    return None if mask is None else function(out.last_hidden_state, mask)


def call_normed_part(function: Function, out: BertOutput, inputs: Any) -> Tensor | None:
    if out.hidden_states is None or len(out.hidden_states) < 2:
        return None
    part, other = out.hidden_states[-1], out.hidden_states[-2]
    weight = torch.linspace(0.5, 1.5, part.shape[-1]).to(part)
    return function(part, part + other, weight, 1e-3)


def call_linear_attribution(function: Function, out: BertOutput, inputs: Any) -> Tensor | None:
    if out.hidden_states is None or len(out.hidden_states) < 2:
        return None
    return function(out.hidden_states[-1], out.hidden_states[-2], out.hidden_states[-1].flip(0))


def call_layer_output(function: Function, out: BertOutput, inputs: Any) -> Tensor | None:
    if out.hidden_states is None or len(out.hidden_states) < 2:
        return None
    return torch.stack([function(out.hidden_states, layer) for layer in range(len(out.hidden_states) - 1)])


def call_word_attention(function: Function, out: BertOutput, inputs: Any) -> Tensor | None:
    attention = _similarity(out.last_hidden_state)[0]
    # The first and the last word have one token, those between two, as [CLS] and [SEP] and words of subwords.
    length = len(attention)
    words = [0, *((position + 1) // 2 for position in range(1, length - 1)), (length + 1) // 2][:length]
    return None if length < 4 else function(attention, words)


def call_mean_entropy(function: Function, out: BertOutput, inputs: Any) -> Tensor | None:
    mask = inputs.get("attention_mask")
    if mask is None:
        return None
    return function(_similarity(out.last_hidden_state, mask), mask)


def _similarity(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Weights that sum to 1 over the keys, from hidden states alone: (B, S, D) → (B, S, T)."""
    scores = hidden @ hidden.transpose(1, 2) * hidden.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(mask[:, None] == 0, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)
