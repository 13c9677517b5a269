"""Do two layers, or two models, represent a corpus alike?

Centred kernel alignment (CKA) compares which tokens are close to which, so it needs no dimension in common: it is 1 if
one representation is the other rotated, scaled and shifted, and 0 if they have no direction in common.

    cka(model, tokenizer, texts).values                             (L + 1, L + 1), layer by layer
    cka(model, tokenizer, texts, other=untrained(model)).values     against the layers of another model

Linear CKA of centred X (N, D) and Y (N, E) is |YᵀX|² / (|XᵀX| |YᵀY|), with Frobenius norms: Kornblith et al. 2019,
"Similarity of Neural Network Representations Revisited", section 3. With fewer tokens than dimensions it is high even
for unrelated representations: use several times as many tokens as the model has dimensions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checks import shown
from minibert.errors import InputError
from minibert.interpret.states import TextVectors, vectors_from
from minibert.show.tables import table
from minibert.tokenizer import BertTokenizer

Features = nn.Module | Iterable[TextVectors] | Tensor


@dataclass(frozen=True)
class Alignment:
    """The linear CKA of each layer of one model with each layer of another, or of the same one."""

    values: Tensor  # (L + 1, M + 1) float64; the embeddings first
    vectors: int  # the number of tokens or words compared

    def __str__(self) -> str:
        rows = [["layer", *(str(each) for each in range(self.values.shape[1]))]]
        rows += [[str(layer), *(f"{each:.3f}" for each in line)] for layer, line in enumerate(self.values.tolist())]
        return f"linear CKA over {self.vectors:,} vectors\n{table(rows, right=range(self.values.shape[1] + 1))}"

    def plot(self) -> Any:
        """A picture of the matrix."""
        from minibert.show.plots import plot_matrix

        rows, columns = (list(map(str, range(size))) for size in self.values.shape)
        return plot_matrix(self.values, rows, columns, title="linear CKA", limits=(0, 1))


def cka(
    model: Features,
    tokenizer: BertTokenizer | None = None,
    texts: Iterable[str] | None = None,
    *,
    other: Features | None = None,
    words: bool = False,
    special_tokens: bool = False,
) -> Alignment:
    """Computes the linear CKA of layers over the tokens of a corpus, exactly; all their vectors are kept in memory.

    Args:
        model, tokenizer, texts: a model in evaluation mode, its tokenizer and texts; or, as the only one of these, a
            list of `text_vectors`, or a tensor (L + 1, N, D), or (N, D) of one layer.
        other: what the layers are compared with, of the same tokens in the same order: another model with the same
            tokenizer, vectors, or a tensor. None means the layers themselves.
        words, special_tokens: as for `text_vectors`.

    Raises:
        InputError: a different number of tokens, fewer than two, or a layer whose vectors are all equal.
    """
    kept = list(texts) if texts is not None and not isinstance(texts, str) else texts  # a generator runs only once
    features = _features(model, tokenizer, kept, words, special_tokens)
    if other is None:
        others = features
    else:
        again = (tokenizer, kept) if isinstance(other, nn.Module) else (None, None)
        others = _features(other, *again, words, special_tokens)
    if features.shape[1] != others.shape[1] or features.shape[1] < 2:
        counts = f"{features.shape[1]} and {others.shape[1]}"
        raise InputError(f"both must be the vectors of the same tokens, at least two, got {counts}")
    values = torch.zeros(len(features), len(others), dtype=torch.float64)
    lengths = [_length(features, layer) for layer in range(len(features))]
    other_lengths = [_length(others, layer) for layer in range(len(others))]
    for row in range(len(features)):
        one = _centred(features[row])
        for column in range(len(others)):
            product = _product(one, _centred(others[column]))
            values[row, column] = product / (lengths[row] * other_lengths[column])
    return Alignment(values, features.shape[1])


def _features(
    model: Features,
    tokenizer: BertTokenizer | None,
    texts: Iterable[str] | None,
    words: bool,
    special_tokens: bool,
) -> Tensor:
    """All vectors of a corpus, by text, (L + 1, N, D)."""
    if isinstance(model, Tensor):
        if tokenizer is not None or texts is not None or not model.is_floating_point() or model.dim() not in (2, 3):
            raise InputError(f"vectors must be a tensor (L + 1, N, D) alone, got {shown(tuple(model.shape))}")
        return (model[None] if model.dim() == 2 else model).detach().cpu()
    found = sorted(vectors_from(model, tokenizer, texts, words, special_tokens), key=lambda each: each.number)
    if not found:
        raise InputError("texts must not be empty")
    return torch.cat([each.values for each in found], dim=1)


def _centred(vectors: Tensor) -> Tensor:
    vectors = vectors.double()
    return vectors - vectors.mean(dim=0)


def _length(features: Tensor, layer: int) -> float:
    """|XᵀX| of a layer."""
    vectors = _centred(features[layer])
    length = _product(vectors, vectors) ** 0.5
    if length <= (torch.finfo(torch.float64).eps * features[layer].double().square().sum().item()):
        raise InputError(f"the vectors of layer {layer} are all equal: CKA compares how they differ")
    return length


def _product(one: Tensor, other: Tensor) -> float:
    """|YᵀX|² of centred vectors, (N, D) and (N, E): from Gram matrices (N, N) where these are smaller."""
    if len(one) < min(one.shape[1], other.shape[1]):
        return ((one @ one.T) * (other @ other.T)).sum().item()
    return (other.T @ one).square().sum().item()
