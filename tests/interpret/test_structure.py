"""A tree that is in the distances of a layer is found there, and nowhere else."""

import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.stats import spearmanr

from minibert.errors import InputError
from minibert.interpret.features import WordFeatures
from minibert.interpret.probing import probe
from minibert.interpret.structure import _rank_correlations, _scores, spanning_tree, structural_probe

SIZE = 10  # dimensions


def random_tree(size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances in a random tree, and vectors whose squared distances they are: sums of a direction for each edge."""
    edges = torch.zeros(size, size)
    vectors = torch.zeros(size, SIZE)
    order = torch.randperm(size, generator=generator).tolist()
    for index in range(1, size):
        child, parent = order[index], order[int(torch.randint(index, (), generator=generator))]
        edges[child, parent] = edges[parent, child] = 1
        vectors[child] = vectors[parent]
        vectors[child, index - 1] += 1
    return torch.as_tensor(shortest_path(edges.numpy(), unweighted=True)).long(), vectors


def sentences(count: int = 60) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Sentences of 5 to 9 words with 3 layers, of which layer 1 has the tree, rotated, scaled and with noise beside."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator)).Q
    features, trees = [], []
    for _ in range(count):
        size = int(torch.randint(5, 10, (), generator=generator))
        tree, vectors = random_tree(size, generator)
        layers = torch.randn(3, size, SIZE, generator=generator)
        layers[1] = 3 * vectors @ rotation + 1
        features.append(layers)
        trees.append(tree)
    return features, trees


@pytest.fixture(scope="module")
def example() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return sentences()


def test_the_tree_is_found_in_its_layer(example) -> None:
    features, trees = example
    found = structural_probe(features, trees, folds=3, epochs=60, learning_rate=0.02)
    assert found.uuas[1] > 0.97
    assert found.spearman[1] > 0.95
    assert found.uuas[[0, 2]].max() < 0.5
    assert found.spearman[[0, 2]].max() < 0.6  # the zeros on the diagonal alone make some of it
    assert (found.rank, found.sentences) == (SIZE, 60)
    assert (found.uuas_error < 0.1).all()
    assert 0.1 < found.chain_uuas < 0.5
    assert str(found).count("\n") == 5
    assert found.plot().axes


def test_is_one_kind_of_probe_and_the_same_in_every_mode(example) -> None:
    features, trees = example[0][:12], example[1][:12]
    words = WordFeatures(
        torch.cat(features, dim=1), ["w"] * sum(map(len, trees)), [n for n, tree in enumerate(trees) for _ in tree]
    )
    expected = structural_probe(features, trees, folds=2)
    with torch.inference_mode():
        found = probe(words, trees, kind="structural", folds=2)
    assert torch.equal(found.uuas, expected.uuas)
    assert torch.equal(found.spearman, expected.spearman)
    doubled = structural_probe([each.double() for each in features], trees, folds=2, rank=3)
    assert doubled.rank == 3


def test_sentences_of_a_group_are_on_one_side(example, monkeypatch: pytest.MonkeyPatch) -> None:
    from minibert.interpret import structure

    seen = []
    split = structure.split
    monkeypatch.setattr(structure, "split", lambda *arguments: seen.append(split(*arguments)) or seen[-1])
    groups = [each // 3 for each in range(12)]
    structural_probe(example[0][:12], example[1][:12], groups=groups, folds=2, epochs=1)
    for train, test in seen[0]:
        assert not {groups[each] for each in train} & {groups[each] for each in test}


def test_spanning_trees_and_rank_correlations_are_scipys() -> None:
    torch.manual_seed(0)
    for size in (2, 5, 12):
        distances = torch.rand(size, size).double() + 0.1
        distances = (distances + distances.T).fill_diagonal_(0)
        rows, columns = minimum_spanning_tree(distances.numpy()).nonzero()
        assert spanning_tree(distances) == {(min(i, j), max(i, j)) for i, j in zip(rows, columns, strict=True)}
        tree = torch.randint(1, 4, (size, size)).fill_diagonal_(0)
        expected = [spearmanr(guess, true).correlation for guess, true in zip(distances, tree, strict=True)]
        assert _rank_correlations(distances, tree) == pytest.approx(expected)
    assert _rank_correlations(torch.zeros(3, 3), torch.tensor([[0, 1, 2], [1, 0, 1], [2, 1, 0]])) == [0, 0, 0]
    assert len(spanning_tree(torch.zeros(5, 5))) == 4


def test_scores_of_the_tree_itself(example) -> None:
    assert _scores([each.double() for each in example[1]], example[1], (5, 50)) == pytest.approx((1, 1))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda features, trees: (features, trees[:-1]), "distances must be 12 tensors.*got 11"),
        (lambda features, trees: (features, [*trees[:-1], trees[-1] + 1]), "distances of sentence 11 must be"),
        (lambda features, trees: (features, [*trees[:-1], trees[-1][:2, :2]]), "distances of sentence 11 must be"),
        (lambda features, trees: (features, [*trees[:-1], trees[-1].clone().triu()]), "distances of sentence 11"),
        (lambda features, trees: (features, [*trees[:-1], "tree"]), "distances of sentence 11 must be a tensor"),
        (lambda features, trees: (torch.randn(3, 5, 4), trees), "must be a list of tensors"),
        (lambda features, trees: ([*features[:-1], features[-1].long()], trees), "for sentence 11"),
        (lambda features, trees: ([*features[:-1], features[-1][:2]], trees), "the same number of layers"),
        (lambda features, trees: ([*features[:-1], features[-1] * torch.nan], trees), "those of layer 0 are not"),
    ],
)
def test_mistakes(example, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        structural_probe(*change(example[0][:12], example[1][:12]))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rank": 11}, "rank must be an integer from 1 to 10"),
        ({"folds": 13}, "at least as many as the 13 folds"),
        ({"epochs": 0}, "epochs must be"),
        ({"lengths": 5}, "lengths must be the shortest and the longest"),
        ({"lengths": (20, 30)}, "lengths must be those of at least one sentence"),
        ({"groups": [0] * 12}, "groups must be at least as many as the 5 folds"),
        ({"learning_rate": 0}, "learning_rate must be a positive number"),
    ],
)
def test_mistakes_in_options(example, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        structural_probe(example[0][:12], example[1][:12], **options)
