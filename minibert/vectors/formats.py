"""How does one read word2vec and GloVe files? As text, as word2vec's C binary, or as a matrix with a list of words.

Both formats of Mikolov et al. 2013 begin with a header line "words dimension"; GloVe's text (Pennington et al. 2014)
has none. gensim's readers must be told the format. If a word of a binary contains a space, they read the numbers after
it from the wrong bytes, and they fill a truncated row with its only number. Shapes: `N` words, `D` the dimension.
"""

import array
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from minibert.errors import StoreError

HEADER = re.compile(rb"\s*([1-9]\d{0,9})\s+([1-9]\d{0,4})\s*")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors write it before UTF-8
GZIP = b"\x1f\x8b"
CONTROL = re.compile(rb"[\0-\x1f\x7f]")
LONGEST_LINE = 1 << 20  # bytes; a file of another kind may have no line end at all
LONGEST_WORD = 1000  # bytes, in a binary; word2vec's own tool truncates words at 100
LARGEST = 1e18  # no trained vector has a larger number, nor one closer to 0 than 1e-18; bytes read out of step have
CHUNK = 10_000  # rows that are compared at once, for little memory
DOWNLOAD_AGAIN = "download the file again"

# What is taken for word vectors and begins differently: what it is, and the next step.
OTHER_FILES = {
    rb"\x80": (
        "a pickle, as gensim's save() writes",
        "if you trust it, for a pickle can run any code, load it with gensim's KeyedVectors.load, or with "
        "Word2Vec.load and .wv, and pass that to StaticVectors",
    ),
    rb"\xba\x16\x4f\x2f": (
        "a model in fastText's own format",
        "load it with gensim.models.fasttext.load_facebook_vectors and pass that to StaticVectors, or use the .vec "
        "file beside it",
    ),
    rb"\x93NUMPY": ("a matrix without its words", "pass the file it belongs to, or a folder that also has the words"),
    rb"PK\x03\x04": ("a zip archive", "unpack it, and pass a file of it"),
    rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd": ("compressed, and not with gzip", "unpack it first"),
    rb"\xff\xfe|\xfe\xff": ("text in UTF-16", "convert it to UTF-8"),
    rb"version https://git-lfs": ("a Git LFS pointer", "run `git lfs pull` in its repository"),
    rb"(?i)\s*<(?:!doctype|html)": ("a web page", "download the file that the page shows"),
}


class FormatError(ValueError):
    """What is wrong with the content of a file, and the next step; the caller adds the path."""


class WordVectors(NamedTuple):
    """The content of a file."""

    words: list[str]  # N, each once
    vectors: Any  # (N, D) float32, a NumPy array


def read_word_vectors(path: Path, import_extra: Callable[[str], Any]) -> WordVectors:
    """Reads a file or a folder; the content shows the format. If a word occurs twice, its first vector counts.

    Args:
        path: an existing file or folder.
        import_extra: imports numpy and pyarrow, or raises an error that says how to install them.

    Raises:
        FormatError: the content is something else, or damaged.
        StoreError: the operating system cannot read it.
    """
    numpy = import_extra("numpy")
    try:
        if path.is_dir():
            words, vectors = _read_folder(path, numpy, import_extra("pyarrow.parquet"))
        elif path.is_file():
            words, vectors = _read_file(path, numpy)
        else:
            raise FormatError("it must be a regular file or a folder: write what it gives into a file")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FormatError(f"its gzip compression is damaged or ends early: {DOWNLOAD_AGAIN}") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}): check that you may read it") from error
    rows: dict[str, int] = {}
    for row, word in enumerate(words):
        rows.setdefault(word, row)
    if len(rows) < len(words):
        vectors = vectors[list(rows.values())]
    return WordVectors(list(rows), vectors)


def _read_file(path: Path, numpy: Any) -> tuple[list[str], Any]:
    with path.open("rb") as file:
        stream: BinaryIO = file
        is_zipped = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if is_zipped:  # with a buffer, for the words of a binary are read byte by byte
            stream = io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=file)), LONGEST_LINE)
        stream.seek(len(BYTE_ORDER_MARK) if stream.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0)
        start = stream.tell()
        first = stream.readline(LONGEST_LINE)
        header = HEADER.fullmatch(first)
        if not header:
            dimension = len(first.split()) - 1
            if dimension < 2 or not _is_row(first, dimension):  # one number for a word is its frequency
                raise _other_file(first)
            stream.seek(start)
            words, vectors = _read_text(stream, dimension, numpy)
            if all(_is_number(word.encode()) for word in words):
                raise FormatError("its lines have numbers only: write each word before its numbers")
            return words, vectors
        count, dimension = map(int, header.groups())
        start = stream.tell()
        is_text = _is_text(stream.read(LONGEST_LINE), dimension)
        stream.seek(start)
        return (_read_text if is_text else _read_binary)(stream, dimension, numpy, count)


def _other_file(first: bytes) -> FormatError:
    """What a file is that begins with this line."""
    for beginning, (what, next_step) in OTHER_FILES.items():
        if re.match(beginning, first):
            return FormatError(f"it is {what}: {next_step}")
    return FormatError(
        f"it must begin with 'words dimension' (word2vec) or with a word and its numbers (GloVe), got {first[:40]!r}: "
        "pass a file of one of them, or load it with gensim and pass the KeyedVectors to StaticVectors"
    )


def _is_text(start: bytes, dimension: int) -> bool:
    """Whether the first row is text, even one with a bad number.

    A number takes 4 bytes in a binary, and in text rarely fewer; in a binary they are hardly ever all characters.
    """
    numbers = start.partition(b" ")[2][: 4 * dimension]
    return _is_row(start.partition(b"\n")[0], dimension) or _is_word(re.sub(rb"\s", b"", numbers))


def _is_word(content: bytes) -> bool:
    """Whether these bytes are UTF-8 without control characters; word2vec's own tool may cut the last character."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
    return not CONTROL.search(content)


def _is_row(line: bytes, dimension: int) -> bool:
    try:
        _parse_row(line, dimension)
    except ValueError:
        return False
    return True


def _parse_row(line: bytes, dimension: int) -> tuple[bytes, list[float]]:
    """The word and the numbers of a line. The word may contain spaces, such as ". . ." in GloVe 840B.

    Raises:
        ValueError: the line is something else; if the word ends in a number, a number too many.
    """
    word, *fields = line.rsplit(None, max(dimension, 0)) or [b""]
    numbers = [float(field) for field in fields]
    ends_in_number = b" " in word.strip() and _is_number(word.split()[-1])
    # Python takes 1_0 for a number.
    if not word.strip() or not len(numbers) == dimension > 0 or ends_in_number or b"_" in b"".join(fields):
        raise ValueError(line)
    return word.strip(), numbers


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read_text(stream: BinaryIO, dimension: int, numpy: Any, count: int | None = None) -> tuple[list[str], Any]:
    """Reads rows of text; after a header, as many as it announces."""
    words: list[str] = []
    vectors = array.array("f")
    for line, content in enumerate(iter(lambda: stream.readline(LONGEST_LINE), b""), start=1 if count is None else 2):
        if not content.strip():
            continue
        try:
            word, numbers = _parse_row(content, dimension)
        except ValueError as error:
            raise FormatError(
                f"line {line} must be a word and {dimension:,} numbers, got {_shorten(content)}: {DOWNLOAD_AGAIN}, or "
                "correct the line"
            ) from error
        words.append(word.decode(errors="replace"))  # word2vec's own tool may cut the last character
        vectors.extend(numbers)
    if count not in (None, len(words)):
        raise FormatError(f"its header announces {count:,} words, and it has {len(words):,}: {DOWNLOAD_AGAIN}")
    return words, numpy.frombuffer(vectors, numpy.float32).reshape(-1, dimension)


def _read_binary(stream: BinaryIO, dimension: int, numpy: Any, count: int) -> tuple[list[str], Any]:
    """Reads rows of a word, a space and D numbers, each followed by a line end (word2vec's tool) or none (gensim)."""
    words: list[str] = []
    vectors = bytearray()  # grows with what is read: a damaged header may announce any size
    line_ends = set()
    for row in range(count):
        word, numbers = _read_word(stream), stream.read(4 * dimension)
        if len(numbers) < 4 * dimension:
            raise FormatError(f"its header announces {count:,} words, and it has {row:,}: {DOWNLOAD_AGAIN}")
        if row > 0:
            line_ends.add(word.startswith(b"\n"))
            word = word.removeprefix(b"\n")
        if not word or not _is_word(word) or len(line_ends) > 1:
            raise _out_of_step(words, row)
        words.append(word.decode(errors="replace"))
        vectors += numbers
    if stream.read(2) not in (b"", b"\n"):
        raise FormatError(f"its header announces {count:,} words, and more bytes follow: {DOWNLOAD_AGAIN}")
    matrix = numpy.frombuffer(vectors, "<f4").astype(numpy.float32, copy=False).reshape(count, dimension)
    for start in range(0, count, CHUNK):
        sizes = abs(matrix[start : start + CHUNK])
        impossible = (((sizes > LARGEST) & (sizes < numpy.inf)) | ((sizes < 1 / LARGEST) & (sizes > 0))).any(axis=1)
        if impossible.any():
            raise _out_of_step(words, start + int(impossible.argmax()))
    return words, matrix


def _read_word(stream: BinaryIO) -> bytes:
    word = bytearray()
    while len(word) < LONGEST_WORD:
        byte = stream.read(1)
        if byte in (b" ", b""):
            break
        word += byte
    return bytes(word)


def _out_of_step(words: list[str], row: int) -> FormatError:
    where = f"after {words[row - 1]!r}" if row else "in the first row"
    return FormatError(
        f"words and numbers cannot be told apart {where}, because a word contains a space or bytes are missing: save "
        "it as text, or with words without spaces; if its numbers are right, load it with gensim's "
        "KeyedVectors.load_word2vec_format(path, binary=True) and pass that to StaticVectors"
    )


def _read_folder(folder: Path, numpy: Any, parquet: Any) -> tuple[list[str], Any]:
    """Reads the vectors of a folder with one `*_emb.npy`, (words, D), and their words in one `*_index.parquet`."""
    files = [sorted(folder.glob(pattern)) for pattern in ("*_emb.npy", "*_index.parquet")]
    if [len(found) for found in files] != [1, 1]:
        raise FormatError(
            f"a folder must have one *_emb.npy and one *_index.parquet, got {len(files[0])} and {len(files[1])}: pass "
            "a folder that has both, or a single file of word2vec or GloVe"
        )
    (matrix,), (index,) = files
    with _damage_named(matrix):
        vectors = numpy.load(matrix, mmap_mode="r", allow_pickle=False)  # mapped: a header may announce any size
    with _damage_named(index), parquet.ParquetFile(index) as file:
        columns = file.read().columns
        words = columns[0].to_pylist() if len(columns) == 1 else []
    if not words or not all(isinstance(word, str) for word in words):
        raise FormatError(f"{index.name} must have one column of strings, the words: write it so")
    if getattr(vectors, "ndim", 0) != 2 or len(vectors) != len(words) or vectors.dtype.kind != "f":
        got = f"{getattr(vectors, 'dtype', 'no')} numbers of shape {getattr(vectors, 'shape', ())}"
        raise FormatError(f"{matrix.name} must be floating-point numbers ({len(words)}, D), got {got}: write it so")
    with numpy.errstate(over="ignore"):  # infinite then, which is refused
        return words, numpy.array(vectors, dtype=numpy.float32)


@contextlib.contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """Says of a file that NumPy or pyarrow cannot read that it is damaged; they raise a dozen types."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        kind = "a matrix that numpy.save wrote" if file.suffix == ".npy" else "a Parquet file"
        raise FormatError(f"{file.name} must be {kind}, and complete: {DOWNLOAD_AGAIN}") from error


def _shorten(content: bytes) -> str:
    text = content.decode(errors="replace").rstrip("\r\n")
    return repr(text if len(text) <= 60 else f"{text[:40]}…{text[-20:]}")
