"""What does a masked language model have to guess?

15 % of the tokens are chosen. Of these, 80 % become [MASK], 10 % a random token and 10 % stay as they are, so that a
model cannot tell which of the tokens it sees are right (BERT, 3.1, task 1, and appendix C.2).
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.checks import check_integer, check_one_of, shown
from minibert.errors import InputError
from minibert.heads import IGNORED
from minibert.inputs import IDS, check_tensor
from minibert.tokenizer import BertTokenizer

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens that become [MASK], and a random token


class MaskedTokens(NamedTuple):
    """Inputs and labels of a masked language model."""

    input_ids: Tensor  # (B, S) what the model reads
    labels: Tensor  # (B, S) the original ids of the chosen tokens, and -100 everywhere else


def mask_tokens(
    input_ids: Tensor,
    tokenizer: BertTokenizer,
    *,
    probability: float = 0.15,
    max_predictions: int | None = None,
    whole_words: bool = False,
    generator: torch.Generator | None = None,
) -> MaskedTokens:
    """Chooses the tokens that a masked language model has to guess, and hides most of them.

    As in BERT's own code, the number of chosen tokens is a share of each row's length, not a matter of chance: a row of
    n tokens, [CLS] and [SEP] included, has `round(probability · n)` of them, but at least one. Which ones, and what
    becomes of each, is random. [CLS], [SEP] and [PAD] are never chosen.

    Args:
        input_ids: (B, S) token ids, padded or not.
        tokenizer: the one that made them.
        probability: the share of tokens that are chosen.
        max_predictions: the largest number of tokens chosen in a row; the paper's max_predictions_per_seq.
        whole_words: choose all tokens of a word or none (BERT's "whole word masking"). A word that would exceed the
            number is skipped, so that a row may have fewer.
        generator: makes the choice repeatable.

    Raises:
        InputError: an argument is out of range, or `input_ids` are not token ids of this tokenizer.
    """
    check_tensor("input_ids", input_ids, IDS)
    if input_ids.dim() != 2:
        raise InputError(f"input_ids must be (batch, sequence), got {tuple(input_ids.shape)}")
    check_share("probability", probability)
    check_one_of("whole_words", whole_words, (True, False))
    most = input_ids.shape[1] if max_predictions is None else check_integer("max_predictions", max_predictions, 1)
    vocabulary = _vocabulary(tokenizer)
    unknown = input_ids[(input_ids < 0) | (input_ids >= vocabulary.size)]
    if len(unknown):
        what = f"from 0 to {vocabulary.size - 1}, got {unknown[0]}"
        raise InputError(f"input_ids must be {what}: take the ids that this tokenizer makes, not labels")
    chosen = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, ids in enumerate(input_ids.tolist()):
        chosen[row, _choose(ids, vocabulary, probability, most, whole_words, generator)] = True
    labels = input_ids.masked_fill(~chosen, IGNORED)
    # One number for each token decides what becomes of it: [MASK] below 0.8, a random token below 0.9.
    fate = torch.rand(input_ids.shape, generator=generator).to(input_ids.device)
    random = torch.randint(vocabulary.size, input_ids.shape, generator=generator).to(input_ids)
    hidden = torch.where(chosen & (fate < MASKED + RANDOM), random, input_ids)
    hidden = hidden.masked_fill(chosen & (fate < MASKED), vocabulary.mask)
    return MaskedTokens(hidden, labels)


def predictions_per_row(length: int, probability: float = 0.15, max_predictions: int | None = None) -> int:
    """Returns how many tokens are chosen in a row of `length` tokens."""
    return min(max_predictions or length, max(1, round(probability * length)))


class _Vocabulary(NamedTuple):
    size: int
    mask: int  # the id of [MASK]
    padding: int
    special: frozenset[int]  # [CLS], [SEP] and [PAD]
    continues: frozenset[int]  # the ids of tokens that begin with ##


@functools.lru_cache(maxsize=8)
def _vocabulary(tokenizer: BertTokenizer) -> _Vocabulary:
    cls, sep, mask = (tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]", "[MASK]"))
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    continues = frozenset(index for index, token in enumerate(tokens) if token.startswith("##"))
    padding = tokenizer.pad_token_id
    return _Vocabulary(len(tokenizer), mask, padding, frozenset({cls, sep, padding}), continues)


def _choose(
    ids: list[int],
    vocabulary: _Vocabulary,
    probability: float,
    most: int,
    whole_words: bool,
    generator: torch.Generator | None,
) -> list[int]:
    """The chosen positions of a row: words, or single tokens, in a random order until the number is reached."""
    words: list[list[int]] = []
    for position, token in enumerate(ids):
        if token in vocabulary.special:
            continue
        begins = not whole_words or token not in vocabulary.continues or not words or words[-1][-1] != position - 1
        if begins:
            words.append([position])
        else:
            words[-1].append(position)
    length = sum(token != vocabulary.padding for token in ids)
    number = predictions_per_row(length, probability, most)
    chosen: list[int] = []
    for index in torch.randperm(len(words), generator=generator).tolist():
        if len(chosen) == number:
            break
        if len(chosen) + len(words[index]) <= number:
            chosen += words[index]
    return chosen


def check_share(name: str, value: object) -> float:
    """Returns a number above 0 and at most 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise InputError(f"{name} must be a number above 0 and at most 1, got {shown(value)}")
    return float(value)
