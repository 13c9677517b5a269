"""Which stretches of a text does a model read as one input?

Each input is one segment, [CLS] A [SEP], or two, [CLS] A [SEP] B [SEP]; every segment is a stretch of the corpus:

    sentence-pairs    as BERT: A and B follow each other, or B is from a different document (appendix A.2)
    full-sentences    as RoBERTa (Liu et al. 2019, 4.2): as many whole sentences as fit, with [SEP] between documents
    contiguous        as GPT: the text cut every S − 2 tokens, so that no input has padding
"""

import bisect
import itertools
import random
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.training.corpus import Corpus

PACKING_VERSION = 1  # increase it when the same text gives different inputs: a run must not go on with them
PACKINGS = ("sentence-pairs", "full-sentences", "contiguous")
SHORT = 0.1  # the share of pairs that are made shorter than they could be


class Input(NamedTuple):
    """One input, as stretches of the corpus's ids; an empty second segment means that there is one segment only."""

    a_start: int
    a_end: int
    b_start: int = 0
    b_end: int = 0
    is_random: int = 0  # 1 if the second segment does not follow the first


def pack(corpus: Corpus, packing: str, length: int, seed: int = 0) -> Tensor:
    """Returns the inputs of at most `length` tokens, special tokens included: (N, 5), the fields of `Input`."""
    if packing == "sentence-pairs":
        inputs = sentence_pairs(corpus, length, seed)
    elif packing == "full-sentences":
        inputs = full_sentences(corpus, length)
    else:
        size, last = length - 2, len(corpus.ids) - (length - 2)
        inputs = [Input(start, start + size) for start in range(0, last + 1, size)]
    return torch.tensor(inputs, dtype=torch.int64).view(-1, len(Input._fields))


def full_sentences(corpus: Corpus, length: int) -> list[Input]:
    """Returns stretches of whole sentences, as many as fit; a sentence longer than an input is cut."""
    size, start, inputs = length - 2, 0, []
    borders = corpus.sentences.tolist()
    ends = set(corpus.sentences[corpus.documents[1:]].tolist())
    while start < borders[-1]:
        # The [SEP] after a document is that of the input, if the input ends there, and takes no room in it.
        limit = start + size + (start + size + 1 in ends)
        end = borders[bisect.bisect_right(borders, limit) - 1]
        if end <= start:  # a sentence that is longer than an input
            end = start + size
        inputs.append(Input(start, end - (end in ends)))
        start = end
    return inputs


def sentence_pairs(corpus: Corpus, length: int, seed: int = 0) -> list[Input]:
    """Returns pairs of segments for next-sentence prediction, as BERT's own code makes them (appendix A.2).

    Sentences of a document are gathered until they fill an input. Some of them, at random, are segment A. Half the
    time, the rest is B; the other half, B is from a different document, and the rest is gathered again. If both are too
    long together, tokens are dropped from the start or end of the longer one. One pair in ten is made for a shorter
    input, since sentences are shorter in use. A corpus of one document has no other, and every B follows its A; only a
    sentence that is left over at its end makes no pair.
    """
    generator = random.Random(seed)
    documents = [_sentences_of(corpus, number) for number in range(len(corpus.documents) - 1)]
    pairs: list[Input] = []
    for number in range(len(documents)):
        pairs += _pairs_of(documents, number, length - 3, generator)
    return pairs


Stretch = tuple[int, int]  # start and end in the corpus's ids


def _sentences_of(corpus: Corpus, number: int) -> list[Stretch]:
    """The sentences of a document, without the [SEP] after the last."""
    first, last = corpus.documents[number : number + 2].tolist()
    borders = corpus.sentences[first : last + 1].tolist()
    borders[-1] -= 1
    return list(itertools.pairwise(borders))


def _pairs_of(documents: list[list[Stretch]], number: int, most: int, generator: random.Random) -> list[Input]:
    """The pairs that begin in one document."""
    sentences = documents[number]
    target = generator.randint(2, most) if generator.random() < SHORT else most
    fewest = 1 if len(documents) > 1 else 2  # sentences of a pair: without other documents, B has to be one as well
    pairs = []
    first = 0  # of the sentences that are gathered
    while first < len(sentences):
        last = min(first + fewest, len(sentences)) - 1
        while last < len(sentences) - 1 and sentences[last][1] - sentences[first][0] < target:
            last += 1
        middle = generator.randint(first, last - 1) if last > first else first  # the last sentence of A
        a, b = (sentences[first][0], sentences[middle][1]), (sentences[middle][1], sentences[last][1])
        is_random = len(documents) > 1 and (last == first or generator.random() < 0.5)
        first = last + 1
        if is_random:
            b = _elsewhere(documents, number, target - (a[1] - a[0]), generator)
            first = middle + 1  # the sentences that are not used are gathered again
        if b[1] > b[0]:
            pairs.append(Input(*_shortened(a, b, most, generator), int(is_random)))
    return pairs


def _elsewhere(documents: list[list[Stretch]], number: int, size: int, generator: random.Random) -> Stretch:
    """Sentences of another document from a random one on, until there are `size` tokens."""
    other = documents[(number + generator.randrange(1, len(documents))) % len(documents)]
    first = last = generator.randrange(len(other))
    while last < len(other) - 1 and other[last][1] - other[first][0] < size:
        last += 1
    return other[first][0], other[last][1]


def _shortened(a: Stretch, b: Stretch, most: int, generator: random.Random) -> tuple[int, int, int, int]:
    """Drops tokens of the longer segment, one by one at its start or its end, until both are `most` together."""
    segments = [list(a), list(b)]
    while sum(end - start for start, end in segments) > most:
        a_length, b_length = (end - start for start, end in segments)
        longer = segments[0] if a_length > b_length else segments[1]  # of two equal ones B, as in BERT's own code
        if generator.random() < 0.5:
            longer[0] += 1
        else:
            longer[1] -= 1
    (a_start, a_end), (b_start, b_end) = segments
    return a_start, a_end, b_start, b_end


def gather(corpus: Corpus, inputs: Tensor, length: int, cls: int, sep: int, pad: int) -> dict[str, Tensor]:
    """Returns packed inputs as a model reads them: `input_ids`, `token_type_ids`, `attention_mask`, each (B, S)."""
    rows, segments = [], []
    for a_start, a_end, b_start, b_end, _ in inputs.tolist():
        a, b = corpus.ids[a_start:a_end].tolist(), corpus.ids[b_start:b_end].tolist()
        row = [cls, *a, sep, *b, sep] if b else [cls, *a, sep]
        rows.append(row + [pad] * (length - len(row)))
        segments.append([0] * (len(a) + 2) + [1] * (len(row) - len(a) - 2) + [0] * (length - len(row)))
    ids = torch.tensor(rows)
    return {"input_ids": ids, "token_type_ids": torch.tensor(segments), "attention_mask": (ids != pad).long()}
