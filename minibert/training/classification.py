"""How does a BERT learn to label a text, or a pair of texts?

`BertForSequenceClassification` reads [CLS] text [SEP], or [CLS] text [SEP] text_pair [SEP], and scores each class from
the vector of [CLS] (BERT, 4.1). With one output and the squared error, it learns a number instead, such as how similar
two sentences are (STS-B in the paper).
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.checks import shown
from minibert.errors import TrainingError
from minibert.heads import BertForSequenceClassification
from minibert.tokenizer import BertTokenizer, Text
from minibert.training.examples import Example, Finetuning, encode, model_inputs, warn_of_truncation
from minibert.training.labels import check_all_occur, class_of, label_names
from minibert.training.metrics import accuracy, correlations, macro_f1
from minibert.training.precision import wide
from minibert.training.records import Records, Row
from minibert.training.splits import plain
from minibert.training.task import Batch

PAIR = "text_pair"
SCORE = ("score",)  # what the one output of a regression is called


class Classification(Finetuning):
    """One class for each text or pair: columns text, label, and text_pair if there is one."""

    model_class = BertForSequenceClassification
    problem_type = "single_label_classification"
    has_classes = has_optional_metrics = True
    columns = ("text", "label")
    optional = (PAIR,)
    layouts = (("text", "label"), ("text", PAIR, "label"))

    @staticmethod
    def key(row: Row) -> Hashable:
        return tuple(plain(row.text(name)) for name in ("text", PAIR) if name in row.values)

    @staticmethod
    def names(records: Records) -> tuple[str, ...]:
        """Returns the names of the classes."""
        return label_names((row.values.get("label"), row.name) for row in records.rows)

    @classmethod
    def examples(cls, tokenizer: BertTokenizer, records: Records, names: Sequence[str], length: int) -> list[Example]:
        """Returns the examples in rows, cut to `length` tokens.

        Raises:
            TrainingError: a text or label cannot be used; the message names its row.

        Warns:
            TruncationWarning: texts were cut.
        """
        labels = [cls.target(row, names) for row in records.rows]
        is_pair = PAIR in records.columns
        examples, cut = [], 0
        encodings = encode(tokenizer, records, lambda row: _text(row, is_pair), length)
        for row, label, encoding in zip(records.rows, labels, encodings, strict=True):
            examples.append(Example(encoding.ids, encoding.type_ids, {"labels": label}, row.name))
            cut += bool(encoding.overflowing)
        warn_of_truncation(cut, records, length)
        return examples

    @staticmethod
    def target(row: Row, names: Sequence[str]) -> Any:
        """Returns what a model is to predict for a row."""
        return class_of(row.values.get("label"), names, row.name)

    @staticmethod
    def check(examples: Sequence[Example], names: Sequence[str], source: str) -> None:
        """Raises a `TrainingError` if examples cannot be trained on."""
        check_all_occur((example.labels["labels"] for example in examples), names, source)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        logits = model(**model_inputs(batch)).logits  # (B, C)
        return model.loss(wide(logits), batch["labels"])

    def score(self, model: Any) -> dict[str, float]:
        logits, labels = self.held_out_logits(model)  # (N, C), (N,)
        scores = {"loss": float(F.cross_entropy(logits, labels)), "accuracy": accuracy(logits.argmax(-1), labels)}
        return scores | macro_f1(logits.argmax(-1), labels)

    def held_out_logits(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Returns the logits of all held-out examples and their labels, on the CPU, in the order of the batches."""
        logits, labels = [], []
        for _, batch in self.held_out_batches(model):
            logits.append(wide(model(**model_inputs(batch)).logits).cpu())
            labels.append(batch["labels"].cpu())
        return torch.cat(logits), torch.cat(labels)


class Regression(Classification):
    """A number for each text or pair: columns text, label, and text_pair if there is one."""

    problem_type = "regression"
    has_classes = False

    @staticmethod
    def names(records: Records) -> tuple[str, ...]:
        return SCORE

    @staticmethod
    def target(row: Row, names: Sequence[str]) -> float:
        label = row.values.get("label")
        try:
            number = float(label)  # type: ignore[arg-type]  # what it does not take is refused
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or isinstance(label, bool):
            got = "a blank cell" if label is None else shown(label)
            raise TrainingError(f"label in {row.name} must be a finite number, got {got}")
        return number

    @staticmethod
    def check(examples: Sequence[Example], names: Sequence[str], source: str) -> None:
        if len({example.labels["labels"] for example in examples}) < 2:
            raise TrainingError(f"label must have at least two different values in {source}, and has one")

    def score(self, model: Any) -> dict[str, float]:
        logits, labels = self.held_out_logits(model)  # (N, 1), (N,)
        predicted = logits[:, 0]
        return {"loss": float(F.mse_loss(predicted, labels.to(predicted.dtype)))} | correlations(predicted, labels)


def _text(row: Row, is_pair: bool) -> Text:
    return (row.text("text"), row.text(PAIR)) if is_pair else row.text("text")
