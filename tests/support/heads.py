"""Every head and its counterpart in transformers, with inputs and labels."""

import dataclasses
from typing import Any

import torch
import transformers
from support.models import SMALL
from torch import Tensor, nn

import minibert
from minibert.checkpoints.loading import Pretrained
from minibert.checkpoints.names import parameter_name

CONFIG = dataclasses.replace(SMALL, num_labels=3, id2label=("O", "PER", "LOC"))
B, S, N = 3, 7, 4  # rows, tokens, choices
DRAW = torch.Generator().manual_seed(5)


def ids(*shape: int, below: int = CONFIG.vocab_size) -> Tensor:
    return torch.randint(below, shape, generator=DRAW)


MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]])
INPUTS = {"input_ids": ids(B, S), "attention_mask": MASK, "token_type_ids": ids(B, S, below=2)}
CHOICES = {"input_ids": ids(2, N, S), "attention_mask": ids(2, N, S, below=2).index_fill(2, torch.tensor(0), 1)}
WORDS = ids(B, S).masked_fill(ids(B, S, below=2) == 0, -100)
FOLLOWS = torch.tensor([0, 1, 1])
ONE_LABEL = {"id2label": ("score",)}

# By a name: the class, its inputs and labels, and changes to the config.
CASES: dict[str, tuple[str, dict[str, Tensor], dict[str, Any]]] = {
    "pretraining": (
        "BertForPreTraining",
        {**INPUTS, "labels": WORDS, "next_sentence_label": FOLLOWS},
        {},
    ),
    "masked words": ("BertForMaskedLM", {**INPUTS, "labels": WORDS}, {}),
    "masked words, tanh GELU": ("BertForMaskedLM", {**INPUTS, "labels": WORDS}, {"hidden_act": "gelu_new"}),
    "next sentence": ("BertForNextSentencePrediction", {**INPUTS, "labels": FOLLOWS}, {}),
    "a class": ("BertForSequenceClassification", {**INPUTS, "labels": torch.tensor([2, 0, 1])}, {}),
    "several classes": ("BertForSequenceClassification", {**INPUTS, "labels": ids(B, 3, below=2).float()}, {}),
    "a number": ("BertForSequenceClassification", {**INPUTS, "labels": torch.tensor([0.5, -1, 2])}, ONE_LABEL),
    "numbers": (
        "BertForSequenceClassification",
        {**INPUTS, "labels": torch.randn(B, 3, generator=DRAW)},
        {"problem_type": "regression"},
    ),
    "a class, named as such": (
        "BertForSequenceClassification",
        {**INPUTS, "labels": torch.tensor([2, 0, 1])},
        {"problem_type": "single_label_classification", "classifier_dropout": 0.4},
    ),
    "a class per token": (
        "BertForTokenClassification",
        {**INPUTS, "labels": ids(B, S, below=3).masked_fill(MASK == 0, -100)},
        {},
    ),
    "an answer": (
        "BertForQuestionAnswering",
        {**INPUTS, "start_positions": torch.tensor([1, 9, 0]), "end_positions": torch.tensor([3, 9, 1])},
        {"id2label": ("start", "end")},
    ),
    "a choice": ("BertForMultipleChoice", {**CHOICES, "labels": torch.tensor([3, 0])}, {}),
}


def twins(case: str, attention: str, dtype: torch.dtype = torch.float32) -> tuple[Pretrained, nn.Module, dict]:
    name, inputs, changes = CASES[case]
    config = dataclasses.replace(CONFIG, **{**changes, "num_labels": len(changes.get("id2label", CONFIG.id2label))})
    theirs = getattr(transformers, name)(transformers.BertConfig(**config.to_dict(), attn_implementation=attention))
    theirs = theirs.to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    for key, parameter in theirs.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
        parameter.data = (1 if key.endswith("LayerNorm.weight") else 0) + 0.3 * noise
    theirs.tie_weights()
    ours = getattr(minibert, name)(config, attention=attention).to(dtype).eval()
    ours.load_state_dict({parameter_name(key): value for key, value in theirs.named_parameters()})
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    return ours, theirs, inputs
