"""What does fine-tuning gain on film reviews, beside simpler classifiers?

    python tests/benchmarks/snippets.py                  all of it: hours on two cores
    python tests/benchmarks/snippets.py --quick          a look: one seed, 2,000 sentences, one epoch
    python tests/benchmarks/snippets.py --only frozen    one of the classifiers

Sentences of film reviews (Pang and Lee 2005), rated by people (Hutto and Gilbert 2014): is the mean rating above 0 or
below? A fifth of the films is held out, so no film is on both sides. Each seed draws other films, the same ones for all
classifiers, and other random numbers for fine-tuning. What is chosen (the regularisation of a linear classifier; the
learning rate and the epochs of fine-tuning) is chosen on films of the training side, never on those held out.

Results are kept in a file, and what is in it is not computed again.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import real_data
import torch

from minibert import SentenceEncoder
from minibert.checkpoints import store
from minibert.show.tables import table
from minibert.training import finetune

Rows = list[dict[str, str]]

SEEDS = range(5)
RATES = (2e-5, 3e-5, 5e-5, 1e-4)  # the paper's (appendix A.3) are 2e-5 to 5e-5; a small model takes more
EPOCHS = (2, 3, 4)  # the paper's
REGULARISATIONS = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]


def divided(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """The sentences of most films, and those of the rest, a share of them."""
    films = sorted({row["group"] for row in rows})
    random.Random(seed).shuffle(films)
    held_out = set(films[: round(share * len(films))])
    return [row for row in rows if row["group"] not in held_out], [row for row in rows if row["group"] in held_out]


# Each returns the accuracy on held-out sentences, and what was chosen.


def bag_of_words(train: Rows, held_out: Rows, seed: int) -> tuple[float, str]:
    """Logistic regression on the TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    features = vectorizer.fit_transform([row["text"] for row in train])
    return linear(features, train, vectorizer.transform([row["text"] for row in held_out]), held_out)


def frozen(train: Rows, held_out: Rows, seed: int) -> tuple[float, str]:
    """Logistic regression on the sentence vectors of the checkpoint as it is."""
    encoder = SentenceEncoder.from_pretrained(store.DEFAULT)
    vectors = [encoder.encode([row["text"] for row in rows]).numpy() for rows in (train, held_out)]
    return linear(vectors[0], train, vectors[1], held_out)


def linear(features: object, train: Rows, scored: object, held_out: Rows) -> tuple[float, str]:
    """A linear classifier, with the regularisation that is best in five folds of the training films."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold

    search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": REGULARISATIONS}, cv=GroupKFold(5))
    search.fit(features, [row["label"] for row in train], groups=[row["group"] for row in train])
    return float(search.score(scored, [row["label"] for row in held_out])), f"C = {search.best_params_['C']:g}"


def tuned(train: Rows, held_out: Rows, seed: int, rate: float, epochs: int) -> float:
    """All weights trained: the accuracy after the last step."""
    with tempfile.TemporaryDirectory() as folder:
        run = finetune(
            store.DEFAULT,
            train,
            folder,
            held_out=held_out,
            epochs=epochs,
            learning_rate=rate,
            seed=seed,
            evaluate_every=10**9,
        )
        return run.values("held_out_accuracy")[1][-1]


class Results:
    """What was measured so far: a line of JSON for each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        self.found = {entry["name"]: entry for entry in map(json.loads, lines)}

    def measure(self, name: str, function: Callable[[], tuple[float, str]]) -> dict[str, object]:
        if name not in self.found:
            begin, used = time.perf_counter(), time.process_time()
            accuracy, chosen = function()
            seconds = {"seconds": time.perf_counter() - begin, "processor_seconds": time.process_time() - used}
            entry = {"name": name, "accuracy": accuracy, "chosen": chosen, **seconds}
            self.found[name] = {**entry, "threads": torch.get_num_threads()}
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(self.found[name]) + "\n")
            print(json.dumps(self.found[name]), flush=True)
        return self.found[name]


def best_settings(rows: Rows, results: Results, rates: tuple[float, ...], epochs: tuple[int, ...]) -> tuple[float, int]:
    """The learning rate and epochs of the highest accuracy, on films of the training side of the first seed.

    All rates are tried with the middle number of epochs, and then all epochs with the best rate.
    """
    train, chosen_on = divided(divided(rows, 0.2, 0)[0], 0.2, 0)

    def accuracy(rate: float, count: int) -> float:
        name = f"choice: learning rate {rate:g}, {count} epochs"
        entry = results.measure(name, lambda: (tuned(train, chosen_on, 0, rate, count), ""))
        return float(entry["accuracy"])

    middle = epochs[len(epochs) // 2]
    rate = max(rates, key=lambda each: accuracy(each, middle))
    return rate, max(epochs, key=lambda each: accuracy(rate, each))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 2,000 sentences, one epoch")
    parser.add_argument("--only", choices=("words", "frozen", "tuned"), action="append")
    parser.add_argument("--results", type=Path, default=Path("snippets.jsonl"), help="where results are kept")
    options = parser.parse_args()
    real_data.fetch("snippets")
    rows = real_data.read_snippets()
    seeds, rates, epochs = (range(1), RATES[-1:], (1,)) if options.quick else (SEEDS, RATES, EPOCHS)
    if options.quick:
        random.Random(0).shuffle(rows)
        rows = rows[:2000]
        options.results = Path(tempfile.mkdtemp()) / "quick.jsonl"
    results = Results(options.results)
    chosen = options.only or ["words", "frozen", "tuned"]
    positive = sum(row["label"] == "positive" for row in rows) / len(rows)
    films = len({row["group"] for row in rows})
    print(f"{len(rows):,} sentences of {films} films, {positive:.1%} positive; {torch.get_num_threads()} threads")
    measured: dict[str, list[dict[str, object]]] = {name: [] for name in chosen}
    rate, count = best_settings(rows, results, rates, epochs) if "tuned" in chosen else (0.0, 0)
    for seed in seeds:
        train, held_out = divided(rows, 0.2, seed)

        def tune(train: Rows, held_out: Rows, seed: int) -> tuple[float, str]:
            return tuned(train, held_out, seed, rate, count), f"learning rate {rate:g}, {count} epochs"

        functions = {"words": bag_of_words, "frozen": frozen, "tuned": tune}
        for name in chosen:
            function = functions[name]
            entry = results.measure(
                f"{name}, seed {seed}",
                lambda function=function, sides=(train, held_out), seed=seed: function(*sides, seed),
            )
            measured[name].append(entry)
    lines = [["classifier", "accuracy", "±", "processor minutes"]]
    for name, entries in measured.items():
        values = [float(entry["accuracy"]) for entry in entries]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        minutes = statistics.mean(float(entry["processor_seconds"]) for entry in entries) / 60
        lines.append([name, f"{statistics.mean(values):.3f}", f"{spread:.3f}", f"{minutes:.1f}"])
    print(table(lines, right=(1, 2, 3)))


if __name__ == "__main__":
    main()
