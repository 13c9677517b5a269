"""How does a BERT learn a task from labelled examples?

A head of one or two new layers is put on a pretrained BERT, and all weights are trained a little further (BERT, 4 and
appendix A.3). Sentence encoders are trained by contrast.

    finetune("sentence-transformers/all-MiniLM-L6-v2", "train.csv", "out", task="classification", epochs=3)
    evaluate("out", "test.csv")
"""

import dataclasses
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from minibert.checkpoints.loading import Pretrained
from minibert.checks import as_path, check_integer, check_one_of, shown
from minibert.errors import TrainingError
from minibert.heads import BertForSequenceClassification, bert_in
from minibert.sentences.encoder import SentenceEncoder
from minibert.tokenizer import BertTokenizer
from minibert.training.classification import Classification, Regression
from minibert.training.contrastive import Contrastive
from minibert.training.examples import Finetuning
from minibert.training.labels import check_names
from minibert.training.loop import train as run_loop
from minibert.training.masking import check_share
from minibert.training.metrics import missing_metrics
from minibert.training.question_answering import LENGTH, QuestionAnswering
from minibert.training.records import Data, Records, read_records
from minibert.training.run import Run
from minibert.training.settings import TrainingSettings
from minibert.training.splits import GROUP, check_apart, split
from minibert.training.starting import encoder_frozen, on_device, start, trained
from minibert.training.token_labels import TokenLabels

TASKS: dict[str, Any] = {
    "classification": Classification,
    "regression": Regression,
    "tokens": TokenLabels,
    "question-answering": QuestionAnswering,
    "sentences": Contrastive,
}
EPOCHS, LEARNING_RATE = 3, 5e-5  # of the paper's ranges, 2 to 4 and 2e-5 to 5e-5
SHORTEST = 16  # the smallest `length`: a question and a context need room

Model = str | os.PathLike[str] | Pretrained | SentenceEncoder


def finetune(
    model: Model,
    train: Data,
    folder: str | os.PathLike[str],
    *,
    task: str = "classification",
    held_out: float | Data = 0.1,
    tokenizer: BertTokenizer | None = None,
    settings: TrainingSettings | None = None,
    epochs: float | None = None,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    length: int | None = None,
    stride: int | None = None,
    frozen: bool = False,
    device: str | torch.device | None = None,
    resume: bool = False,
    show: bool = True,
    **changes: Any,
) -> Run:
    """Trains a checkpoint on labelled examples, and keeps it in a folder, from which it can be loaded at any time.

    If the process is killed, the same call with `resume=True` goes on from the last checkpoint. Weights of half
    precision are trained in float32; matrix products are in the settings' precision.

    Args:
        model: the name or folder of a checkpoint; or a model, which is trained in place: of the class that the task
            needs, or for "sentences" a `SentenceEncoder`.
        train: a .csv, .tsv or .jsonl file, or a list of dictionaries or tuples, with the columns of the task:
            "classification": text, label, and text_pair for pairs
            "regression": the same, with numbers as labels
            "tokens": words, labels
            "question-answering": question, context, answer, answer_start
            "sentences": anchor, positive, and negative if there are any
        folder: for the checkpoints and the log.
        task: what is learned, one of these.
        held_out: what the model is scored on, and not trained on: a file or list like `train`; or a share of it. Then
            rows with the same value in a column "group" are all on one side; without it, those with the same text, for
            questions those with the same context.
        tokenizer: of a model that is given as an object.
        settings: how long, how fast, how exactly. None means the paper's: see `epochs` and `changes`.
        epochs: how often each example is seen; None means 3.
        columns: the names of columns that are called something else, {"text": "review", "label": "stars"}.
        labels: the names of the classes, in the order of their numbers. None takes those that occur.
        length: the maximum number of tokens of an input; longer ones are cut, or read in windows. None means the most
            that the model takes, and at most 384 for question answering.
        stride: for question answering, the tokens from the start of a window to that of the next; None means a third
            of `length`.
        frozen: train the head alone, pooler included, on a BERT whose embeddings and layers stay as they are, without
            dropout in them.
        device: where to train; None leaves the model where it is.
        resume: go on with the interrupted run in the folder; if there is none, start.
        show: print the log to the standard error as well.
        changes: fields of `TrainingSettings`, such as `learning_rate=1e-4`; by default batches of 32, a learning rate
            of 5e-5, a warm-up of 0.1, and an evaluation after each epoch.

    Raises:
        TrainingError: the model, an example, a setting or the folder does not fit; the message says which.
        DivergedError: a loss or gradient is not finite. The last checkpoint is kept.

    Warns:
        TruncationWarning: examples were cut.
    """
    kind = _kind(task, labels, stride, frozen)
    options = _options(kind, settings, epochs, changes)
    target = as_path("folder", folder, error=TrainingError)
    whole = _read(kind, train, "train", columns)
    records, scored = _both_sides(kind, whole, held_out, columns, options.seed)
    names = check_names(labels) if labels is not None else kind.names(whole)
    loaded, tokenizer, names = start(kind, model, tokenizer, names, labels is not None, options.seed)
    on_device(loaded, device)
    encoding = _encoding(kind, loaded, tokenizer, length, stride)
    examples = kind.examples(tokenizer, records, names, **encoding)
    kind.check(examples, names, records.source)
    if settings is None:
        options = _with_steps(options, epochs, len(examples), changes)
    learned: Finetuning = kind(
        tokenizer,
        examples,
        kind.examples(tokenizer, scored, names, **encoding),
        batch_size=options.batch_size,
        longest=bert_in(loaded).config.max_position_embeddings,
        steps=options.steps,
        seed=options.seed,
        frozen=frozen,
        description={"kind": task, "config": bert_in(loaded).config.to_dict(), "labels": list(names), **encoding},
    )
    if show and kind.has_optional_metrics and missing_metrics() and os.environ.get("RANK", "0") == "0":
        print(missing_metrics(), file=sys.stderr)
    with encoder_frozen(loaded, frozen):
        return Run(target, run_loop(loaded, learned, target, options, resume=resume, show=show))


def evaluate(
    model: Model,
    data: Data,
    *,
    tokenizer: BertTokenizer | None = None,
    columns: Mapping[str, str] | None = None,
    length: int | None = None,
    stride: int | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> dict[str, float]:
    """Returns the scores of a fine-tuned model on labelled examples, by name.

    The task is the one that the model has a head for:
        classification: loss, accuracy, macro_f1
        regression, a classifier with one output: loss, pearson, spearman
        tokens: loss, accuracy, macro_f1, each over words
        question-answering: loss over windows, exact_match and f1 over questions
        sentences: loss, in batches as in training; accuracy, how often the positive is the closest of all candidates;
            reciprocal_rank, the mean of 1 over its rank

    Arguments are those of `finetune`. macro_f1 and the correlations need scikit-learn, and are left out without it.

    Raises:
        TrainingError: the model has no head of these, or an example does not fit; the message says which.
    """
    loaded, tokenizer = trained(model, tokenizer)
    kind = _task_of(on_device(loaded, device))
    if stride is not None and kind is not QuestionAnswering:
        raise TrainingError(
            f"stride must be None for a {type(loaded).__name__}, got {shown(stride)}: it has no windows"
        )
    batch_size = check_integer("batch_size", batch_size, 1, error=TrainingError)
    names = () if kind is Contrastive else loaded.config.id2label
    encoding = _encoding(kind, loaded, tokenizer, length, stride)
    examples = kind.examples(tokenizer, _read(kind, data, "data", columns), names, **encoding)
    longest = bert_in(loaded).config.max_position_embeddings
    scored: Finetuning = kind(tokenizer, [], examples, batch_size=batch_size, longest=longest)
    was_training = loaded.training
    try:
        with torch.no_grad():
            return scored.score(loaded.eval())
    finally:
        loaded.train(was_training)


def _task_of(model: Any) -> Any:
    """The task that a model has a head for."""
    if isinstance(model, SentenceEncoder):
        return Contrastive
    if isinstance(model, BertForSequenceClassification):
        outputs, problem = len(model.config.id2label), model.config.problem_type
        is_number = outputs == 1 or problem == Regression.problem_type
        if problem == "multi_label_classification" or (is_number and outputs > 1):
            what = f"{outputs} outputs and the problem_type {problem}"
            raise TrainingError(f"model must predict one class or one number, got one with {what}")
        return Regression if is_number else Classification
    for kind in (TokenLabels, QuestionAnswering):
        if isinstance(model, kind.model_class):
            return kind
    raise TrainingError(
        f"model must have a head for one of {', '.join(TASKS)}, or be a sentence encoder, and is a "
        f"{type(model).__name__}: fine-tune it first"
    )


# ---------------------------------------------------------------------------------------------- arguments and settings


def _kind(task: str, labels: Any, stride: Any, frozen: Any) -> Any:
    """The class of a task; raises a `TrainingError` for arguments that it has no use for."""
    kind = TASKS[check_one_of("task", task, TASKS, TrainingError)]
    if labels is not None and not kind.has_classes:
        raise TrainingError(f"labels must be None for {task}, got {shown(labels)}: it has no classes")
    if stride is not None and kind is not QuestionAnswering:
        raise TrainingError(f"stride must be None for {task}, got {shown(stride)}: only question-answering has windows")
    check_one_of("frozen", frozen, (True, False), TrainingError)
    if frozen and kind is Contrastive:
        raise TrainingError("frozen must be False for sentences, got True: an encoder has no head to train instead")
    return kind


def _options(kind: Any, settings: Any, epochs: Any, changes: Mapping[str, Any]) -> TrainingSettings:
    """The settings, whose steps are still to be found if only epochs are known."""
    options = _given(settings, changes, epochs)
    if kind is Contrastive and options.batch_size < 2:
        raise TrainingError("batch_size must be at least 2 for sentences, got 1: the other texts are the negatives")
    return options


def _given(settings: Any, changes: Mapping[str, Any], epochs: Any) -> TrainingSettings:
    if settings is None:
        if epochs is not None:
            is_number = isinstance(epochs, int | float) and not isinstance(epochs, bool)
            if not is_number or not 0 < epochs < math.inf:
                raise TrainingError(f"epochs must be a positive number, got {shown(epochs)}")
        known = [field.name for field in dataclasses.fields(TrainingSettings)]
        for name in changes:
            check_one_of("each setting", name, [each for each in known if each != "steps"], TrainingError)
        return TrainingSettings(**{"steps": 1, "learning_rate": LEARNING_RATE, **changes})
    if not isinstance(settings, TrainingSettings):
        raise TrainingError(f"settings must be TrainingSettings, got {shown(settings)}")
    if epochs is not None or changes:
        name = next(iter(changes), "epochs")
        raise TrainingError(f"{name} must be left out where settings are given, which have steps: change those")
    return settings


def _with_steps(
    options: TrainingSettings, epochs: float | None, examples: int, changes: Mapping[str, Any]
) -> TrainingSettings:
    """The settings with the steps of so many epochs, and an evaluation after each."""
    steps = math.ceil((EPOCHS if epochs is None else epochs) * examples / options.batch_size)
    epoch = math.ceil(examples / options.batch_size)
    every = options.evaluate_every if "evaluate_every" in changes else epoch
    return dataclasses.replace(options, steps=steps, evaluate_every=every)


def _both_sides(
    kind: Any, records: Records, held_out: Any, columns: Mapping[str, str] | None, seed: int
) -> tuple[Records, Records]:
    """The rows that train and those that are held out, of which no text is on both sides."""
    if isinstance(held_out, int | float):
        if check_share("held_out", held_out) == 1:
            raise TrainingError("held_out must be less than 1, got 1: nothing would be left to train on")
        records, scored = split(records, held_out, seed, kind.source)
    else:
        scored = _read(kind, held_out, "held_out", columns)
        for optional in kind.optional:
            if (optional in records.columns) != (optional in scored.columns):
                with_it, without = (records, scored) if optional in records.columns else (scored, records)
                raise TrainingError(f"{without.source} must have a column {optional!r}, as {with_it.source} has")
    check_apart(records, scored, kind.key)
    return records, scored


def _read(kind: Any, data: Any, name: str, columns: Mapping[str, str] | None) -> Records:
    records = read_records(data, name, kind.layouts)
    if columns is not None and not isinstance(columns, Mapping):
        raise TrainingError(f'columns must be like {{"text": "review"}}, got {shown(columns)}')
    if columns:
        usable = (*kind.columns, *kind.optional, GROUP)
        for column in columns:
            check_one_of("each of columns", column, usable, TrainingError)
        records = records.renamed(columns)
    records.require(*kind.columns)
    return records


def _encoding(
    kind: Any, model: Any, tokenizer: BertTokenizer, length: int | None, stride: int | None
) -> dict[str, int]:
    """The maximum number of tokens of an input, and the stride of windows if it is chosen."""
    most: int = model.max_seq_length if kind is Contrastive else bert_in(model).config.max_position_embeddings
    if length is None:
        length = min(most, tokenizer.model_max_length, LENGTH if kind is QuestionAnswering else most)
    else:
        length = check_integer("length", length, min(SHORTEST, most), most, TrainingError)
    return {"length": length} if stride is None else {"length": length, "stride": stride}
