"""How does a text of any size become token ids, once?

A corpus is text files: one sentence on each line, a blank line between documents. Its tokens are written to a folder
beside the first file, and mapped into memory from there: a second run, and every process of a run, has them at once.
The folder's name ends in a fingerprint of the text and the tokenizer, so that neither can change unnoticed.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from minibert.checkpoints.atomic import finish_save, write_atomically
from minibert.checkpoints.hub import sha256
from minibert.checkpoints.json_files import read_object
from minibert.checks import as_path, shown
from minibert.errors import StoreError, TextError
from minibert.tokenizer import BertTokenizer

IDS, SENTENCES, DOCUMENTS, SUMMARY = "ids.int32", "sentences.int64", "documents.int64", "corpus.json"
LINES_AT_ONCE = 2_000
FORMAT = 1  # of the files in the folder; part of the fingerprint

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Corpus:
    """The tokens of a text, without [CLS]; each document ends with [SEP]."""

    ids: Tensor  # (N,) the token ids of all documents, one after another
    sentences: Tensor  # (K + 1,) where each sentence begins, and N at the end; [SEP] belongs to a document's last
    documents: Tensor  # (M + 1,) the number of each document's first sentence, and K at the end
    fingerprint: str  # of the text and the tokenizer

    def __str__(self) -> str:
        documents, sentences = len(self.documents) - 1, len(self.sentences) - 1
        return f"{len(self.ids) - documents:,} tokens in {sentences:,} sentences of {documents:,} documents"

    @classmethod
    def open(cls, files: Files, tokenizer: BertTokenizer) -> "Corpus":
        """Returns the corpus in one or more text files, which are tokenized the first time.

        Raises:
            TextError: a file cannot be read, is not UTF-8 or has no text, or a line has a special token such as [MASK].
            StoreError: the folder beside the first file cannot be written to.
        """
        paths = _as_paths(files)
        fingerprint = _fingerprint(paths, tokenizer)
        folder = paths[0].with_name(f"{paths[0].name}.{fingerprint[:12]}.tokens")
        if folder.is_dir():
            finish_save(folder)
        if not (folder / SUMMARY).is_file():
            separator = tokenizer.convert_tokens_to_ids("[SEP]")
            _write(folder, _sentences(paths, tokenizer), separator, fingerprint)
        return cls._map(folder, fingerprint)

    def split(self, share: float) -> tuple["Corpus", "Corpus"]:
        """Returns the first documents, and the last ones, which are about this share of them, and at least one.

        Raises:
            TextError: there is only one document.
        """
        count = len(self.documents) - 1
        if count < 2:
            raise TextError(
                "held_out must be files of text, since the corpus has one document only: separate documents"
            )
        middle = count - min(count - 1, max(1, round(share * count)))
        return self._between(0, middle), self._between(middle, count)

    def _between(self, first: int, last: int) -> "Corpus":
        """These documents as a corpus of their own, in the same memory."""
        documents = self.documents[first : last + 1]
        sentences = self.sentences[documents[0] : documents[-1] + 1]
        ids = self.ids[sentences[0] : sentences[-1]]
        fingerprint = f"{self.fingerprint}, documents {first} to {last}"
        return Corpus(ids, sentences - sentences[0], documents - documents[0], fingerprint)

    @classmethod
    def _map(cls, folder: Path, fingerprint: str) -> "Corpus":
        sizes = read_object(folder / SUMMARY, StoreError)
        if sizes.get("fingerprint") != fingerprint:
            raise StoreError(f"{folder} must have the tokens of these files, and has those of others: delete it")
        tensors = []
        for name, dtype in ((IDS, torch.int32), (SENTENCES, torch.int64), (DOCUMENTS, torch.int64)):
            file = folder / name
            size = file.stat().st_size if file.is_file() else 0
            if size != sizes.get(name):
                raise StoreError(f"{file} must have {sizes.get(name)} bytes, got {size}: delete the folder {folder}")
            tensors.append(torch.from_file(str(file), size=size // dtype.itemsize, dtype=dtype))
        ids, sentences, documents = tensors
        return cls(ids, sentences, documents, fingerprint)


def _as_paths(files: object) -> list[Path]:
    listed = [files] if isinstance(files, str | os.PathLike) else files
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(f, str | os.PathLike) for f in listed):
        raise TextError(f"files must be a text file or a list of them, got {shown(files)}")
    paths = [as_path("files", file, "paths of files", TextError) for file in listed]
    for path in paths:
        if not path.is_file():
            raise TextError(f"files must be text files, and there is no file {path}")
    return paths


def _fingerprint(paths: Iterable[Path], tokenizer: BertTokenizer) -> str:
    digest = hashlib.sha256(f"{FORMAT}\n{tokenizer.to_json()}".encode())
    for path in paths:
        try:
            digest.update(sha256(path).encode())
        except OSError as error:
            raise TextError(f"{path} cannot be read: {error}") from None
    return digest.hexdigest()


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file, each with what to call it in messages; the end of a file is a blank line."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                yield line.strip(), f"line {number:,} of {path}"
    except UnicodeDecodeError as error:
        where = f"after line {number:,}" if number else "at its beginning"
        raise TextError(f"{path} must be UTF-8 text, and is not {where} ({error.reason})") from None
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error}") from None
    yield "", f"the end of {path}"


def _sentences(paths: Iterable[Path], tokenizer: BertTokenizer) -> Iterator[list[int]]:
    """The token ids of each line, without special tokens; none for a blank line, and at the end of a file."""
    special = {tokenizer.convert_tokens_to_ids(token): token for token in ("[CLS]", "[SEP]", "[MASK]", "[PAD]")}
    for path in paths:
        lines = _lines(path)
        while window := list(islice(lines, LINES_AT_ONCE)):
            for (line, name), ids in zip(window, tokenizer.encode_plain([line for line, _ in window]), strict=True):
                found = special.keys() & set(ids)
                if found:
                    raise TextError(f"{name} has the special token {special[found.pop()]}: remove it from the text")
                if ids or not line:  # a line of nothing but control characters does not end a document
                    yield ids


def _write(folder: Path, sentences: Iterable[list[int]], separator: int, fingerprint: str) -> None:
    """Writes the three arrays and their sizes, whole or not at all."""
    starts, documents = array("q", [0]), array("q", [0])
    with write_atomically(folder, owns=(IDS, SENTENCES, DOCUMENTS, SUMMARY)) as incoming:
        with (incoming / IDS).open("wb") as file:
            for ids in sentences:
                if ids:
                    array("i", ids).tofile(file)
                    starts.append(starts[-1] + len(ids))
                elif documents[-1] < len(starts) - 1:  # a document ends, unless it was empty
                    array("i", [separator]).tofile(file)
                    starts[-1] += 1
                    documents.append(len(starts) - 1)
        if len(documents) == 1:
            raise TextError("files must have text, and there is none in them")
        for name, values in ((SENTENCES, starts), (DOCUMENTS, documents)):
            with (incoming / name).open("wb") as file:
                values.tofile(file)
        sizes = {name: (incoming / name).stat().st_size for name in (IDS, SENTENCES, DOCUMENTS)}
        text = json.dumps({**sizes, "fingerprint": fingerprint}, indent=2)
        (incoming / SUMMARY).write_text(text + "\n", encoding="utf-8")
