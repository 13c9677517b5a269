"""How is the score of a token or a class read from the last hidden state?

The head of a masked language model is an activation and a LayerNorm between two linear maps, the pooler a tanh between
two. With the gate activation(x)/x of each and the scale of the norm taken as they were in this run, a score is linear
in the hidden state: its projection on one direction, plus biases. The gate is Φ(x) for GELU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checks import as_integer, shown
from minibert.errors import InputError
from minibert.heads import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minibert.interpret.residual import through_norm
from minibert.interpret.runs import Inputs, position_of, token_id
from minibert.interpret.targets import class_index
from minibert.trace.hooks import layer_norm_scale

WORDS = BertForMaskedLM | BertForPreTraining
TEXTS = BertForSequenceClassification | BertForNextSentencePrediction


@dataclass(frozen=True)
class ReadOut:
    """A score as the projection of the last hidden state on a direction, plus biases."""

    name: str
    scores: Tensor  # (B,), as the model computes them
    positions: Tensor  # (B,)
    direction: Tensor  # (B, D)
    biases: dict[str, Tensor]  # by label, each (B,)


def read_out(model: nn.Module, inputs: Inputs, position: int | None, token: str | int | None) -> ReadOut:
    """Returns how the score of a token or class is read; None means the one with the highest score of each text.

    Raises:
        InputError: a model that gives no such score.
    """
    if not isinstance(model, WORDS | TEXTS | BertForTokenClassification):
        raise InputError(
            "a logit needs a model with a head for masked words, next sentences, texts or tokens, "
            f"got {type(model).__name__}"
        )
    if isinstance(model, TEXTS) and position is not None and as_integer(position) != 0:
        raise InputError(f"position must be left out for the score of a text, read at [CLS], got {shown(position)}")
    output = model(**inputs, output_hidden_states=True)
    if isinstance(model, WORDS):
        return _of_masked_lm(model, inputs, output, position, token)
    if isinstance(model, TEXTS):
        return _of_text_class(model, output, token)
    return _of_token_class(model, inputs, output, position, token)


def activation_gate(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Returns activation(x) / x, at 0 the slope there: Φ(x) for GELU, ½ at 0."""
    with torch.inference_mode(False), torch.enable_grad():
        zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(activation(zero), zero)
    return torch.where(x == 0, slope.to(x), activation(x) / torch.where(x == 0, 1, x))


def _of_masked_lm(model: Any, inputs: Inputs, output: Any, position: int | None, token: Any) -> ReadOut:
    head, table = model.masked_lm, model.bert.embeddings.word_embeddings.weight
    positions = position_of(position, inputs)
    all_scores = _at(output[1], positions)  # (B, S, V) → (B, V)
    ids = all_scores.argmax(dim=-1)
    if token is not None:
        ids = torch.full_like(ids, token_id(token, inputs, model))
    dense = head.dense(_at(output.hidden_states[-1], positions))
    scale = layer_norm_scale(head.activation(dense), head.norm.eps)
    at_norm = table[ids]  # (B, D): the direction after the norm
    at_dense = through_norm(at_norm, head.norm, scale) * activation_gate(head.activation, dense)
    biases = {
        "head dense bias": at_dense @ head.dense.bias,
        "head norm bias": at_norm @ head.norm.bias,
        "decoder bias": head.bias[ids],
    }
    tokenizer = getattr(inputs, "tokenizer", None)
    if token is None and len(ids) == 1 and tokenizer is not None:
        token = tokenizer.convert_ids_to_tokens(int(ids))
    return ReadOut(_name(token), _picked(all_scores, ids), positions, at_dense @ head.dense.weight, biases)


def _of_text_class(model: Any, output: Any, token: Any) -> ReadOut:
    last = model.classifier if isinstance(model, BertForSequenceClassification) else model.next_sentence
    classes = _classes(model, output.logits, token)
    pooler = model.bert.pooler.dense
    direction = last.weight[classes] * activation_gate(torch.tanh, pooler(output.hidden_states[-1][:, 0]))
    biases = {"pooler bias": direction @ pooler.bias, "classifier bias": last.bias[classes]}
    scores = _picked(output.logits, classes)
    return ReadOut(_name(token), scores, torch.zeros_like(classes), direction @ pooler.weight, biases)


def _of_token_class(model: Any, inputs: Inputs, output: Any, position: int | None, token: Any) -> ReadOut:
    last, positions = model.classifier, position_of(position, inputs)
    all_scores = _at(output.logits, positions)  # (B, S, C) → (B, C)
    classes = _classes(model, all_scores, token)
    biases = {"classifier bias": last.bias[classes]}
    return ReadOut(_name(token), _picked(all_scores, classes), positions, last.weight[classes], biases)


def _classes(model: Any, scores: Tensor, token: Any) -> Tensor:
    """The class of each text, (B,): the one given, or the one with the highest score."""
    best = scores.argmax(dim=-1)
    return best if token is None else torch.full_like(best, class_index(token, model, scores.shape[-1]))


def _at(value: Tensor, positions: Tensor) -> Tensor:
    return value[torch.arange(len(value), device=value.device), positions]  # (B, S, …) → (B, …)


def _picked(scores: Tensor, chosen: Tensor) -> Tensor:
    return scores.gather(1, chosen[:, None])[:, 0]  # (B, V) → (B)


def _name(token: Any) -> str:
    return "logit of the highest score" if token is None else f"logit of {token}"
