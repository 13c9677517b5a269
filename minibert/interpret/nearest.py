"""Which words is a vector near to?"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.checks import check_integer, shown
from minibert.errors import InputError
from minibert.interpret.reading import nested
from minibert.interpret.runs import bert_of
from minibert.tokenizer import BertTokenizer


@torch.no_grad()
def nearest_words(
    hidden: Tensor, model: nn.Module, tokenizer: BertTokenizer, k: int = 5, *, special: bool = False
) -> Any:
    """Returns the words whose embeddings have the highest cosine with a vector, each with that cosine.

    It says what a vector is near to in the input table, and nothing about a prediction: for that, see `logit_lens`.

    Args:
        hidden: (D,), or (…, D) for lists of the same shape.
        model: whose word embeddings are compared.
        tokenizer: the model's.
        k: how many words.
        special: whether [CLS], [PAD], [unused7] and the like count as words.

    Raises:
        InputError: vectors of another size, none, or not of finite numbers; or a tokenizer with ids that the model does
            not have.
    """
    table_of_words = bert_of(model).embeddings.word_embeddings.weight
    size = table_of_words.shape[1]
    if not isinstance(hidden, Tensor) or not hidden.is_floating_point() or hidden.shape[-1:] != (size,):
        raise InputError(f"hidden must be vectors (…, {size}), got {shown(getattr(hidden, 'shape', hidden))}")
    vocabulary = {number: token for token, number in tokenizer.tokenizer.get_vocab().items()}
    if 0 in hidden.shape:
        raise InputError(f"hidden must not be empty, got {tuple(hidden.shape)}")
    if not hidden.isfinite().all():  # the cosine would be NaN, and any word the nearest
        raise InputError("hidden must be finite numbers, got NaN or infinity")
    if max(vocabulary) >= len(table_of_words):
        raise InputError(f"tokenizer must be the model's, of {len(table_of_words):,} words, got {len(vocabulary):,}")
    ids = [number for number in sorted(vocabulary) if special or not _is_special(vocabulary[number])]
    check_integer("k", k, 1, len(ids))
    # At least in float32: in float16 the norm of a vector of zeros has no eps, and 0 / 0 is NaN.
    words = F.normalize(table_of_words[ids].to(torch.promote_types(table_of_words.dtype, torch.float32)), dim=-1)
    found: list[list[tuple[str, float]]] = []
    for chunk in F.normalize(hidden.to(words).reshape(-1, size), dim=-1).split(1024):  # no (N, V) at once
        best = (chunk @ words.T).topk(k, dim=-1)
        for indices, cosines in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            found.append([(vocabulary[ids[index]], cosine) for index, cosine in zip(indices, cosines, strict=True)])
    return nested(found, hidden.shape[:-1])


def _is_special(token: str) -> bool:
    """Whether a token is one like [CLS] or [unused7]; a bracket alone is a word."""
    return len(token) > 2 and token[0] == "[" and token[-1] == "]"
