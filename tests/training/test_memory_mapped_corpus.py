"""Text becomes tokens once; changed text is never taken for what it was, and nothing half-written is ever read."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
import torch
from support.crashes import crash_points, forks, needs_fork

from minibert import BertTokenizer
from minibert.errors import StoreError, TextError
from minibert.training import Corpus, corpus

TEXT = "The cat sat.\nThe dog ran unbelievably fast.\n\nA second document.\n"
SENTENCES = [["The cat sat.", "The dog ran unbelievably fast."], ["A second document."]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "text.txt", TEXT)


def write(file: Path, text: str | bytes) -> Path:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def read_back(found: Corpus) -> list[list[list[int]]]:
    """The token ids of each sentence of each document."""
    documents = []
    for first, last in zip(found.documents[:-1].tolist(), found.documents[1:].tolist(), strict=True):
        borders = found.sentences[first : last + 1].tolist()
        documents.append([found.ids[start:end].tolist() for start, end in itertools.pairwise(borders)])
    return documents


def tokens_of(documents: list[list[str]], tokenizer: BertTokenizer) -> list[list[list[int]]]:
    """The same from the tokenizer itself, text by text, with [SEP] after the last sentence of a document."""
    separator = tokenizer.convert_tokens_to_ids("[SEP]")
    found = [[tokenizer(sentence)["input_ids"][0].tolist()[1:-1] for sentence in document] for document in documents]
    for document in found:
        document[-1].append(separator)
    return found


def test_a_corpus_is_its_sentences(file: Path, tokenizer: BertTokenizer) -> None:
    found = Corpus.open(file, tokenizer)
    assert read_back(found) == tokens_of(SENTENCES, tokenizer)
    assert (found.ids.dtype, found.sentences.dtype, found.documents.dtype) == (torch.int32, torch.int64, torch.int64)
    count = sum(len(ids) for document in read_back(found) for ids in document) - 2
    assert str(found) == f"{count} tokens in 3 sentences of 2 documents"


@pytest.mark.parametrize(
    "text",
    [
        TEXT.rstrip("\n"),
        f"\n\n{TEXT}\n\n\n",
        TEXT.replace("\n\n", "\n \t\n\n"),
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        f"\ufeff{TEXT}",
        TEXT.replace("The dog", "   The   dog").replace("fast.", "fast.  "),
        TEXT.replace("The dog", "\x00\x01\x02\nThe dog"),
    ],
    ids=[
        "no end of line at the end",
        "blank lines around it",
        "several blank lines, of spaces and tabs",
        "CRLF",
        "CR",
        "a byte-order mark",
        "spaces",
        "a line of control characters",
    ],
)
def test_what_is_not_text_makes_no_difference(text: str, tmp_path: Path, tokenizer: BertTokenizer) -> None:
    found = Corpus.open(write(tmp_path / "text.txt", text), tokenizer)
    assert read_back(found) == tokens_of(SENTENCES, tokenizer)


def test_the_end_of_a_file_ends_a_document(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    files = [write(tmp_path / f"{name}.txt", f"\ufeff{name} one.\n{name} two.") for name in ("first", "second")]
    expected = tokens_of([["first one.", "first two."], ["second one.", "second two."]], tokenizer)
    assert read_back(Corpus.open(files, tokenizer)) == expected
    assert read_back(Corpus.open([str(file) for file in files[::-1]], tokenizer)) == expected[::-1]


def test_more_lines_than_are_tokenized_at_once(
    tmp_path: Path, tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [[f"number {row} of {column}" for row in range(column % 5 + 1)] for column in range(20)]
    text = "\n\n".join("\n".join(document) for document in documents)
    for lines in (1, 2, 7, 1000):
        monkeypatch.setattr(corpus, "LINES_AT_ONCE", lines)
        found = Corpus.open(write(tmp_path / f"{lines}.txt", text), tokenizer)
        assert read_back(found) == tokens_of(documents, tokenizer)


# --- once, and never another text's -----------------------------------------------------------------------------------


def folders(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.is_dir())


def test_the_tokens_are_made_once(file: Path, tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Corpus.open(file, tokenizer)
    monkeypatch.setattr(BertTokenizer, "encode_plain", lambda *_: pytest.fail("the text is tokenized again"))
    again = Corpus.open(file, tokenizer)
    assert torch.equal(first.ids, again.ids)
    assert first.fingerprint == again.fingerprint
    assert folders(file.parent) == [f"text.txt.{first.fingerprint[:12]}.tokens"]


def test_another_text_or_tokenizer_has_a_folder_of_its_own(file: Path, tokenizer: BertTokenizer, small: Path) -> None:
    first = Corpus.open(file, tokenizer)
    ids = first.ids.clone()
    times = (file.stat().st_atime, file.stat().st_mtime)
    write(file, TEXT.replace("cat", "hat"))  # the same size, and the same time
    os.utime(file, times)
    second = Corpus.open(file, tokenizer)
    third = Corpus.open(file, BertTokenizer.from_pretrained(small))
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == len(folders(file.parent)) == 3
    assert torch.equal(first.ids, ids)
    assert not torch.equal(second.ids, ids)
    write(file, TEXT)
    os.utime(file)
    assert Corpus.open(file, tokenizer).fingerprint == first.fingerprint
    assert len(folders(file.parent)) == 3


def test_the_order_of_files_and_where_one_ends_count(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    halves = [write(tmp_path / name, text) for name, text in (("a", "One.\n"), ("b", "Two.\n"), ("c", "One.\nTwo.\n"))]
    a, b, c = halves
    found = {Corpus.open(files, tokenizer).fingerprint for files in ([a, b], [b, a], [c], [a, b, c])}
    assert len(found) == 4


def test_a_copy_elsewhere_has_the_same_fingerprint(file: Path, tmp_path: Path, tokenizer: BertTokenizer) -> None:
    (tmp_path / "copy").mkdir()
    copy = shutil.copy(file, tmp_path / "copy" / "renamed.txt")
    assert Corpus.open(copy, tokenizer).fingerprint == Corpus.open(file, tokenizer).fingerprint


@pytest.mark.parametrize("name", ["ids.int32", "sentences.int64", "documents.int64"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_folder_is_refused(file: Path, tokenizer: BertTokenizer, name: str, damage: str) -> None:
    Corpus.open(file, tokenizer)
    (folder,) = file.parent.glob("*.tokens")
    whole = (folder / name).read_bytes()
    if damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(whole[:-4])
    size = 0 if damage == "gone" else len(whole) - 4
    with pytest.raises(StoreError, match=rf"{name} must have {len(whole)} bytes, got {size}: delete the folder"):
        Corpus.open(file, tokenizer)
    shutil.rmtree(folder)
    assert read_back(Corpus.open(file, tokenizer)) == tokens_of(SENTENCES, tokenizer)


@needs_fork
@forks
def test_killed_while_writing_leaves_nothing_half(file: Path, tokenizer: BertTokenizer) -> None:
    """At each step in turn: what is there afterwards is whole, or written anew."""
    work = file.parent / "work"
    expected = tokens_of(SENTENCES, tokenizer)
    count = 0

    def fresh() -> None:
        work.mkdir()
        write(work / "text.txt", TEXT)

    for _ in crash_points(fresh, work, lambda: Corpus.open(work / "text.txt", tokenizer)):
        count += 1
        assert read_back(Corpus.open(work / "text.txt", tokenizer)) == expected
        assert len(folders(work)) == 1
    assert count > 5


@pytest.mark.parametrize("text", ["", "\n\n \n", "\ufeff", "\x00\n\x01"], ids=["empty", "blank", "a mark", "control"])
def test_no_text_is_an_error_and_leaves_no_tokens(text: str, tmp_path: Path, tokenizer: BertTokenizer) -> None:
    file = write(tmp_path / "text.txt", text)
    with pytest.raises(TextError, match="files must have text, and there is none in them"):
        Corpus.open(file, tokenizer)
    assert not list(tmp_path.rglob("*.int*"))
    assert not list(tmp_path.rglob("corpus.json"))
    write(file, TEXT)
    assert read_back(Corpus.open(file, tokenizer)) == tokens_of(SENTENCES, tokenizer)


# --- mistakes, by line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[MASK]", "[PAD]"])
def test_a_special_token_is_named_with_its_line(token: str, tmp_path: Path, tokenizer: BertTokenizer) -> None:
    file = write(tmp_path / "text.txt", f"One.\n\nTwo.\nThe {token} sat.\nThree.\n")
    with pytest.raises(TextError) as error:
        Corpus.open(file, tokenizer)
    assert str(error.value) == f"line 4 of {file} has the special token {token}: remove it from the text"
    assert not list(tmp_path.rglob("corpus.json"))


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    file = write(tmp_path / "text.txt", b"caf\xe9 latin\n")
    with pytest.raises(TextError, match=r"text\.txt must be UTF-8 text, and is not at its beginning \(invalid"):
        Corpus.open(file, tokenizer)
    many = write(tmp_path / "many.txt", b"good.\n" * 10_000 + b"caf\xe9 latin\n")
    with pytest.raises(TextError, match=r"many\.txt must be UTF-8 text, and is not after line [\d,]+ \(") as error:
        Corpus.open(many, tokenizer)
    line = int(str(error.value).split("after line ")[1].split(" ")[0].replace(",", ""))
    assert 8_000 < line <= 10_000  # Python decodes a few kilobytes ahead
    cut = write(tmp_path / "cut.txt", "naïve".encode()[:3])
    with pytest.raises(TextError, match=r"cut\.txt must be UTF-8 text"):
        Corpus.open(cut, tokenizer)


@pytest.mark.parametrize("files", [None, 5, [], [None], {"a": 1}])
def test_files_must_be_files(files: object, tokenizer: BertTokenizer) -> None:
    with pytest.raises(TextError, match="files must be a text file or a list of them, got"):
        Corpus.open(files, tokenizer)


def test_a_file_that_is_not_there_is_named(file: Path, tokenizer: BertTokenizer) -> None:
    for missing in (file.with_name("missing.txt"), file.parent):
        with pytest.raises(TextError, match="files must be text files, and there is no file"):
            Corpus.open([file, missing], tokenizer)
    assert folders(file.parent) == []


# --- split ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share, expected", [(0.01, 1), (0.2, 2), (0.25, 2), (0.5, 5), (0.99, 9), (1, 9)])
def test_the_last_documents_are_held_out(share: float, expected: int, tmp_path: Path, tokenizer: BertTokenizer) -> None:
    documents = [[f"document {number}", "a sentence"][: number % 2 + 1] for number in range(10)]
    text = "\n\n".join("\n".join(document) for document in documents)
    whole = Corpus.open(write(tmp_path / "text.txt", text), tokenizer)
    first, last = whole.split(share)
    assert len(last.documents) - 1 == expected
    assert read_back(first) + read_back(last) == read_back(whole) == tokens_of(documents, tokenizer)
    assert last.ids.data_ptr() > whole.ids.data_ptr()  # in the same memory
    assert len({whole.fingerprint, first.fingerprint, last.fingerprint}) == 3


def test_one_document_cannot_be_split(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    whole = Corpus.open(write(tmp_path / "text.txt", "One.\nTwo.\n"), tokenizer)
    with pytest.raises(TextError, match="held_out must be files of text, since the corpus has one document only"):
        whole.split(0.1)
