"""How good are predictions?

scikit-learn computes the F1 of classes, and SciPy, which comes with it, the correlations (the extra `training`).
Without them, a run goes on, and its log lacks these numbers.
"""

import re
import string
import warnings
from collections import Counter
from typing import Any

from torch import Tensor


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Returns the share of predictions that are right."""
    return float((predicted == labels).double().mean())


def macro_f1(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Returns `macro_f1`, the mean over classes of the F1 of each, or {} without scikit-learn.

    A class counts if a label or a prediction has it. So a rare class weighs as much as a common one.
    """
    metrics = _optional("sklearn.metrics")
    if metrics is None:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of as many classes as it takes for regression
        score = metrics.f1_score(labels.numpy(), predicted.numpy(), average="macro", zero_division=0.0)
    return {"macro_f1": float(score)}


def correlations(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Returns `pearson` and `spearman`, the correlations of values and of ranks, or {} without SciPy.

    Where one side has a single value only, there is no correlation, and 0 stands for it.
    """
    stats = _optional("scipy.stats")
    if stats is None:
        return {}
    if len(labels) < 2 or (predicted == predicted[0]).all() or (labels == labels[0]).all():
        return {"pearson": 0.0, "spearman": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are nearly constant
        pair = (predicted.double().numpy(), labels.double().numpy())
        return {"pearson": float(stats.pearsonr(*pair)[0]), "spearman": float(stats.spearmanr(*pair)[0])}


def _optional(module: str) -> Any:
    """A module, or None if it is not installed."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def missing_metrics() -> str:
    """Returns a line that says which scores are left out, or "" if none is."""
    if _optional("sklearn.metrics") is not None and _optional("scipy.stats") is not None:
        return ""
    return "without scikit-learn, macro F1 and correlations are left out: pip install scikit-learn"


# --------------------------------------------------------------------------------------------- answers to questions

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized_answer(text: str) -> str:
    """Returns an answer as SQuAD compares it: lower case, without punctuation, articles and extra white space.

    Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1.
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(predicted: str, answer: str) -> float:
    """Returns 1 if two answers are the same once they are normalized, or 0."""
    return float(normalized_answer(predicted) == normalized_answer(answer))


def answer_f1(predicted: str, answer: str) -> float:
    """Returns the F1 of the words of an answer: the harmonic mean of precision and recall.

    If either is empty, it is 1 if both are, or 0.
    """
    ours, theirs = normalized_answer(predicted).split(), normalized_answer(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))
