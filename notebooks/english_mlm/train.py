"""How was the English model trained?

`python notebooks/english_mlm/train.py` starts from the default checkpoint, a sentence encoder of six layers, whose last
two layers and whose head are started anew: `starts.py` shows what each start is worth. Killed, the same command goes on
from the last checkpoint. The result is written to the store, as `minibert/english-mlm`.
"""

import json
import warnings
from pathlib import Path

import click
import torch
from text import text_folder

from minibert import BertForMaskedLM, BertTokenizer
from minibert.checkpoints import store
from minibert.errors import NewParametersWarning
from minibert.model import initialise
from minibert.training import TrainingSettings, powers_of_two, pretrain

NAME = "minibert/english-mlm"
CORPORA = ("wikipedia", "books", "speeches", "bible", "countries", "examples")
STEPS = 9600  # of 32 × 128 tokens: nearly twice through the text
NEW_LAYERS = 2
LENGTH = 128


def files(folder: Path, ending: str) -> list[Path]:
    """The text files that there are, for training (".txt") or held out (".held-out.txt")."""
    return [folder / f"{corpus}{ending}" for corpus in CORPORA if (folder / f"{corpus}{ending}").is_file()]


def start(new_layers: int = NEW_LAYERS) -> BertForMaskedLM:
    """The default checkpoint with a new head and new upper layers; without dropout, for no text is seen often."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NewParametersWarning)
        model = BertForMaskedLM.from_pretrained(
            store.DEFAULT, attention="eager", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
    layers = model.bert.encoder.layers
    for layer in layers[len(layers) - new_layers :]:
        initialise(layer, model.config.initializer_range)
    return model


def settings(steps: int = STEPS) -> TrainingSettings:
    """The paper's, but for a rate that is higher, as the model is smaller and its steps are fewer."""
    return TrainingSettings(
        steps=steps,
        batch_size=32,
        learning_rate=6e-4,
        warmup=0.06,
        log_every=50,
        evaluate_every=500,
        save_every=250,
        keep=powers_of_two(steps),
    )


def export(run: Path, target: Path) -> None:
    """Writes the trained model as float16, half the size; it is computed in float32, as its config says."""
    # With the dropout of BERT, for whoever trains it further.
    model = BertForMaskedLM.from_pretrained(run, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    model.half().save_pretrained(target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "dtype": "float32"}, indent=2, sort_keys=True)
    (target / "config.json").write_text(text + "\n", encoding="utf-8")
    BertTokenizer.from_pretrained(run).save_pretrained(target)


@click.command()
@click.option("--steps", default=STEPS, show_default=True, type=click.IntRange(1))
@click.option("--run", type=click.Path(path_type=Path), help="Folder for checkpoints.  [default: beside the text]")
def main(steps: int, run: Path | None) -> None:
    """Trains the English model and puts it into the store."""
    folder = text_folder()
    run = run or folder / "run"
    pretrain(
        start(),
        BertTokenizer.from_pretrained(store.DEFAULT),
        files(folder, ".txt"),
        run,
        settings(steps),
        held_out=files(folder, ".held-out.txt"),
        packing="contiguous",
        length=LENGTH,
        resume=True,
    )
    export(run, store.store_folder() / NAME)


if __name__ == "__main__":
    main()
