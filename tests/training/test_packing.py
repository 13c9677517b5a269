"""What a model reads as one input, beside a literal reading of BERT's own code; nothing is lost or read twice."""

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
import torch

from minibert.training import Corpus
from minibert.training.packing import Input, full_sentences, gather, pack, sentence_pairs

CLS, SEP, PAD = 1, 2, 0
FIRST = 10  # the id of a corpus's first token; the others follow, so that an id says where it is from

Sentences = Sequence[int]  # their lengths


def corpus_of(documents: Sequence[Sentences]) -> Corpus:
    """A corpus of documents of sentences of these lengths, whose tokens are numbered; each document ends with [SEP]."""
    ids: list[int] = []
    starts, firsts = [0], [0]
    for sentences in documents:
        for number, length in enumerate(sentences):
            ids += range(FIRST + len(ids), FIRST + len(ids) + length)
            ids += [SEP] if number == len(sentences) - 1 else []
            starts.append(len(ids))
        firsts.append(len(starts) - 1)
    return Corpus(torch.tensor(ids, dtype=torch.int32), torch.tensor(starts), torch.tensor(firsts), "made up")


def random_documents(seed: int, count: int = 40, longest: int = 30) -> list[list[int]]:
    generator = random.Random(seed)
    return [
        [generator.randint(1, longest) for _ in range(generator.randint(1, 12))]
        for _ in range(generator.randint(2, count))
    ]


def tokens_of(corpus: Corpus, start: int, end: int) -> list[int]:
    return corpus.ids[start:end].tolist()


def document_of(corpus: Corpus, position: int) -> int:
    starts = corpus.sentences[corpus.documents].tolist()
    return next(number for number in range(len(starts) - 1) if starts[number] <= position < starts[number + 1])


# --- sentence pairs, beside BERT's own code ---------------------------------------------------------------------------

Instance = tuple[list[int], list[int], bool]


def google_instances(
    documents: list[list[list[int]]],
    index: int,
    max_seq_length: int,
    rng: random.Random,
    other_document: Callable[[int, int, random.Random], int],
) -> list[Instance]:
    """`create_instances_from_document` of BERT's create_pretraining_data.py, statement by statement, without masks.

    How another document is drawn is an argument: there it is drawn up to ten times from all of them.
    """
    document = documents[index]
    max_num_tokens = max_seq_length - 3
    target = max_num_tokens
    if rng.random() < 0.1:
        target = rng.randint(2, max_num_tokens)
    instances: list[Instance] = []
    chunk: list[list[int]] = []
    length = 0
    i = 0
    while i < len(document):
        chunk.append(document[i])
        length += len(document[i])
        if i == len(document) - 1 or length >= target:
            a_end = 1
            if len(chunk) >= 2:
                a_end = rng.randint(1, len(chunk) - 1)
            a = [token for sentence in chunk[:a_end] for token in sentence]
            b: list[int] = []
            is_random = False
            if len(chunk) == 1 or rng.random() < 0.5:
                is_random = True
                wanted = target - len(a)
                other = documents[other_document(index, len(documents), rng)]
                for j in range(rng.randint(0, len(other) - 1), len(other)):
                    b.extend(other[j])
                    if len(b) >= wanted:
                        break
                i -= len(chunk) - a_end
            else:
                b = [token for sentence in chunk[a_end:] for token in sentence]
            google_truncate(a, b, max_num_tokens, rng)
            instances.append((a, b, is_random))
            chunk, length = [], 0
        i += 1
    return instances


def google_truncate(a: list[int], b: list[int], most: int, rng: random.Random) -> None:
    while len(a) + len(b) > most:
        longer = a if len(a) > len(b) else b
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()


def as_google_draws(index: int, count: int, rng: random.Random) -> int:
    other = index
    for _ in range(10):
        other = rng.randint(0, count - 1)
        if other != index:
            break
    return other


def as_ours(index: int, count: int, rng: random.Random) -> int:
    return (index + rng.randrange(1, count)) % count


def all_google_instances(corpus: Corpus, length: int, seed: int, draw: Callable[..., int]) -> list[Instance]:
    documents = []
    for first, last in itertools.pairwise(corpus.documents.tolist()):
        spans = itertools.pairwise(corpus.sentences[first : last + 1].tolist())
        documents.append([[each for each in tokens_of(corpus, *span) if each != SEP] for span in spans])
    rng = random.Random(seed)
    return [pair for index in range(len(documents)) for pair in google_instances(documents, index, length, rng, draw)]


def our_instances(corpus: Corpus, length: int, seed: int) -> list[Instance]:
    return [
        (tokens_of(corpus, each.a_start, each.a_end), tokens_of(corpus, each.b_start, each.b_end), bool(each.is_random))
        for each in sentence_pairs(corpus, length, seed)
    ]


@pytest.mark.parametrize("length", [5, 8, 24, 64, 300])
@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_those_of_berts_own_code(length: int, seed: int) -> None:
    """Token by token, if another document is drawn in the same way."""
    corpus = corpus_of(random_documents(seed))
    assert our_instances(corpus, length, seed) == all_google_instances(corpus, length, seed, as_ours)


def test_pairs_have_the_statistics_of_berts_own_code() -> None:
    generator = random.Random(0)
    corpus = corpus_of([[generator.randint(1, 30) for _ in range(generator.randint(1, 12))] for _ in range(80)])
    ours, theirs = (
        [pair for seed in range(10) for pair in make(seed)]
        for make in (
            lambda seed: our_instances(corpus, 64, seed),
            lambda seed: all_google_instances(corpus, 64, seed + 100, as_google_draws),
        )
    )
    assert len(theirs) > 2000
    assert abs(len(ours) / len(theirs) - 1) < 0.03
    for measure in (lambda a, b, r: float(r), lambda a, b, r: len(a) / 64, lambda a, b, r: len(b) / 64):
        first, second = (torch.tensor([measure(*pair) for pair in pairs]) for pairs in (ours, theirs))
        error = (first.var() / len(first) + second.var() / len(second)).sqrt()
        assert abs(first.mean() - second.mean()) < 4 * error


def test_b_follows_a_or_is_from_a_different_document() -> None:
    corpus = corpus_of(random_documents(1, count=60))
    pairs = sentence_pairs(corpus, 48, seed=0)
    for each in pairs:
        homes = [document_of(corpus, position) for position in (each.a_start, each.b_start)]
        assert (homes[0] != homes[1]) == each.is_random
        assert document_of(corpus, each.a_end - 1) == homes[0]
        assert document_of(corpus, each.b_end - 1) == homes[1]
        assert each.is_random or each.a_end <= each.b_start


def _spans(corpus: Corpus) -> list[tuple[int, int]]:
    return list(itertools.pairwise(corpus.sentences.tolist()))


def test_about_half_of_the_pairs_are_random() -> None:
    """Sentences of one to four tokens, so that a chunk of one sentence, whose B is always random, is rare."""
    generator = random.Random(0)
    corpus = corpus_of([[generator.randint(1, 4) for _ in range(60)] for _ in range(100)])
    pairs = sentence_pairs(corpus, 32, seed=0)
    share = sum(each.is_random for each in pairs) / len(pairs)
    assert abs(share - 0.5) < 4 * 0.5 / len(pairs) ** 0.5 + 0.03


@pytest.mark.parametrize("length", [5, 16, 128])
def test_no_pair_is_longer_than_an_input_and_no_segment_is_empty(length: int) -> None:
    for seed in range(5):
        for each in sentence_pairs(corpus_of(random_documents(seed)), length, seed):
            a, b = each.a_end - each.a_start, each.b_end - each.b_start
            assert a > 0
            assert b > 0
            assert a + b + 3 <= length


def test_no_pair_has_the_separator_of_a_document() -> None:
    corpus = corpus_of(random_documents(2))
    for a, b, _ in our_instances(corpus, 32, 0):
        assert SEP not in a + b


def test_every_sentence_is_used() -> None:
    """In an input that is long enough that nothing is cut off, all tokens of all sentences."""
    corpus = corpus_of(random_documents(3, longest=6))
    used = {token for a, b, is_random in our_instances(corpus, 200, 0) for token in (a if is_random else a + b)}
    assert used == set(corpus.ids.tolist()) - {SEP}


@pytest.mark.parametrize("sentences", [[40] * 12, [3] * 40, [40, 2, 40, 2, 40], [7, 7]])
def test_one_document_has_no_random_pairs_and_loses_no_sentence_but_perhaps_the_last(sentences: list[int]) -> None:
    """Also where each sentence is as long as an input."""
    corpus = corpus_of([sentences])
    for seed in range(5):
        pairs = sentence_pairs(corpus, 32, seed)
        assert not any(each.is_random for each in pairs)
        touched = {
            number
            for number, (start, end) in enumerate(_spans(corpus)[:-1])
            for each in pairs
            if max(start, each.a_start) < min(end, each.a_end) or max(start, each.b_start) < min(end, each.b_end)
        }
        assert touched == set(range(len(sentences) - 1))


def test_one_sentence_alone_makes_no_pair() -> None:
    assert sentence_pairs(corpus_of([[9]]), 32) == []


def test_pairs_depend_on_the_seed_alone() -> None:
    corpus = corpus_of(random_documents(4))
    assert sentence_pairs(corpus, 32, 1) == sentence_pairs(corpus, 32, 1) != sentence_pairs(corpus, 32, 2)


# --- full sentences ---------------------------------------------------------------------------------------------------


def best_fit(corpus: Corpus, length: int) -> list[list[int]]:
    """Full sentences by lists: sentence after sentence, as long as they fit; a longer sentence is cut.

    The [SEP] that ends a document takes room only if more of the text follows it in the input.
    """
    sentences = [tokens_of(corpus, *span) for span in _spans(corpus)]
    inputs: list[list[int]] = []
    row: list[int] = []
    for sentence in sentences:
        words = [token for token in sentence if token != SEP]
        if row and len(row) + len(words) > length - 2:
            inputs.append(row)
            row = []
        row = row + sentence
        while len(row) > length - 2 and row[length - 2 :] != [SEP]:  # a sentence that is longer than an input
            inputs.append(row[: length - 2])
            row = row[length - 2 :]
    inputs.append(row)
    return [each[:-1] if each[-1] == SEP else each for each in inputs]


@pytest.mark.parametrize("longest", [4, 30])
@pytest.mark.parametrize("length", [5, 12, 64])
def test_full_sentences_are_as_many_as_fit(length: int, longest: int) -> None:
    for seed in range(20):
        corpus = corpus_of(random_documents(seed, longest=longest))
        found = [tokens_of(corpus, each.a_start, each.a_end) for each in full_sentences(corpus, length)]
        assert found == best_fit(corpus, length)


@pytest.mark.parametrize("length", [5, 12, 64])
def test_full_sentences_use_every_token_once_and_no_input_is_empty(length: int) -> None:
    for seed in range(20):
        corpus = corpus_of(random_documents(seed))
        inputs = full_sentences(corpus, length)
        rows = [tokens_of(corpus, each.a_start, each.a_end) for each in inputs]
        assert all(row and row[0] != SEP and row[-1] != SEP and len(row) <= length - 2 for row in rows)
        assert [token for row in rows for token in row if token != SEP] == [
            token for token in corpus.ids.tolist() if token != SEP
        ]
        assert all(each[2:] == (0, 0, 0) for each in inputs)


def test_between_documents_in_one_input_is_a_separator() -> None:
    corpus = corpus_of([[2, 1], [3], [9]])
    rows = [tokens_of(corpus, each.a_start, each.a_end) for each in full_sentences(corpus, 10)]
    assert rows == [[10, 11, 12, SEP, 14, 15, 16], [*range(18, 26)], [26]]


@pytest.mark.parametrize("extra", [0, 1])
def test_a_document_that_fills_an_input_leaves_no_separator_over(extra: int) -> None:
    """Its [SEP] is that of the input."""
    corpus = corpus_of([[8 + extra], [4, 4]])
    rows = [tokens_of(corpus, each.a_start, each.a_end) for each in full_sentences(corpus, 10)]
    assert [len(row) for row in rows] == ([8, 8] if not extra else [8, 6, 4])


# --- contiguous -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [5, 16, 64])
def test_contiguous_inputs_are_full_and_leave_less_than_one_over(length: int) -> None:
    corpus = corpus_of(random_documents(5))
    inputs = pack(corpus, "contiguous", length)
    ids = [tokens_of(corpus, start, end) for start, end, *_ in inputs.tolist()]
    read = [token for row in ids for token in row]
    assert all(len(row) == length - 2 for row in ids)
    assert read == corpus.ids.tolist()[: len(read)]
    assert len(corpus.ids) - len(read) < length - 2
    batch = gather(corpus, inputs, length, CLS, SEP, PAD)
    assert batch["attention_mask"].all()
    assert not batch["token_type_ids"].any()


def test_a_text_that_is_shorter_than_an_input_makes_none() -> None:
    assert pack(corpus_of([[5]]), "contiguous", 16).shape == (0, 5)


@pytest.mark.parametrize("exactly", [12, 24])
def test_a_text_that_fits_exactly_is_used_whole(exactly: int) -> None:
    assert len(pack(corpus_of([[exactly - 1]]), "contiguous", 14)) == exactly // 12


# --- as a model reads it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["sentence-pairs", "full-sentences", "contiguous"])
def test_a_part_of_a_corpus_is_packed_like_a_corpus_of_its_own(packing: str) -> None:
    documents = random_documents(6)
    whole = corpus_of(documents)
    first, last = whole.split(0.25)
    assert len(last.documents) - 1 == round(0.25 * len(documents))
    alone = corpus_of(documents[len(first.documents) - 1 :])
    assert torch.equal(pack(last, packing, 16, seed=1), pack(alone, packing, 16, seed=1))


def test_a_pair_has_two_segments_and_padding_after_them() -> None:
    corpus = corpus_of([[3, 2], [4]])
    batch = gather(corpus, torch.tensor([Input(0, 3, 3, 5), Input(6, 10)]), 10, CLS, SEP, PAD)
    assert batch["input_ids"].tolist() == [
        [CLS, 10, 11, 12, SEP, 13, 14, SEP, PAD, PAD],
        [CLS, 16, 17, 18, 19, SEP, PAD, PAD, PAD, PAD],
    ]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 0, 0], [0] * 10]
    assert batch["attention_mask"].tolist() == [[1] * 8 + [0] * 2, [1] * 6 + [0] * 4]
