"""How does a sentence encoder learn which texts belong together?

Each text is to be closer to its partner than to the partners of all others in the batch (in-batch negatives; Henderson
et al. 2017, "Efficient Natural Language Response Suggestion for Smart Reply", 4.4). The loss is a cross entropy: of the
cosines of an anchor with all candidates, scaled, against its own positive. It is sentence-transformers'
MultipleNegativesRankingLoss; the larger the batch, the harder the task.
"""

import operator
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.errors import TrainingError
from minibert.sentences.encoder import SentenceEncoder
from minibert.tokenizer import BertTokenizer
from minibert.training.examples import Finetuning, encode, pad, padded_length, warn_of_truncation
from minibert.training.precision import wide
from minibert.training.records import Records, Row
from minibert.training.splits import plain
from minibert.training.task import Batch

ROLES = ("anchor", "positive", "negative")
ANCHORS = 1024  # that are scored at a time
SCALE = 20.0  # of cosines: the inverse of the temperature, 0.05


@dataclass(frozen=True)
class Pair:
    """An anchor, its positive and, if there is one, a text that is not to be close: the token ids of each."""

    ids: list[list[int]]
    texts: list[int]  # a number for each; equal texts have equal numbers
    name: str


class Contrastive(Finetuning):
    """Texts that belong together: columns anchor, positive, and negative if there is one. No prompt is put before them.

    Unlike in sentence-transformers' loss, a candidate does not count as a negative if it is known not to be one: if it
    is the same text as the anchor's positive, or the positive of an equal anchor.
    """

    divisible = False
    model_class = SentenceEncoder
    columns = ("anchor", "positive")
    optional = ROLES[2:]
    layouts = (("anchor", "positive"), ROLES)

    @staticmethod
    def key(row: Row) -> Hashable:
        return plain(row.text("anchor")), plain(row.text("positive"))

    @classmethod
    def source(cls, row: Row) -> Hashable:
        """Returns the anchor, which may have several positives."""
        return plain(row.text("anchor"))

    @staticmethod
    def names(records: Records) -> tuple[str, ...]:
        return ()

    @classmethod
    def examples(cls, tokenizer: BertTokenizer, records: Records, names: Sequence[str], length: int) -> list[Pair]:
        """Returns the examples in rows; errors and warnings as for `Classification.examples`."""
        roles = [role for role in ROLES if role in records.columns]
        numbers: dict[str, int] = {}
        by_role: list[list[list[int]]] = []
        cut = 0
        for role in roles:
            encodings = encode(tokenizer, records, operator.methodcaller("text", role), length)
            by_role.append([])
            for encoding in encodings:
                by_role[-1].append(encoding.ids)
                cut += bool(encoding.overflowing)
        warn_of_truncation(cut, records, length)
        pairs = []
        for row, *row_ids in zip(records.rows, *by_role, strict=True):
            texts = [numbers.setdefault(plain(row.text(role)), len(numbers)) for role in roles]
            if texts[0] == texts[1]:
                raise TrainingError(f"positive must differ from the anchor, in {row.name}: a text is close to itself")
            pairs.append(Pair(row_ids, texts, row.name))
        return pairs

    @staticmethod
    def check(examples: Sequence[Pair], names: Sequence[str], source: str) -> None:
        if len({example.texts[1] for example in examples}) < 2:
            raise TrainingError(f"positive must have at least two different texts in {source}, and has one")

    def size(self, example: Any) -> int:
        return sum(map(len, example.ids))

    def rows(self, step: int) -> list[int]:
        """As for other tasks, but not sorted by length: a candidate of a different length is a negative as well."""
        return self.rows_in_order(step)

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Returns token ids and masks, "anchor_ids", "anchor_mask" and so on, (B, S) each, and the texts' numbers."""
        batch: Batch = {"texts": torch.tensor([example.texts for example in examples])}  # (B, roles)
        for index in range(len(examples[0].ids)):
            ids = [example.ids[index] for example in examples]
            padded = pad(self.tokenizer, ids, padded_length(max(map(len, ids)), self.longest))
            batch[f"{ROLES[index]}_ids"], batch[f"{ROLES[index]}_mask"] = padded["input_ids"], padded["attention_mask"]
        return batch

    def held_out_indices(self) -> Iterator[list[int]]:
        """Yields batches as in training: not sorted by length, and none smaller than there, which would be easier."""
        if len(self.held_out) < 2:
            raise TrainingError("what is scored must be at least two pairs, got 1: a single one has no negatives")
        batches = max(1, len(self.held_out) // self.batch_size)
        for indices in torch.arange(len(self.held_out)).tensor_split(batches):
            yield indices.tolist()

    def tokens(self, batch: Batch) -> int:
        return sum(int(tensor.sum()) for name, tensor in batch.items() if name.endswith("_mask"))

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": len(batch["texts"])}

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return ranking_loss(vectors_of(model, batch), batch["texts"])

    def score(self, model: Any) -> dict[str, float]:
        vectors, texts, losses = [], [], 0.0
        for chosen, batch in self.held_out_batches(model):
            found = vectors_of(model, batch)
            losses += float(ranking_loss(found, batch["texts"])) * len(chosen)
            vectors.append([each.cpu() for each in found])
            texts.append(batch["texts"].cpu())
        roles = [torch.cat(each) for each in zip(*vectors, strict=True)]
        ranks = ranks_of_positives(roles, torch.cat(texts))
        return {
            "loss": losses / len(self.held_out),
            "accuracy": float((ranks == 1).double().mean()),
            "reciprocal_rank": float((1 / ranks.double()).mean()),
        }

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)


def vectors_of(encoder: SentenceEncoder, batch: Batch) -> list[Tensor]:
    """Returns the vectors of anchors, positives and, if there are any, negatives: (B, E) each."""
    return [encoder(batch[f"{role}_ids"], batch[f"{role}_mask"]) for role in ROLES if f"{role}_ids" in batch]


def ranking_loss(vectors: Sequence[Tensor], texts: Tensor, scale: float = SCALE) -> Tensor:
    """Returns the cross entropy of each anchor's scaled cosines with all candidates, for its own positive.

    Args:
        vectors: of anchors, positives and maybe negatives, (B, E) each.
        texts: (B, roles) a number for each text, equal for equal texts.
        scale: the factor of the cosines.
    """
    scores = candidate_scores(vectors, texts) * scale  # (B, candidates)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def candidate_scores(vectors: Sequence[Tensor], texts: Tensor, first: int = 0, last: int | None = None) -> Tensor:
    """Returns the cosines of anchors with all positives and then all negatives; −∞ for one that is not a negative.

    That is a candidate of the same text as the anchor's positive, or the positive of an equal anchor.

    Args:
        vectors, texts: as for `ranking_loss`.
        first, last: the anchors to score, by default all.

    Returns:
        (B, B), or (B, 2·B) with negatives; fewer rows if fewer anchors are scored.
    """
    anchors, *candidates = (F.normalize(wide(each), dim=-1) for each in vectors)
    cosines = anchors[first:last] @ torch.cat(candidates).T  # (b, E) @ (E, candidates) → (b, candidates)
    candidate_texts = texts[:, 1:].T.flatten()
    same = candidate_texts[None, :] == texts[first:last, 1, None]
    same[:, : len(texts)] |= texts[:, 0][None, :] == texts[first:last, 0, None]
    rows = torch.arange(len(cosines), device=texts.device)
    same[rows, rows + first] = False  # its own positive
    return cosines.masked_fill(same, -torch.inf)


def ranks_of_positives(vectors: Sequence[Tensor], texts: Tensor) -> Tensor:
    """Returns the rank of each anchor's positive among all candidates, from 1: (N,). Of equal scores it is the last."""
    ranks = []
    for first in range(0, len(texts), ANCHORS):  # not all at once: the scores of 50,000 would take 10 GB
        scores = candidate_scores(vectors, texts, first, first + ANCHORS)
        ranks.append((scores >= scores.diagonal(first)[:, None]).sum(dim=1))
    return torch.cat(ranks)
