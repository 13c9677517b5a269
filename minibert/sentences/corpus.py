"""How is a file of a million texts embedded, without losing one?

One text per line, one vector per row. Until all is done, the work is in the folder `OUT.partial`: the rows so far, and
a progress file that says how many there are and what they were made from. Rows are on the disk before the progress file
counts them, and that file is replaced in one step, so an interrupted run can be resumed whenever it was interrupted.
Windows of texts start at the same positions in every run, so the resumed run ends in the same bytes.
"""

import codecs
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from minibert import __version__
from minibert.checkpoints.atomic import replace_file
from minibert.checkpoints.json_files import read_object
from minibert.checks import as_integer, check_integer, check_one_of, shown
from minibert.errors import CheckpointNotFoundError, EmbedError, StoreError, TextError
from minibert.sentences.encoder import SentenceEncoder, check_iterable
from minibert.sentences.vector_files import FORMATS, digest, part_of_digest
from minibert.tokenizer import check_text
from minibert.vectors.batches import BATCH_TOKENS

# The files in `OUT.partial`.
ROWS = "rows"
PROGRESS = "progress.json"
INCOMING = "progress.json.partial"  # as `replace_file` calls it
LOCK = "lock"


# What files that are not text begin with.
OTHER_FILES = {
    b"\x1f\x8b": "of a gzip file",
    b"PK\x03\x04": "of a zip file",
    b"BZh": "of a bzip2 file",
    b"\xfd7zXZ": "of an xz file",
    b"\x28\xb5\x2f\xfd": "of a zstd file",
    b"PAR1": "of a Parquet file",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """The texts in a stream of lines. A byte order mark at the start is not part of the first.

    Raises:
        EmbedError: a line is blank, not UTF-8, or of a compressed file; the message has its number.
    """
    lines = iter(stream)
    for number in count(1):
        try:
            line = next(lines)
        except StopIteration:
            return
        except OSError as error:
            raise EmbedError(f"line {number:,} of {name} cannot be read: {error}") from None
        yield _text_of(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, f"line {number:,} of {name}")


def _text_of(line: bytes, which: str) -> str:
    """The text in a line; an `EmbedError` if the line is not text. What of it counts is for the tokenizer to say."""
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        problem = _kind_of(line) or f"not UTF-8 text ({error.reason} at byte {error.start})"
        raise EmbedError(f"{which} is {problem}: convert the file to UTF-8 text, one text per line") from None
    if "\0" in text:
        problem = _kind_of(line) or f"not text (a null character at {text.index(chr(0))})"
        raise EmbedError(f"{which} is {problem}: convert the file to UTF-8 text, one text per line")
    if not text.strip():
        raise EmbedError(f"{which} is blank, but every line must be a text: remove it")
    if "\r" in text:
        raise EmbedError(f"{which} holds a carriage return: convert the line ends, as with tr '\\r' '\\n'")
    return text


def _kind_of(line: bytes) -> str | None:
    """What the first line of a file that is not text says it is. A text may begin so too: "PAR1 is a receptor"."""
    return next((kind for start, kind in OTHER_FILES.items() if line.startswith(start)), None)


def embed(
    encoder: SentenceEncoder,
    texts: Iterable[str],
    file: str | os.PathLike[str],
    *,
    resume: bool = False,
    prompt_name: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> int:
    """Writes the vectors of texts to a file, row by row in their order.

    Args:
        encoder: computes the vectors.
        texts: any number of them; only a window of texts is held in memory.
        file: its extension is its format. `.safetensors`: a tensor "vectors" (N, E), with what it was made from as
            metadata. `.npy`: the same array for NumPy. `.jsonl`: a line for each text, {"text": …, "vector": […]}. All
            numbers are float32; in `.jsonl` they have enough digits to be exact.
        resume: continue an interrupted run, with the same texts and encoder; if there is none, start.
        prompt_name, batch_tokens: as for `SentenceEncoder.encode`.

    Returns:
        The number of texts, including those of an interrupted run.

    Raises:
        EmbedError: the extension is unknown; there are no texts; another run is writing the same file; there is an
            interrupted run and `resume` is False, or its texts, encoder or settings were different.
        StoreError: the file cannot be written.
        TextTypeError, TextError: a text is not a string, or is empty. The windows before it are kept.
    """
    try:
        target = Path(file).expanduser()
        if "\0" in str(target):
            raise ValueError
    except (TypeError, ValueError, RuntimeError):  # not a path, or ~ of a user without a home
        raise EmbedError(f"file must be the path of a file, got {shown(file)}") from None
    if target.is_dir():
        raise StoreError(f"cannot write {target}: it is a folder")
    batch_tokens = check_integer("batch_tokens", batch_tokens, 1, error=TextError)
    check_one_of(f"the extension of {target}", target.suffix, FORMATS, EmbedError)
    check_iterable(texts)
    prompt = encoder.prompt(prompt_name)
    made_from = {
        "pooling": list(encoder.recipe.pooling),
        "layers": encoder.model.config.num_hidden_layers,
        "prompt": prompt,
        "batch_tokens": batch_tokens,
        "device": encoder.device.type,
        "fast": encoder.fast,
        "minibert": __version__,
        "torch": torch.__version__,
        "encoder": encoder.fingerprint(),
    }
    with PartialFile.open(target, encoder.dimension, made_from, resume=resume) as output:
        remaining = output.skip_finished(iter(texts))
        first = output.progress.texts
        for window, vectors in encoder.encode_windows(remaining, prompt=prompt, batch_tokens=batch_tokens, first=first):
            output.append(window, vectors)
        output.finish()
        return output.progress.texts


@dataclass(frozen=True)
class Progress:
    """What is done: the first `size` bytes of the rows file are a header and the vectors of the first `texts` texts."""

    texts: int
    size: int
    texts_sha256: str
    made_from: dict[str, Any]


class PartialFile:
    """The file of vectors while it is being written, in the folder `OUT.partial`.

    The progress file never counts a row that is not on the disk (`append`), and `OUT` is replaced in one step when all
    rows are there (`finish`).
    """

    def __init__(self, target: Path, folder: Path, dimension: int, made_from: dict[str, Any], resume: bool) -> None:
        self.target = target
        self.folder = folder
        self.rows = folder / ROWS
        self.progress_file = folder / PROGRESS
        self.format = FORMATS[target.suffix]
        self.dimension = dimension  # E
        self.made_from = made_from
        self.sha256 = hashlib.sha256()  # of the texts so far
        interrupted = _read_progress(self.progress_file)
        if interrupted:
            self.progress = interrupted
            self._check_resumable(resume)
        else:
            size = len(self._header(0, digest([])))
            self.progress = Progress(0, size, digest([]), made_from)

    @classmethod
    @contextmanager
    def open(cls, target: Path, dimension: int, made_from: dict[str, Any], *, resume: bool) -> Iterator["PartialFile"]:
        """Locks `OUT.partial`, which is removed in the end if it holds nothing to resume. Raises as `embed` does."""
        folder = target.with_name(f"{target.name}.partial")
        try:
            _check_is_ours(folder)
            folder.mkdir(exist_ok=True)
            with FileLock(folder / LOCK, blocking=False):
                try:
                    yield cls(target, folder, dimension, made_from, resume)
                finally:
                    _remove_unless_resumable(folder)
        except Timeout:
            raise EmbedError(
                f"another run is writing {target}: wait until it ends, or choose a different file"
            ) from None
        except OSError as error:
            kept = f"; the rows so far are kept in {folder}" if (folder / PROGRESS).exists() else ""
            raise StoreError(f"cannot write {target}: {error}{kept}") from error

    def skip_finished(self, texts: Iterator[str]) -> Iterator[str]:
        """The texts after those that an interrupted run has finished.

        Raises:
            EmbedError: the finished texts are different from the interrupted run's.
        """
        for number, text in enumerate(islice(texts, self.progress.texts)):
            check_text(text, f"text {number}")
            self.sha256.update(part_of_digest(text))
        if self.sha256.hexdigest() != self.progress.texts_sha256:
            raise EmbedError(
                f"the first {self.progress.texts:,} texts are not those that {self.folder} was started with: resume "
                "with the same texts, or delete the folder and start over"
            )
        return texts

    def append(self, texts: list[str], vectors: Tensor) -> None:
        """Adds the rows of N texts, (N, E): first to the disk, then to the progress file."""
        if self._is_complete():
            raise EmbedError(
                f"{self.target} was completed with {self.progress.texts:,} texts, and now there are more: delete "
                f"{self.folder} and start over"
            )
        with self._open_rows() as file:
            file.write(self.format.rows(texts, vectors))
            _flush_to_disk(file)
            size = file.tell()
        for text in texts:
            self.sha256.update(part_of_digest(text))
        done = self.progress.texts + len(texts)
        self.progress = Progress(done, size, self.sha256.hexdigest(), self.made_from)
        self._write_progress()

    def finish(self) -> None:
        """Writes the header, and moves the rows to `OUT`."""
        if not self.progress.texts:
            raise EmbedError("there are no texts to embed")
        if not self._is_complete():
            with self._open_rows() as file:
                file.seek(0)
                file.write(self._header(self.progress.texts, self.progress.texts_sha256))
                _flush_to_disk(file)
            self.rows.replace(self.target)
        self.progress_file.unlink()

    def _header(self, texts: int, texts_sha256: str) -> bytes:
        return self.format.header(texts, self.dimension, {**self.made_from, "texts_sha256": texts_sha256})

    def _open_rows(self) -> BinaryIO:
        """The rows, for writing after those that the progress file counts; any later ones are discarded."""
        self.rows.touch()
        file = self.rows.open("r+b")
        file.truncate(self.progress.size)
        file.seek(self.progress.size)
        return file

    def _write_progress(self) -> None:
        content = json.dumps(vars(self.progress)).encode()
        replace_file(self.progress_file, lambda incoming: incoming.write_bytes(content))

    def _is_complete(self) -> bool:
        """Whether a run was interrupted between its last two steps: `OUT` is in place, and so is the progress file."""
        return (
            self.progress.texts > 0
            and not self.rows.exists()
            and self.target.exists()
            and self.target.stat().st_size == self.progress.size
        )

    def _check_resumable(self, resume: bool) -> None:
        """Raises an `EmbedError` unless this run may and can go on where the interrupted one stopped."""
        if not resume:
            raise EmbedError(f"{self.folder} holds an interrupted run: resume it (--resume), or delete the folder")
        for name in {**self.made_from, **self.progress.made_from}:
            before, now = self.progress.made_from.get(name), self.made_from.get(name)
            if before != now:
                raise EmbedError(
                    f"{self.folder} was started with {name[:40]} {shown(before)}, and now it is {shown(now)}: "
                    "resume with the same settings, or delete the folder and start over"
                )
        start_over = f"delete the folder {self.folder} and start over"
        rows = self.target if self._is_complete() else self.rows
        if not rows.is_file() or rows.stat().st_size < self.progress.size:
            raise EmbedError(f"{self.rows} is shorter than {self.progress_file} says: {start_over}")
        header = len(self._header(0, digest([])))
        if not self.format.holds(rows, self.progress.size, header, self.progress.texts, self.dimension):
            raise EmbedError(
                f"{self.rows} does not hold {self.progress.texts:,} vectors in {self.progress.size:,} bytes, as "
                f"{self.progress_file} says: {start_over}"
            )


def _check_is_ours(folder: Path) -> None:
    """Raises an `EmbedError` for a folder that was not made here: its files would be overwritten."""
    for path in (folder, *(folder / name for name in (ROWS, PROGRESS, INCOMING, LOCK))):
        if path.is_symlink():
            raise EmbedError(f"{path} must not be a link, for what it leads to would be overwritten: remove it")
    if folder.exists() and not (folder / LOCK).exists() and any(folder.iterdir()):
        raise EmbedError(f"{folder} holds files of somebody else, which would be overwritten: move it away")


def _read_progress(file: Path) -> Progress | None:
    """What a progress file says, which may be anything; None if there is no such file."""
    start_over = f"delete the folder {file.parent} and start over"
    try:
        fields = read_object(file, EmbedError)
    except CheckpointNotFoundError:
        return None
    except EmbedError as error:
        raise EmbedError(f"{error}: {start_over}") from None
    numbers = [as_integer(fields.get(name)) for name in ("texts", "size")]
    sha256, made_from = fields.get("texts_sha256"), fields.get("made_from")
    if len(fields) != 4 or None in numbers or not isinstance(sha256, str) or not isinstance(made_from, dict):
        raise EmbedError(f"{file} is damaged: {start_over}")
    texts, size = (number or 0 for number in numbers)
    if not (0 < texts <= sys.maxsize and 0 <= size <= sys.maxsize):
        raise EmbedError(f"{file} is damaged: {start_over}")
    return Progress(texts, size, sha256, made_from)


def _remove_unless_resumable(folder: Path) -> None:
    """Removes the folder if there is nothing to resume: all is done, or nothing."""
    if not (folder / PROGRESS).exists():
        for name in (ROWS, INCOMING, LOCK):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # it holds somebody else's files
            folder.rmdir()


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
