"""Is the parse tree of a sentence in the distances of its vectors?

A structural probe is a matrix B, trained so that the squared distance |B (h_i − h_j)|² of two words is the number of
edges between them in the tree. The minimum spanning tree of the predicted distances is then compared with the tree.

    result = structural_probe(features, distances)      # distances: (S, S) for each sentence
    result.uuas, result.spearman                        # (L + 1,) each

`uuas` is the share of the tree's edges that the predicted tree has, directions aside; `spearman` the correlation of the
distances from each word, a mean over the words of all sentences of one length, and then over lengths. Beside both is
the chain, which joins each word to the next: much of any tree is between neighbours. Leave punctuation out of the
sentences, as the paper does for `uuas`.

Hewitt and Manning 2019, "A Structural Probe for Finding Syntax in Word Representations", section 2.2.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checks import check_integer, shown
from minibert.errors import InputError
from minibert.interpret.features import MOST_SEED, WordFeatures
from minibert.interpret.folds import check_finite, check_groups, check_positive, split, standard_error
from minibert.show.tables import table

BATCH = 20  # sentences, as in the paper


@dataclass(frozen=True)
class StructuralProbe:
    """How well distances in a tree can be read off the vectors of each layer, on sentences not trained on."""

    uuas: Tensor  # (L + 1,) float64
    spearman: Tensor  # (L + 1,)
    uuas_error: Tensor  # (L + 1,), standard errors from the spread over folds
    spearman_error: Tensor  # (L + 1,)
    chain_uuas: float  # of the tree that joins each word to the next
    chain_spearman: float
    rank: int
    sentences: int

    def __str__(self) -> str:
        rows = [["layer", "UUAS", "±", "Spearman", "±"], ["chain", *_cells(self.chain_uuas, None)]]
        rows[1] += _cells(self.chain_spearman, None)
        for layer in range(len(self.uuas)):
            uuas = _cells(self.uuas[layer].item(), self.uuas_error[layer].item())
            spearman = _cells(self.spearman[layer].item(), self.spearman_error[layer].item())
            rows.append([str(layer), *uuas, *spearman])
        return f"structural probe of rank {self.rank}, {self.sentences:,} sentences\n{table(rows, right=range(5))}"

    def plot(self) -> Any:
        """A picture of both scores and of the chain's by layer."""
        from minibert.show.plots import plot_layers

        ones = torch.ones(len(self.uuas))
        chains = {"UUAS of the chain": ones * self.chain_uuas, "Spearman of the chain": ones * self.chain_spearman}
        return plot_layers({"UUAS": self.uuas, "Spearman": self.spearman, **chains}, quantity="score")


def structural_probe(
    features: WordFeatures | Sequence[Tensor],
    distances: Sequence[Tensor],
    *,
    rank: int | None = None,
    groups: Sequence[Hashable] | None = None,
    folds: int = 5,
    seed: int = 0,
    epochs: int = 40,
    learning_rate: float = 1e-3,
    lengths: tuple[int, int] = (5, 50),
) -> StructuralProbe:
    """Trains a structural probe on each layer, in cross-validation over sentences.

    Args:
        features: of `word_features`, or for each sentence a tensor (L + 1, S, D), or (S, D) of one layer.
        distances: for each sentence the number of edges between each two of its words, (S, S), an integer tensor.
        rank: of B; None means D.
        groups: for each sentence the text it is from; the sentences of a text are on one side of a split.
        folds, seed: of the cross-validation; the seed is also that of B's first values.
        epochs, learning_rate: of Adam, over batches of 20 sentences; the defaults are those of the paper.
        lengths: the lengths of sentences that `spearman` is a mean over; the paper's are 5 to 50.

    Raises:
        InputError: distances that are not those of a tree over the words of a sentence, or an option out of range.
    """
    check_integer("folds", folds, 2)
    check_integer("seed", seed, 0, MOST_SEED)
    check_integer("epochs", epochs, 1)
    check_positive("learning_rate", learning_rate)
    vectors = _check_features(features)
    trees = _check_distances(distances, [each.shape[1] for each in vectors])
    check_finite("features", torch.cat(vectors, dim=1))
    layers, _, size = vectors[0].shape
    rank = size if rank is None else check_integer("rank", rank, 1, size)
    _check_lengths(lengths, trees)
    known = None if groups is None else check_groups("groups", groups, len(vectors))
    scores = torch.zeros(folds, layers, 2, dtype=torch.float64)
    predicted = [[torch.empty(0)] * len(trees) for _ in range(layers)]
    for fold, (train, test) in enumerate(split(len(vectors), folds, seed, known)):
        for layer in range(layers):
            rows = [vectors[index][layer] for index in train]
            mean, scale = _standard(torch.cat(rows))
            standardised = [(each - mean) / scale for each in rows]
            matrix = _train(standardised, [trees[index] for index in train], rank, seed, epochs, learning_rate)
            for index in test:
                predicted[layer][index] = _squared((vectors[index][layer] - mean) / scale @ matrix.T)
            held_out = [predicted[layer][index] for index in test]
            scores[fold, layer] = torch.tensor(_scores(held_out, [trees[index] for index in test], lengths))
    whole = torch.tensor([_scores(predicted[layer], trees, lengths) for layer in range(layers)], dtype=torch.float64)
    chain = _scores([_chain(len(tree)) for tree in trees], trees, lengths)
    errors = standard_error(scores)
    return StructuralProbe(whole[:, 0], whole[:, 1], errors[:, 0], errors[:, 1], *chain, rank, len(trees))


def spanning_tree(distances: Tensor) -> set[tuple[int, int]]:
    """Returns the edges (i < j) of the minimum spanning tree of a matrix of distances, (S, S), by Prim's algorithm."""
    size = len(distances)
    outside = torch.ones(size, dtype=torch.bool)
    outside[0] = False
    nearest, cost = torch.zeros(size, dtype=torch.long), distances[0].clone()
    edges = set()
    for _ in range(size - 1):
        new = int(torch.where(outside, cost, torch.inf).argmin())
        edges.add((min(new, int(nearest[new])), max(new, int(nearest[new]))))
        outside[new] = False
        closer = distances[new] < cost
        nearest = torch.where(closer, new, nearest)
        cost = torch.where(closer, distances[new], cost)
    return edges


def _scores(predicted: Sequence[Tensor], trees: Sequence[Tensor], lengths: tuple[int, int]) -> tuple[float, float]:
    """UUAS and Spearman's correlation of predicted distances with those of trees."""
    found = total = 0
    by_length: dict[int, list[float]] = {}
    for guess, tree in zip(predicted, trees, strict=True):
        true = {(i, j) for i, j in (tree == 1).nonzero().tolist() if i < j}
        found += len(true & spanning_tree(guess))
        total += len(true)
        if lengths[0] <= len(tree) <= lengths[1]:
            by_length.setdefault(len(tree), []).extend(_rank_correlations(guess, tree))
    means = [sum(each) / len(each) for each in by_length.values()]
    return found / total, sum(means) / len(means) if means else float("nan")


def _rank_correlations(guess: Tensor, tree: Tensor) -> list[float]:
    """Spearman's correlation of each row, S of them; 0 where all predictions are equal."""
    first, second = (_ranks(each.double()) for each in (guess, tree))
    first, second = (each - each.mean(dim=-1, keepdim=True) for each in (first, second))
    lengths = first.square().sum(dim=-1) * second.square().sum(dim=-1)
    correlations: list[float] = ((first * second).sum(dim=-1) / lengths.sqrt().clamp_min(1e-12)).tolist()
    return correlations


def _ranks(values: Tensor) -> Tensor:
    """The rank of each number in its row, equal ones sharing their mean rank, (S, S)."""
    below = (values[:, None, :] < values[:, :, None]).sum(dim=-1)
    equal = (values[:, None, :] == values[:, :, None]).sum(dim=-1)
    return below + (equal - 1) / 2


def _train(
    vectors: Sequence[Tensor], trees: Sequence[Tensor], rank: int, seed: int, epochs: int, learning_rate: float
) -> Tensor:
    """B (R, D): Adam on the mean over sentences of |d − |B (h_i − h_j)|²| over S² pairs (equation 2 of the paper)."""
    generator = torch.Generator().manual_seed(seed)
    size, dtype = vectors[0].shape[-1], vectors[0].dtype
    with torch.inference_mode(False), torch.enable_grad():  # also where the caller switched gradients off
        matrix = nn.Parameter(torch.rand(rank, size, generator=generator, dtype=dtype) * 0.1 - 0.05)
        optimizer = torch.optim.Adam([matrix], lr=learning_rate)
        batches = torch.arange(len(vectors)).split(BATCH)
        padded = [_padded([vectors[i] for i in batch], [trees[i] for i in batch]) for batch in batches]
        for _ in range(epochs):
            for index in torch.randperm(len(padded), generator=generator).tolist():
                hidden, distances, weights = padded[index]
                optimizer.zero_grad()
                difference = (_squared(hidden @ matrix.T) - distances).abs()
                (difference * weights).sum().backward()
                optimizer.step()
    return matrix.detach()


def _padded(vectors: Sequence[Tensor], trees: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of sentences (B, S, D), their distances (B, S, S) and the weight of each pair in the loss."""
    longest, dtype = max(map(len, vectors)), vectors[0].dtype
    hidden = torch.zeros(len(vectors), longest, vectors[0].shape[-1], dtype=dtype)
    distances = torch.zeros(len(vectors), longest, longest, dtype=dtype)
    weights = torch.zeros_like(distances)
    for row, (each, tree) in enumerate(zip(vectors, trees, strict=True)):
        size = len(each)
        hidden[row, :size] = each
        distances[row, :size, :size] = tree
        weights[row, :size, :size] = 1 / (size**2 * len(vectors))
    return hidden, distances, weights


def _squared(projected: Tensor) -> Tensor:
    """The squared distance of each two vectors, (…, S, R) → (…, S, S)."""
    norms = projected.square().sum(dim=-1)
    products = projected @ projected.mT
    return (norms[..., :, None] + norms[..., None, :] - 2 * products).clamp_min(0)


def _standard(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each dimension, 1 where it does not vary."""
    deviation = vectors.std(dim=0, correction=0)
    return vectors.mean(dim=0), torch.where(deviation > 0, deviation, 1.0)


def _chain(size: int) -> Tensor:
    positions = torch.arange(size).double()
    return (positions[:, None] - positions).abs()


def _check_features(features: Any) -> list[Tensor]:
    """The vectors of each sentence, (L + 1, S, D), on the CPU."""
    given = features.by_sentence() if isinstance(features, WordFeatures) else features
    if isinstance(given, str | Tensor) or not isinstance(given, Sequence) or not given:
        raise InputError(
            f"features must be a list of tensors (L + 1, S, D), one for each sentence, got {type(given).__name__}"
        )
    vectors = []
    for number, each in enumerate(given):
        if not isinstance(each, Tensor) or each.dim() not in (2, 3) or not each.is_floating_point():
            what = f"{each.dtype} {tuple(each.shape)}" if isinstance(each, Tensor) else shown(each)
            raise InputError(
                f"features must be tensors (L + 1, S, D) of real numbers, got {what} for sentence {number}"
            )
        whole = each[None] if each.dim() == 2 else each
        whole = whole.detach().cpu()
        vectors.append(whole.float() if whole.dtype in (torch.float16, torch.bfloat16) else whole)
    if len({(len(each), each.shape[-1], each.dtype) for each in vectors}) != 1:
        raise InputError("features must have the same number of layers and dimensions, and one dtype, in all sentences")
    return vectors


def _check_distances(distances: Any, sizes: list[int]) -> list[Tensor]:
    """The distances of each sentence, after validation."""
    if isinstance(distances, str) or not isinstance(distances, Sequence) or len(distances) != len(sizes):
        raise InputError(
            f"distances must be {len(sizes)} tensors (S, S), one for each sentence, got {_count(distances)}"
        )
    found = []
    for number, (each, size) in enumerate(zip(distances, sizes, strict=True)):
        try:
            tree = torch.as_tensor(each).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"distances of sentence {number} must be a tensor (S, S), got {shown(each)}") from error
        edges = ((tree == 1).sum() // 2).item() if tree.shape == (size, size) else -1
        if edges != size - 1 or size < 2 or not torch.equal(tree, tree.T) or (tree.diagonal() != 0).any():
            raise InputError(
                f"distances of sentence {number} must be those of a tree over its {size} words: ({size}, {size}), "
                f"symmetric, 0 on the diagonal and 1 for {size - 1} pairs"
            )
        found.append(tree)
    return found


def _check_lengths(lengths: Any, trees: list[Tensor]) -> None:
    if not isinstance(lengths, tuple | list) or len(lengths) != 2:
        raise InputError(f"lengths must be the shortest and the longest, (5, 50), got {shown(lengths)}")
    low = check_integer("lengths[0]", lengths[0], 2)
    high = check_integer("lengths[1]", lengths[1], low)
    if not any(low <= len(tree) <= high for tree in trees):
        raise InputError(f"lengths must be those of at least one sentence, got {shown(lengths)}")


def _count(values: Any) -> str:
    return str(len(values)) if isinstance(values, Sequence) else type(values).__name__


def _cells(score: float, error: float | None) -> list[str]:
    return [f"{score:.3f}", "" if error is None else f"{error:.3f}"]
