"""A checkpoint is fine-tuned from start to end: it learns, it can be loaded anywhere; what does not fit is refused."""

import csv
import itertools
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from support.toy import BAD, GOOD, NOUNS, reviews, toy_checkpoint, toy_config, toy_tokenizer

import minibert
from minibert import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
    SentenceEncoder,
)
from minibert.errors import NewParametersWarning, TrainingError
from minibert.training import TrainingSettings, evaluate, finetune
from minibert.training import loop as training_loop
from minibert.training.classification import Classification
from minibert.training.question_answering import QuestionAnswering
from minibert.training.records import read_records
from minibert.training.splits import split

QUICK = {"batch_size": 16, "learning_rate": 1e-2, "precision": "float32", "show": False, "save_every": 10**6}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_checkpoint(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def classifier(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier that has learned the reviews, trained from files."""
    folder = tmp_path_factory.mktemp("classifier")
    rows = reviews(96)
    for name, part in (("train.csv", rows[:80]), ("held_out.csv", rows[80:])):
        with (folder / name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["review", "label"])
            writer.writeheader()
            writer.writerows({"review": row["text"], "label": row["label"]} for row in part)
    options = {"held_out": folder / "held_out.csv", "columns": {"text": "review"}, "epochs": 12}
    finetune(toy, folder / "train.csv", folder / "out", **options, **QUICK)
    return folder / "out"


def scored_words() -> list[dict[str, Any]]:
    """A label for each word, which the word decides."""
    kinds = {**dict.fromkeys(NOUNS, "noun"), **dict.fromkeys(GOOD, "good"), **dict.fromkeys(BAD, "bad")}
    words = [row["text"].split() for row in reviews(96)]
    return [{"words": each, "labels": [kinds[word] for word in each]} for each in words]


def asked_words() -> list[dict[str, Any]]:
    """The answer is the adjective, wherever it is."""
    rows = []
    for row in reviews(96):
        context = f"{row['text']} {' '.join(random.Random(str(row)).choices(NOUNS, k=30))}"
        answer = next(word for word in context.split() if word in GOOD + BAD)
        rows.append(
            {"question": "what is it?", "context": context, "answer": answer, "answer_start": context.index(answer)}
        )
    return rows


def paired_words() -> list[dict[str, Any]]:
    """Three nouns belong to the three letters that stand for them."""
    rows = []
    for chosen in itertools.combinations(range(len(NOUNS)), 3):
        nouns, letters = [NOUNS[index] for index in chosen], ["abcdefgh"[index] for index in chosen]
        rows.append({"anchor": " ".join(nouns), "positive": " ".join(reversed(letters))})
    random.Random(0).shuffle(rows)
    return rows


def numbers() -> list[dict[str, Any]]:
    return [{"text": row["text"], "label": str(2.5 if row["label"] == "good" else -1)} for row in reviews(96)]


# ----------------------------------------------------------------------------------------------------------- learning

# By task: the examples, the score that shows that it was learned, and what it must be at least.
LEARNED = {
    "classification": (lambda: reviews(96), "accuracy", 0.99),
    "regression": (numbers, "spearman", 0.8),
    "tokens": (scored_words, "accuracy", 0.99),
    "question-answering": (asked_words, "exact_match", 0.9),
}


@pytest.mark.parametrize("task", LEARNED)
def test_a_tiny_bert_learns_the_task_and_its_folder_says_the_same(task: str, toy: Path, tmp_path: Path) -> None:
    make, name, least = LEARNED[task]
    rows = make()
    options = {"task": task, "held_out": rows[80:], "epochs": 16}
    if task == "question-answering":
        options |= {"length": 32, "stride": 12}
    run = finetune(toy, rows[:80], tmp_path, **options, **QUICK)
    steps, values = run.values(f"held_out_{name}")
    assert values[0] < least - 0.2
    assert values[-1] >= least
    assert len(steps) == 17  # before the first epoch, and after each
    again = evaluate(tmp_path, rows[80:], **({"length": 32, "stride": 12} if "length" in options else {}))
    assert {f"held_out_{key}": pytest.approx(value, abs=1e-5) for key, value in again.items()} == {
        key: value for key, value in run.entries[-1].items() if key.startswith("held_out")
    }


def test_a_sentence_encoder_learns_what_belongs_together(toy: Path, tmp_path: Path) -> None:
    rows = paired_words()
    options = {**QUICK, "batch_size": 8, "held_out": rows[44:], "epochs": 25, "evaluate_every": 1000}
    run = finetune(toy, rows[:44], tmp_path, task="sentences", **options)
    scores = evaluate(tmp_path, rows[44:], batch_size=8)
    for name, (before, after) in {name: run.values(f"held_out_{name}")[1] for name in scores}.items():
        assert scores[name] == pytest.approx(after, abs=1e-4)
        assert after < before / 2 if name == "loss" else after > before + 0.3


def test_a_sentence_encoder_comes_out_whole(toy: Path, tmp_path: Path) -> None:
    rows = paired_words()
    encoder = SentenceEncoder.from_pretrained(toy, pooling=["cls", "max"])
    finetune(encoder, rows, tmp_path, task="sentences", held_out=0.3, epochs=1, **QUICK)
    texts = [row["anchor"] for row in rows]
    loaded = SentenceEncoder.from_pretrained(tmp_path)
    assert loaded.recipe.pooling == ("cls", "max")
    assert torch.allclose(loaded.encode(texts), encoder.encode(texts), atol=1e-6)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert torch.allclose(loaded.encode(texts), theirs.encode(texts, convert_to_tensor=True), atol=1e-5)


# -------------------------------------------------------------------------------------------- through transformers


def aligned(model: torch.nn.Module) -> torch.nn.Module:
    """Moves each parameter to memory of its own: a product rounds by where a matrix lies."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


HEADS = {
    "classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "question-answering": "BertForQuestionAnswering",
}


@pytest.mark.parametrize("task", HEADS)
def test_a_fine_tuned_checkpoint_goes_through_transformers_and_back_bit_for_bit(
    task: str, toy: Path, tmp_path: Path
) -> None:
    rows = LEARNED[task][0]()[:32]
    finetune(toy, rows, tmp_path / "ours", task=task, held_out=0.25, epochs=1, **QUICK)
    kind = HEADS[task]
    theirs, info = getattr(transformers, kind).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    inputs = BertTokenizer.from_pretrained(tmp_path / "ours")(["the great plot", "a film is 7"])
    results = []
    for model in (
        getattr(minibert, kind).from_pretrained(tmp_path / "ours"),
        theirs,
        getattr(minibert, kind).from_pretrained(tmp_path / "theirs"),
    ):
        with torch.inference_mode():
            out = aligned(model)(**inputs)
        results.append(torch.stack([out.start_logits, out.end_logits]) if "Question" in kind else out.logits)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    fields = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert fields["architectures"] == [kind]
    names = {"classification": ["bad", "good"], "tokens": ["bad", "good", "noun"], "regression": ["score"]}
    if task in names:
        assert list(theirs.config.id2label.values()) == names[task]
    assert evaluate(tmp_path / "theirs", rows) == pytest.approx(evaluate(tmp_path / "ours", rows), abs=1e-6)


# --------------------------------------------------------------------------------------------------- killed and frozen


def interrupt(patch: pytest.MonkeyPatch, step: int) -> None:
    """The run ends before this step, counted from 0."""
    learning_rate = training_loop.optimizers.learning_rate

    def killed(now: int, **named: Any) -> float:
        if now == step:
            raise KeyboardInterrupt
        return learning_rate(now, **named)

    patch.setattr(training_loop.optimizers, "learning_rate", killed)


@pytest.mark.parametrize(
    "task, changes",
    [
        *((task, {}) for task in LEARNED),
        ("classification", {"frozen": True}),
        ("tokens", {"accumulation": 4}),
        ("question-answering", {"gradient_checkpointing": True}),
        ("sentences", {}),
    ],
)
def test_an_interrupted_run_ends_in_the_same_bits(
    task: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, so that the random state counts."""
    start = tmp_path / "start"
    torch.manual_seed(0)
    BertModel(toy_config(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)).save_pretrained(start)
    toy_tokenizer().save_pretrained(start)
    rows = paired_words() if task == "sentences" else LEARNED[task][0]()[:40]
    options = {"task": task, "held_out": 0.2, "epochs": 3, **QUICK, "save_every": 1, **changes}
    finetune(start, rows, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            finetune(start, rows, tmp_path / "halves", **options)
    finetune(start, rows, tmp_path / "halves", resume=True, **options)
    for file in ("model.safetensors", "training/state.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "halves" / file).read_bytes()


def test_a_run_goes_on_only_as_it_began(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = reviews(40)
    options = {"held_out": 0.2, "epochs": 3, **QUICK, "save_every": 1}
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            finetune(toy, rows, tmp_path / "out", **options)
    with pytest.raises(TrainingError, match="has a run, after step 4: resume it"):
        finetune(toy, rows, tmp_path / "out", **options)
    with pytest.raises(TrainingError, match="was started with train"):
        finetune(toy, [*rows[:-1], {"text": "new", "label": "good"}], tmp_path / "out", resume=True, **options)
    model = minibert.BertForSequenceClassification(toy_config(id2label=("bad", "good"))).double()
    with pytest.raises(TrainingError, match=r"was started with dtype 'torch.float32', and now it is 'torch.float64'"):
        finetune(model, rows, tmp_path / "out", tokenizer=toy_tokenizer(), resume=True, **options)


def test_questions_about_one_context_stay_on_one_side() -> None:
    rows = [
        {"question": f"what is {n}?", "context": f"film {n % 8}", "answer": "film", "answer_start": 0}
        for n in range(40)
    ]
    train, held_out = split(read_records(rows, "train", QuestionAnswering.layouts), 0.2, 0, QuestionAnswering.source)
    assert {row.text("context") for row in train.rows}.isdisjoint(row.text("context") for row in held_out.rows)
    assert len(held_out) == 5


def test_a_class_whose_only_example_is_held_out_is_named(toy: Path, tmp_path: Path) -> None:
    rows = [*reviews(40), {"text": "rare film", "label": "rare"}]
    for seed in range(40):  # until the split holds it out
        _, held_out = split(read_records(rows, "train", Classification.layouts), 0.1, seed, Classification.source)
        if any(row.values["label"] == "rare" for row in held_out.rows):
            break
    with pytest.raises(TrainingError, match="each label must have an example in train, and 'rare' has none"):
        finetune(toy, rows, tmp_path / "out", held_out=0.1, epochs=1, **{**QUICK, "seed": seed})


def test_a_single_pair_is_not_scored(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="must be at least two pairs, got 1"):
        evaluate(SentenceEncoder.from_pretrained(toy), paired_words()[:1])


@pytest.mark.parametrize("task", HEADS)
def test_a_step_in_parts_is_the_same_step(task: str, toy: Path, tmp_path: Path) -> None:
    """In float64, where what is left is rounding; the parts have different numbers of words."""
    rows = [*LEARNED[task][0]()[:18], *({"words": ["film"], "labels": ["noun"]} for _ in range(2))]
    rows = rows if task == "tokens" else rows[:18]
    weights = []
    for parts in (1, 4):
        torch.manual_seed(0)
        names = {"classification": ("bad", "good"), "regression": ("score",), "tokens": ("bad", "good", "noun")}
        model = getattr(minibert, HEADS[task])(toy_config(id2label=names.get(task, ("start", "end")))).double()
        options = {"tokenizer": toy_tokenizer(), "task": task, "held_out": 0.1, "epochs": 1, "accumulation": parts}
        finetune(model, rows, tmp_path / str(parts), **options, **{**QUICK, "batch_size": 8})
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(*weights, rtol=0, atol=1e-9)


def test_a_frozen_encoder_keeps_every_bit_and_has_no_dropout(toy: Path, tmp_path: Path) -> None:
    model = BertForSequenceClassification(
        toy_config(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5, classifier_dropout=0.0)
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = []
    model.bert.encoder.register_forward_hook(lambda module, *_: modes.append(module.layers[0].training))
    options = {"tokenizer": toy_tokenizer(), "held_out": 0.25, "epochs": 2, "frozen": True}
    run = finetune(model, reviews(32), tmp_path, **options, **QUICK)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith(("bert.pooler", "classifier"))}
    assert not any(modes)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert run.values("loss")[1][0] > 0


# ------------------------------------------------------------------------------------------------- classes and heads


def test_a_new_head_starts_without_a_warning_and_the_seed_decides_it(toy: Path, tmp_path: Path) -> None:
    heads = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            options = {**QUICK, "learning_rate": 1e-30, "seed": seed}
            finetune(toy, reviews(32), tmp_path / name, held_out=reviews(40)[32:], epochs=1, **options)
        heads.append(BertForSequenceClassification.from_pretrained(tmp_path / name).classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("task", HEADS)
def test_a_new_head_is_put_on_the_checkpoints_own_bert(task: str, toy: Path, tmp_path: Path) -> None:
    settings = TrainingSettings(steps=1, warmup=1.0, batch_size=4, precision="float32")  # the first rate is 0
    finetune(toy, LEARNED[task][0]()[:24], tmp_path, task=task, held_out=0.2, settings=settings, show=False)
    before, after = load_file(toy / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in before.items() if f"bert.{name}" in after}
    assert len(kept) >= len(before) - 2  # the pooler, which labels of words and answers have no use for
    assert all(torch.equal(value, after[f"bert.{name}"]) for name, value in kept.items())


def test_training_goes_on_from_a_head_of_the_same_classes_in_its_own_order(classifier: Path, tmp_path: Path) -> None:
    config = json.loads((classifier / "config.json").read_text())
    rows = reviews(96)
    assert config["id2label"] == {"0": "bad", "1": "good"}
    run = finetune(classifier, rows[:80], tmp_path / "more", held_out=rows[80:], epochs=1, **QUICK)
    assert run.values("held_out_accuracy")[1][0] == 1.0  # before the first step
    other = [{**row, "label": {"good": "positive", "bad": "negative"}[row["label"]]} for row in rows]
    slow = {**QUICK, "learning_rate": 1e-30}
    with pytest.warns(NewParametersWarning, match=r"the head of out was trained for bad, good, and is replaced by"):
        finetune(classifier, other[:80], tmp_path / "other", held_out=other[80:], epochs=1, **slow)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "other")
    assert loaded.config.id2label == ("negative", "positive")
    before = BertForSequenceClassification.from_pretrained(classifier)
    assert torch.equal(loaded.bert.pooler.dense.weight, before.bert.pooler.dense.weight)
    assert not torch.allclose(loaded.classifier.weight, before.classifier.weight, atol=0.1)  # the head is new
    # An order that is asked for is kept, so the head is new.
    options = {"held_out": rows[80:], "labels": ["good", "bad"], "epochs": 0.1}
    with pytest.warns(NewParametersWarning, match="is replaced by a new one for good, bad"):
        finetune(classifier, rows[:80], tmp_path / "order", **options, **QUICK)
    assert BertForSequenceClassification.from_pretrained(tmp_path / "order").config.id2label == ("good", "bad")


def test_a_head_of_another_number_of_classes_is_replaced(classifier: Path, tmp_path: Path) -> None:
    rows = [{**row, "label": index % 3} for index, row in enumerate(reviews(30))]
    with pytest.warns(NewParametersWarning, match=r"the head of out was trained for bad, good, and is replaced by"):
        finetune(classifier, rows, tmp_path, held_out=0.2, epochs=1, **QUICK)
    assert BertForSequenceClassification.from_pretrained(tmp_path).config.id2label == ("0", "1", "2")


def test_classes_of_a_model_without_names_are_named(tmp_path: Path) -> None:
    model = BertForTokenClassification(toy_config(num_labels=3))
    options = {"tokenizer": toy_tokenizer(), "task": "tokens", "held_out": 0.2, "epochs": 1}
    finetune(model, scored_words()[:32], tmp_path, **options, **QUICK)
    assert model.config.id2label == ("bad", "good", "noun")
    named = BertForTokenClassification(toy_config(id2label=("x", "y", "z")))
    with pytest.raises(TrainingError, match="model must have the classes bad, good, noun, and has x, y, z"):
        finetune(named, scored_words()[:32], tmp_path / "b", **options, **QUICK)


def test_a_checkpoint_of_few_digits_is_trained_in_float32(toy: Path, tmp_path: Path) -> None:
    minibert.BertModel.from_pretrained(toy, dtype="float16").save_pretrained(tmp_path / "half")
    toy_tokenizer().save_pretrained(tmp_path / "half")
    finetune(tmp_path / "half", reviews(32), tmp_path / "out", held_out=0.25, epochs=1, **QUICK)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


# ----------------------------------------------------------------------------------------------------------- settings


def test_epochs_become_steps_and_the_defaults_are_the_papers(toy: Path, tmp_path: Path) -> None:
    rows = reviews(90)
    run = finetune(toy, rows[:70], tmp_path / "a", held_out=rows[70:], precision="float32", show=False)
    settings = json.loads((tmp_path / "a" / "training" / "progress.json").read_text())["settings"]
    chosen = {name: settings[name] for name in ("steps", "batch_size", "learning_rate", "warmup", "evaluate_every")}
    assert chosen == {"steps": 7, "batch_size": 32, "learning_rate": 5e-5, "warmup": 0.1, "evaluate_every": 3}
    assert run.values("held_out_accuracy")[0] == [0, 3, 6, 7]
    run = finetune(toy, rows[:70], tmp_path / "b", held_out=rows[70:], epochs=0.5, **QUICK)
    assert run.entries[-1]["step"] == 3  # 35 examples in batches of 16


def test_settings_are_taken_as_they_are(toy: Path, tmp_path: Path) -> None:
    settings = TrainingSettings(steps=2, batch_size=4, precision="float32")
    finetune(toy, reviews(32), tmp_path, held_out=0.25, settings=settings, show=False)
    assert json.loads((tmp_path / "training" / "progress.json").read_text())["settings"] == settings.to_dict()


def test_without_scikit_learn_a_run_goes_on_and_says_what_it_lacks(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sklearn.metrics", "scipy.stats"):
        monkeypatch.setitem(sys.modules, name, None)
    run = finetune(toy, reviews(32), tmp_path / "a", held_out=0.25, epochs=1, **{**QUICK, "show": True})
    scores = [name for name in run.entries[-1] if name.startswith("held_out")]
    assert scores == ["held_out_loss", "held_out_accuracy"]
    assert "without scikit-learn, macro F1 and correlations are left out" in capsys.readouterr().err
    options = {"task": "regression", "held_out": 0.25, "epochs": 1, **QUICK}
    run = finetune(toy, numbers()[:32], tmp_path / "b", **options)
    assert [name for name in run.entries[-1] if name.startswith("held_out")] == ["held_out_loss"]


# -------------------------------------------------------------------------------------------------------------- errors

REVIEWS = reviews(40)
NEW = [{"text": "the film is new", "label": "good"}]

ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown task": ({"task": "sentence"}, "task must be one of .*, got 'sentence': did you mean sentences"),
    "a label that is unknown": (
        {"held_out": [{"text": "new", "label": "godo"}]},
        "label in example 0 of held_out must be one of bad, good, got 'godo': did you mean good",
    ),
    "a class without an example": ({"labels": ["bad", "good", "fair"]}, "and 'fair' has none: a class that is never"),
    "a class in the held-out set only": (
        {"held_out": [{"text": "new", "label": "fair"}]},
        "label in example 0 of held_out must be one of bad, good, got 'fair'",
    ),
    "a text on both sides": ({"held_out": REVIEWS[7:9]}, "example 0 of held_out has the text of example 7 of train"),
    "a number out of range": (
        {"train": [("a", 0), ("b", 2)], "held_out": [("c", 0)], "labels": ["x", "y"]},
        "label in example 1 of train must be from 0 to 1, or a name, got 2",
    ),
    "numbers for classes": (
        {"train": [("a", 0.5), ("b", 1)], "held_out": NEW},
        "must be a name or an integer, got 0.5: task='regressi",
    ),
    "a missing column": ({"columns": {"text": "review"}}, "train must have a column 'review', and has text, label"),
    "an unknown column": ({"columns": {"txt": "text"}}, "each of columns must be one of .*, got 'txt': did you mean"),
    "pairs on one side": (
        {"held_out": [{**NEW[0], "text_pair": "b"}]},
        "train must have a column 'text_pair', as held_out has",
    ),
    "a blank text": ({"train": [*REVIEWS, {"text": " ", "label": "good"}]}, "text must be a text in example 40 of tr"),
    "a text without a token": (
        {"train": [*REVIEWS, {"text": "\u200d", "label": "good"}]},
        "example 40 of train cannot be encoded: has nothing to encode",
    ),
    "all held out": ({"held_out": 1}, "held_out must be less than 1"),
    "nothing held out": ({"held_out": 0}, "held_out must be a number above 0"),
    "an unknown device": ({"device": "moon"}, "device must be one that PyTorch can compute on, got 'moon': "),
    "no epochs": ({"epochs": 0}, "epochs must be a positive number, got 0"),
    "epochs and settings": ({"settings": TrainingSettings(steps=1), "epochs": 1}, "epochs must be left out where sett"),
    "a setting and settings": (
        {"settings": TrainingSettings(steps=1), "epochs": None, "seed": 1},
        "seed must be left out where settings are given",
    ),
    "an unknown setting": ({"learning_rat": 1}, "each setting must be one of .* got 'learning_rat': did you mean lea"),
    "steps": ({"steps": 3}, "each setting must be one of"),
    "other settings": ({"settings": {"steps": 1}, "epochs": None}, "settings must be TrainingSettings, got"),
    "labels for numbers": ({"task": "regression", "labels": ["a", "b"]}, "labels must be None for regression"),
    "a stride for classes": ({"stride": 3}, "stride must be None for classification, got 3"),
    "a length that is too large": ({"length": 65}, "length must be an integer from 16 to 64, got 65"),
    "one number": ({"task": "regression", "train": [("a", 1), ("b", 1)]}, "at least two different values in train"),
    "a frozen encoder of sentences": ({"task": "sentences", "frozen": True}, "frozen must be False for sentences"),
    "one positive": (
        {"task": "sentences", "train": [("a", "c"), ("b", "c")], "held_out": [("d", "e")]},
        "positive must have at least two different texts in train, and has one",
    ),
    "no answer at all": (
        {"task": "question-answering", "train": [("a", "b", None, None)], "held_out": [("c", "b", "b", 0)]},
        "answer must be given for some questions of train, and none has one",
    ),
    "a part of a batch of sentences": (
        {"task": "sentences", "train": [("a", "c"), ("b", "d")], "held_out": [("d", "e")], "accumulation": 2},
        "accumulation and processes must be 1 for this task",
    ),
    "a batch of one": (
        {"task": "sentences", "train": [("a", "c"), ("b", "d")], "held_out": [("d", "e")], "batch_size": 1},
        "batch_size must be at least 2 for sentences, got 1",
    ),
    "another model": (
        {"model": BertForMaskedLM(toy_config())},
        "model must be a BertForSequenceClassification, or the",
    ),
    "no model": ({"model": 7}, "model must be a BertForSequenceClassification, or the"),
    "no tokenizer": (
        {"model": BertForSequenceClassification(toy_config())},
        "tokenizer must be the model's BertTokeni",
    ),
    "another encoder": (
        {"model": BertForMaskedLM(toy_config()), "task": "sentences", "train": [("a", "c"), ("b", "d")]},
        "model must be a SentenceEncoder for sentences, got BertForMaskedLM",
    ),
    "a tokenizer of more words": (
        {"model": BertForSequenceClassification(toy_config(vocab_size=9)), "tokenizer": toy_tokenizer()},
        "tokenizer must have at most 9 tokens, the model's vocab_size, got",
    ),
    "a tokenizer that pads on the left": (
        {"model": BertForSequenceClassification(toy_config()), "tokenizer": toy_tokenizer(padding_side="left")},
        "padding_side of the tokenizer must be 'right', got 'left'",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(name: str, toy: Path, tmp_path: Path) -> None:
    changes, message = ERRORS[name]
    options = {"model": toy, "train": REVIEWS, "held_out": 0.2, "epochs": 1, "show": False, **changes}
    with pytest.raises((TrainingError, minibert.MinibertError), match=message):
        finetune(folder=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stride": 3}, "stride must be None for a BertForSequenceClassification, got 3"),
        ({"device": "moon"}, "device must be one that PyTorch can compute on, got 'moon': "),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"data": [("a", "fair")]}, "label in example 0 of data must be one of bad, good, got 'fair'"),
        ({"data": []}, "data must have at least one example"),
        ({"model": BertForMaskedLM(toy_config()), "tokenizer": toy_tokenizer()}, "and is a BertForMaskedLM: fine-tune"),
        (
            {"model": BertForSequenceClassification(toy_config())},
            "tokenizer must be the model's BertTokenizer, got None",
        ),
        ({"model": 7}, "model must be a name, a folder, or a model, got 7"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(options: dict[str, Any], message: str, classifier: Path) -> None:
    with pytest.raises(TrainingError, match=message):
        evaluate(**{"model": classifier, "data": REVIEWS, **options})


def test_a_plain_checkpoint_is_not_evaluated(toy: Path) -> None:
    with pytest.raises(TrainingError, match="and is a BertModel: fine-tune it first"):
        evaluate(toy, REVIEWS)


def test_evaluating_leaves_the_model_as_it_was(classifier: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(classifier).train()
    tokenizer = BertTokenizer.from_pretrained(classifier)
    scores = evaluate(model, REVIEWS, tokenizer=tokenizer)
    assert scores["accuracy"] == 1.0
    assert model.training
    assert (
        evaluate(
            str(classifier),
            [{"review": row["text"], "label": int(row["label"] == "good")} for row in REVIEWS],
            columns={"text": "review"},
        )
        == scores
    )
