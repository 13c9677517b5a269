"""What are the vectors of a corpus, layer by layer?

`text_vectors` yields the hidden states of each text: one vector per token or per whole word, at the embeddings and
after each layer. The measures of `geometry` and `alignment` take them from a model, or as they are here:

    anisotropy(model, tokenizer, texts)             one pass over the texts, nothing kept
    vectors = list(text_vectors(model, tokenizer, texts))
    anisotropy(vectors), dimension_shares(vectors)  one pass for several measures, all vectors kept
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minibert.checks import check_one_of, shown
from minibert.errors import InputError
from minibert.interpret.runs import bert_of, mask_of, tokens_of
from minibert.interpret.texts import batches_of
from minibert.interpret.whole_words import word_groups, word_label
from minibert.tokenizer import BatchEncoding, BertTokenizer


class TextVectors(NamedTuple):
    """The vectors of one text; n counts its tokens, or its words."""

    number: int  # of the text in the corpus, counted from 0
    labels: list[str]  # n tokens, or words
    values: Tensor  # (L + 1, n, D), on the CPU, in the model's dtype


def text_vectors(
    model: nn.Module,
    tokenizer: BertTokenizer,
    texts: Iterable[str],
    *,
    words: bool = False,
    special_tokens: bool = False,
) -> Iterator[TextVectors]:
    """Yields the hidden states of each text, one batch in memory at a time; padding is never among them.

    Args:
        model: a `BertModel`, or one with a head, in evaluation mode.
        tokenizer: the model's; texts longer than its limit are cut.
        texts: strings, from a list or from a generator. They come back sorted by length within a window of some
            hundred, with their numbers.
        words: one vector per word, the mean of its tokens, instead of one per token. Words are cut as the tokenizer
            cuts them before it looks for subwords: at spaces and punctuation.
        special_tokens: whether [CLS] and [SEP] are included.

    Raises:
        InputError: a single text, or a model in training mode.
        TextTypeError, TextError: something that is not a text, or a text without a token.
    """
    check_one_of("words", words, (True, False))
    check_one_of("special_tokens", special_tokens, (True, False))
    bert = bert_of(model)
    for batch in batches_of(model, tokenizer, texts):
        with torch.no_grad():  # inside the loop: a generator must not leave it on for its caller
            hidden_states = bert(**batch.inputs, output_hidden_states=True).hidden_states
        states = torch.stack(hidden_states).cpu()  # L + 1 of (B, S, D) → (L + 1, B, S, D)
        for row, number in enumerate(batch.numbers):
            groups = _groups(batch.inputs, row, words, special_tokens)
            labels = [word_label(batch.inputs, row, group) for group in groups]
            if words:
                vectors = torch.stack([states[:, row, group].mean(dim=1) for group in groups], dim=1)
            else:
                labels = [tokens_of(batch.inputs)[row][group[0]] for group in groups]
                vectors = states[:, row, [group[0] for group in groups]]  # (L + 1, n, D)
            yield TextVectors(number, labels, vectors)


def vectors_from(
    model: Any, tokenizer: BertTokenizer | None, texts: Iterable[str] | None, words: bool, special_tokens: bool
) -> Iterator[TextVectors]:
    """Yields the vectors of a corpus, or those given in the model's place.

    Raises:
        InputError: neither a model with a tokenizer and texts, nor vectors alone; or no vectors at all.
    """
    if isinstance(model, nn.Module):
        if tokenizer is None or texts is None:
            raise InputError("a model needs a tokenizer and texts: pass (model, tokenizer, texts)")
        yield from text_vectors(model, tokenizer, texts, words=words, special_tokens=special_tokens)
        return
    if tokenizer is not None or texts is not None:
        raise InputError(f"model must be a BertModel, or one with a head, got {shown(model)}")
    if isinstance(model, str | Tensor) or not isinstance(model, Iterable):
        raise InputError(f"vectors must be a list of TextVectors, got {shown(model)}: text_vectors makes them")
    for each in model:
        if not isinstance(each, TextVectors) or each.values.dim() != 3:
            raise InputError(f"vectors must be a list of TextVectors, got {shown(each)}: text_vectors makes them")
        yield each


def _groups(inputs: BatchEncoding, row: int, words: bool, special_tokens: bool) -> list[list[int]]:
    """The positions of each word, or each token as a word of its own."""
    if words:
        groups = word_groups(inputs, row)
    else:
        groups = [[position] for position in mask_of(inputs)[row].nonzero().flatten().tolist()]
    is_special = [sequence is None for sequence in inputs.sequence_ids(row)]
    return [group for group in groups if special_tokens or not is_special[group[0]]]
