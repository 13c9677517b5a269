"""Which values inside a model have a name?

Each is what a module reads or returns, or a step inside attention: "encoder.layers.3.attention.probabilities". A model
with a head has those of its head as well: "masked_lm.norm", "logits". Some are derived: nothing computes them on the
way, but what is computed is made of them. The "attention.head_outputs" sum to the attention's output, and
"attention_norm.scale" is the 1/σ that a LayerNorm multiplies by.

Names that people know from elsewhere are aliases: "hidden_states[3]", "attentions[-1]", "last_hidden_state",
"pooler_output", and "logits" for the scores of any head.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from torch import nn

from minibert.checks import did_you_mean
from minibert.errors import InputError
from minibert.heads import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertWithHead,
    bert_in,
)


class Value(NamedTuple):
    """Where a named value is: what a module reads or returns, a step inside an `Attention`, or derived from both."""

    axes: str  # its shape, in the letters of `model.py`
    module: str
    side: Literal["input", "output", "inside", "derived"]


# Every value that has a name, in the order computed. Those of a layer, and their modules, are named without the
# "encoder.layers.0." that they begin with: that is the short name.
EMBEDDINGS = {
    "embeddings.word_embeddings": Value("B S D", "embeddings.word_embeddings", "output"),
    "embeddings.token_type_embeddings": Value("B S D", "embeddings.token_type_embeddings", "output"),
    "embeddings.position_embeddings": Value("1 S D", "embeddings.position_embeddings", "output"),
    "embeddings.sum": Value("B S D", "embeddings.norm", "input"),
    "embeddings.norm": Value("B S D", "embeddings.norm", "output"),
}
LAYER = {
    "attention.query": Value("B H S W", "attention", "inside"),  # with its bias, split into heads
    "attention.key": Value("B H T W", "attention", "inside"),
    "attention.value": Value("B H T W", "attention", "inside"),
    "attention.scores": Value("B H S T", "attention", "inside"),  # Q·Kᵀ
    "attention.scaled_scores": Value("B H S T", "attention", "inside"),  # / √W
    "attention.masked_scores": Value("B H S T", "attention", "inside"),  # + mask
    "attention.probabilities": Value("B H S T", "attention", "inside"),  # softmax
    "attention.context": Value("B H S W", "attention", "inside"),  # · V
    "attention.output": Value("B S D", "attention.output", "output"),
    "attention_sum": Value("B S D", "attention_norm", "input"),  # with the residual connection
    "attention_norm": Value("B S D", "attention_norm", "output"),
    "feed_forward.expand": Value("B S F", "feed_forward.expand", "output"),
    "feed_forward.activation": Value("B S F", "feed_forward.contract", "input"),
    "feed_forward.contract": Value("B S D", "feed_forward.contract", "output"),
    "feed_forward_sum": Value("B S D", "feed_forward_norm", "input"),
    "feed_forward_norm": Value("B S D", "feed_forward_norm", "output"),
}
POOLER = {
    "pooler.dense": Value("B D", "pooler.dense", "output"),
    "pooler.tanh": Value("B D", "pooler", "output"),
}
VALUES = EMBEDDINGS | LAYER | POOLER  # those of a BERT, by their short names
# Computed by eager attention alone: the fused operation goes from query, key and value to the context in one step.
STEPS = ("attention.scores", "attention.scaled_scores", "attention.masked_scores", "attention.probabilities")

MASKED_LM = {
    "masked_lm.dense": Value("B S D", "masked_lm.dense", "output"),
    "masked_lm.activation": Value("B S D", "masked_lm.norm", "input"),
    "masked_lm.norm": Value("B S D", "masked_lm.norm", "output"),
    "logits": Value("B S V", "masked_lm", "output"),
}
NEXT_SENTENCE = {"next_sentence": Value("B C", "next_sentence", "output")}
# The values of each head; C is the number of its classes. The rows of BertForMultipleChoice are the choices.
HEAD_VALUES: dict[type[BertWithHead], dict[str, Value]] = {
    BertForPreTraining: MASKED_LM | NEXT_SENTENCE,
    BertForMaskedLM: MASKED_LM,
    BertForNextSentencePrediction: NEXT_SENTENCE,
    BertForSequenceClassification: {"classifier": Value("B C", "classifier", "output")},
    BertForTokenClassification: {"classifier": Value("B S C", "classifier", "output")},
    BertForQuestionAnswering: {"qa_outputs": Value("B S C", "qa_outputs", "output")},
    BertForMultipleChoice: {"classifier": Value("B C", "classifier", "output")},
}

HEAD_OUTPUTS, SCALE = "head_outputs", "scale"  # the last word of a derived value's name


def values_of(model: nn.Module) -> dict[str, Value]:
    """Returns the values of a model that are computed, by their full names, in the order computed."""
    bert = bert_in(model)
    values = dict(EMBEDDINGS)
    if not bert.embeddings.absolute:
        del values["embeddings.position_embeddings"]
    for number in range(len(bert.encoder.layers)):
        layer = f"encoder.layers.{number}."
        values |= {layer + name: value._replace(module=layer + value.module) for name, value in LAYER.items()}
    if bert.pooler is not None:
        values |= POOLER
    head = head_in(model)
    return values if head is None else values | head_values(head)


def derived_values(model: nn.Module) -> dict[str, Value]:
    """Returns the derived values of a model: each head's part of the attention's output, each LayerNorm's scale."""
    derived = {}
    for name, value in values_of(model).items():
        if short_name(name) == "attention.output":
            derived[f"{name.removesuffix('output')}{HEAD_OUTPUTS}"] = Value("B H S D", value.module, "derived")
        elif name.endswith("norm"):
            derived[f"{name}.{SCALE}"] = Value("B S 1", value.module, "derived")
    return derived


def value_names(model: nn.Module) -> list[str]:
    """Returns the names of all values that a model computes, in the order computed; derived ones are not listed."""
    return list(values_of(model))


def head_in(model: nn.Module) -> BertWithHead | None:
    """Returns the model with a head inside a model, or that model itself; None for a BERT without one."""
    heads = (module for module in model.modules() if isinstance(module, BertWithHead))
    return next((head for head in heads if isinstance(head, tuple(HEAD_VALUES))), None)


def head_values(head: BertWithHead) -> dict[str, Value]:
    """Returns the values of a head by their names; a subclass of one of ours has those of that class."""
    return next(values for kind, values in HEAD_VALUES.items() if isinstance(head, kind))


def short_name(name: str) -> str:
    """Returns the name of a value without its layer: "encoder.layers.3.attention.query" → "attention.query"."""
    return re.sub(r"^encoder\.layers\.\d+\.", "", name)


def layer_of(name: str) -> int | None:
    """Returns the layer of a value: "encoder.layers.3.attention.query" → 3; None for one outside the layers."""
    found = re.match(r"encoder\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def matching(model: nn.Module, patterns: str | Sequence[str]) -> dict[str, Value]:
    """Returns the values with names like these, in the order computed.

    A pattern has * and ? as in file names. It matches derived values only if it ends as their names do: "*" stands for
    what is computed, "*.head_outputs" for what each head adds.

    Raises:
        InputError: no value has such a name.
    """
    known, derived, also = values_of(model), derived_values(model), aliases(model)
    found = set()
    for pattern in _as_patterns(patterns):
        names = [*known, *derived] if pattern.endswith((HEAD_OUTPUTS, SCALE)) else known
        matches = {name for name in names if name == also.get(pattern) or fnmatchcase(name, pattern)}
        if not matches:
            raise InputError(unknown_name(pattern, [*known, *derived, *also]))
        found |= matches
    return {name: value for name, value in (known | derived).items() if name in found}


def aliases(model: nn.Module) -> dict[str, str]:
    """Returns what people call values elsewhere, and the name that each has here.

    In evaluation mode, `hidden_states[0]` is "embeddings.norm". In training mode a dropout lies between them.
    """
    bert = bert_in(model)
    layers = [f"encoder.layers.{number}." for number in range(len(bert.encoder.layers))]
    states = ["embeddings.norm", *(f"{layer}feed_forward_norm" for layer in layers)]
    maps = [f"{layer}attention.probabilities" for layer in layers]
    names = {"last_hidden_state": states[-1]}
    for alias, values in (("hidden_states", states), ("attentions", maps)):
        names |= {f"{alias}[{number}]": value for number, value in enumerate(values)}
        names |= {f"{alias}[{number - len(values)}]": value for number, value in enumerate(values)}
    if bert.pooler is not None:
        names["pooler_output"] = "pooler.tanh"
    head = head_in(model)
    if head is not None and "logits" not in head_values(head):
        (names["logits"],) = head_values(head)
    return names


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Returns the message for a name that no value has."""
    hint = did_you_mean(name, known) or ": trace.value_names(model) lists all names"
    return f"no value here is named {name!r}{hint}"


def _as_patterns(patterns: str | Sequence[str]) -> list[str]:
    listed = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(listed, list | tuple | set | dict) or not all(isinstance(each, str) for each in listed):
        raise InputError(f"names must be a name or a list of names, got {patterns!r}")
    if not listed:
        raise InputError("names must have at least one name, got none")
    return list(listed)
