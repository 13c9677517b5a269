"""How does a BERT learn to answer questions by a span of a text?

`BertForQuestionAnswering` reads [CLS] question [SEP] context [SEP], and scores each token as the first and as the last
one of the answer (BERT, 4.2 and 4.3). A context that is too long is read in overlapping windows. A window that does not
have the whole answer points to [CLS], and so does a question without an answer.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from tokenizers import Encoding
from torch import Tensor

from minibert.checks import as_integer, check_integer, shown
from minibert.errors import TrainingError
from minibert.heads import BertForQuestionAnswering, position_loss
from minibert.tokenizer import BertTokenizer
from minibert.training.examples import Example, Finetuning, encode, model_inputs, warn_of_truncation
from minibert.training.metrics import answer_f1, exact_match
from minibert.training.precision import wide
from minibert.training.records import Records, Row
from minibert.training.splits import plain
from minibert.training.task import Batch

LENGTH = 384  # tokens of a window, as BERT's own code has it for SQuAD; a third of it is that code's doc_stride, 128
MOST_QUESTION = 64  # tokens of a question, and at most a quarter of a window; the rest is cut
MOST_ANSWER = 30  # tokens of an answer that is predicted
OUTPUTS = ("start", "end")


@dataclass(frozen=True)
class Window(Example):
    """A question and a part of its context."""

    context: str = ""
    offsets: tuple[tuple[int, int], ...] = ()  # of each token of the part, start and end in the context's characters
    first: int = 0  # the position of the part's first token in the input
    answers: tuple[str, ...] = ()  # those of the question, () if it has none

    @property
    def last(self) -> int:
        """The position of the part's last token."""
        return self.first + len(self.offsets) - 1


class Span(NamedTuple):
    """A candidate for an answer."""

    score: float  # the sum of two logits
    text: str


class QuestionAnswering(Finetuning):
    """A span of a text: columns question, context, answer, answer_start.

    `answer` is a text, or, for scores, a list of texts of which the first is trained on; blank if there is none.
    `answer_start` is the index of its first character in the context.
    """

    model_class = BertForQuestionAnswering
    columns = ("question", "context", "answer", "answer_start")
    layouts = (columns,)

    @staticmethod
    def key(row: Row) -> Hashable:
        return plain(row.text("question")), plain(row.text("context"))

    @classmethod
    def source(cls, row: Row) -> Hashable:
        """Returns the context, of which there may be many questions."""
        return plain(row.text("context"))

    @staticmethod
    def names(records: Records) -> tuple[str, ...]:
        return OUTPUTS

    @classmethod
    def examples(
        cls, tokenizer: BertTokenizer, records: Records, names: Sequence[str], length: int, stride: int | None = None
    ) -> list[Window]:
        """Returns the windows of all questions: of `length` tokens, the next one `stride` tokens further on.

        None means a third of `length`.

        Raises:
            TrainingError: an answer is not where it is said to be; the message names its row.
        """
        questions = encode(tokenizer, records, lambda row: row.text("question"), None)
        contexts = encode(tokenizer, records, lambda row: row.text("context"), None)
        most_question = min(MOST_QUESTION, length // 4)
        most = length - most_question - 3
        stride = check_integer("stride", length // 3 if stride is None else stride, 1, most, TrainingError)
        windows: list[Window] = []
        cut = 0
        for number, (row, question, context) in enumerate(zip(records.rows, questions, contexts, strict=True)):
            asked = plain_positions(question)
            cut += len(asked) > most_question
            question_ids = [question.ids[index] for index in asked[:most_question]]
            windows += windows_of_row(row, number, question_ids, context, length, stride)
        warn_of_truncation(cut, records, most_question, what="questions")
        return windows

    @staticmethod
    def check(examples: Sequence[Window], names: Sequence[str], source: str) -> None:
        if not any(example.answers for example in examples):
            raise TrainingError(f"answer must be given for some questions of {source}, and none has one")

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return span_loss(model(**model_inputs(batch)), batch)

    def score(self, model: Any) -> dict[str, float]:
        best: dict[int, Span] = {}
        none: dict[int, float] = {}  # the score of no answer: the lowest one of a question's windows
        losses = 0.0
        for chosen, batch in self.held_out_batches(model):
            out = model(**model_inputs(batch))
            losses += float(span_loss(out, batch)) * len(chosen)
            starts, ends = wide(out.start_logits).cpu(), wide(out.end_logits).cpu()  # (B, S) each
            for index, start, end in zip(chosen, starts, ends, strict=True):
                window = self.held_out[index]
                span = best_span(start, end, window)
                best[window.row] = max(best.get(window.row, span), span)
                none[window.row] = min(none.get(window.row, math.inf), float(start[0] + end[0]))
        questions = {window.row: window.answers for window in self.held_out}
        # Only data that has questions without an answer lets a model say so, as SQuAD 2.0 does.
        may_refuse = not all(questions.values())
        found = {row: "" if may_refuse and none[row] > span.score else span.text for row, span in best.items()}
        return {"loss": losses / len(self.held_out), **answer_scores(found, questions)}


def answer_scores(found: Mapping[int, str], questions: Mapping[int, Sequence[str]]) -> dict[str, float]:
    """Returns `exact_match` and `f1`, the means over questions, each of the answer that fits best; () means none."""
    scores = {}
    for name, compare in (("exact_match", exact_match), ("f1", answer_f1)):
        values = [max(compare(found[row], each) for each in answers or [""]) for row, answers in questions.items()]
        scores[name] = sum(values) / len(values)
    return scores


def windows_of_row(
    row: Row, number: int, question: list[int], context: Encoding, length: int, stride: int
) -> list[Window]:
    """Returns the windows of a question, given by its token ids, and its context."""
    inside = plain_positions(context)
    ids, offsets = [context.ids[index] for index in inside], [context.offsets[index] for index in inside]
    answers, start = answers_of(row)
    span = None
    if answers:
        span = answer_tokens(offsets, start, start + len(answers[0]))
        if span is None:
            raise TrainingError(f"answer must have a token, in {row.name}, got {shown(answers[0])}")
    start_id, separator = context.ids[0], context.ids[-1]
    before = [start_id, *question, separator]
    windows = []
    for first, last in spans_of_windows(len(ids), length - len(before) - 1, stride):
        inputs = [*before, *ids[first:last], separator]
        windows.append(
            Window(
                ids=inputs,
                segments=[0] * len(before) + [1] * (len(inputs) - len(before)),
                labels=positions(span, first, last, len(before)),
                name=row.name,
                row=number,
                context=row.text("context"),
                offsets=tuple(offsets[first:last]),
                first=len(before),
                answers=tuple(answers),
            )
        )
    return windows


def spans_of_windows(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Returns the first token of each window and the one after its last, until the context ends."""
    starts = range(0, max(1, tokens - room + stride), stride)
    return [(start, min(start + room, tokens)) for start in starts]


def answer_tokens(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Returns the first and last token that have a character from `start` up to, but not including, `end`."""
    inside = [index for index, (first, last) in enumerate(offsets) if first < end and last > start]
    return (inside[0], inside[-1]) if inside else None


def positions(span: tuple[int, int] | None, first: int, last: int, before: int) -> dict[str, int]:
    """Returns the labels of a window that has the context's tokens from `first` up to, but not including, `last`.

    They are positions in the input, whose first `before` tokens are the question; 0, [CLS], unless the whole answer is
    in the window.
    """
    if span is None or span[0] < first or span[1] >= last:
        return {"start_positions": 0, "end_positions": 0}
    return {"start_positions": span[0] - first + before, "end_positions": span[1] - first + before}


def best_span(start: Tensor, end: Tensor, window: Window) -> Span:
    """Returns the span of a window whose two logits (S,) have the highest sum: in its context, of at most 30 tokens."""
    start = start[window.first : window.last + 1]  # (S,) → (T,), T tokens of the context
    end = end[window.first : window.last + 1]
    scores = start[:, None] + end[None, :]  # (T, T)
    allowed = torch.ones_like(scores).triu().tril(MOST_ANSWER - 1).bool()  # it ends where it starts, or up to 29 later
    first, last = divmod(int(scores.masked_fill(~allowed, -math.inf).argmax()), len(end))
    return Span(float(scores[first, last]), window.context[window.offsets[first][0] : window.offsets[last][1]])


def span_loss(out: Any, batch: Batch) -> Tensor:
    """Returns the mean of the losses of the first and of the last token."""
    start = position_loss(wide(out.start_logits), batch["start_positions"], "start_positions")
    return (start + position_loss(wide(out.end_logits), batch["end_positions"], "end_positions")) / 2


def answers_of(row: Row) -> tuple[list[str], int]:
    """Returns the answers in a row, none if there is none, and where in the context the first of them begins.

    Raises:
        TrainingError: the context does not have the answer there.
    """
    value = row.values.get("answer")
    answers = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else value
    if answers is None or answers in ([], [""]):
        return [], 0
    if not isinstance(answers, list) or not all(isinstance(each, str) and each.strip() for each in answers):
        raise TrainingError(f"answer must be a text, or a list of texts, in {row.name}, got {shown(value)}")
    given, context = row.values.get("answer_start"), row.text("context")
    given = given[0] if isinstance(given, list | tuple) and given else given
    start = as_integer(int(given) if isinstance(given, str) and given.strip().isdecimal() else given)
    if start is None or start < 0 or context[start : start + len(answers[0])] != answers[0]:
        found = context.find(answers[0])
        where = f"it is at {found}" if found >= 0 else "it is not in the context at all"
        raise TrainingError(
            f"answer_start must be the index of the answer's first character, in {row.name}, got {shown(given)}: "
            f"{shown(answers[0])} is not there; {where}"
        )
    return answers, start


def plain_positions(encoding: Encoding) -> list[int]:
    """Returns the positions of a text's own tokens, without [CLS] and [SEP]."""
    return [index for index, special in enumerate(encoding.special_tokens_mask) if not special]
