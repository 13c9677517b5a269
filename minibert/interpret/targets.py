"""Which number is to be explained?

An attribution, a gradient and a patch all ask about one number for each text: their target, or metric. It is computed
from what the model returns:

    token_logit(token, position)             how strongly a masked language model predicts this token
    token_log_probability(token, position)   the same after the softmax over the vocabulary, as a logarithm
    logit_difference(token, rival, position) one token's logit minus another's, the usual metric of patching
    class_logit(label)                       the score of a class, by its number or its name
    cosine_with(vector)                      how close the text's mean token vector is to a vector (D,)
    text_similarity()                        how close the mean token vectors of rows 0 and 1, 2 and 3, … are

or any function of the output, or of the output and the inputs, that returns one number for each row: (B,).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.checks import as_integer, check_one_of, required_arguments, shown
from minibert.errors import InputError
from minibert.heads import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minibert.interpret.runs import Inputs, mask_of, position_of, token_id
from minibert.vectors.pooling import mean_pool

CLASSIFIERS = (BertForSequenceClassification, BertForTokenClassification, BertForNextSentencePrediction)


@dataclass(frozen=True)
class Target:
    """A number for each row, and what it is called in tables."""

    name: str
    compute: Callable[[nn.Module, Any, Inputs], Tensor]  # (model, output, inputs) → (B,)
    rows: int = 1  # how many rows have one number together


TargetLike = Target | Callable[..., Tensor]


def measure(model: nn.Module, inputs: Inputs, target: TargetLike) -> Tensor:
    """Runs a model and returns its target, (B,).

    Raises:
        InputError: something that is not a target, one that this model has no output for, or of another shape.
    """
    chosen = as_target(target)
    value = chosen.compute(model, model(**inputs, output_hidden_states=True), inputs)
    batch = len(inputs["input_ids"])
    if isinstance(value, Tensor) and value.dim() == 0 and batch == 1:
        value = value[None]
    if not isinstance(value, Tensor) or value.shape != (batch,) or not value.is_floating_point():
        what = tuple(value.shape) if isinstance(value, Tensor) else shown(value)
        raise InputError(f"{chosen.name} must return one real number for each row, ({batch},), got {what}")
    return value


def as_target(target: Any) -> Target:
    """Returns a target; a function of (output) or (output, inputs) becomes one."""
    if isinstance(target, Target):
        return target
    if not callable(target):
        raise InputError(f"a target is a function of the output, or one of minibert.interpret's, got {shown(target)}")
    name = getattr(target, "__name__", type(target).__name__)
    if required_arguments(target) > 1:
        return Target(name, lambda model, output, inputs: target(output, inputs))
    return Target(name, lambda model, output, inputs: target(output))


def token_logit(token: str | int, position: int | None = None) -> Target:
    """The logit of a token, by itself or its id, at a position; None is that of the only [MASK]."""

    def compute(model: nn.Module, output: Any, inputs: Inputs) -> Tensor:
        logits = _at(vocabulary_logits(model, output), position, inputs)  # (B, V)
        return logits[:, token_id(token, inputs, model)]

    return Target(f"logit of {token}", compute)


def token_log_probability(token: str | int, position: int | None = None) -> Target:
    """The logarithm of a token's probability at a position; None is that of the only [MASK]."""

    def compute(model: nn.Module, output: Any, inputs: Inputs) -> Tensor:
        logits = _at(vocabulary_logits(model, output), position, inputs)
        return F.log_softmax(logits, dim=-1)[:, token_id(token, inputs, model)]  # (B, V) → (B)

    return Target(f"log probability of {token}", compute)


def logit_difference(token: str | int, rival: str | int, position: int | None = None) -> Target:
    """The logit of one token minus that of another (Wang et al. 2023); None is the position of [MASK]."""

    def compute(model: nn.Module, output: Any, inputs: Inputs) -> Tensor:
        logits = _at(vocabulary_logits(model, output), position, inputs)  # (B, V)
        return logits[:, token_id(token, inputs, model)] - logits[:, token_id(rival, inputs, model)]

    return Target(f"logit of {token} − logit of {rival}", compute)


def class_logit(label: str | int, position: int | None = None) -> Target:
    """The score of a class: of the text, or, from a classifier of tokens, of the token at a position."""

    def compute(model: nn.Module, output: Any, inputs: Inputs) -> Tensor:
        if not isinstance(model, CLASSIFIERS):
            raise InputError(f"class_logit needs a model with a classifier, got {type(model).__name__}")
        logits = output.logits
        if logits.dim() == 3:  # (B, S, C) → (B, C)
            if position is None:
                raise InputError("class_logit needs the position of a token for a classifier of tokens")
            logits = _at(logits, position, inputs)
        elif position is not None:
            raise InputError(f"position must be left out for the class of a text, got {shown(position)}")
        return logits[:, class_index(label, model, logits.shape[-1])]

    return Target(f"logit of {label}", compute)


def class_index(label: str | int, model: Any, classes: int) -> int:
    """Returns the number of a class, by its number or its name.

    Raises:
        InputError: there is no such class; the message lists them.
    """
    names = model.config.id2label if len(model.config.id2label) == classes else tuple(map(str, range(classes)))
    if isinstance(label, str):
        return names.index(check_one_of("label", label, names))
    number = as_integer(label)
    if number is None or not 0 <= number < classes:
        raise InputError(f"label must be a class from 0 to {classes - 1}, or its name, got {shown(label)}")
    return number


def cosine_with(vector: Tensor) -> Target:
    """The cosine of a text's mean token vector, padding left out, with a vector (D,)."""

    def compute(model: nn.Module, output: Any, inputs: Inputs) -> Tensor:
        means = mean_vectors(output, inputs)
        if not isinstance(vector, Tensor) or vector.shape != means.shape[1:]:
            what = tuple(vector.shape) if isinstance(vector, Tensor) else shown(vector)
            raise InputError(f"vector must be a tensor ({means.shape[1]},), got {what}")
        return F.cosine_similarity(means, vector.to(means), dim=-1)  # (B, D) → (B)

    return Target("cosine", compute)


def text_similarity() -> Target:
    """The cosine of the mean token vectors of the rows 0 and 1, 2 and 3, …, for both rows of each pair."""

    def compute(model: nn.Module, output: Any, inputs: Inputs) -> Tensor:
        means = mean_vectors(output, inputs)
        if len(means) % 2:
            raise InputError(
                f"text_similarity compares rows 0 and 1, 2 and 3, …: give an even number, got {len(means)}"
            )
        return F.cosine_similarity(means[::2], means[1::2], dim=-1).repeat_interleave(2)  # (B / 2) → (B)

    return Target("similarity", compute, rows=2)


def mean_vectors(output: Any, inputs: Inputs) -> Tensor:
    """Returns the mean token vector of each text, (B, D), from what a model or a model with a head returns."""
    last = getattr(output, "last_hidden_state", None)
    last = output.hidden_states[-1] if last is None else last
    return mean_pool(last, mask_of(inputs).long())


def vocabulary_logits(model: nn.Module, output: Any) -> Tensor:
    """Returns the logits (B, S, V) of a masked language model.

    Raises:
        InputError: the model has no masked-language-model head.
    """
    if not isinstance(model, BertForMaskedLM | BertForPreTraining):
        raise InputError(
            f"a token's logit needs a model that predicts tokens, a BertForMaskedLM or "
            f"BertForPreTraining, got {type(model).__name__}"
        )
    return output.logits if isinstance(model, BertForMaskedLM) else output.prediction_logits


def _at(logits: Tensor, position: int | None, inputs: Inputs) -> Tensor:
    """The logits at one position of each row, which must not be padding: (B, S, C) → (B, C)."""
    rows, positions = torch.arange(len(logits), device=logits.device), position_of(position, inputs)
    real = mask_of(inputs)[rows, positions].tolist()
    if not all(real):
        row = real.index(False)
        raise InputError(
            f"position must be that of a token in each text, got {position}, which is padding in row {row}"
        )
    return logits[rows, positions]
