"""What are the vectors of Word2Vec and GloVe? One per word, whatever the sentence: what BERT is compared with.

`formats` reads their files: word2vec's text and its C binary, GloVe's text, and a folder with a matrix `*_emb.npy` and
its words `*_index.parquet`. Shapes: `N` texts, `D` the dimension.
"""

import importlib
import itertools
import os
import re
import unicodedata
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
from minibert.vectors.formats import FormatError, read_word_vectors

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
        finite = self._vectors.isfinite().all(dim=1)
        if not finite.all():
            word = keyed_vectors.index_to_key[int(finite.logical_not().int().argmax())]
            raise VectorsError(f"the vectors must be finite, got infinity or NaN for {word!r}: leave that word out")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "StaticVectors":
        """Reads a file of word2vec or GloVe, gzipped or not, or a folder; the format is recognised by the content.

        If a word occurs twice, its first vector counts, as in gensim.

        Raises:
            MissingPackageError: gensim, or for a folder pyarrow, is not installed.
            CheckpointNotFoundError: there is no such file or folder.
            StoreError: the operating system cannot read it.
            VectorsError: the content is something else, or damaged; nothing is loaded then.
        """
        gensim = _extra("gensim")
        path = Path(path).expanduser()
        if not path.exists():
            raise CheckpointNotFoundError(f"there is no file or folder {path} to read word vectors from")
        try:
            words, vectors = read_word_vectors(path, _extra)
            keyed_vectors = gensim.models.KeyedVectors(vectors.shape[1])
            keyed_vectors.index_to_key = words
            keyed_vectors.key_to_index = {word: row for row, word in enumerate(words)}
            keyed_vectors.vectors = vectors  # not `add_vectors`, which makes two copies
            keyed_vectors.next_index = len(words)
            return cls(keyed_vectors)
        except (FormatError, VectorsError) as error:
            raise VectorsError(f"{path} cannot be read as word vectors: {error}") from error

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


def _extra(module: str) -> Any:
    """Imports a module of the extra `static`, which nothing else in minibert needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(
            f"word vectors need {package}, which cannot be imported ({error}): pip install {package}"
        ) from error
