"""Which tokens are one word, and what is a number of tokens as one of words?"""

from typing import Any

from torch import Tensor

from minibert.errors import InputError
from minibert.interpret.runs import Inputs, mask_of, tokens_of
from minibert.tokenizer import BatchEncoding


def word_groups(inputs: Inputs, row: int) -> list[list[int]]:
    """Returns the positions of each word of a text; a special token is a word of its own, padding none.

    Raises:
        InputError: inputs that no tokenizer made.
    """
    if not isinstance(inputs, BatchEncoding):
        raise InputError("words need inputs that a BertTokenizer made: it knows which tokens are of one word")
    real = mask_of(inputs)[row].tolist()
    groups: list[list[int]] = []
    last: Any = None
    for position, word in enumerate(zip(inputs.sequence_ids(row), inputs.word_ids(row), strict=True)):
        if not real[position]:
            last = None
        elif word == last and word[1] is not None:
            groups[-1].append(position)
        else:
            groups.append([position])
            last = word
    return groups


def word_label(inputs: Inputs, row: int, positions: list[int]) -> str:
    """Returns the tokens of a word as the word: "token", "##ization" → "tokenization"."""
    tokens = tokens_of(inputs)[row]
    first, *rest = [tokens[position] for position in positions]
    return first + "".join(token.removeprefix("##") for token in rest)


def by_word(values: Tensor, inputs: Inputs) -> tuple[Tensor, list[list[str]]]:
    """Returns maps (L, B, S, S) by word, (L, B, N, N) for the most words N of a text, and the words.

    To a word goes the sum over its tokens, from a word comes their mean: rows keep their sums (Clark et al. 2019, 4.1).
    """
    texts = [word_groups(inputs, row) for row in range(values.shape[1])]
    longest = max(map(len, texts))
    merged = values.new_zeros(*values.shape[:2], longest, longest)
    for row, groups in enumerate(texts):
        members = values.new_zeros(len(groups), values.shape[-1])  # (N, S)
        for number, positions in enumerate(groups):
            members[number, positions] = 1
        means = members / members.sum(dim=1, keepdim=True)
        merged[:, row, : len(groups), : len(groups)] = means @ values[:, row] @ members.T
    labels = [[word_label(inputs, row, positions) for positions in groups] for row, groups in enumerate(texts)]
    return merged, labels
