"""How does a corpus go through a model?

In windows of some hundred texts, each sorted by length into batches of about a thousand tokens: the memory is that of a
window, however long the corpus. What is known after a window can be kept in a folder, and a run that was killed goes on
from there.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from torch import nn

from minibert import __version__
from minibert.checkpoints.fingerprint import parameters_digest
from minibert.checks import check_integer, shown
from minibert.errors import InputError, StoreError, TextTypeError
from minibert.interpret.runs import bert_of
from minibert.tokenizer import BatchEncoding, BertTokenizer
from minibert.vectors.batches import BATCH_TOKENS, by_length

WINDOW = 512  # texts that are sorted by length together
LOCK = ".lock"


class TextBatch(NamedTuple):
    """Some texts of a corpus as the inputs of a model."""

    inputs: BatchEncoding  # on the model's device
    numbers: list[int]  # of the texts in the corpus, counted from 0
    texts: list[str]


def batches_of(
    model: nn.Module, tokenizer: BertTokenizer, texts: Iterable[str], batch_tokens: int = BATCH_TOKENS
) -> Iterator[TextBatch]:
    """Yields a corpus in batches; within a window, texts of similar length come together.

    Args:
        model: whose device the inputs are moved to.
        tokenizer: the model's; texts longer than its limit are cut.
        texts: strings, from a list or from a generator of any length.
        batch_tokens: the maximum number of tokens in a batch, padding included.

    Raises:
        InputError: a single text, where a list of texts is expected.
        TextTypeError, TextError: something that is not a text, or a text with no token; the message says which.
    """
    for window in windows_of(texts):
        yield from batches_of_window(model, tokenizer, window, batch_tokens)


class Window(NamedTuple):
    """Texts that are sorted by length together."""

    texts: list[str]
    first: int  # the number of the first in the corpus


def windows_of(texts: Iterable[str], first: int = 0) -> Iterator[Window]:
    """Yields a corpus in windows; raises as `batches_of` does."""
    remaining = iter(check_texts(texts))
    while window := list(islice(remaining, WINDOW)):
        for number, text in enumerate(window, first):
            check_text(text, number)
        yield Window(window, first)
        first += len(window)


def check_texts(texts: Any) -> Iterable[str]:
    """Returns several texts; raises an `InputError` for a single one, whose characters would be taken for texts."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be a list of texts, or a generator of them, got {shown(texts)}")
    return texts


def check_text(text: Any, number: int) -> str:
    """Returns a text; raises a `TextTypeError` for anything else."""
    if not isinstance(text, str):
        raise TextTypeError(f"text {number} must be a string, got {shown(text)}")
    return text


def batches_of_window(
    model: nn.Module, tokenizer: BertTokenizer, window: Window, batch_tokens: int
) -> Iterator[TextBatch]:
    """Yields the texts of a window in batches, the longest first."""
    check_integer("batch_tokens", batch_tokens, 1)
    bert = bert_of(model)
    device = bert.embeddings.word_embeddings.weight.device
    limit = min(tokenizer.model_max_length, bert.config.max_position_embeddings)
    encodings = tokenizer.encode(window.texts, max_length=limit, first=window.first)
    for batch in by_length([len(encoding) for encoding in encodings], batch_tokens):
        inputs = tokenizer.pad([encodings[index] for index in batch]).to(device)
        numbers = [window.first + index for index in batch]
        yield TextBatch(inputs, numbers, [window.texts[index] for index in batch])


# --- in a folder -----------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """How far a run has come: the number of texts that are done, and the sha256 of all of them."""

    texts: int
    sha256: str
    made_from: dict[str, Any]  # what the result depends on


class FinishedTexts:
    """Counts the texts of a run, and knows them again when it is resumed."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            content = check_text(text, self.count).encode("utf-8", "surrogatepass")
            self._digest.update(b"%d " % len(content) + content)
            self.count += 1

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def skip(self, texts: Iterable[str], progress: Progress, folder: Path) -> Iterator[str]:
        """The texts after those that are done already.

        Raises:
            InputError: those are other texts than before, or a single text.
            TextTypeError: something that is not a text.
        """
        remaining = iter(check_texts(texts))
        while self.count < progress.texts and (window := list(islice(remaining, progress.texts - self.count))):
            self.add(window)
        if (self.count, self.sha256) != (progress.texts, progress.sha256):
            raise InputError(f"{folder} has {progress.texts:,} other texts: give the same texts again, or a new folder")
        return remaining


def made_from(model: nn.Module, tokenizer: BertTokenizer, **settings: Any) -> dict[str, Any]:
    """Returns what a result depends on, besides the texts: the model by a sha256, versions and settings."""
    digest = parameters_digest(model)
    digest.update(f"{bert_of(model).config} {tokenizer.to_json()}".encode())
    device = bert_of(model).embeddings.word_embeddings.weight.device.type
    versions = {"minibert": __version__, "torch": torch.__version__}
    return {"model": digest.hexdigest(), "device": device, **versions, **settings}


def check_made_from(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises an `InputError` that names the first thing in which an interrupted run differs from this one."""
    for name in now:
        if before.get(name) != now[name]:
            what = "has another model" if name == "model" else f"was made with {name} {shown(before.get(name))}"
            raise InputError(f"{folder} {what}, and this run has {shown(now[name])}: give a new folder")


def as_progress(fields: Any) -> Progress:
    """Returns what a file says of the progress of a run, which may be anything; raises a `ValueError` for that."""
    progress = Progress(**fields)
    kinds = (type(progress.texts), type(progress.sha256), type(progress.made_from))
    if kinds != (int, str, dict) or progress.texts < 1:
        raise ValueError("not the progress of a run")
    return progress


def as_folder(folder: Any) -> Path:
    """Returns the path of a folder, where ~ stands for the home folder; raises a `StoreError` for anything else."""
    try:
        path = Path(folder).expanduser()
        if "\0" in str(path):
            raise ValueError
    except (TypeError, ValueError, RuntimeError):  # not a path, or ~ of a user without a home
        raise StoreError(f"folder must be the path of a folder, got {shown(folder)}") from None
    return path


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes a folder, and locks it against other runs.

    Raises:
        StoreError: the folder cannot be made, or another run writes to it.
    """
    path = as_folder(folder)
    lock = FileLock(path / LOCK, blocking=False)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StoreError(f"another run writes to {path}: wait until it ends, or choose another folder") from None
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}") from None
    try:  # outside of the handlers above: an error of the texts' own generator is not one of this folder
        yield path
    finally:
        lock.release()
