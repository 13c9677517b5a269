"""How is a BERT trained? The commands `pretrain`, `finetune` and `evaluate`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minibert.checkpoints import store
from minibert.cli.options import model_option
from minibert.show.tables import table

if TYPE_CHECKING:
    import torch

    from minibert import BertForMaskedLM, BertForPreTraining, BertTokenizer
    from minibert.training import Run

# As the package has them. They are repeated here because the modules that define them import PyTorch, and `--help` does
# without it; a test compares the two.
PRECISIONS = ("auto", "float32", "bfloat16")
PACKINGS = ("sentence-pairs", "full-sentences", "contiguous")
TASKS = ("classification", "regression", "tokens", "question-answering", "sentences")
PRETRAINING_RATE, FINETUNING_RATE, EPOCHS = 1e-4, 5e-5, 3
POWERS_OF_TWO = "powers-of-two"


class ShareOrFile(click.ParamType[Any]):
    """A number from 0 to 1, or the path of a file."""

    name = "share|file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return float(value)
        except ValueError:
            return value


class NamedColumn(click.ParamType[Any]):
    """NAME=COLUMN: what a column is called in a file."""

    name = "name=column"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name, equals, column = value.partition("=")
        if not name or not equals or not column:
            self.fail(f"must be like text=review, got {value!r}", param, ctx)
        return name, column


OUTPUT = click.option(
    "-o", "--output", "folder", required=True, type=click.Path(file_okay=False), help="The folder of the trained model."
)
DEVICE = click.option(
    "--device", default="cpu", show_default=True, help="Device to compute on: cpu, cuda, cuda:1, mps."
)
COLUMN = click.option(
    "--column",
    "columns",
    multiple=True,
    type=NamedColumn(),
    help="A column that has a different name: text=review. Repeat it for several.",
)
LENGTH = "Maximum number of tokens of an input."
RESUME = click.option("--resume", is_flag=True, help="Go on with the interrupted run in the folder, if there is one.")


def settings_options(learning_rate: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of `TrainingSettings` that both ways of training share."""
    options = (
        click.option("--batch-size", default=32, show_default=True, help="Inputs of a step."),
        click.option("--learning-rate", default=learning_rate, show_default=True, help="The highest one."),
        click.option("--warmup", default=0.1, show_default=True, help="Share of the steps in which the rate rises."),
        click.option("--weight-decay", default=0.01, show_default=True, help="Of matrices."),
        click.option("--accumulation", default=1, show_default=True, help="Parts of a step, to save memory."),
        click.option("--gradient-checkpointing", is_flag=True, help="Save memory, at a third more time."),
        click.option(
            "--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help="Of matrix products."
        ),
        click.option("--seed", default=0, show_default=True, help="Of every random choice."),
        click.option(
            "--evaluate-every", type=int, help="Steps between evaluations.  [default: ten in all, or an epoch]"
        ),
        click.option("--save-every", type=int, help="Steps between checkpoints.  [default: as evaluations]"),
        click.option("--log-every", default=10, show_default=True, help="Steps between lines of the log."),
        click.option("--keep", help=f"Steps after which to keep the model as well: 100,200 or {POWERS_OF_TWO}."),
        RESUME,
        DEVICE,
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@OUTPUT
@click.option("--model", help="A checkpoint to start from: its name, or the path of its folder.")
@click.option("--config", type=click.Path(dir_okay=False), help="A config.json: a new model of these sizes.")
@click.option("--layers", type=click.IntRange(1), help="Layers of a new model; with --hidden.")
@click.option("--hidden", type=click.IntRange(1), help="Hidden size of a new model.")
@click.option("--heads", type=click.IntRange(1), help="Heads of a new model.  [default: a 64th of --hidden]")
@click.option("--tokenizer", help=f"The checkpoint whose vocabulary a new model has.  [default: {store.DEFAULT}]")
@click.option("--steps", required=True, type=click.IntRange(1), help="Updates of the weights.")
@click.option("--length", default=128, show_default=True, help=LENGTH)
@click.option("--packing", type=click.Choice(PACKINGS), help="How text becomes inputs.  [default: full-sentences]")
@click.option("--whole-words", is_flag=True, help="Mask whole words.")
@click.option("--held-out", type=ShareOrFile(), default=0.01, show_default=True, help="Documents to score, or a file.")
@settings_options(PRETRAINING_RATE)
def pretrain(
    files: tuple[str, ...],
    folder: str,
    steps: int,
    length: int,
    packing: str | None,
    whole_words: bool,
    held_out: Any,
    resume: bool,
    device: str,
    **options: Any,
) -> None:
    """Train a BERT on plain text.

    A FILE has one sentence on each line, and a blank line between documents. The model learns to guess masked words;
    with --packing sentence-pairs, also whether one segment follows the other, as in the paper. Start from a checkpoint
    (--model), or anew (--config, or --layers and --hidden). After an interruption, repeat the command with --resume.

    \b
    Example:
      minibert pretrain corpus.txt -o out --layers 2 --hidden 128 --steps 1000
      minibert pretrain corpus.txt -o out --model google-bert/bert-base-uncased --steps 1000 --held-out test.txt
      torchrun --nproc-per-node 2 -m minibert pretrain corpus.txt -o out --layers 2 --hidden 128 --steps 1000
    """
    from minibert import training

    start = {name: options.pop(name) for name in ("model", "config", "layers", "hidden", "heads", "tokenizer")}
    settings = training.TrainingSettings(steps=steps, **_settings(options, steps))
    model, tokenizer = starting_model(start, packing == PACKINGS[0], length, settings.seed)
    run = training.pretrain(
        model.to(_device(device)),
        tokenizer,
        list(files),
        folder,
        settings,
        held_out=held_out,
        packing=packing,
        length=length,
        whole_words=whole_words,
        resume=resume,
    )
    _show(run)


def starting_model(
    start: dict[str, Any], pairs: bool, length: int, seed: int
) -> tuple[BertForMaskedLM | BertForPreTraining, BertTokenizer]:
    """The model that pretraining starts from, and its tokenizer, as the options say."""
    import torch

    from minibert import BertConfig, BertForMaskedLM, BertForPreTraining, BertTokenizer

    given = [f"--{name}" for name in ("model", "config", "layers") if start[name] is not None]
    if len(given) != 1 or (start["layers"] is None) != (start["hidden"] is None):
        got = " and ".join(f"--{name}" for name in start if start[name] is not None) or "none of them"
        raise click.UsageError(f"give either --model, or --config, or --layers and --hidden, got {got}")
    kind: type[BertForMaskedLM] | type[BertForPreTraining] = BertForPreTraining if pairs else BertForMaskedLM
    torch.manual_seed(seed)  # of the weights that are new
    if start["model"] is not None:
        _refuse(start, "--model", "heads", "tokenizer")
        found = store.resolve(start["model"])
        return kind.from_pretrained(found, dtype="float32"), BertTokenizer.from_pretrained(found)
    tokenizer = BertTokenizer.from_pretrained(start["tokenizer"] or store.DEFAULT)
    if start["config"] is not None:
        _refuse(start, "--config", "heads")
        return kind(BertConfig.from_json_file(start["config"])), tokenizer
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=start["layers"],
        hidden_size=start["hidden"],
        num_attention_heads=start["heads"] or max(1, start["hidden"] // 64),
        intermediate_size=4 * start["hidden"],
        max_position_embeddings=max(512, length),
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config), tokenizer


@click.command()
@click.argument("train", metavar="FILE")
@OUTPUT
@model_option
@click.option("--task", type=click.Choice(TASKS), default=TASKS[0], show_default=True, help="What is learned.")
@click.option("--held-out", type=ShareOrFile(), default=0.1, show_default=True, help="Examples to score, or a file.")
@click.option("--epochs", default=float(EPOCHS), show_default=True, help="How often each example is seen.")
@COLUMN
@click.option(
    "--label", "labels", multiple=True, help="A class. Repeat it for each, in order.  [default: all there are]"
)
@click.option("--length", type=int, help=LENGTH)
@click.option("--stride", type=int, help="Tokens between the starts of two windows; question answering only.")
@click.option("--frozen", is_flag=True, help="Train the head alone.")
@settings_options(FINETUNING_RATE)
def finetune(
    train: str,
    folder: str,
    name: str,
    task: str,
    held_out: Any,
    epochs: float,
    columns: tuple[tuple[str, str], ...],
    labels: tuple[str, ...],
    length: int | None,
    stride: int | None,
    frozen: bool,
    resume: bool,
    device: str,
    **options: Any,
) -> None:
    """Train a checkpoint on labelled examples.

    FILE is .csv, .tsv or .jsonl, and has the columns of the task:

    \b
      classification      text, label, and text_pair for pairs
      regression          the same, with numbers as labels
      tokens              words, labels
      question-answering  question, context, answer, answer_start
      sentences           anchor, positive, and negative if there are any

    A share of the examples is held out, or those of a second file. Rows with the same value in a column "group" stay on
    one side. After an interruption, repeat the command with --resume.

    \b
    Example:
      minibert finetune reviews.csv -o out
      minibert finetune train.csv -o out --held-out test.csv --column text=review --epochs 4
      minibert finetune pairs.jsonl -o out --task sentences
    """
    from minibert import training

    run = training.finetune(
        name,
        train,
        folder,
        task=task,
        held_out=held_out,
        epochs=epochs,
        columns=dict(columns),
        labels=labels or None,
        length=length,
        stride=stride,
        frozen=frozen,
        device=_device(device),
        resume=resume,
        **_settings(options, None),
    )
    _show(run)


@click.command()
@click.argument("name", metavar="MODEL")
@click.argument("data", metavar="FILE")
@COLUMN
@click.option("--length", type=int, help=LENGTH)
@click.option("--stride", type=int, help="Tokens between the starts of two windows; question answering only.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Inputs at a time.")
@DEVICE
def evaluate(
    name: str,
    data: str,
    columns: tuple[tuple[str, str], ...],
    length: int | None,
    stride: int | None,
    batch_size: int,
    device: str,
) -> None:
    """Score a fine-tuned model on labelled examples.

    MODEL is a name or a folder, and FILE is like those of 'minibert finetune'. The task is that of the model's head.

    \b
    Example:
      minibert evaluate out test.csv
    """
    from minibert import training

    scores = training.evaluate(
        name,
        data,
        columns=dict(columns),
        length=length,
        stride=stride,
        batch_size=batch_size,
        device=_device(device),
    )
    rows = [[score.replace("_", " "), f"{value:.4f}"] for score, value in scores.items()]
    click.echo(table([["score", "value"], *rows], right=(1,)))
    if training.missing_metrics():
        click.echo(f"Note: {training.missing_metrics()}", err=True)


def _settings(options: dict[str, Any], steps: int | None) -> dict[str, Any]:
    """The options as `TrainingSettings` takes them; those that are left out are not named."""
    from minibert.training import powers_of_two

    chosen = {name: value for name, value in options.items() if value is not None}
    keep = chosen.get("keep")
    if keep is not None:
        if keep == POWERS_OF_TWO and steps is None:
            raise click.UsageError(f"--keep must be a list of steps here, got {keep}: epochs decide how many there are")
        try:
            chosen["keep"] = powers_of_two(steps or 0) if keep == POWERS_OF_TWO else tuple(map(int, keep.split(",")))
        except ValueError:
            raise click.UsageError(f"--keep must be like 100,200 or {POWERS_OF_TWO}, got {keep!r}") from None
    return chosen


def _refuse(start: dict[str, Any], beside: str, *names: str) -> None:
    for name in names:
        if start[name] is not None:
            raise click.UsageError(f"--{name} must be left out beside {beside}, which says it")


def _device(name: str) -> torch.device:
    """The device, and of several processes on GPUs that of this one."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    try:
        device = torch.device(f"cuda:{rank}" if name == "cuda" and rank is not None else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise click.ClickException(f"cannot compute on {name!r}: {str(error).splitlines()[0]}") from None
    return device


def _show(run: Run) -> None:
    """Prints the table of a run; of several processes, the first does."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(f"{run}\n\n{Path(run.folder)} has the model, and the log in metrics.jsonl")
