"""Can a property be read off the vectors of a layer, and does that say something about the layer?

A probe is a small classifier of hidden states, trained for one layer at a time. What it gets right on words that it was
not trained on shows where a property is easy to read:

    features = word_features(model, tokenizer, sentences)       # sentences of words
    result = probe(features, tags)                              # a tag for each word
    result.accuracy, result.selectivity                         # (L + 1,) each

Accuracy alone misleads, so three things stand beside it. The majority: what always saying the commonest label gets
right. The control task (Hewitt and Liang 2019): each word type has a random label, the same wherever it occurs; a probe
that learns it memorises words, and selectivity, accuracy minus control accuracy, is what is left. And `untrained`, a
model of random weights, to be probed in the same way.

Every number is of held-out data. A group (a text, a word type, a lemma) is never on both sides of a split. Vectors are
standardised with the mean and deviation of the training side. scikit-learn fits the classifiers (the extra `probing`).

Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes"; Hewitt and Liang 2019,
"Designing and Interpreting Probes with Control Tasks", sections 2 and 3. `structure` probes trees, `mixture` mixes all
layers into one.
"""

import random
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from minibert.checks import as_integer, check_integer, check_one_of, shown
from minibert.errors import InputError
from minibert.interpret.features import MOST_SEED, WordFeatures
from minibert.interpret.folds import check_finite, check_groups, check_positive, scikit_learn, split, standard_error
from minibert.interpret.mixture import ScalarMix, mix_layers
from minibert.interpret.structure import StructuralProbe, structural_probe
from minibert.show.tables import table

KINDS = ("linear", "mlp", "structural")
STEPS = 1000  # of the optimiser, at most


@dataclass(frozen=True)
class Probe:
    """How well labels can be read off the vectors of each layer, on rows not trained on; K counts folds."""

    accuracy: Tensor  # (L + 1,) float64
    standard_error: Tensor  # (L + 1,), of the accuracy, from its spread over folds
    control_accuracy: Tensor | None  # (L + 1,), of the control task
    selectivity: Tensor | None  # (L + 1,), accuracy minus control accuracy
    selectivity_error: Tensor | None  # (L + 1,), its standard error
    majority: float  # the accuracy of always saying the commonest label of the training side
    by_fold: Tensor  # (K, L + 1) accuracies
    converged: Tensor  # (L + 1,): whether every fit, of labels and of controls, ended before its last step
    labels: list[Hashable]  # the classes
    rows: int
    kind: str
    mix: ScalarMix | None  # of all layers; None for one layer, for "mlp", or if not asked for

    def __str__(self) -> str:
        rows = [["layer", "accuracy", "±"]]
        if self.selectivity is not None:
            rows[0] += ["control", "selectivity", "±"]
        for layer in range(len(self.accuracy)):
            cells = [self.accuracy[layer], self.standard_error[layer]]
            if self.control_accuracy is not None and self.selectivity is not None:
                assert self.selectivity_error is not None
                cells += [self.control_accuracy[layer], self.selectivity[layer], self.selectivity_error[layer]]
            rows.append([str(layer), *(f"{each:.3f}" for each in cells)])
        head = f"{self.kind} probe of {len(self.labels)} labels, {self.rows:,} rows; majority {self.majority:.3f}"
        layers = ", ".join(str(layer) for layer, each in enumerate(self.converged.tolist()) if not each)
        end = f"\nnot converged after {STEPS:,} steps: layers {layers}" if layers else ""
        return f"{head}\n{table(rows, right=range(len(rows[0])))}{end}"

    def plot(self) -> Any:
        """A picture of the accuracies and the majority by layer."""
        from minibert.show.plots import plot_layers

        lines = {"accuracy": self.accuracy, "majority": torch.full_like(self.accuracy, self.majority)}
        if self.control_accuracy is not None:
            lines["control task"] = self.control_accuracy
        return plot_layers(lines, quantity="accuracy on held-out rows")


@overload
def probe(
    features: Any, labels: Any, *, kind: Literal["structural"], groups: Any = None, folds: int = 5, seed: int = 0
) -> StructuralProbe: ...
@overload
def probe(
    features: WordFeatures | Tensor,
    labels: Sequence[Any] | Tensor,
    *,
    kind: Literal["linear", "mlp"] = "linear",
    control: bool = True,
    groups: Sequence[Hashable] | Tensor | None = None,
    types: Sequence[Hashable] | Tensor | None = None,
    mix: bool = False,
    folds: int = 5,
    seed: int = 0,
    regularisation: float = 1.0,
    hidden_size: int = 64,
) -> Probe: ...
def probe(
    features: Any,
    labels: Any,
    *,
    kind: str = "linear",
    control: bool = True,
    groups: Any = None,
    types: Any = None,
    mix: bool = False,
    folds: int = 5,
    seed: int = 0,
    regularisation: float = 1.0,
    hidden_size: int = 64,
) -> Probe | StructuralProbe:
    """Trains a classifier of labels on the vectors of each layer, and tests it on rows that it was not trained on.

    Args:
        features: of `word_features`, or a tensor (L + 1, N, D), or (N, D) of one layer.
        labels: N strings or integers; for `word_features` also a list for each sentence.
        kind: "linear" (logistic regression), "mlp" (one hidden layer), or "structural", for which labels are distances
            in trees and all else is as `structural_probe` says; it has no control task.
        control: whether to train on the control task, too, on the same splits.
        groups: N; the rows of a group are on one side of every split. None means sentences for `word_features`, and
            otherwise no groups: then each fold has about the same share of each label.
        types: N, the word type of each row, which the control task gives its label; those of `word_features` are its
            words. With `groups` equal to `types`, control accuracy is at chance: nothing can be memorised.
        mix: whether to train a mix of all layers as well; only for "linear".
        folds, seed: of the cross-validation; the seed is also that of the control labels and the MLP's first weights.
        regularisation: half of it times the squared norm of the weights is added to the loss summed over rows (for
            "mlp": to that of each batch, as scikit-learn does). More of it makes a probe more selective.
        hidden_size: of the MLP.

    Raises:
        InputError: a different number of labels, groups or types; control without types; fewer groups than folds.
        MissingPackageError: scikit-learn is not installed.
    """
    if check_one_of("kind", kind, KINDS) == "structural":
        return structural_probe(features, labels, groups=groups, folds=folds, seed=seed)
    _check_options(control, mix, folds, seed, regularisation, hidden_size, kind)
    values = _check_values(features)  # (L + 1, N, D)
    count = values.shape[1]
    known = _check_labels(labels, features, count)
    if isinstance(features, WordFeatures):
        groups = features.sentences if groups is None else groups
        types = features.words if types is None else types
    if control and types is None:
        raise InputError("types must be given, the word of each row, for the control task: or pass control=False")
    groups = None if groups is None else check_groups("groups", groups, count)
    names, numbers = _numbered(known)
    splits = split(count, folds, seed, groups, known)
    classifier = _classifier(kind, seed, regularisation, hidden_size)
    by_fold, accuracy, converged = _cross_validated(classifier, values, numbers, splits)
    controls = None
    if control:
        random_labels = control_labels(check_groups("types", types, count), numbers, seed)
        controls = _cross_validated(classifier, values, random_labels, splits)
        converged = converged & controls[2]
    mixed = None
    if mix and kind == "linear" and len(values) > 1:
        mixed = mix_layers(values, torch.tensor(numbers), splits, len(names), regularisation)
    return Probe(
        accuracy=accuracy,
        standard_error=standard_error(by_fold),
        control_accuracy=controls[1] if controls else None,
        selectivity=accuracy - controls[1] if controls else None,
        selectivity_error=standard_error(by_fold - controls[0]) if controls else None,
        majority=_majority(numbers, splits),
        by_fold=by_fold,
        converged=converged,
        labels=names,
        rows=count,
        kind=kind,
        mix=mixed,
    )


def control_labels(types: Sequence[Hashable], labels: Sequence[int], seed: int) -> list[int]:
    """Returns a random label for each row, the same for all rows of a type, drawn as often as the labels occur."""
    generator = random.Random(seed)
    ordered = sorted(labels)
    distinct = sorted(set(types), key=repr)  # so that the order of the rows does not matter
    label_of = {each: generator.choice(ordered) for each in distinct}
    return [label_of[each] for each in types]


def _cross_validated(
    classifier: Any, values: Tensor, numbers: list[int], splits: Sequence[tuple[Any, Any]]
) -> tuple[Tensor, Tensor, Tensor]:
    """The accuracy of each fold (K, L + 1) and of all rows (L + 1,), and whether every fit converged (L + 1,)."""
    base, pipeline, scaler = (
        scikit_learn("base"),
        scikit_learn("pipeline"),
        scikit_learn("preprocessing").StandardScaler,
    )
    warning = scikit_learn("exceptions").ConvergenceWarning
    known = torch.tensor(numbers).numpy()
    right = torch.zeros(len(splits), len(values), dtype=torch.float64)
    converged = torch.ones(len(values), dtype=torch.bool)
    for layer, vectors in enumerate(values):
        rows = vectors.numpy()
        for fold, (train, test) in enumerate(splits):
            if len(set(known[train].tolist())) == 1:  # nothing to learn, and scikit-learn refuses it
                right[fold, layer] = (known[test] == known[train][0]).sum().item()
                continue
            fitted = pipeline.make_pipeline(scaler(), base.clone(classifier))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", warning)  # the result says so itself
                fitted.fit(rows[train], known[train])
            right[fold, layer] = (fitted.predict(rows[test]) == known[test]).sum().item()
            steps = fitted[-1].n_iter_
            converged[layer] &= bool(max(steps if hasattr(steps, "__len__") else [steps]) < STEPS)
    sizes = torch.tensor([len(test) for _, test in splits], dtype=torch.float64)
    return right / sizes[:, None], right.sum(dim=0) / sizes.sum(), converged


def _classifier(kind: str, seed: int, regularisation: float, hidden_size: int) -> Any:
    if kind == "linear":
        return scikit_learn("linear_model").LogisticRegression(C=1 / regularisation, max_iter=STEPS)
    network = scikit_learn("neural_network").MLPClassifier
    return network((hidden_size,), alpha=regularisation, max_iter=STEPS, random_state=seed)


def _majority(numbers: list[int], splits: Sequence[tuple[Any, Any]]) -> float:
    """The accuracy of the commonest label of the training side."""
    known = torch.tensor(numbers)
    right = 0
    for train, test in splits:
        commonest = known[torch.as_tensor(train)].bincount().argmax()
        right += int((known[torch.as_tensor(test)] == commonest).sum())
    return right / len(numbers)


def _numbered(labels: list[Hashable]) -> tuple[list[Hashable], list[int]]:
    """The classes in order, and the number of each row's."""
    names = sorted(set(labels), key=lambda each: (isinstance(each, str), each))  # integers first
    numbers = {name: number for number, name in enumerate(names)}
    return names, [numbers[each] for each in labels]


def _check_values(features: Any) -> Tensor:
    """The features as (L + 1, N, D) on the CPU, at least in float32, after validation."""
    values = features.values if isinstance(features, WordFeatures) else features
    if not isinstance(values, Tensor) or values.dim() not in (2, 3) or not values.is_floating_point():
        what = tuple(values.shape) if isinstance(values, Tensor) else shown(values)
        raise InputError(f"features must be of word_features, or a tensor (L + 1, N, D) or (N, D), got {what}")
    values = (values[None] if values.dim() == 2 else values).detach().cpu()
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    check_finite("features", values)
    return values


def _check_labels(labels: Any, features: Any, count: int) -> list[Hashable]:
    """One label for each row, of at least two classes; those of sentences are joined."""
    nested = isinstance(labels, Sequence) and bool(labels) and all(isinstance(each, list | tuple) for each in labels)
    if nested and isinstance(features, WordFeatures):
        sizes = torch.tensor(features.sentences).unique_consecutive(return_counts=True)[1].tolist()
        if [len(each) for each in labels] != sizes:
            raise InputError("labels must be one for each word of each sentence: a sentence has a different number")
        labels = [label for sentence in labels for label in sentence]
    known = check_groups("labels", labels, count)
    for index, each in enumerate(known):
        label = str(each) if isinstance(each, str) else as_integer(each)  # NumPy's become Python's
        if label is None:
            raise InputError(f"labels must be strings or integers, got {shown(each)}")
        known[index] = label
    if len(set(known)) < 2:
        raise InputError(f"labels must be of at least two classes, got {shown(known[0]) if known else 'none'}")
    return known


def _check_options(
    control: Any, mix: Any, folds: Any, seed: Any, regularisation: Any, hidden_size: Any, kind: str
) -> None:
    check_one_of("control", control, (True, False))
    check_one_of("mix", mix, (True, False))
    check_integer("folds", folds, 2)
    check_integer("seed", seed, 0, MOST_SEED)
    check_integer("hidden_size", hidden_size, 1)
    check_positive("regularisation", regularisation)
    if mix and kind != "linear":
        raise InputError(f"mix must be False for kind {kind!r}: the mix of layers is of a linear probe")
