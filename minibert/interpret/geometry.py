"""Do all vectors of a layer point the same way, and how much of a word's vector is its context?

The hidden states of BERT occupy a narrow cone: the cosine of two random tokens is far from 0 (anisotropy), and often
few dimensions make it so. Any other cosine means something only above that baseline:

    anisotropy(model, tokenizer, texts).values          (L + 1,) mean cosine of random tokens of different texts
    dimension_shares(model, tokenizer, texts).top(3)    the dimensions that make this cosine
    self_similarity(model, tokenizer, texts).adjusted   (L + 1,) of one word in different texts, above the baseline
    intra_sentence_similarity(model, tokenizer, texts)  of the tokens of a text with their mean

Random tokens are drawn as in the reference: first two different texts, each as likely as any other, then a token of
each. No sample is drawn: the expectation over all pairs is computed, from the sum of the mean unit vectors m_t of T
texts. It is (|Σ m_t|² − Σ |m_t|²) / (T (T − 1)), exact, in one pass and float64.

[CLS] and [SEP] are left out unless `special_tokens=True`; padding never counts.

Ethayarajh 2019, "How Contextual are Contextualized Word Representations?", sections 3.3 and 3.4, definitions 1 and 2;
Timkey and van Schijndel 2021, "All Bark and No Bite", equations 2 to 4 (dimension_shares).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.checks import check_integer
from minibert.errors import InputError
from minibert.interpret.states import TextVectors, vectors_from
from minibert.show.tables import table
from minibert.tokenizer import BertTokenizer

Source = nn.Module | Iterable[TextVectors]  # a model, or the vectors that it gave


class PairSums:
    """What the mean cosine of vectors of different texts needs: sums over texts, in float64."""

    def __init__(self) -> None:
        self.texts = 0
        self.vectors = 0
        self.total: Any = 0.0  # (L + 1, D), of the mean unit vectors
        self.squares: Any = 0.0  # (L + 1, D), of the squares of their elements
        self.norms: Any = 0.0  # (L + 1,), of their squared norms

    def add(self, units: Tensor) -> None:
        """Adds the unit vectors of one text, (L + 1, n, D)."""
        mean = units.mean(dim=1)  # (L + 1, n, D) → (L + 1, D)
        self.total = self.total + mean
        self.squares = self.squares + mean.square()
        self.norms = self.norms + torch.linalg.vector_norm(mean, dim=-1).square()
        self.texts += 1
        self.vectors += units.shape[1]

    def cosine(self) -> Tensor:
        """The mean cosine, (L + 1,)."""
        pairs = self._pairs()
        return (torch.linalg.vector_norm(self.total, dim=-1).square() - self.norms) / pairs

    def by_dimension(self) -> Tensor:
        """What each dimension adds to it, (L + 1, D)."""
        pairs = self._pairs()
        products: Tensor = self.total.square() - self.squares
        return products / pairs

    def _pairs(self) -> int:
        if self.texts < 2:
            raise InputError(f"texts must be at least two, to compare tokens of different texts, got {self.texts}")
        return self.texts * (self.texts - 1)


@dataclass(frozen=True)
class Anisotropy:
    """The mean cosine of random tokens, or words, of different texts."""

    values: Tensor  # (L + 1,) float64, at the embeddings and after each layer
    texts: int
    vectors: int  # the number of tokens, or words

    def __str__(self) -> str:
        rows = [(str(layer), f"{value:.4f}") for layer, value in enumerate(self.values.tolist())]
        head = f"mean cosine of two of {self.vectors:,} vectors, from different ones of {self.texts:,} texts"
        return f"{head}\n{table([('layer', 'cosine'), *rows], right=[0, 1])}"

    def plot(self) -> Any:
        """A picture of the cosine by layer."""
        from minibert.show.plots import plot_layers

        return plot_layers({"random vectors": self.values}, quantity="mean cosine")


@dataclass(frozen=True)
class DimensionShares:
    """What each dimension contributes to the mean cosine of random tokens."""

    values: Tensor  # (L + 1, D) float64; they sum to the cosine
    cosine: Tensor  # (L + 1,), the anisotropy, computed from whole vectors
    error: float  # the largest distance of a sum of contributions from the cosine

    @property
    def shares(self) -> Tensor:
        """The contributions as shares of the cosine, (L + 1, D); some may be negative."""
        return self.values / self.cosine[:, None]

    def top(self, k: int = 3) -> list[list[tuple[int, float]]]:
        """For each layer, the k dimensions that contribute most, with their shares."""
        check_integer("k", k, 1, self.values.shape[-1])
        largest = self.values.topk(k, dim=-1).indices  # (L + 1, D) → (L + 1, k)
        shares = self.shares.gather(-1, largest)
        return [list(zip(*pair, strict=True)) for pair in zip(largest.tolist(), shares.tolist(), strict=True)]

    def __str__(self) -> str:
        count = min(3, self.values.shape[-1])
        names = [f"dimension {number}" for number in range(1, count + 1)]
        rows = [["layer", "cosine", *names]]
        for layer, (cosine, largest) in enumerate(zip(self.cosine.tolist(), self.top(count), strict=True)):
            rows.append([str(layer), f"{cosine:.4f}", *(f"{index} {share:7.1%}" for index, share in largest)])
        return f"{table(rows, right=range(2 + count))}\nerror of the sums: {self.error:.0e}"

    def plot(self) -> Any:
        """A picture of the shares of the dimensions that contribute most to any layer, layer by layer."""
        from minibert.show.plots import plot_layers

        largest = self.shares.max(dim=0).values.topk(min(5, self.values.shape[-1])).indices.tolist()
        return plot_layers({f"dimension {each}": self.shares[:, each] for each in largest}, quantity="share")


@dataclass(frozen=True)
class Similarities:
    """A mean cosine for each of N words or texts, by layer, and the baseline that it is to be read against."""

    values: Tensor  # (N, L + 1) float64
    labels: list[str]  # N words, or the numbers of the texts
    counts: list[int]  # N: the occurrences of the word, or the tokens of the text
    baseline: Tensor  # (L + 1,), the anisotropy of the same vectors
    of: str

    @property
    def mean(self) -> Tensor:
        """The mean over words or texts, each counted once, (L + 1,)."""
        return self.values.mean(dim=0)

    @property
    def adjusted(self) -> Tensor:
        """The mean above the baseline, (L + 1,) (Ethayarajh 2019, section 3.4)."""
        return self.mean - self.baseline

    def __str__(self) -> str:
        rows = [["layer", "cosine", "baseline", "adjusted"]]
        for layer, each in enumerate(zip(self.mean, self.baseline, self.adjusted, strict=True)):
            rows.append([str(layer), *(f"{value:.4f}" for value in each)])
        return f"{self.of}, mean of {len(self.labels):,}\n{table(rows, right=range(4))}"

    def plot(self) -> Any:
        """A picture of the mean, the baseline and their difference by layer."""
        from minibert.show.plots import plot_layers

        lines = {self.of: self.mean, "random vectors": self.baseline, "adjusted": self.adjusted}
        return plot_layers(lines, quantity="mean cosine")


def anisotropy(
    model: Source,
    tokenizer: BertTokenizer | None = None,
    texts: Iterable[str] | None = None,
    *,
    words: bool = False,
    special_tokens: bool = False,
) -> Anisotropy:
    """Measures how alike random tokens are: the mean cosine of two tokens of different texts, by layer.

    Args:
        model, tokenizer, texts: a model in evaluation mode, its tokenizer and at least two texts; or, as the only
            argument, a list of `text_vectors`.
        words, special_tokens: as for `text_vectors`.

    Raises:
        InputError: fewer than two texts, or neither a model with texts nor vectors.
    """
    sums = PairSums()
    for each in vectors_from(model, tokenizer, texts, words, special_tokens):
        sums.add(_units(each))
    return Anisotropy(sums.cosine(), sums.texts, sums.vectors)


def dimension_shares(
    model: Source,
    tokenizer: BertTokenizer | None = None,
    texts: Iterable[str] | None = None,
    *,
    words: bool = False,
    special_tokens: bool = False,
) -> DimensionShares:
    """Measures what each dimension contributes to the anisotropy: the mean of uᵢ vᵢ / (|u| |v|), by layer.

    Args:
        model, tokenizer, texts, words, special_tokens: as for `anisotropy`.

    Raises:
        InputError: as `anisotropy`.
    """
    sums = PairSums()
    for each in vectors_from(model, tokenizer, texts, words, special_tokens):
        sums.add(_units(each))
    values, cosine = sums.by_dimension(), sums.cosine()
    error = (values.sum(dim=-1) - cosine).abs().max().item()
    return DimensionShares(values, cosine, error)


def self_similarity(
    model: Source,
    tokenizer: BertTokenizer | None = None,
    texts: Iterable[str] | None = None,
    *,
    at_least: int = 5,
    special_tokens: bool = False,
) -> Similarities:
    """Measures how alike the vectors of one word in different texts are, for each word that is in enough of them.

    1 means that context changes nothing. The mean is over all pairs of occurrences in different texts. A word is a
    whole word, and its vector the mean of its tokens'; the paper's own code takes each token of BERT for a word. The
    sums kept are (L + 1, D) for each different word.

    Args:
        model, tokenizer, texts: as for `anisotropy`; vectors made with `words=True`.
        at_least: the number of texts that a word must be in; the paper takes five.
        special_tokens: whether [CLS] and [SEP] are words, too.

    Raises:
        InputError: as `anisotropy`; or no word is in so many texts.
    """
    check_integer("at_least", at_least, 2)
    sums, by_word = PairSums(), dict[str, WordSums]()
    for each in vectors_from(model, tokenizer, texts, True, special_tokens):
        units = _units(each)
        sums.add(units)
        positions: dict[str, list[int]] = {}
        for position, word in enumerate(each.labels):
            positions.setdefault(word, []).append(position)
        for word, indices in positions.items():
            by_word.setdefault(word, WordSums()).add(units[:, indices].sum(dim=1), len(indices))
    baseline = sums.cosine()
    chosen = sorted(word for word, each in by_word.items() if each.texts >= at_least)
    if not chosen:
        raise InputError(f"no word is in {at_least} texts: give more texts, or a smaller at_least")
    values = torch.stack([by_word[word].cosine() for word in chosen])
    return Similarities(values, chosen, [by_word[word].count for word in chosen], baseline, "same word")


def intra_sentence_similarity(
    model: Source,
    tokenizer: BertTokenizer | None = None,
    texts: Iterable[str] | None = None,
    *,
    words: bool = False,
    special_tokens: bool = False,
) -> Similarities:
    """Measures how alike the tokens of one text are: their mean cosine with the mean of their vectors, by text.

    Args:
        model, tokenizer, texts, words, special_tokens: as for `anisotropy`.

    Raises:
        InputError: as `anisotropy`.
    """
    sums, found = PairSums(), []
    for each in vectors_from(model, tokenizer, texts, words, special_tokens):
        sums.add(_units(each))
        vectors = each.values.double()
        cosines = F.cosine_similarity(vectors, vectors.mean(dim=1, keepdim=True), dim=-1)  # (L + 1, n)
        found.append((each.number, cosines.mean(dim=-1), cosines.shape[-1]))
    baseline = sums.cosine()
    found.sort(key=lambda each: each[0])
    numbers, values, counts = zip(*found, strict=True)
    return Similarities(torch.stack(values), list(map(str, numbers)), list(counts), baseline, "tokens of one text")


class WordSums:
    """What the mean cosine of one word's occurrences in different texts needs."""

    def __init__(self) -> None:
        self.texts = 0
        self.count = 0  # occurrences
        self.same_text = 0  # pairs of occurrences that are in one text, each with itself included
        self.total: Any = 0.0  # (L + 1, D), of the unit vectors
        self.norms: Any = 0.0  # (L + 1,), of the squared norms of each text's sum

    def add(self, units: Tensor, count: int) -> None:
        """Adds the sum of the unit vectors of the occurrences in one text, (L + 1, D)."""
        self.total = self.total + units
        self.norms = self.norms + units.square().sum(dim=-1)
        self.texts += 1
        self.count += count
        self.same_text += count**2

    def cosine(self) -> Tensor:
        """The mean cosine, (L + 1,)."""
        products: Tensor = self.total.square().sum(dim=-1) - self.norms
        return products / (self.count**2 - self.same_text)


def _units(text: TextVectors) -> Tensor:
    """The vectors of a text at unit length, (L + 1, n, D) float64."""
    return F.normalize(text.values.double(), dim=-1)
