"""What are the vectors of Word2Vec and GloVe? One per word, whatever the sentence: what BERT is compared with.

Their files have four formats, recognised by content: word2vec's text and its C binary (Mikolov et al. 2013, both begin
with a header line "words dimension"), GloVe's text without a header (Pennington et al. 2014), and a folder with a
matrix `*_emb.npy` and its words `*_index.parquet`. Shapes: `N` texts, `D` the dimension.
"""

import gzip
import importlib
import itertools
import os
import re
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from minibert.checks import did_you_mean
from minibert.errors import (
    CheckpointNotFoundError,
    MissingPackageError,
    TextError,
    TextTypeError,
    VectorsError,
)

HEADER = re.compile(rb"([1-9]\d{0,9}) ([1-9]\d{0,4})\s*")
LONGEST_ROW = 1 << 20  # bytes; a file of another kind may have no line end at all

# gensim's own `tokenize` splits "don't" into "don" and "t", drops "1990" and reports neither; `simple_preprocess` drops
# "a" and "I" as well. Here a word keeps digits, apostrophes and hyphens, and "U.S." its points. If the vocabulary does
# not have the whole word, it is split as in GloVe's corpora: do + n't, dog + 's, river + bank.
WORD = re.compile(r"(?:[^\W\d_]\.){2,}|\d+(?:[.,]\d+)+|\w+(?:['-]\w+)*")
JOINT = re.compile(r"-|(?=n't$|'(?:s|m|d|re|ve|ll)$)", re.IGNORECASE)


class AverageVectors(NamedTuple):
    """What `average_vectors` returns, for N texts or a single one."""

    vectors: Tensor  # (N, D), or (D,)
    missing: list[list[str]] | list[str]  # the words without a vector: N lists, or one


class StaticVectors:
    """The vectors of a vocabulary, from `StaticVectors.load(path)` or from gensim's `KeyedVectors`.

    A word is looked up as it is written, then in lower case: one rule serves cased and uncased vocabularies.
    """

    def __init__(self, keyed_vectors: Any) -> None:
        if not hasattr(keyed_vectors, "key_to_index"):
            raise VectorsError(
                f"keyed_vectors must be gensim's KeyedVectors, such as model.wv, got {type(keyed_vectors).__name__}: "
                "for a file or folder, call StaticVectors.load(path)"
            )
        self.keyed_vectors = keyed_vectors  # gensim's object, with `most_similar` and all its other methods
        self._vectors = torch.as_tensor(keyed_vectors.vectors, dtype=torch.float32)  # (words, D), not a copy

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "StaticVectors":
        """Reads a file of word2vec or GloVe, gzipped or not, or a folder; the format is recognised by the content.

        If a word occurs twice, its first vector counts, as in gensim.

        Raises:
            MissingPackageError: gensim, or for a folder pyarrow, is not installed.
            CheckpointNotFoundError: there is no such file or folder.
            VectorsError: the content is something else, or damaged; nothing is loaded then.
        """
        keyed_vectors = _extra("gensim").models.KeyedVectors
        path = Path(path).expanduser()
        if not path.exists():
            raise CheckpointNotFoundError(f"there is no file or folder {path} to read word vectors from")
        problem = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # gensim does not close a file
            try:
                loaded = (_read_folder if path.is_dir() else _read_file)(path, keyed_vectors)
                problem = _problem(loaded)
            except MissingPackageError:
                raise
            except Exception as error:  # gensim, numpy, pyarrow and zlib raise a dozen types for damaged files
                problem = str(error) or type(error).__name__
        if problem:
            raise VectorsError(
                f"{path} cannot be read as word vectors ({problem}): it must be a complete file of word2vec (text or "
                "binary) or GloVe, or a folder with *_emb.npy and *_index.parquet; download it again"
            )
        return cls(loaded)

    @property
    def dimension(self) -> int:
        """D, the length of every vector."""
        return self._vectors.shape[1]

    def __len__(self) -> int:
        return len(self.keyed_vectors.key_to_index)

    def __contains__(self, word: object) -> bool:
        return self._row(word) is not None

    def __getitem__(self, word: str) -> Tensor:
        """Returns the word's vector, (D,) float32. Raises a `VectorsError` for a word without one."""
        row = self._row(word)
        if row is None:
            # Comparing with all of 400,000 words would take a second.
            similar = [known for known in self.keyed_vectors.key_to_index if known[:2].lower() == word[:2].lower()]
            hint = did_you_mean(word, similar) or ": check with 'word in vectors'"
            raise VectorsError(f"neither {word!r} nor its lower case is among the {len(self)} words{hint}")
        return self._vectors[row].clone()

    def average_vectors(self, texts: str | Sequence[str]) -> AverageVectors:
        """Returns the mean of the vectors of each text's words; every occurrence counts, order and context do not.

        Args:
            texts: a text, or a list of texts; they are split into words here.

        Returns:
            `.vectors`, (N, D) float32, and `.missing`, the words of each text that have no vector, in order: they are
            left out of the mean. For a single text (D,) and one list.

        Raises:
            TextTypeError: something that is not a text, such as a list of words. (A function that takes lists of words
                also takes a text, without an error, and averages the vectors of its characters.)
            TextError: the list is empty, or no word of a text has a vector.
        """
        if not isinstance(texts, str | list | tuple):
            raise TextTypeError(f"texts must be a string or a list of strings, got {type(texts).__name__}")
        if len(texts) == 0 and not isinstance(texts, str):
            raise TextError("texts must not be empty")
        means, missing = [], []
        for index, text in enumerate([texts] if isinstance(texts, str) else texts):
            if not isinstance(text, str):
                raise TextTypeError(
                    f"text {index} must be a string, got {type(text).__name__}: pass whole texts, not their words"
                )
            words = self._split(text)
            rows = [row for row in map(self._row, words) if row is not None]
            if not rows:
                why = f"none of its words has a vector: {', '.join(words[:10])}" if words else "it contains no word"
                raise TextError(f"text {index} has no average, {why}; leave it out, or load a larger vocabulary")
            means.append(self._vectors[rows].mean(dim=0))  # (words, D) → (D,)
            missing.append([word for word in words if word not in self])
        if isinstance(texts, str):
            return AverageVectors(means[0], missing[0])
        return AverageVectors(torch.stack(means), missing)

    def _split(self, text: str) -> list[str]:
        words = WORD.findall(unicodedata.normalize("NFC", text).replace("\u2019", "'"))
        parts = ([word] if word in self else JOINT.split(word) for word in words)
        return [part for part in itertools.chain.from_iterable(parts) if part]

    def _row(self, word: object) -> int | None:
        if not isinstance(word, str):
            raise TextTypeError(f"a word must be a string, got {type(word).__name__}")
        rows = self.keyed_vectors.key_to_index
        return cast("int | None", rows.get(word, rows.get(word.lower())))


def _read_file(path: Path, keyed_vectors: Any) -> Any:
    """Reads a file of word2vec, text or binary, or of GloVe with gensim; the first two lines decide the format."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        first, second = stream.readline(LONGEST_ROW), stream.readline(LONGEST_ROW)
    header = HEADER.fullmatch(first)
    dimension = int(header.group(2)) if header else first.strip().count(b" ")
    if not header and not _is_row(first, dimension):
        raise ValueError("it does not begin with a word and its vector")
    binary = header is not None and not _is_row(second, dimension)
    # word2vec's own tool truncates long words, even within a character: "replace" accepts such bytes.
    return keyed_vectors.load_word2vec_format(
        str(path), binary=binary, no_header=header is None, unicode_errors="replace"
    )


def _problem(loaded: Any) -> str:
    """What is wrong with vectors that gensim could read; "" if nothing is."""
    vectors = torch.as_tensor(loaded.vectors)
    # If a row is truncated after its first number, gensim fills the whole vector with that number.
    cut = (vectors == vectors[:, :1]).all(dim=1) & (vectors[:, 0] != 0) & (loaded.vector_size > 1)
    for wrong, what in ((~vectors.isfinite().all(dim=1), "not finite"), (cut, "one number, not a vector")):
        if wrong.any():
            return f"the vector of {loaded.index_to_key[int(wrong.int().argmax())]!r} is {what}"
    return ""


def _is_row(line: bytes, dimension: int) -> bool:
    """Whether this line is a word and its vector, as text."""
    try:
        return len([float(number) for number in line.split()[-dimension:]]) == dimension > 0
    except ValueError:
        return False


def _read_folder(folder: Path, keyed_vectors: Any) -> Any:
    """Reads the vectors of a folder with one `*_emb.npy`, (words, D), and their words in one `*_index.parquet`."""
    parquet, numpy = _extra("pyarrow.parquet"), _extra("numpy")
    files = [sorted(folder.glob(pattern)) for pattern in ("*_emb.npy", "*_index.parquet")]
    if [len(found) for found in files] != [1, 1]:
        raise ValueError(f"it must have one *_emb.npy and one *_index.parquet, got {len(files[0])} and {len(files[1])}")
    (matrix,), (index,) = files
    vectors = numpy.load(matrix, allow_pickle=False)
    with parquet.ParquetFile(index) as file:
        columns = file.read().columns
    words = columns[0].to_pylist() if len(columns) == 1 else []
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{index.name} must have one column of strings, the words")
    if getattr(vectors, "ndim", 0) != 2 or len(vectors) != len(words) or vectors.dtype.kind != "f":
        got = f"{getattr(vectors, 'dtype', 'no')} numbers of shape {getattr(vectors, 'shape', ())}"
        raise ValueError(f"{matrix.name} must be floating-point numbers ({len(words)}, D), got {got}")
    loaded = keyed_vectors(vectors.shape[1])
    loaded.add_vectors(words, vectors)
    return loaded


def _extra(module: str) -> Any:
    """Imports a module of the extra `static`, which nothing else in minibert needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(
            f"word vectors need {package}, which cannot be imported ({error}): install {package}, or minibert's extra "
            "'static' from a checkout: pip install -e '.[static]'"
        ) from error
