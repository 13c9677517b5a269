"""Word2Vec and GloVe: one vector per word, whatever the sentence. What BERT is compared with.

The files that people have come in four forms, told apart by what is in them: word2vec's text and its C binary
(Mikolov et al. 2013, both begin with a line "words dimension"), GloVe's text without such a line (Pennington et al.
2014), and a folder with a matrix `*_emb.npy` and its words `*_index.parquet`. Shapes: `N` texts, `D` the dimension.
"""

import difflib
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

from minibert.errors import (
    CheckpointNotFoundError,
    MissingPackageError,
    TextError,
    TextTypeError,
    VectorsError,
)

HEADER = re.compile(rb"([1-9]\d{0,9}) ([1-9]\d{0,4})\s*")
LONGEST_ROW = 1 << 20  # bytes; no foreign file is searched to its end for that of a line

# gensim's own `tokenize` makes "don" and "t" of "don't", drops "1990" and reports neither; `simple_preprocess` drops
# "a" and "I" as well. Here a word keeps digits, apostrophes and hyphens, and U.S. its points. Where the vocabulary
# does not have it whole, it comes apart as in the corpora of GloVe: do + n't, dog + 's, river + bank.
WORD = re.compile(r"(?:[^\W\d_]\.){2,}|\d+(?:[.,]\d+)+|\w+(?:['-]\w+)*")
JOINT = re.compile(r"-|(?=n't$|'(?:s|m|d|re|ve|ll)$)", re.IGNORECASE)


class AverageVectors(NamedTuple):
    """What `average_vectors` gives: (N, D) and N lists of words; for a single text (D,) and one list."""

    vectors: Tensor
    missing: list[list[str]] | list[str]


class StaticVectors:
    """The vectors of a vocabulary; `StaticVectors.load(path)`, or around the `KeyedVectors` that gensim trained.

    A word is looked up as it is written, else in lower case: so one rule serves cased and uncased vocabularies.
    """

    def __init__(self, keyed_vectors: Any) -> None:
        if not hasattr(keyed_vectors, "key_to_index"):
            raise VectorsError(
                f"StaticVectors takes gensim's KeyedVectors, such as model.wv, not {type(keyed_vectors).__name__}; "
                "for a file or folder, StaticVectors.load(path)"
            )
        self.keyed_vectors = keyed_vectors  # gensim's own, with `most_similar` and all the rest
        self._vectors = torch.as_tensor(keyed_vectors.vectors, dtype=torch.float32)  # (words, D), the same memory

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "StaticVectors":
        """Reads a file of word2vec or GloVe, gzipped or not, or a folder; the form is told from the content.

        Of a word that comes twice the first vector counts, as in gensim.

        Raises:
            MissingPackageError: gensim, or for a folder pyarrow, is not installed.
            CheckpointNotFoundError: there is no such file or folder.
            VectorsError: it holds something else, or is damaged; nothing is loaded then.
        """
        keyed_vectors = _extra("gensim").models.KeyedVectors
        path = Path(path).expanduser()
        if not path.exists():
            raise CheckpointNotFoundError(f"there is no file or folder {path} to read word vectors from")
        problem = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # gensim leaves a file open
            try:
                loaded = (_read_folder if path.is_dir() else _read_file)(path, keyed_vectors)
                problem = _problem(loaded)
            except MissingPackageError:
                raise
            except Exception as error:  # of damaged files gensim, numpy, pyarrow and zlib complain in a dozen ways
                problem = str(error) or type(error).__name__
        if problem:
            raise VectorsError(
                f"{path} cannot be read as word vectors ({problem}): it must be a whole file of word2vec (text or "
                "binary) or GloVe, or a folder with *_emb.npy and *_index.parquet; get it anew"
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
        """The word's vector, (D,) float32. Raises a `VectorsError` for a word that is not there."""
        row = self._row(word)
        if row is None:
            alike = [known for known in self.keyed_vectors.key_to_index if known[:2].lower() == word[:2].lower()]
            close = ", ".join(map(repr, difflib.get_close_matches(word, alike)))
            hint = f"did you mean {close}?" if close else "'word in vectors' tells beforehand"
            raise VectorsError(f"{word!r} is not among the {len(self)} words, nor is it in lower case: {hint}")
        return self._vectors[row].clone()

    def average_vectors(self, texts: str | Sequence[str]) -> AverageVectors:
        """The mean of the vectors of each text's words, every occurrence counted; order and context are lost.

        Args:
            texts: a text, or a list of texts; they are split into words here.

        Returns:
            `.vectors`, (N, D) float32, and `.missing`, for each text the words without a vector in their order, which
            have no part in the mean. For a single text (D,) and one list.

        Raises:
            TextTypeError: something that is not a text, such as a list of words. (Word lists are refused because in
                code that takes them a text passes as well, and what is averaged then are its characters.)
            TextError: the list is empty, or no word of a text has a vector.
        """
        if not isinstance(texts, str | list | tuple):
            raise TextTypeError(f"texts must be a string or a list of strings, not {type(texts).__name__}")
        if len(texts) == 0 and not isinstance(texts, str):
            raise TextError("the list of texts is empty")
        means, missing = [], []
        for number, text in enumerate([texts] if isinstance(texts, str) else texts):
            if not isinstance(text, str):
                raise TextTypeError(
                    f"text {number} must be a string, not {type(text).__name__}: give whole texts, not their words"
                )
            words = self._split(text)
            rows = [row for row in map(self._row, words) if row is not None]
            if not rows:
                why = f"none of its words has a vector: {', '.join(words[:10])}" if words else "there is no word in it"
                raise TextError(f"text {number} has no average, {why}; leave it out, or load a larger vocabulary")
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
            raise TextTypeError(f"a word must be a string, not {type(word).__name__}")
        rows = self.keyed_vectors.key_to_index
        return cast("int | None", rows.get(word, rows.get(word.lower())))


def _read_file(path: Path, keyed_vectors: Any) -> Any:
    """A file of word2vec, text or binary, or of GloVe, read by gensim; its first two lines tell which it is."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        first, second = stream.readline(LONGEST_ROW), stream.readline(LONGEST_ROW)
    header = HEADER.fullmatch(first)
    dimension = int(header.group(2)) if header else first.strip().count(b" ")
    if not header and not _is_row(first, dimension):
        raise ValueError("it begins with no word and its vector")
    binary = header is not None and not _is_row(second, dimension)
    # word2vec's own tool cuts long words, also in the middle of a character: "replace".
    return keyed_vectors.load_word2vec_format(
        str(path), binary=binary, no_header=header is None, unicode_errors="replace"
    )


def _problem(loaded: Any) -> str:
    """What is wrong with vectors that could be read."""
    vectors = torch.as_tensor(loaded.vectors)
    # Of a row that is cut after its first number gensim makes a vector of nothing else.
    cut = (vectors == vectors[:, :1]).all(dim=1) & (vectors[:, 0] != 0) & (loaded.vector_size > 1)
    for wrong, what in ((~vectors.isfinite().all(dim=1), "not finite"), (cut, "one number, not a vector")):
        if wrong.any():
            return f"the vector of {loaded.index_to_key[int(wrong.int().argmax())]!r} is {what}"
    return ""


def _is_row(line: bytes, dimension: int) -> bool:
    """Is this line a word and its vector, as text?"""
    try:
        return len([float(number) for number in line.split()[-dimension:]]) == dimension > 0
    except ValueError:
        return False


def _read_folder(folder: Path, keyed_vectors: Any) -> Any:
    """The vectors of a folder with one `*_emb.npy`, (words, D), and their words in one `*_index.parquet`."""
    parquet, numpy = _extra("pyarrow.parquet"), _extra("numpy")
    files = [sorted(folder.glob(pattern)) for pattern in ("*_emb.npy", "*_index.parquet")]
    if [len(found) for found in files] != [1, 1]:
        raise ValueError(
            f"it has {len(files[0])} *_emb.npy and {len(files[1])} *_index.parquet, and must have one each"
        )
    (matrix,), (index,) = files
    vectors = numpy.load(matrix, allow_pickle=False)
    with parquet.ParquetFile(index) as file:
        columns = file.read().columns
    words = columns[0].to_pylist() if len(columns) == 1 else []
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{index.name} must have one column, the words")
    if getattr(vectors, "ndim", 0) != 2 or len(vectors) != len(words) or vectors.dtype.kind != "f":
        shape = f"{getattr(vectors, 'dtype', 'no')} numbers of shape {getattr(vectors, 'shape', ())}"
        raise ValueError(f"{matrix.name} has {shape}, and {index.name} has {len(words)} words")
    loaded = keyed_vectors(vectors.shape[1])
    loaded.add_vectors(words, vectors)
    return loaded


def _extra(module: str) -> Any:
    """Imported where it is needed: nothing else in minibert needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(
            f"word vectors need {package}, which cannot be imported ({error}): install {package}, or minibert's extra "
            "'static' from a checkout: pip install -e '.[static]'"
        ) from error
