"""Which model does fine-tuning start from?

From a checkpoint's BERT with a new head, whose weights are random; or from its own head, if that has the same classes.
"""

import dataclasses
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minibert.checkpoints import store
from minibert.checkpoints.loading import Pretrained
from minibert.checks import shown
from minibert.errors import NewParametersWarning, TrainingError, warn
from minibert.heads import BertWithHead, bert_in, model_class
from minibert.model import BertModel
from minibert.sentences.encoder import SentenceEncoder
from minibert.sentences.recipe import transformer_folder
from minibert.tokenizer import BertTokenizer

UNNAMED = re.compile(r"LABEL_\d+")  # what a class is called if nobody named it


def start(
    kind: Any, model: Any, tokenizer: BertTokenizer | None, names: Sequence[str], in_order: bool, seed: int
) -> tuple[Any, BertTokenizer, tuple[str, ...]]:
    """Returns the model to train, its tokenizer, and the names of its classes; see `start_with_head`."""
    if kind.model_class is SentenceEncoder:
        encoder = start_encoder(model, tokenizer)
        return encoder, encoder.tokenizer, ()
    model, tokenizer = start_with_head(kind, model, tokenizer, names, in_order, seed)
    return model, tokenizer, model.config.id2label


def start_encoder(model: Any, tokenizer: Any) -> SentenceEncoder:
    """Returns the encoder to train, at least in float32.

    Raises:
        TrainingError: `model` is not an encoder, or does not compare texts by cosine.
    """
    if isinstance(model, str | os.PathLike):
        model = SentenceEncoder.from_pretrained(model)
    if not isinstance(model, SentenceEncoder):
        raise TrainingError(f"model must be a SentenceEncoder for sentences, got {type(model).__name__}")
    if tokenizer is not None:
        raise TrainingError(
            f"tokenizer must be None for sentences, got {type(tokenizer).__name__}: the encoder has one"
        )
    score = model.recipe.similarity_fn_name
    if score != "cosine":
        raise TrainingError(
            f"similarity_fn_name of the encoder must be cosine, which is what is trained, got {score!r}"
        )
    return _with_enough_digits(model)


def start_with_head(
    kind: Any, model: Any, tokenizer: BertTokenizer | None, names: Sequence[str], in_order: bool, seed: int
) -> tuple[Any, BertTokenizer]:
    """Returns the model to train, at least in float32, with the names of its classes in its config; and its tokenizer.

    Args:
        kind: the task, with the `model_class` and the `problem_type` that it needs.
        model: a name or folder, or a model.
        tokenizer: that of a model that is given; None means the checkpoint's.
        names: those of the classes.
        in_order: whether the numbers of the classes must be those in `names`; otherwise the model's own order is kept.
        seed: of the random weights of a new head.

    Raises:
        TrainingError: the model or tokenizer does not fit the task, or the model has other classes.
    """
    own = None
    if isinstance(model, str | os.PathLike):
        folder = transformer_folder(store.resolve(model))
        tokenizer = BertTokenizer.from_pretrained(folder) if tokenizer is None else tokenizer
        model = _from_checkpoint(kind, folder, names, in_order, seed)
    elif type(model) is not kind.model_class:
        what = f"a {kind.model_class.__name__}, or the name or folder of a checkpoint"
        raise TrainingError(f"model must be {what}, got {shown(type(model).__name__)}")
    else:
        own = _names_of(kind, model, names, in_order)
        if own is None:
            has = ", ".join(model.config.id2label)
            raise TrainingError(
                f"model must have the classes {', '.join(names)}, and has {has}: make one with id2label=…, or give the "
                "name of a checkpoint, which gets a new head"
            )
    if not isinstance(tokenizer, BertTokenizer):
        raise TrainingError(f"tokenizer must be the model's BertTokenizer, got {shown(tokenizer)}")
    size = bert_in(model).config.vocab_size
    if len(tokenizer) > size:
        most = f"{size:,} tokens, the model's vocab_size"
        raise TrainingError(f"tokenizer must have at most {most}, got {len(tokenizer):,}: use the model's own")
    if tokenizer.padding_side != "right":
        raise TrainingError(
            f"padding_side of the tokenizer must be 'right', got {tokenizer.padding_side!r}: BERT counts positions "
            "from the left, so each prediction would change with its batch"
        )
    if own is not None:  # after all checks: a model that is refused is left as it was
        model.config = dataclasses.replace(model.config, id2label=own, problem_type=kind.problem_type)
    return _with_enough_digits(model), tokenizer


def on_device(model: Any, device: str | torch.device | None) -> Any:
    """Returns a model on a device, or where it is if that is None.

    Raises:
        TrainingError: PyTorch cannot compute there.
    """
    try:
        return model if device is None else model.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"device must be one that PyTorch can compute on, got {shown(device)}: {reason}") from None


def _with_enough_digits(model: Any) -> Any:
    """The model in float32 if it was in half precision, in which a small step would change nothing."""
    dtype = bert_in(model).embeddings.word_embeddings.weight.dtype
    return model.to(torch.promote_types(dtype, torch.float32))


def _from_checkpoint(kind: Any, folder: Path, names: Sequence[str], in_order: bool, seed: int) -> Any:
    """A checkpoint with its own head if that has these classes, and otherwise with a new one.

    Warns:
        NewParametersWarning: a head that was trained for other classes is replaced.
    """
    if model_class(folder) is kind.model_class:
        model = kind.model_class.from_pretrained(folder)
        own = _names_of(kind, model, names, in_order)
        if own is not None:
            model.config = dataclasses.replace(model.config, id2label=own, problem_type=kind.problem_type)
            return model
        trained_for = ", ".join(model.config.id2label)
        warn(
            f"the head of {folder.name} was trained for {trained_for}, and is replaced by a new one for "
            f"{', '.join(names)}",
            NewParametersWarning,
        )
    return with_new_head(kind.model_class, folder, names, kind.problem_type, seed)


def with_new_head(
    kind: type[BertWithHead], folder: Path, names: Sequence[str], problem_type: str | None, seed: int
) -> BertWithHead:
    """Returns a checkpoint's BERT under a head of random weights, without a warning: to train them is the point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NewParametersWarning)
        bert = BertModel.from_pretrained(folder)
    config = dataclasses.replace(bert.config, num_labels=len(names), id2label=tuple(names), problem_type=problem_type)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    model.bert.embeddings, model.bert.encoder = bert.embeddings, bert.encoder
    if kind.needs_pooler and bert.pooler is not None:
        model.bert.pooler = bert.pooler
    return model.eval()


def _names_of(kind: Any, model: Any, names: Sequence[str], in_order: bool) -> tuple[str, ...] | None:
    """The classes of a model's own head, which get these names if they have none; None if they are others."""
    own: tuple[str, ...] = model.config.id2label
    if len(own) == len(names) and all(map(UNNAMED.fullmatch, own)):
        own = tuple(names)
    if not kind.has_classes:  # the outputs of a regression and of question answering may be called anything
        fits = len(own) == len(names)
    else:
        fits = own == tuple(names) if in_order else set(own) == set(names)
    return own if fits else None


@contextmanager
def encoder_frozen(model: nn.Module, frozen: bool) -> Iterator[None]:
    """Inside the block, the embeddings and layers of a model's BERT are not trained, if `frozen`."""
    bert = bert_in(model)
    parameters = [*bert.embeddings.parameters(), *bert.encoder.parameters()] if frozen else []
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)


def trained(model: Any, tokenizer: BertTokenizer | None) -> tuple[Any, BertTokenizer]:
    """Returns a model that was fine-tuned, with all its heads, and its tokenizer.

    Raises:
        TrainingError: the tokenizer of a model is missing, or of the wrong kind.
    """
    if isinstance(model, str | os.PathLike):
        folder = store.resolve(model)
        kind = model_class(transformer_folder(folder))
        if kind is BertModel and (folder / "modules.json").is_file():
            model = SentenceEncoder.from_pretrained(folder)
        else:
            model = kind.from_pretrained(transformer_folder(folder))
            tokenizer = BertTokenizer.from_pretrained(transformer_folder(folder)) if tokenizer is None else tokenizer
    if isinstance(model, SentenceEncoder):
        tokenizer = model.tokenizer
    if not isinstance(model, Pretrained | SentenceEncoder):
        raise TrainingError(f"model must be a name, a folder, or a model, got {shown(model)}")
    if not isinstance(tokenizer, BertTokenizer):
        raise TrainingError(f"tokenizer must be the model's BertTokenizer, got {shown(tokenizer)}")
    return model, tokenizer
