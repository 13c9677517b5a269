"""How does a corpus go through a model?

In windows of some hundred texts, each sorted by length into batches of about a thousand tokens: the memory is that of a
window, however long the corpus.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from torch import nn

from minibert.checks import check_integer, shown
from minibert.errors import InputError, TextTypeError
from minibert.interpret.runs import bert_of
from minibert.tokenizer import BatchEncoding, BertTokenizer
from minibert.vectors.batches import BATCH_TOKENS, by_length

WINDOW = 512  # texts that are sorted by length together


class TextBatch(NamedTuple):
    """Some texts of a corpus as the inputs of a model."""

    inputs: BatchEncoding  # on the model's device
    numbers: list[int]  # of the texts in the corpus, counted from 0
    texts: list[str]


def batches_of(
    model: nn.Module,
    tokenizer: BertTokenizer,
    texts: Iterable[str],
    batch_tokens: int = BATCH_TOKENS,
    first: int = 0,
) -> Iterator[TextBatch]:
    """Yields a corpus in batches; within a window, texts of similar length come together.

    Args:
        model: whose device the inputs are moved to.
        tokenizer: the model's; texts longer than its limit are cut.
        texts: strings, from a list or from a generator of any length.
        batch_tokens: the maximum number of tokens in a batch, padding included.
        first: the number of the first text.

    Raises:
        InputError: a single text, where a list of texts is expected.
        TextTypeError, TextError: something that is not a text, or a text with no token; the message says which.
    """
    check_integer("batch_tokens", batch_tokens, 1)
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be a list of texts, or a generator of them, got {shown(texts)}")
    bert = bert_of(model)
    device = bert.embeddings.word_embeddings.weight.device
    limit = min(tokenizer.model_max_length, bert.config.max_position_embeddings)
    remaining = iter(texts)
    while window := list(islice(remaining, WINDOW)):
        for number, text in enumerate(window, first):
            if not isinstance(text, str):
                raise TextTypeError(f"text {number} must be a string, got {shown(text)}")
        encodings = tokenizer.encode(window, max_length=limit, first=first)
        for batch in by_length([len(encoding) for encoding in encodings], batch_tokens):
            inputs = tokenizer.pad([encodings[index] for index in batch]).to(device)
            yield TextBatch(inputs, [first + index for index in batch], [window[index] for index in batch])
        first += len(window)
