"""How is a file of a million texts embedded, without losing one?

One text a line, one vector a row. What is done lies in the folder `OUT.partial` until all is done: the rows so far, and
a note of how many they are and of what. Rows are on the disk before the note says so, and a note is replaced in one
step; so whatever happens, and whenever, a second run goes on from the last note. The texts are computed in windows that
begin at the same places each time, so it ends in the same bytes.
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minibert.errors import EmbedError, StoreError
from minibert.sentence import SentenceEncoder

ROWS, NOTE = "rows", "note.json"


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
        if not text.strip():
            raise EmbedError(f"line {number:,} of {name} is blank, and each line is a text: remove it")
        yield text


def embed(
    encoder: SentenceEncoder,
    texts: Iterable[str],
    file: str | os.PathLike[str],
    *,
    settings: dict[str, Any],
    resume: bool = False,
    prompt_name: str | None = None,
    batch_tokens: int = 1024,
) -> int:
    """Writes the vectors of texts to a file, row by row in their order.

    Args:
        encoder: what makes the vectors.
        texts: any number of them; only a window is held in memory.
        file: where to; its ending is the form. `.safetensors`: a tensor "vectors" (N, E), with the settings as
            metadata. `.npy`: the same for NumPy. `.jsonl`: a line for each text, {"text": …, "vector": […]}. All are
            float32, in decimal digits enough to tell each number apart.
        settings: what the vectors depend on, as JSON; a run is resumed with the same ones only.
        resume: go on where an interrupted run ended, with the same texts; if there was none, begin.
        prompt_name, batch_tokens: as for `SentenceEncoder.encode`.

    Returns:
        The number of texts, those of an interrupted run included.

    Raises:
        EmbedError: the ending is none of these; there are no texts; an interrupted run is there and `resume` is not
            said, or its texts or settings were others.
        StoreError: the file cannot be written.
        TextError: a text has nothing in it. What was done before it is kept.
    """
    target = Path(file)
    if target.suffix not in FORMS:
        raise EmbedError(f"the ending of {target} must be one of {', '.join(FORMS)}: it is the form of the file")
    try:
        return _embed(encoder, iter(texts), target, dict(settings), resume, prompt_name, batch_tokens)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error}; what was done is kept in {_partial(target)}") from error


def read_vectors(file: str | os.PathLike[str]) -> tuple[Tensor, dict[str, str]]:
    """The vectors (N, E) of a `.safetensors` file that `embed` wrote, and what it says of them.

    Raises:
        EmbedError: it is no such file.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor("vectors"), opened.metadata() or {}
    except (OSError, SafetensorError) as error:
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
    settings: dict[str, Any]


def _embed(
    encoder: SentenceEncoder,
    texts: Iterator[str],
    target: Path,
    settings: dict[str, Any],
    resume: bool,
    prompt_name: str | None,
    batch_tokens: int,
) -> int:
    partial, form = _partial(target), FORMS[target.suffix]
    rows, found = partial / ROWS, _read_note(partial)
    if found and not resume:
        raise EmbedError(f"{partial} is there, of an interrupted run: resume it (--resume), or delete the folder")
    if resume and not found and target.exists():
        return 0
    length = len(form.header(0, encoder.dimension, settings, digest([])))
    note = found or Note(0, length, digest([]), settings)
    if note.texts and not rows.exists() and target.exists():  # interrupted when all was done
        shutil.rmtree(partial)
        return note.texts
    for name in note.settings.keys() | settings.keys():
        if note.settings.get(name) != settings.get(name):
            raise EmbedError(
                f"{partial} was begun with {name} {note.settings.get(name)!r}, and now it is {settings.get(name)!r}: "
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
    taken: deque[str] = deque()  # texts on their way through the encoder

    def record() -> Iterator[str]:
        for text in texts:
            taken.append(text)
            yield text

    windows = encoder.encode_stream(record(), prompt_name=prompt_name, batch_tokens=batch_tokens, first=note.texts)
    begin = list(islice(windows, 1))  # before anything is written: a mistake in the first lines leaves nothing behind
    if not begin and not note.texts:
        raise EmbedError("there are no texts to embed")
    partial.mkdir(exist_ok=True)
    with rows.open("r+b" if rows.exists() else "w+b") as file:
        file.truncate(note.size)  # what was written after the last note is written again
        file.seek(note.size)
        for vectors in chain(begin, windows):
            window = [taken.popleft() for _ in vectors]
            for text in window:
                seen.update(_line(text))
            file.write(form.rows(window, vectors))
            _on_disk(file)
            note = Note(note.texts + len(window), file.tell(), seen.hexdigest(), settings)
            _write_note(note, partial)
        file.seek(0)
        file.write(form.header(note.texts, encoder.dimension, settings, note.texts_sha256))
        _on_disk(file)
    rows.replace(target)
    shutil.rmtree(partial)
    return note.texts


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


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
    incoming = partial / f"{NOTE}.incoming"
    with incoming.open("wb") as file:
        file.write(json.dumps(vars(note)).encode())
        _on_disk(file)
    incoming.replace(partial / NOTE)


@dataclass(frozen=True)
class Form:
    """A file format: what stands before the rows, of one length however many they are, and the rows themselves."""

    header: Callable[[int, int, dict[str, Any], str], bytes]  # of texts, width, settings and the texts' sha256
    rows: Callable[[list[str], Tensor], bytes]


def _safetensors_header(texts: int, width: int, settings: dict[str, Any], texts_sha256: str) -> bytes:
    """Eight bytes with the length of a JSON object, and the object, filled up with spaces to a fixed length."""

    def header(number: int) -> bytes:
        tensor = {"dtype": "F32", "shape": [number, width], "data_offsets": [0, 4 * number * width]}
        metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
        metadata["texts_sha256"] = texts_sha256
        return json.dumps({"__metadata__": metadata, "vectors": tensor}).encode()

    length = -(-len(header(10**15)) // 8) * 8  # more texts than there will be; the numbers begin at a multiple of 8
    return length.to_bytes(8, "little") + header(texts).ljust(length)


def _npy_header(texts: int, width: int, settings: dict[str, Any], texts_sha256: str) -> bytes:
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
    ".jsonl": Form(lambda texts, width, settings, texts_sha256: b"", _json_rows),
}
