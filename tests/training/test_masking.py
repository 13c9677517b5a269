"""Fifteen in a hundred tokens, by count; of these 80 % hidden, 10 % random, 10 % kept; and never a special token."""

import math

import pytest
import torch
from torch import Tensor

from minibert import BertTokenizer
from minibert.errors import InputError
from minibert.heads import IGNORED
from minibert.training import mask_tokens
from minibert.training.masking import predictions_per_row

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{letter}" for letter in "abcdefghij")]
PAD, _, CLS, SEP, MASK = range(5)
WORDS, PIECES = range(5, 15), range(15, 25)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizer:
    """Twenty-five tokens: a random one is often one that was there already, or a special one."""
    folder = tmp_path_factory.mktemp("letters")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return BertTokenizer.from_pretrained(folder)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row(tokens: list[int], padding: int = 0) -> list[int]:
    return [CLS, *tokens, SEP] + [PAD] * padding


def rows_of_letters(count: int, length: int, seed: int = 0) -> Tensor:
    """Inputs of single letters between [CLS] and [SEP]: (count, length)."""
    ids = torch.randint(WORDS.start, WORDS.stop, (count, length), generator=generator(seed))
    ids[:, 0], ids[:, -1] = CLS, SEP
    return ids


def google_count(length: int, probability: float, most: int) -> int:
    """`num_to_predict` of BERT's create_pretraining_data.py, where `length` counts [CLS] and [SEP]."""
    return min(most, max(1, round(length * probability)))


@pytest.mark.parametrize("probability", [0.15, 0.4, 0.01, 1])
def test_the_number_follows_from_the_length_alone(letters: BertTokenizer, probability: float) -> None:
    for length in range(3, 129):
        ids = torch.tensor([row([WORDS[0]] * (length - 2), padding=128 - length)])
        chosen = (mask_tokens(ids, letters, probability=probability, generator=generator()).labels != IGNORED).sum()
        assert chosen == min(length - 2, google_count(length, probability, 128)), length
        assert predictions_per_row(length, probability) == google_count(length, probability, length)


@pytest.mark.parametrize("most", [1, 5, 100])
def test_never_more_than_the_maximum(letters: BertTokenizer, most: int) -> None:
    labels = mask_tokens(rows_of_letters(8, 128), letters, max_predictions=most, generator=generator()).labels
    assert (labels != IGNORED).sum(1).tolist() == [google_count(128, 0.15, most)] * 8
    assert predictions_per_row(128, max_predictions=most) == google_count(128, 0.15, most)


def test_of_ten_chosen_eight_are_hidden_one_is_random_and_one_stays(letters: BertTokenizer) -> None:
    ids = rows_of_letters(2000, 128)
    hidden, labels = mask_tokens(ids, letters, generator=generator())
    chosen = labels != IGNORED
    count = int(chosen.sum())
    assert count == 2000 * 19
    # A random token is [MASK] or the right one in one case of the 25 each.
    expected = {"[MASK]": 0.8 + 0.1 / 25, "kept": 0.1 + 0.1 / 25, "random": 0.1 * 23 / 25}
    is_mask, is_kept = hidden[chosen] == MASK, hidden[chosen] == ids[chosen]
    found = {"[MASK]": is_mask, "kept": is_kept, "random": ~is_mask & ~is_kept}
    for name, share in expected.items():
        bound = 4 * math.sqrt(share * (1 - share) / count)  # four standard deviations of a binomial share
        assert abs(found[name].double().mean() - share) < bound, name
    random = hidden[chosen][found["random"]].bincount(minlength=25)
    assert random[MASK] == 0
    assert (random[[each for each in range(25) if each != MASK]] > 0).all()


def test_every_position_is_chosen_as_often(letters: BertTokenizer) -> None:
    chosen = mask_tokens(rows_of_letters(2000, 20), letters, generator=generator()).labels != IGNORED
    share = 3 / 18
    counts = chosen[:, 1:-1].sum(0).double() / 2000
    assert (counts - share).abs().max() < 5 * math.sqrt(share * (1 - share) / 2000)


def test_labels_are_the_original_tokens_and_nothing_else_changes(letters: BertTokenizer) -> None:
    ids = rows_of_letters(50, 40)
    before = ids.clone()
    hidden, labels = mask_tokens(ids, letters, generator=generator())
    chosen = labels != IGNORED
    assert torch.equal(ids, before)
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(hidden[~chosen], ids[~chosen])
    assert hidden.dtype == labels.dtype == ids.dtype


@pytest.mark.parametrize("whole_words", [False, True])
def test_special_tokens_and_padding_are_never_chosen(letters: BertTokenizer, whole_words: bool) -> None:
    pair = [CLS, 5, 15, SEP, 6, SEP, PAD, PAD]
    for seed in range(50):
        hidden, labels = mask_tokens(
            torch.tensor([pair]), letters, probability=1, whole_words=whole_words, generator=generator(seed)
        )
        assert (labels != IGNORED).tolist() == [[token not in (CLS, SEP, PAD) for token in pair]]
        assert [token for token in hidden[0].tolist() if token in (CLS, SEP, PAD)].count(PAD) >= 2


def test_a_row_without_a_word_has_nothing_to_guess(letters: BertTokenizer) -> None:
    ids = torch.tensor([[CLS, SEP, PAD], [PAD, PAD, PAD], [CLS, 5, SEP]])
    hidden, labels = mask_tokens(ids, letters, generator=generator())
    assert (labels != IGNORED).tolist() == [[False] * 3, [False] * 3, [False, True, False]]
    assert torch.equal(hidden[:2], ids[:2])


def test_padding_on_the_left_is_padding_as_well(letters: BertTokenizer) -> None:
    ids = torch.tensor([[PAD, PAD, CLS, 5, 6, 7, SEP]])
    labels = mask_tokens(ids, letters, probability=1, generator=generator()).labels
    assert labels.tolist() == [[IGNORED, IGNORED, IGNORED, 5, 6, 7, IGNORED]]


def test_whole_words_are_chosen_whole(letters: BertTokenizer) -> None:
    words = [[5], [6, 16], [7, 17, 18], [8], [9, 19], [10, 20, 21, 22]] * 6
    ids = torch.tensor([row([token for word in words for token in word])])
    starts = [1 + sum(map(len, words[:number])) for number in range(len(words))]
    sizes, most = set(), google_count(ids.shape[1], 0.3, 100)
    for seed in range(100):
        labels = mask_tokens(ids, letters, probability=0.3, whole_words=True, generator=generator(seed)).labels[0]
        chosen = [
            (labels[start : start + len(word)] != IGNORED).tolist() for start, word in zip(starts, words, strict=True)
        ]
        assert all(len(set(pieces)) == 1 for pieces in chosen)
        assert most - 3 <= (labels != IGNORED).sum() <= most  # a word of four may not fit in the last three
        sizes |= {len(pieces) for pieces in chosen if pieces[0]}
    assert sizes == {1, 2, 3, 4}


def test_a_word_that_exceeds_the_number_is_skipped(letters: BertTokenizer) -> None:
    ids = torch.tensor([row([5, 15, 16, 6])])  # one to choose: only the second word has one token
    for seed in range(20):
        labels = mask_tokens(ids, letters, whole_words=True, generator=generator(seed)).labels
        assert labels.tolist() == [[IGNORED] * 4 + [6, IGNORED]]


def test_a_piece_after_a_special_token_begins_a_word(letters: BertTokenizer) -> None:
    """A stretch of text may begin inside a word, and a second segment never continues the first."""
    ids = torch.tensor([[CLS, 15, 16, SEP, 17, SEP]])
    chosen = set()
    for seed in range(50):
        labels = mask_tokens(ids, letters, probability=0.4, whole_words=True, generator=generator(seed)).labels
        chosen.add(tuple((labels[0] != IGNORED).nonzero()[:, 0].tolist()))
    assert chosen == {(1, 2), (4,)}


def test_without_whole_words_a_piece_may_be_chosen_alone(letters: BertTokenizer) -> None:
    labels = [
        mask_tokens(torch.tensor([row([5, 15])]), letters, generator=generator(seed)).labels for seed in range(50)
    ]
    assert {tuple((each[0] != IGNORED).nonzero()[:, 0].tolist()) for each in labels} == {(1,), (2,)}


def test_the_same_generator_gives_the_same_bits(letters: BertTokenizer) -> None:
    ids = rows_of_letters(20, 40)
    torch.manual_seed(0)
    first = mask_tokens(ids, letters, generator=generator(7))
    torch.manual_seed(1)  # the global generator has no part in it
    again, other = (mask_tokens(ids, letters, generator=generator(seed)) for seed in (7, 8))
    assert torch.equal(first.input_ids, again.input_ids)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)


def test_without_a_generator_the_global_one_is_used(letters: BertTokenizer) -> None:
    ids = rows_of_letters(20, 40)
    torch.manual_seed(3)
    first = mask_tokens(ids, letters)
    second = mask_tokens(ids, letters)
    torch.manual_seed(3)
    again = mask_tokens(ids, letters)
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(first.input_ids, again.input_ids)
    assert not torch.equal(first.labels, second.labels)


def test_on_the_words_of_a_real_tokenizer(tokenizer: BertTokenizer) -> None:
    texts = ["The embeddings of tokenizers are unbelievably uninteresting.", "Short."]
    ids = tokenizer(texts)["input_ids"]
    for seed in range(20):
        labels = mask_tokens(ids, tokenizer, whole_words=True, probability=0.5, generator=generator(seed)).labels
        tokens = tokenizer.convert_ids_to_tokens(ids[0])
        for position in range(2, len(tokens)):
            if tokens[position].startswith("##"):
                assert (labels[0, position] == IGNORED) == (labels[0, position - 1] == IGNORED)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"probability": 0}, "probability must be a number above 0 and at most 1, got 0"),
        ({"probability": 1.5}, "probability must be a number above 0 and at most 1, got 1.5"),
        ({"probability": math.nan}, "probability must be a number above 0 and at most 1, got nan"),
        ({"probability": True}, "probability must be a number above 0 and at most 1, got True"),
        ({"probability": "15 %"}, "probability must be a number above 0 and at most 1, got '15 %'"),
        ({"max_predictions": 0}, "max_predictions must be a positive integer, got 0"),
        ({"whole_words": 1.5}, "whole_words must be one of True, False, got 1.5"),
        ({"input_ids": torch.tensor([2, 5, 3])}, r"input_ids must be \(batch, sequence\), got \(3,\)"),
        ({"input_ids": torch.ones(1, 3)}, "input_ids must be .*, got .*float32"),
        ({"input_ids": [[2, 5, 3]]}, "input_ids must be a tensor"),
        ({"input_ids": torch.tensor([[2, 25, 3]])}, "input_ids must be from 0 to 24, got 25"),
        ({"input_ids": torch.tensor([[2, -100, 3]])}, "input_ids must be from 0 to 24, got -100"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(letters: BertTokenizer, change: dict, message: str) -> None:
    arguments = {"input_ids": torch.tensor([[CLS, 5, SEP]]), **change}
    with pytest.raises(InputError, match=message):
        mask_tokens(arguments.pop("input_ids"), letters, **arguments)
