"""How does a BERT learn to label each word?

As in named-entity recognition or part-of-speech tagging (BERT, 5.3): the words are given, the first WordPiece of each
has the word's label, and the others have -100, which no loss looks at.
"""

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.checks import shown
from minibert.errors import TrainingError
from minibert.heads import IGNORED, BertForTokenClassification
from minibert.tokenizer import BertTokenizer
from minibert.training.examples import CHUNK, Example, Finetuning, model_inputs, warn_of_truncation
from minibert.training.labels import check_all_occur, class_of, label_names
from minibert.training.metrics import accuracy, macro_f1
from minibert.training.precision import wide
from minibert.training.records import Records, Row
from minibert.training.task import Batch


class TokenLabels(Finetuning):
    """A class for each word: columns words and labels, lists of equal length or texts to be split at white space.

    A text of more tokens than the model takes is cut on the right, whatever the tokenizer's `truncation_side`.
    """

    model_class = BertForTokenClassification
    has_classes = has_optional_metrics = True
    columns = ("words", "labels")
    layouts = (columns,)

    @staticmethod
    def key(row: Row) -> Hashable:
        return tuple(map(str, row.words("words")))

    @staticmethod
    def names(records: Records) -> tuple[str, ...]:
        return label_names((label, row.name) for row in records.rows for label in row.words("labels"))

    @classmethod
    def examples(cls, tokenizer: BertTokenizer, records: Records, names: Sequence[str], length: int) -> list[Example]:
        """Returns the examples in rows; errors and warnings as for `Classification.examples`."""
        cls_id, sep_id = (tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]"))
        examples, cut = [], 0
        for start in range(0, len(records), CHUNK):
            rows = records.rows[start : start + CHUNK]
            words = [_words(row) for row in rows]
            pieces = iter(tokenizer.encode_plain(list(chain.from_iterable(words))))
            for row, row_words in zip(rows, words, strict=True):
                classes = _classes(row, len(row_words), names)
                ids, labels = first_pieces([next(pieces) for _ in row_words], classes)
                if not ids:
                    raise TrainingError(f"{row.name} has no token: leave it out")
                cut += len(ids) > length - 2
                ids = [cls_id, *ids[: length - 2], sep_id]
                labels = [IGNORED, *labels[: length - 2], IGNORED]
                examples.append(Example(ids, [0] * len(ids), {"labels": labels}, row.name))
        warn_of_truncation(cut, records, length, result="the words at the end are neither read nor scored")
        return examples

    @staticmethod
    def check(examples: Sequence[Example], names: Sequence[str], source: str) -> None:
        labels = chain.from_iterable(example.labels["labels"] for example in examples)
        check_all_occur((label for label in labels if label != IGNORED), names, source)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": int((batch["labels"] != IGNORED).sum())}

    def loss(self, model: Any, batch: Batch) -> Tensor:
        logits = model(**model_inputs(batch)).logits  # (B, S, C)
        return model.loss(wide(logits), batch["labels"])

    def score(self, model: Any) -> dict[str, float]:
        logits, labels = [], []
        for _, batch in self.held_out_batches(model):
            counted = batch["labels"] != IGNORED  # (B, S)
            logits.append(wide(model(**model_inputs(batch)).logits[counted]).cpu())  # (B, S, C) → (n, C)
            labels.append(batch["labels"][counted].cpu())
        scores, gold = torch.cat(logits), torch.cat(labels)  # (N, C), (N,): N words
        predicted = scores.argmax(-1)
        return {
            "loss": float(F.cross_entropy(scores, gold)),
            "accuracy": accuracy(predicted, gold),
            **macro_f1(predicted, gold),
        }


def first_pieces(pieces: Sequence[list[int]], classes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns the token ids of all words in a row, and a label for each: the word's at its first token, else -100.

    A word without any token, such as a control character, has no label either.
    """
    ids, labels = [], []
    for word, label in zip(pieces, classes, strict=True):
        ids += word
        labels += [label, *[IGNORED] * (len(word) - 1)] if word else []
    return ids, labels


def _words(row: Row) -> list[str]:
    words = row.words("words")
    wrong = next((word for word in words if not isinstance(word, str)), None)
    if wrong is not None:
        raise TrainingError(f"words must be texts in {row.name}, got {shown(wrong)}")
    return words


def _classes(row: Row, count: int, names: Sequence[str]) -> list[int]:
    labels = row.words("labels")
    if len(labels) != count:
        raise TrainingError(f"labels must be {count}, one for each word, in {row.name}, got {len(labels)}")
    return [class_of(label, names, row.name) for label in labels]
