"""How do labelled examples become batches?

Each example is turned into token ids once. A batch is padded to its longest example, rounded up to a multiple of 8:
for every new shape, oneDNN makes a new kernel, which takes time and memory. Examples of similar length are put
together, so that there is little padding.
"""

import hashlib
import json
import random
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Encoding
from torch import Tensor, nn

from minibert.checkpoints.loading import Pretrained
from minibert.errors import TextError, TextTypeError, TrainingError, TruncationWarning, warn
from minibert.heads import IGNORED, bert_in
from minibert.tokenizer import BertTokenizer, Text
from minibert.training.order import rows_of_step
from minibert.training.records import Layouts, Records, Row
from minibert.training.task import Batch, Task

BATCHES_VERSION = 1  # increase it when the same examples give different batches: a run must not go on with them
MULTIPLE = 8  # of which the length of a batch is
STRETCH = 32  # batches whose examples are sorted by length together: of eight, twice as much would be padding
CHUNK = 256  # texts tokenized at a time: an `Encoding` takes ten times the memory of its token ids


@dataclass(frozen=True)
class Example:
    """One input of a model, and what it is to predict."""

    ids: list[int]
    segments: list[int]  # 0 for tokens of the first text, 1 for those of the second
    labels: Mapping[str, Any]  # for each name of a label tensor a number, or a number for each token
    name: str  # of the row, for messages
    row: int = 0  # the row that it is made from, which may make several


class Finetuning(Task):
    """What the kinds of fine-tuning share: examples from rows, and batches of them.

    A subclass says which columns it needs, how a row becomes an example, which loss is trained on, and how predictions
    are scored.
    """

    model_class: ClassVar[type[nn.Module]]  # what is trained
    problem_type: ClassVar[str | None] = None  # in the config of a `BertForSequenceClassification`
    columns: ClassVar[tuple[str, ...]]  # that the rows must have
    has_classes: ClassVar[bool] = False  # whether the outputs of the model are classes, which have names
    has_optional_metrics: ClassVar[bool] = False  # whether scores are left out without scikit-learn
    optional: ClassVar[tuple[str, ...]] = ()  # that they may have
    layouts: ClassVar[Layouts]  # what the fields of a row given as a tuple are

    def __init__(
        self,
        tokenizer: BertTokenizer,
        train: Sequence[Any],
        held_out: Sequence[Any],
        *,
        batch_size: int,
        longest: int,
        steps: int = 1,
        seed: int = 0,
        frozen: bool = False,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes examples as the subclass makes them; `longest` is the maximum number of tokens of the model."""
        self.tokenizer = tokenizer
        self.train, self.held_out = list(train), list(held_out)
        self.batch_size, self.longest, self.steps, self.seed, self.frozen = batch_size, longest, steps, seed, frozen
        # Stretches are no longer than an epoch, or a stretch would have the same example many times.
        self.stretch = max(1, min(STRETCH, len(self.train) // batch_size))
        self.description = {
            **(description or {}),
            "frozen": frozen,
            "batches_version": BATCHES_VERSION,
            "train": fingerprint(self.train),
            "held_out": fingerprint(self.held_out),
        }

    @classmethod
    def source(cls, row: Row) -> Hashable:
        """Returns what rows have in common that a split must keep together: by default the text."""
        return cls.key(row)

    @staticmethod
    @abstractmethod
    def key(row: Row) -> Hashable:
        """Returns what must not be on both sides of a split."""

    def describe(self) -> Mapping[str, Any]:
        return self.description

    def rows(self, step: int) -> list[int]:
        """Returns which examples a step has.

        Those of a few steps, a stretch, are sorted by length and divided among them anew, the batches in a random
        order. So an epoch has all examples, as without sorting, and the rows of a step still follow from its number.
        """
        number = step // self.stretch
        first = number * self.stretch
        count = min(self.stretch, self.steps - first)  # of the steps in this stretch; the last one may be shorter
        rows: list[int] = []
        for each in range(first, first + count):
            rows += self.rows_in_order(each)
        rows.sort(key=lambda row: self.size(self.train[row]))  # stable, so of equal lengths in their random order
        order = list(range(count))
        random.Random(self.seed * 1_000_003 + number).shuffle(order)
        start = order[step - first] * self.batch_size
        return rows[start : start + self.batch_size]

    def rows_in_order(self, step: int) -> list[int]:
        """Returns which examples a step has in the random order of their epoch."""
        return rows_of_step(step, self.batch_size, len(self.train), self.seed)

    def batch(self, step: int) -> Batch:
        return self.collate([self.train[row] for row in self.rows(step)])

    def size(self, example: Any) -> int:
        """Returns the number of tokens of an example."""
        return len(example.ids)

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Returns examples as tensors: the inputs of a model, each (B, S), and their labels."""
        length = padded_length(max(map(self.size, examples)), self.longest)
        batch = pad(self.tokenizer, [example.ids for example in examples], length)
        if "token_type_ids" in self.tokenizer.model_input_names:
            segments = [example.segments + [0] * (length - len(example.ids)) for example in examples]
            batch["token_type_ids"] = torch.tensor(segments)
        for name, label in examples[0].labels.items():
            values = [example.labels[name] for example in examples]
            if isinstance(label, list):  # a label for each token
                values = [value + [IGNORED] * (length - len(value)) for value in values]
            batch[name] = torch.tensor(values)
        return batch

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if self.frozen:
            bert = bert_in(model)  # without dropout, so that the features of a text are the same in each step
            bert.embeddings.eval()
            bert.encoder.eval()
        return {"loss": self.loss(model, batch)}

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Returns the mean loss of a batch."""

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": len(batch["input_ids"])}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {f"held_out_{name}": value for name, value in self.score(model).items()}

    @abstractmethod
    def score(self, model: nn.Module) -> dict[str, float]:
        """Returns scores on the examples that are held out. The model is in evaluation mode, without gradients."""

    def held_out_batches(self, model: nn.Module) -> Iterator[tuple[list[int], Batch]]:
        """Yields the held-out examples in batches: their indices, and tensors on the model's device."""
        device = next(model.parameters()).device
        for chosen in self.held_out_indices():
            batch = self.collate([self.held_out[index] for index in chosen])
            yield chosen, {name: tensor.to(device) for name, tensor in batch.items()}

    def held_out_indices(self) -> Iterator[list[int]]:
        """Yields which held-out examples are scored together: those of similar length, for little padding."""
        order = sorted(range(len(self.held_out)), key=lambda index: self.size(self.held_out[index]))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, Pretrained)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def name_of(self, step: int, batch: Batch) -> str:
        names = dict.fromkeys(self.train[row].name for row in self.rows(step))
        more = " …" if len(names) > 4 else ""
        return f"the batch of step {step:,}: {', '.join(list(names)[:4])}{more}"


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    """Returns the tensors of a batch that a model reads."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}


def padded_length(tokens: int, longest: int) -> int:
    """Returns the next multiple of 8, or the longest that a model takes."""
    return min(-(-tokens // MULTIPLE) * MULTIPLE, longest)


def pad(tokenizer: BertTokenizer, rows: Sequence[list[int]], length: int) -> Batch:
    """Returns token ids and their attention mask, padded on the right: each (B, S)."""
    ids = [row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def encode(
    tokenizer: BertTokenizer, records: Records, text: Callable[[Row], Text], length: int | None
) -> Iterator[Encoding]:
    """Yields the encoding of each row's text or pair, with special tokens, cut to `length` tokens.

    Raises:
        TrainingError: a text has no token; the message names its row.
    """
    for start in range(0, len(records), CHUNK):
        rows = records.rows[start : start + CHUNK]
        texts = [text(row) for row in rows]
        try:
            encodings = tokenizer.encode(texts, length)
        except (TextError, TextTypeError):
            for row, each in zip(rows, texts, strict=True):
                _encode_one(tokenizer, row, each)
            raise
        yield from encodings


def _encode_one(tokenizer: BertTokenizer, row: Row, text: Text) -> None:
    try:
        tokenizer.encode([text])
    except (TextError, TextTypeError) as error:
        raise TrainingError(f"{row.name} cannot be encoded: {str(error).removeprefix('text 0 ')}") from None


def warn_of_truncation(
    count: int, records: Records, length: int, *, what: str = "examples", result: str = "the rest is not read"
) -> None:
    """Warns, once for all rows, that some are longer than `length` tokens."""
    if count:
        of_all = f"{count:,} of {len(records):,} {what} of {records.source}"
        warn(f"{of_all} are longer than {length} tokens and were cut: {result}", TruncationWarning)


def fingerprint(examples: Iterable[Any]) -> str:
    """Returns a sha256 of examples: of their tokens and labels, not of where they come from."""
    digest = hashlib.sha256()
    for example in examples:
        fields = {name: value for name, value in vars(example).items() if name != "name"}
        digest.update(json.dumps(fields, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
