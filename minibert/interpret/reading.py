"""What does the head of a masked language model make of a hidden state?"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minibert.errors import InputError
from minibert.heads import BertForMaskedLM, BertForPreTraining
from minibert.interpret.runs import bert_of

MaskedLM = BertForMaskedLM | BertForPreTraining


def masked_lm_of(model: nn.Module) -> MaskedLM:
    """Returns a masked language model in evaluation mode.

    Raises:
        InputError: a model without such a head, or in training mode.
    """
    bert_of(model)
    if not isinstance(model, MaskedLM):
        raise InputError(
            f"a lens reads with the head of a masked language model, which {type(model).__name__} does not have: "
            "load the checkpoint as BertForMaskedLM if it has one, or ask nearest_words"
        )
    return model


def read(model: MaskedLM, hidden: Tensor) -> Tensor:
    """Returns what the head of a masked language model makes of a hidden state: (B, S, D) → (B, S, V)."""
    return model.masked_lm(hidden, model.bert.embeddings.word_embeddings.weight)


def log_probabilities(logits: Tensor) -> Tensor:
    """Returns the log-softmax over the vocabulary, at least in float32: in float16 a sum over it has wrong digits."""
    return logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def divergence(final: Tensor, other: Tensor, real: Tensor) -> Tensor:
    """Returns KL(final ‖ other) of log probabilities (B, S, V), the mean over real positions, in nats: ()."""
    each = (final.exp() * (final - other)).sum(dim=-1)  # (B, S, V) → (B, S)
    return each[real].mean()


def nested(flat: list[Any], shape: Sequence[int]) -> Any:
    """Returns a flat list as nested lists of a shape; of the shape () it is the only one."""
    if not shape:
        return flat[0]
    for size in reversed(shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat
