"""What is typed trains what the functions train, and what cannot be asked is refused."""

import csv
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from safetensors.torch import load_file
from support.command_line import run
from support.toy import reviews, toy_checkpoint, toy_config
from support.training import small_text, small_tokenizer

from minibert import BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel, BertTokenizer
from minibert.cli import training as commands
from minibert.heads import model_class
from minibert.training import TrainingSettings, evaluate, finetune, finetuning, powers_of_two, pretrain
from minibert.training.packing import PACKINGS
from minibert.training.precision import PRECISIONS

QUICK = ("--precision", "float32", "--batch-size", "4")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    small_tokenizer(tmp_path).save_pretrained(tmp_path / "words")
    return small_text(tmp_path / "text.txt")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_checkpoint(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    with (tmp_path / "reviews.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["review", "label"])
        writer.writeheader()
        writer.writerows({"review": row["text"], "label": row["label"]} for row in reviews(32))
    return tmp_path / "reviews.csv"


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def sizes(folder: Path) -> tuple[int, ...]:
    config = json.loads((folder / "config.json").read_text())
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    return tuple(config[name] for name in names)


# ---------------------------------------------------------------------------------------------------------- pretrain


def test_pretrain_trains_a_new_model_and_goes_on_with_it(text: Path, tmp_path: Path) -> None:
    new = ("--layers", "2", "--hidden", "16", "--heads", "2", "--tokenizer", str(tmp_path / "words"))
    options = (*new, "--length", "16", "--held-out", "0.2", "--steps", "4", *QUICK)
    done = run("pretrain", str(text), "-o", str(tmp_path / "out"), *options, "--keep", "powers-of-two")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].split()[:4] == ["step", "loss", "held", "out"]
    assert "step 4/4" in done.stderr
    assert sizes(tmp_path / "out") == (2, 16, 2, 64, 19)
    assert model_class(tmp_path / "out") is BertForMaskedLM
    kept = [folder.name for folder in sorted((tmp_path / "out" / "steps").iterdir())]
    assert kept == [f"{step:07}" for step in sorted({*powers_of_two(4)})]
    again = run("pretrain", str(text), "-o", str(tmp_path / "out"), *options, "--keep", "powers-of-two", "--resume")
    assert again.stdout == done.stdout
    refused = run("pretrain", str(text), "-o", str(tmp_path / "out"), *options)
    assert (refused.exit_code, "has a run, after step 4: resume it" in refused.stderr) == (1, True)


def test_pretrain_is_the_function_and_pairs_need_the_other_head(text: Path, tmp_path: Path) -> None:
    tokenizer = small_tokenizer(tmp_path)
    config = tmp_path / "config.json"
    torch.manual_seed(7)
    start = BertForPreTraining(toy_config(vocab_size=len(tokenizer)))
    config.write_text(json.dumps(start.config.to_dict()))
    other = small_text(tmp_path / "other.txt", seed=1)
    options = ("--config", str(config), "--tokenizer", str(tmp_path / "words"), "--seed", "7", "--length", "16")
    typed = ("--steps", "2", "--packing", "sentence-pairs", "--whole-words", "--held-out", str(other), *QUICK)
    done = run("pretrain", str(text), "-o", str(tmp_path / "typed"), *options, *typed)
    assert done.exit_code == 0, done.output
    settings = TrainingSettings(steps=2, batch_size=4, precision="float32", seed=7)
    named: dict[str, Any] = {"held_out": other, "packing": "sentence-pairs", "whole_words": True, "length": 16}
    pretrain(start, tokenizer, text, tmp_path / "called", settings, **named, show=False)
    assert same_weights(tmp_path / "typed", tmp_path / "called")


@pytest.mark.filterwarnings("always::minibert.errors.NewParametersWarning")  # the command shows it as a note
def test_pretrain_starts_from_a_checkpoint(toy: Path, text: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(toy, dtype="float16").save_pretrained(tmp_path / "half")
    BertTokenizer.from_pretrained(toy).save_pretrained(tmp_path / "half")
    half = str(tmp_path / "half")
    options = ("--model", half, "--steps", "1", "--warmup", "1", "--length", "16", "--held-out", "0.2", *QUICK)
    done = run("pretrain", str(text), "-o", str(tmp_path / "out"), *options)
    assert done.exit_code == 0, done.output
    assert "masked_lm" in done.stderr  # the head is new, and a note says so
    before, after = load_file(f"{half}/model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"  # a first step of warm-up changes nothing
    assert torch.equal(before[name].float(), after[f"bert.{name}"])  # and in float32


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "give either --model, or --config, or --layers and --hidden, got none of them"),
        (("--layers", "2"), "got --layers"),
        (("--hidden", "2"), "got --hidden"),
        (("--model", "x", "--layers", "2", "--hidden", "4"), "got --model and --layers and --hidden"),
        (("--model", "x", "--heads", "2"), "--heads must be left out beside --model"),
        (
            ("--layers", "2", "--hidden", "4", "--keep", "some"),
            "--keep must be like 100,200 or powers-of-two, got 'some'",
        ),
        (("--layers", "2", "--hidden", "4", "--batch-size", "0"), "batch_size must be a positive integer, got 0"),
        (("--layers", "2", "--hidden", "6", "--heads", "4"), "hidden_size must be divisible by num_attention_heads"),
        (("--layers", "2", "--hidden", "4", "--device", "moon"), "cannot compute on 'moon'"),
        (
            ("--layers", "2", "--hidden", "4", "--held-out", "2"),
            "held_out must be a number above 0 and at most 1, got 2",
        ),
        (("--layers", "2", "--hidden", "4", "--held-out", "no.txt"), "there is no file no.txt"),
    ],
)
def test_pretrain_refuses_what_it_cannot_do(options: tuple[str, ...], message: str, text: Path, tmp_path: Path) -> None:
    tokenizer = () if "--model" in options else ("--tokenizer", str(tmp_path / "words"))
    steps = ("--steps", "1", "--length", "16")
    done = run("pretrain", str(text), "-o", str(tmp_path / "out"), *steps, *(tokenizer if options else ()), *options)
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_two_processes_train_what_one_trains(text: Path, tmp_path: Path) -> None:
    """To rounding: each has a half of every batch, and dropout is off."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(toy_config(vocab_size=19).to_dict()))
    options = ["--config", str(config), "--tokenizer", str(tmp_path / "words"), "--length", "16", "--held-out", "0.2"]
    typed = ["pretrain", str(text), *options, "--steps", "3", *QUICK]
    one = run(*typed, "-o", str(tmp_path / "one"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    two = subprocess.run(
        [*torchrun, "-m", "minibert", *typed, "-o", str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (one.exit_code, two.returncode) == (0, 0), two.stderr
    assert len(two.stdout.splitlines()) == len(one.stdout.splitlines())  # of two processes, the first one prints
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(value, theirs[name], atol=1e-5) for name, value in ours.items())


# ------------------------------------------------------------------------------------------------- finetune, evaluate


def test_finetune_and_evaluate_are_the_functions(toy: Path, examples: Path, tmp_path: Path) -> None:
    options = ("--column", "text=review", "--epochs", "2", "--held-out", "0.25", "--learning-rate", "0.01")
    typed = ("--label", "good", "--label", "bad", "--seed", "3", "--frozen", "--keep", "1,3", *QUICK)
    done = run("finetune", str(examples), "-o", str(tmp_path / "typed"), "--model", str(toy), *options, *typed)
    assert done.exit_code == 0, done.output
    expected = finetune(
        toy,
        examples,
        tmp_path / "called",
        columns={"text": "review"},
        epochs=2,
        held_out=0.25,
        learning_rate=0.01,
        labels=["good", "bad"],
        seed=3,
        frozen=True,
        keep=(1, 3),
        precision="float32",
        batch_size=4,
        show=False,
    )
    assert same_weights(tmp_path / "typed", tmp_path / "called")
    assert done.stdout.startswith(f"{expected}\n")
    assert BertForSequenceClassification.from_pretrained(tmp_path / "typed").config.id2label == ("good", "bad")
    scores = run("evaluate", str(tmp_path / "typed"), str(examples), "--column", "text=review")
    rows = [line.split() for line in scores.stdout.splitlines()]
    found = evaluate(tmp_path / "typed", examples, columns={"text": "review"})
    assert rows == [["score", "value"], *([*name.split("_"), f"{value:.4f}"] for name, value in found.items())]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("finetune", "{examples}", "-o", "{out}"), "must have a column 'text', and has review, label"),
        (("finetune", "none.csv", "-o", "{out}"), "train cannot be read"),
        (("finetune", "{examples}", "-o", "{out}", "--column", "text"), "must be like text=review, got 'text'"),
        (("finetune", "{examples}", "-o", "{out}", "--keep", "powers-of-two"), "--keep must be a list of steps here"),
        (("finetune", "{examples}", "-o", "{out}", "--task", "word"), "'word' is not one of"),
        (("evaluate", "{toy}", "{examples}"), "and is a BertModel: fine-tune it first"),
        (("evaluate", "nowhere/at-all", "{examples}"), "nowhere/at-all"),
    ],
)
def test_finetune_and_evaluate_refuse_what_they_cannot_do(
    arguments: tuple[str, ...], message: str, toy: Path, examples: Path, tmp_path: Path
) -> None:
    named = {"examples": examples, "out": tmp_path / "out", "toy": toy}
    model = ("--model", str(toy)) if arguments[0] == "finetune" else ()
    done = run(*(each.format(**named) for each in arguments), *model)
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------- the defaults


def test_what_the_commands_repeat_is_what_the_package_has() -> None:
    assert commands.PRECISIONS == PRECISIONS
    assert commands.PACKINGS == PACKINGS
    assert tuple(finetuning.TASKS) == commands.TASKS
    assert (commands.FINETUNING_RATE, commands.EPOCHS) == (finetuning.LEARNING_RATE, finetuning.EPOCHS)
    settings = TrainingSettings(steps=1).to_dict() | {"keep": None}
    compared = set()
    for name, function in (("pretrain", pretrain), ("finetune", finetune), ("evaluate", evaluate)):
        parameters = inspect.signature(function).parameters
        command: click.Command = getattr(commands, name)
        for option in command.params:
            if not isinstance(option.default, int | float | str):
                continue  # it has none, and says what it means
            if option.name in ("learning_rate", "epochs", "device"):
                continue  # the rates are compared above; on a command line, a model is on the CPU
            expected = parameters[option.name].default if option.name in parameters else settings.get(option.name)
            assert option.default == (expected or option.default), (name, option.name)
            compared.add(option.name)
    assert compared >= {"batch_size", "length", "held_out", "task", "warmup", "weight_decay", "seed", "log_every"}
