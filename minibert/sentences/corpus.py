"""How is a file of a million texts embedded, without losing one?

One text a line, one vector a row. What is done lies in the folder `OUT.partial` until all is done: the rows so far, and
a note of how many they are and what they were made of. Rows are on the disk before the note says so, and a note is
replaced in one step; so whatever happens, and whenever, a second run goes on from the last note. The texts are computed
in windows that begin at the same places each time, so it ends in the same bytes.
"""

import hashlib
import json
import os
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minibert import __version__
from minibert.errors import EmbedError, StoreError, TextTypeError
from minibert.sentences.encoder import SentenceEncoder
from minibert.vectors.batches import BATCH_TOKENS

ROWS, NOTE, INCOMING, LOCK = "rows", "note.json", "note.json.incoming", "lock"


def read_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """The texts in a stream of lines.

    Raises:
        EmbedError: a line is blank or no UTF-8; the message says which.
    """
    lines = iter(stream)
    for number in count(1):
        try:
            line = next(lines)
        except StopIteration:
            return
        except OSError as error:
            raise EmbedError(f"line {number:,} of {name} cannot be read: {error}") from None
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise EmbedError(
                f"line {number:,} of {name} is no UTF-8 text ({error.reason} at byte {error.start})"
            ) from None
        if all(character.isspace() or unicodedata.category(character).startswith("C") for character in text):
            raise EmbedError(f"line {number:,} of {name} is blank, and each line is a text: remove it")
        yield text


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
        encoder: what makes the vectors.
        texts: any number of them; only a window is held in memory.
        file: where to; its ending is the form. `.safetensors`: a tensor "vectors" (N, E), with what it was made of as
            metadata. `.npy`: the same for NumPy. `.jsonl`: a line for each text, {"text": …, "vector": […]}. All are
            float32, in decimal digits enough to tell each number apart.
        resume: go on where an interrupted run ended, with the same texts and encoder; if there was none, begin.
        prompt_name, batch_tokens: as for `SentenceEncoder.encode`.

    Returns:
        The number of texts, those of an interrupted run included.

    Raises:
        EmbedError: the ending is none of these; there are no texts; another run writes the same file; an interrupted
            run is there and `resume` is not said, or its texts, encoder or settings were others.
        StoreError: the file cannot be written.
        TextTypeError, TextError: something that is not a text, or has nothing in it. What was done before it is kept.
    """
    target = Path(file)
    if target.suffix not in FORMS:
        raise EmbedError(f"the ending of {target} must be one of {', '.join(FORMS)}: it is the form of the file")
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TextTypeError(f"texts must be a list or another iterable of strings, not {type(texts).__name__}")
    made_of = {
        "pooling": list(encoder.recipe.pooling),
        "layers": encoder.model.config.num_hidden_layers,
        "prompt": encoder.prompt(prompt_name),
        "batch_tokens": batch_tokens,
        "device": encoder.device.type,
        "fast": encoder.fast,
        "minibert": __version__,
        "torch": torch.__version__,
        "encoder": encoder.fingerprint(),
    }
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.mkdir(exist_ok=True)
        with FileLock(partial / LOCK, blocking=False):
            try:
                return _embed(encoder, iter(texts), target, partial, made_of, resume, prompt_name, batch_tokens)
            finally:
                _tidy(partial)
    except Timeout:
        raise EmbedError(f"another run is writing {target}: wait until it ends, or choose another file") from None
    except OSError as error:
        kept = f"; what was done is kept in {partial}" if (partial / NOTE).exists() else ""
        raise StoreError(f"cannot write {target}: {error}{kept}") from error


def read_vectors(file: str | os.PathLike[str]) -> tuple[Tensor, dict[str, str]]:
    """The vectors (N, E) of a `.safetensors` file that `embed` wrote, and what it says of them.

    Raises:
        EmbedError: it is no such file.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            vectors, made_of = opened.get_tensor("vectors"), opened.metadata()
            return vectors, {name: made_of[name] for name in ("encoder", "pooling", "layers", "texts_sha256")}
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise EmbedError(f"{file} is no file of vectors that 'minibert embed' wrote ({error})") from None


def digest(texts: Iterable[str]) -> str:
    """The sha256 of texts in their order, in hexadecimal digits."""
    seen = hashlib.sha256()
    for text in texts:
        seen.update(_line(text))
    return seen.hexdigest()


@dataclass(frozen=True)
class Note:
    """What is done: the first `size` bytes of the rows are the vectors of the first `texts` texts."""

    texts: int
    size: int
    texts_sha256: str
    made_of: dict[str, Any]


def _embed(
    encoder: SentenceEncoder,
    texts: Iterator[str],
    target: Path,
    partial: Path,
    made_of: dict[str, Any],
    resume: bool,
    prompt_name: str | None,
    batch_tokens: int,
) -> int:
    form, rows, found = FORMS[target.suffix], partial / ROWS, _read_note(partial)
    if found and not resume:
        raise EmbedError(f"{partial} is there, of an interrupted run: resume it (--resume), or delete the folder")
    length = len(form.header(0, encoder.dimension, made_of, digest([])))
    note = found or Note(0, length, digest([]), made_of)
    for name in {**made_of, **note.made_of}:
        if note.made_of.get(name) != made_of.get(name):
            raise EmbedError(
                f"{partial} was begun with {name} {note.made_of.get(name)!r}, and now it is {made_of.get(name)!r}: "
                "resume with the same settings, or delete the folder and begin anew"
            )
    seen = hashlib.sha256()
    for text in islice(texts, note.texts):
        seen.update(_line(text))
    if seen.hexdigest() != note.texts_sha256:
        raise EmbedError(
            f"the first {note.texts:,} texts are not those that {partial} was begun with: resume with the same texts, "
            "or delete the folder and begin anew"
        )
    if note.texts and not rows.exists() and target.exists() and target.stat().st_size == note.size:
        (partial / NOTE).unlink()  # interrupted when all was done
        return note.texts
    if note.texts and (not rows.exists() or rows.stat().st_size < note.size):
        raise EmbedError(f"{rows} is shorter than {partial / NOTE} says: delete the folder and begin anew")

    taken: deque[str] = deque()  # texts on their way through the encoder

    def record() -> Iterator[str]:
        for text in texts:
            taken.append(text)
            yield text

    windows = encoder.encode_stream(record(), prompt_name=prompt_name, batch_tokens=batch_tokens, first=note.texts)
    begin = list(islice(windows, 1))  # before anything is written: a mistake in the first lines leaves nothing behind
    if not begin and not note.texts:
        raise EmbedError("there are no texts to embed")
    with rows.open("r+b" if rows.exists() else "w+b") as file:
        file.truncate(note.size)  # what was written after the last note is written again
        file.seek(note.size)
        for vectors in chain(begin, windows):
            window = [taken.popleft() for _ in vectors]
            for text in window:
                seen.update(_line(text))
            file.write(form.rows(window, vectors))
            _on_disk(file)
            note = Note(note.texts + len(window), file.tell(), seen.hexdigest(), made_of)
            _write_note(note, partial)
        file.seek(0)
        file.write(form.header(note.texts, encoder.dimension, made_of, note.texts_sha256))
        _on_disk(file)
    rows.replace(target)
    (partial / NOTE).unlink()
    return note.texts


def _tidy(partial: Path) -> None:
    """Leaves nothing behind where there is nothing to resume: all is done, or nothing."""
    if not (partial / NOTE).exists():
        for name in (ROWS, INCOMING, LOCK):
            (partial / name).unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's files are in it
            partial.rmdir()


def _line(text: str) -> bytes:
    return text.encode() + b"\n"


def _on_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read_note(partial: Path) -> Note | None:
    try:
        return Note(**json.loads((partial / NOTE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise EmbedError(f"{partial / NOTE} is damaged ({error}): delete the folder and begin anew") from None


def _write_note(note: Note, partial: Path) -> None:
    incoming = partial / INCOMING
    with incoming.open("wb") as file:
        file.write(json.dumps(vars(note)).encode())
        _on_disk(file)
    incoming.replace(partial / NOTE)


@dataclass(frozen=True)
class Form:
    """A file format: what stands before the rows, of one length however many they are, and the rows themselves."""

    # Of the number of texts, their width, what they were made of, and the texts' sha256.
    header: Callable[[int, int, dict[str, Any], str], bytes]
    rows: Callable[[list[str], Tensor], bytes]


def _safetensors_header(texts: int, width: int, made_of: dict[str, Any], texts_sha256: str) -> bytes:
    """Eight bytes with the length of a JSON object, and the object, filled up with spaces to a fixed length."""

    def header(number: int) -> bytes:
        tensor = {"dtype": "F32", "shape": [number, width], "data_offsets": [0, 4 * number * width]}
        metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in made_of.items()}
        metadata["texts_sha256"] = texts_sha256
        return json.dumps({"__metadata__": metadata, "vectors": tensor}).encode()

    length = -(-len(header(10**15)) // 8) * 8  # more texts than there will be; the numbers begin at a multiple of 8
    return length.to_bytes(8, "little") + header(texts).ljust(length)


def _npy_header(texts: int, width: int, made_of: dict[str, Any], texts_sha256: str) -> bytes:
    """NumPy's format 1.0: magic bytes, and a dictionary as Python writes it, filled up to 128 bytes in all."""
    fields = {"descr": "<f4", "fortran_order": False, "shape": (texts, width)}
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + str(fields).encode().ljust(117) + b"\n"


def _binary_rows(texts: list[str], vectors: Tensor) -> bytes:
    content = save({"vectors": vectors})  # eight bytes with the length of a header, the header, the numbers
    return content[8 + int.from_bytes(content[:8], "little") :]


def _json_rows(texts: list[str], vectors: Tensor) -> bytes:
    lines = []
    for text, vector in zip(texts, vectors.tolist(), strict=True):
        numbers = ", ".join(f"{number:.9g}" for number in vector)  # nine digits tell any two float32 apart
        lines.append(f'{{"text": {json.dumps(text, ensure_ascii=False)}, "vector": [{numbers}]}}\n')
    return "".join(lines).encode()


FORMS = {
    ".safetensors": Form(_safetensors_header, _binary_rows),
    ".npy": Form(_npy_header, _binary_rows),
    ".jsonl": Form(lambda texts, width, made_of, texts_sha256: b"", _json_rows),
}
