"""A probe finds what is there, on rows that it was not trained on, and no more than that."""

import sys
from pathlib import Path

import numpy as np
import pytest
import real_data
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from minibert import BertModel, BertTokenizer
from minibert.errors import InputError, MissingPackageError
from minibert.interpret.features import WordFeatures, untrained, word_features
from minibert.interpret.probing import control_labels, probe


def linear_in_layer(layer: int, layers: int = 4, rows: int = 400, size: int = 6) -> tuple[torch.Tensor, list[str]]:
    """Features of which one layer has the labels as the sign of a direction, with a gap around 0."""
    torch.manual_seed(0)
    values = torch.randn(layers, rows, size) * torch.tensor([1.0, 10, 0.1, 5, 1, 1]) + 3
    direction = torch.randn(size)
    sides = torch.randn(rows).sign()
    along = values[layer] @ direction / direction.square().sum()
    values[layer] += (sides * (1 + along.abs()) - along)[:, None] * direction
    return values, ["positive" if side > 0 else "negative" for side in sides]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_labels_that_are_linear_in_a_layer_are_found_there(layer: int, dtype: torch.dtype) -> None:
    values, labels = linear_in_layer(layer)
    found = probe(values.to(dtype), labels, control=False, regularisation=1e-4, mix=True)
    assert found.accuracy[layer] > (0.99 if dtype is torch.bfloat16 else 0.999)
    others = [each for each in range(4) if each != layer]
    assert (found.accuracy[others] - 0.5).abs().max() < 0.1
    assert found.mix is not None
    assert found.mix.weights[layer] > 0.8
    assert found.mix.accuracy > 0.98
    assert abs(found.mix.centre_of_gravity - layer) < 0.4
    assert found.converged.all()
    assert (found.selectivity, found.control_accuracy) == (None, None)


def test_an_mlp_finds_what_a_linear_probe_cannot() -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 400, 3)
    labels = (values[1, :, 0] * values[1, :, 1] > 0).long()
    linear = probe(values, labels, control=False)
    mlp = probe(values, labels, kind="mlp", control=False, regularisation=1e-3, hidden_size=16, folds=3)
    assert linear.accuracy.max() < 0.6
    assert mlp.accuracy[1] > 0.9
    assert mlp.accuracy[0] < 0.6
    assert torch.equal(
        mlp.accuracy,
        probe(values, labels, kind="mlp", control=False, regularisation=1e-3, hidden_size=16, folds=3).accuracy,
    )


def typed(rows: int = 600, types: int = 30) -> tuple[torch.Tensor, list[int], list[str]]:
    """Features that know the type of each row, and labels that have nothing to do with it."""
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(types, (rows,), generator=generator)
    vectors = torch.randn(types, 40, generator=generator)[which] + 0.1 * torch.randn(rows, 40, generator=generator)
    labels = torch.randint(3, (rows,), generator=generator).tolist()
    return vectors[None], labels, [f"word {each}" for each in which.tolist()]


def test_control_labels_are_memorised_and_at_chance_on_new_types() -> None:
    values, labels, types = typed()
    seen = probe(values, labels, types=types)
    assert seen.control_accuracy is not None
    assert seen.control_accuracy.item() > 0.99  # every type is on both sides
    assert seen.selectivity is not None
    assert seen.selectivity.item() < -0.5  # the labels themselves are random
    new = [probe(values, labels, types=types, groups=types, seed=seed).control_accuracy for seed in range(8)]
    assert abs(torch.stack(new).mean().item() - 1 / 3) < 0.1


def test_control_labels_are_one_for_each_type_and_as_often_as_labels() -> None:
    types = [f"word {each % 500}" for each in range(2000)]
    found = control_labels(types, [0] * 1500 + [1] * 500, 0)
    assert len(set(zip(types, found, strict=True))) == 500
    assert 0.7 < np.mean([each == 0 for each in found]) < 0.8
    assert found == control_labels(types, [1] * 500 + [0] * 1500, 0)
    assert found != control_labels(types, [0] * 1500 + [1] * 500, 1)
    backwards = control_labels(types[::-1], [0] * 1500 + [1] * 500, 0)
    assert backwards[::-1] == found


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_group_is_never_on_both_sides(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    values, labels, groups = typed(120, 7)
    numbers = [int(each.split()[1]) for each in groups]
    values[0, :, 0] = torch.tensor(numbers)  # the first feature says of which group a row is
    sides: list[tuple[str, set[int]]] = []
    fit, transform = StandardScaler.fit, StandardScaler.transform

    def spied_fit(self, rows, *arguments):
        sides.append(("train", set(rows[:, 0].round().astype(int).tolist())))
        return fit(self, rows, *arguments)

    def spied_transform(self, rows, *arguments):
        sides.append(("any", set(rows[:, 0].round().astype(int).tolist())))
        return transform(self, rows, *arguments)

    monkeypatch.setattr(StandardScaler, "fit", spied_fit)
    monkeypatch.setattr(StandardScaler, "transform", spied_transform)
    probe(values, labels, kind=kind, groups=groups, types=groups, folds=3, hidden_size=4)
    assert len(sides) == 3 * 2 * 3  # folds, task and control: fit, transform what trains, transform what tests
    tested: set[int] = set()
    for (_, trained), (_, same), (_, held_out) in zip(sides[::3], sides[1::3], sides[2::3], strict=True):
        assert trained == same
        assert not trained & held_out
        assert trained | held_out == set(numbers)
        tested |= held_out
    assert tested == set(numbers)


def test_accuracy_is_that_of_a_classifier_fitted_by_hand() -> None:
    torch.manual_seed(0)
    values, labels = torch.randn(90, 5).double(), torch.randint(3, (90,)).tolist()
    values[:, 0] += torch.tensor(labels)
    groups = [each // 10 for each in range(90)]
    found = probe(values, labels, groups=groups, folds=3, control=False, regularisation=2.0)
    right = []
    order: list[list[int]] = [[], [], []]
    for group in range(9):  # GroupKFold fills the smallest fold first; equal ones in the order of the groups' numbers
        order[min(range(3), key=lambda fold: len(order[fold]))].append(8 - group)
    for held_out in order:
        test = torch.tensor([each in held_out for each in groups])
        rows, known = values.numpy(), np.array(labels)
        mean, deviation = rows[~test].mean(axis=0), rows[~test].std(axis=0)
        fitted = LogisticRegression(C=0.5, max_iter=1000).fit((rows[~test] - mean) / deviation, known[~test])
        right.append((fitted.predict((rows[test] - mean) / deviation) == known[test]).mean())
    assert sorted(found.by_fold[:, 0].tolist()) == pytest.approx(sorted(right))
    assert found.accuracy.item() == pytest.approx(np.mean(right))
    assert found.standard_error.item() == pytest.approx(np.std(right, ddof=1) / 3**0.5)


def test_the_majority_is_that_of_always_saying_the_commonest_label() -> None:
    found = probe(torch.randn(100, 2), ["a"] * 70 + ["b"] * 30, control=False)
    assert found.majority == pytest.approx(0.7)
    same = probe(torch.randn(100, 2), np.array([0] * 70 + [1] * 30), control=False)
    assert (same.majority, same.labels) == (found.majority, [0, 1])
    assert (found.labels, found.rows, found.by_fold.shape) == (["a", "b"], 100, (5, 1))


def test_a_rare_label_and_a_side_with_one_label_are_no_obstacle() -> None:
    torch.manual_seed(0)
    rare = probe(torch.randn(50, 2), ["a"] * 30 + ["b"] * 19 + ["c"], control=False)
    assert rare.labels == ["a", "b", "c"]
    one_sided = probe(torch.randn(40, 2), [0] * 20 + [1] * 20, groups=[0] * 20 + [1] * 20, folds=2, control=False)
    assert one_sided.accuracy.item() == 0


def test_is_the_same_under_no_grad_and_inference_mode() -> None:
    values, labels = linear_in_layer(1, rows=60)
    expected = probe(values, labels, control=False, mix=True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = probe(values * 1, labels, control=False, mix=True)
        assert torch.equal(found.mix.weights, expected.mix.weights)
        assert torch.equal(found.accuracy, expected.accuracy)


def test_prints_and_draws_itself() -> None:
    values, labels, types = typed(100)
    found = probe(torch.cat([values, values]), labels, types=types, mix=True)
    text = str(found)
    assert text.splitlines()[1].split() == ["layer", "accuracy", "±", "control", "selectivity", "±"]
    assert len(text.splitlines()) == 4
    assert str(found.mix).splitlines()[-1].startswith("centre of gravity")
    for each in (found, found.mix):
        assert each.plot().axes
    assert "control" not in str(probe(values, labels, control=False))


def test_that_a_fit_did_not_converge_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibert.interpret.probing.STEPS", 2)
    values, labels, types = typed(100)
    found = probe(values, labels, types=types)
    assert not found.converged.any()
    assert str(found).endswith("not converged after 2 steps: layers 0")


def features(words: int = 3) -> WordFeatures:
    return WordFeatures(torch.randn(2, 4 * words, 5), ["a", "b", "c", "d"] * words, sorted([0, 1, 2, 3] * words))


def test_features_of_words_know_their_types_and_sentences() -> None:
    torch.manual_seed(0)
    known, labels = features(), [["x", "y", "x"], ["y", "y", "x"], ["x", "x", "y"], ["y", "x", "y"]]
    flat = [label for sentence in labels for label in sentence]
    expected = probe(known.values, flat, groups=known.sentences, types=known.words, folds=2)
    for given in (labels, flat):
        found = probe(known, given, folds=2)
        assert torch.equal(found.by_fold, expected.by_fold)
        assert torch.equal(found.control_accuracy, expected.control_accuracy)
    with pytest.raises(InputError, match="a sentence has a different number"):
        probe(known, [["x", "y"], *labels[1:]])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "lineer"}, "kind must be one of linear, mlp, structural.*did you mean linear"),
        ({"control": True}, "types must be given"),
        ({"control": True, "types": ["a"]}, "types must be a list of 12, one for each row, got 1"),
        ({"labels": [0, 1]}, "labels must be a list of 12, one for each row, got 2"),
        ({"labels": [0] * 12}, "at least two classes"),
        ({"labels": [0.5] * 12}, "must be strings or integers"),
        ({"labels": [True, False] * 6}, "must be strings or integers"),
        ({"labels": "abcdefghijkl"}, "labels must be a list of 12"),
        ({"labels": list(range(12))}, "one that occurs 5 times"),
        ({"groups": [0] * 6 + [1] * 6}, "at least as many as the 5 folds, got 2 different"),
        ({"groups": [[0]] * 12}, "must be strings or integers"),
        ({"features": [1, 2]}, "must be of word_features, or a tensor"),
        ({"features": torch.ones(12, 3).long()}, "must be of word_features, or a tensor"),
        ({"features": torch.full((2, 12, 3), torch.nan)}, "those of layer 0 are not"),
        ({"features": torch.randn(12, 3).double() * 1e200}, "of at most 1e\\+100, and those of layer 0 are not"),
        ({"features": torch.randn(12, 0)}, "features must not be empty"),
        ({"folds": 1}, "folds must be an integer of at least 2"),
        ({"seed": -1}, "seed must be"),
        ({"regularisation": 0}, "regularisation must be a positive number"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer"),
        ({"kind": "mlp", "mix": True}, "mix must be False"),
        ({"control": 1.5}, "control must be one of"),
    ],
)
def test_mistakes(changes: dict[str, object], message: str) -> None:
    given = {"features": torch.randn(2, 12, 3), "labels": ["a", "b"] * 6, "control": False, **changes}
    with pytest.raises(InputError, match=message):
        probe(given.pop("features"), given.pop("labels"), **given)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(MissingPackageError, match="pip install scikit-learn"):
        probe(torch.randn(12, 3), ["a", "b"] * 6, control=False)


def test_parts_of_speech_in_minilm_and_in_an_untrained_bert(data, checkpoint: Path, tokenizer: BertTokenizer) -> None:
    """Part-of-speech tags of the Brown corpus: best in an early layer, all far above an untrained model."""
    data("brown")
    sentences, tags, texts = real_data.read_brown(texts=10, sentences=5)
    model = BertModel.from_pretrained(checkpoint)
    trained, fresh = (word_features(each, tokenizer, sentences) for each in (model, untrained(model)))
    groups = [texts[number] for number in trained.sentences]  # a text is on one side
    chosen = [0, 2, 6]
    results = []
    for each in (trained, fresh):
        some = WordFeatures(each.values[chosen], each.words, each.sentences)
        results.append(probe(some, tags, groups=groups, folds=2, regularisation=10.0))
    found, baseline = results
    assert (found.accuracy > found.majority + 0.3).all()
    assert found.accuracy[1] > 0.85
    assert found.accuracy.argmax() == 1
    assert (found.accuracy > baseline.accuracy).all()
    assert (found.selectivity > baseline.selectivity).all()
    assert (baseline.selectivity.diff().abs() < 0.1).all()  # nothing is gained from layer to layer
