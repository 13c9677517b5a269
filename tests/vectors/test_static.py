import gzip
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gensim
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from gensim.models import KeyedVectors
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from minibert import cosine_similarity
from minibert.errors import (
    CheckpointNotFoundError,
    MinibertError,
    MissingPackageError,
    StoreError,
    TextError,
    TextTypeError,
    VectorsError,
)
from minibert.vectors.static import StaticVectors

WORDS = ["the", "bank", "Paris", "don't", "is", "n't", "U.S.", "é"]
NUMBERS = np.random.default_rng(0).normal(size=(len(WORDS), 3)).astype(np.float32)
SAMPLES = Path(gensim.__file__).parent / "test" / "test_data"
SENTENCES = [
    "He is sitting near the river bank",
    "He is sitting in the bank to get some cash",
    "The elephant is sitting near the bank of the river",
    "The bank is closed so he cannot get any money today",
]


def text(header: bool = True, space: str = "", end: str = "\n") -> bytes:
    rows = [f"{word} {' '.join(map(repr, map(float, row)))}" for word, row in zip(WORDS, NUMBERS, strict=True)]
    return "".join(f"{row}{space}{end}" for row in [f"{len(WORDS)} 3", *rows][not header :]).encode()


def binary(end: bytes = b"\n") -> bytes:
    """As word2vec's own tool writes it; gensim's leaves out the new lines."""
    rows = [word.encode() + b" " + row.tobytes() + end for word, row in zip(WORDS, NUMBERS, strict=True)]
    return f"{len(WORDS)} 3\n".encode() + b"".join(rows)


def write(folder: Path, content: bytes) -> Path:
    file = folder / ("vectors.gz" if content[:2] == b"\x1f\x8b" else "vectors")  # no other extension shows the format
    file.write_bytes(content)
    return file


def write_folder(folder: Path, words: list | None = None, numbers: np.ndarray = NUMBERS) -> Path:
    np.save(folder / "my_emb.npy", numbers)
    pyarrow.parquet.write_table(pyarrow.table({"index": words or WORDS}), folder / "my_index.parquet")
    return folder


@pytest.fixture
def vectors(tmp_path: Path) -> StaticVectors:
    return StaticVectors.load(write(tmp_path, text()))


@pytest.fixture(scope="session")
def glove(data: Callable[[str], Path]) -> StaticVectors:
    return StaticVectors.load(data("glove-6b-50d"))


FORMATS = {
    "word2vec text": text(),
    "spaces at the ends": text(space=" "),
    "Windows line ends": text(end="\r\n"),
    "word2vec binary": binary(),
    "gensim binary": binary(end=b""),
    "GloVe": text(header=False),
    "word2vec text, gzipped": gzip.compress(text()),
    "word2vec binary, gzipped": gzip.compress(binary()),
    "GloVe, gzipped": gzip.compress(text(header=False)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_exactly_the_same_numbers(tmp_path: Path, name: str) -> None:
    vectors = StaticVectors.load(write(tmp_path, FORMATS[name]))
    assert (len(vectors), vectors.dimension) == NUMBERS.shape
    for word, row in zip(WORDS, NUMBERS, strict=True):
        assert vectors[word].dtype == torch.float32
        assert vectors[word].tolist() == row.tolist(), word


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_folder(tmp_path: Path, dtype: type) -> None:
    vectors = StaticVectors.load(str(write_folder(tmp_path, numbers=NUMBERS.astype(dtype))))
    assert vectors["bank"].tolist() == NUMBERS[1].astype(dtype).astype(np.float32).tolist()


@pytest.mark.parametrize(
    "file,options",
    [
        ("euclidean_vectors.bin", {"binary": True}),
        ("high_precision.kv.bin", {"binary": True}),
        ("high_precision.kv.txt", {}),
        ("word2vec_pre_kv_c", {}),
        ("lee_fasttext.vec", {}),
        ("crime-and-punishment.vec", {}),
    ],
)
def test_against_gensims_reader(file: str, options: dict) -> None:
    """Which has to be told the format."""
    ours, theirs = StaticVectors.load(SAMPLES / file), KeyedVectors.load_word2vec_format(SAMPLES / file, **options)
    assert ours.keyed_vectors.index_to_key == theirs.index_to_key
    assert np.array_equal(ours.keyed_vectors.vectors, theirs.vectors)
    some = theirs.index_to_key[1]
    assert ours.keyed_vectors.most_similar(some) == theirs.most_similar(some)


def test_what_real_files_have(tmp_path: Path) -> None:
    """A word truncated within a character, one that occurs twice, a vector of zeros."""
    content = b"the 1 2\n\xe3\x81\x82\xe3\x81 5 6\nthe 7 8\nlast 9 10\nnone 0 0\n"
    for file in (content, b"5 2\n" + content):
        vectors = StaticVectors.load(write(tmp_path, file))
        assert list(vectors.keyed_vectors.key_to_index) == ["the", "あ\N{REPLACEMENT CHARACTER}", "last", "none"]
        assert vectors["the"].tolist() == [1, 2]
        assert vectors["last"].tolist() == [9, 10]


def test_vectors_that_gensim_trained() -> None:
    keyed = KeyedVectors(3)
    keyed.add_vectors(WORDS, NUMBERS)
    assert StaticVectors(keyed)["bank"].tolist() == NUMBERS[1].tolist()
    with pytest.raises(VectorsError, match=r"must be gensim's KeyedVectors, .*, got str: .*load\(path\)"):
        StaticVectors("vectors.bin")


LINE = "must be a word and 2 numbers, got"
OTHERS = {
    b"": "it must begin with 'words dimension' (word2vec) or with a word and its numbers (GloVe), got b''",
    b"He is sitting near the river bank\n": "it must begin with",
    b"word,0.1,0.2\n": "it must begin with",
    b"[0.1, 0.2]\n": "it must begin with",
    b"the 120\nof 95\n": "it must begin with",  # words and their frequencies, as word2vec's -save-vocab writes them
    b"0.1 0.2 0.3\n0.4 0.5 0.6\n": "its lines have numbers only",
    b"\x80\x02cgensim.models.word2vec\nWord2Vec\n": "a pickle, as gensim's save.. writes: .*KeyedVectors.load",
    b"\xba\x16\x4f\x2f\x0c\0\0\0": "fastText's own format: .*load_facebook_vectors",
    b"\x93NUMPY\x01\0": "a matrix without its words",
    b"PK\x03\x04glove.6B.50d.txt": "a zip archive: unpack it",
    b"BZh91AY&SY": "compressed, and not with gzip: unpack it",
    "the 1 2\n".encode("utf-16"): "text in UTF-16: convert it",
    b"version https://git-lfs.github.com/spec/v1\n": "a Git LFS pointer: run `git lfs pull`",
    b"\n<!DOCTYPE html>\n<html><head>": "it must begin with",
    b"<!DOCTYPE html>\n<html><head>": "a web page: download the file",
}
DAMAGED = {
    b"3 2\nthe 1 2\n": "its header announces 3 words, and it has 1",
    b"1 2\nthe 1 2\na 3 4\n": "its header announces 1 words, and it has 2",
    b"2 2\nthe 1 2\na 3\n": f"line 3 {LINE} 'a 3'",
    b"the 1 2\na 3\n": f"line 2 {LINE} 'a 3'",
    b"2 2\nthe 1 2\na -3e-1 4 5\n": f"line 3 {LINE} 'a -3e-1 4 5'",
    b"2 2\nthe 1 x\na 3 4\n": f"line 2 {LINE} 'the 1 x'",
    b"2 2\nthe x\na 3 4\n": f"line 2 {LINE} 'the x'",
    b"2 2\n\xc3\xa9 1.x 2.x\na 3 4\n": f"line 2 {LINE} 'é 1.x 2.x'",
    b"the 1 2\na 3 four\n": f"line 2 {LINE} 'a 3 four'",
    b"the 1 2\na 3 1_0\n": f"line 2 {LINE} 'a 3 1_0'",
    b"the 1 2\n 3 4\n": f"line 2 {LINE} ' 3 4'",
    b"the 1 2\na 3 nan\n": "the vectors must be finite, got infinity or NaN for 'a'",
    b"the 1 2\na 3 1e39\n": "the vectors must be finite, got infinity or NaN for 'a'",
    binary()[:-5]: "its header announces 8 words, and it has 7: download the file again",
    binary() + b"more": "its header announces 8 words, and more bytes follow",
    b"2 99999" + binary()[3:]: "its header announces 2 words, and it has 0",
    b"9999999999 3" + binary()[3:]: "its header announces 9,999,999,999 words, and it has 8",
    gzip.compress(text())[:-9]: "its gzip compression is damaged or ends early",
    gzip.compress(text())[:40] + b"\0" * 100: "its gzip compression is damaged or ends early",
}


@pytest.mark.parametrize("content", [*OTHERS, *DAMAGED])
def test_a_damaged_or_foreign_file_is_named_with_the_next_step(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path, content)
    with pytest.raises(VectorsError) as caught:
        StaticVectors.load(file)
    assert str(caught.value).startswith(f"{file} cannot be read as word vectors: ")
    message = OTHERS[content] if content in OTHERS else DAMAGED[content]
    assert message in str(caught.value) or re.search(message, str(caught.value))
    assert re.search(r": .*: \S+", str(caught.value))  # the next step


@pytest.mark.parametrize(
    "file,message",
    [
        ("w2v_keyedvectors_load_test.modeldata", None),
        ("word2vec_3.3", "a pickle"),
        ("ft_kv_3.6.0.model.gz", "a pickle"),
        ("lee_fasttext_new.bin", "fastText"),
        ("lee_fasttext.bin", "it must begin with"),  # an older format, without a mark of its own
        ("word2vec_pre_kv_sep_py3.syn0.npy", "a matrix without its words"),
        ("crime-and-punishment.bin", "fastText"),
    ],
)
def test_what_gensim_and_fasttext_save(file: str, message: str | None) -> None:
    if message is None:
        assert len(StaticVectors.load(SAMPLES / file)) > 0
        return
    with pytest.raises(VectorsError, match=message):
        StaticVectors.load(SAMPLES / file)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = write(tmp_path, text())
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreError, match=r"vectors cannot be read \(Permission denied\): check that you may read it"):
        StaticVectors.load(file)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VectorsError, match="it must be a regular file or a folder"):
        StaticVectors.load(tmp_path / "pipe")


def binary_rows(words: list[bytes], numbers: np.ndarray, end: bytes) -> bytes:
    rows = [word + b" " + row.astype("<f4").tobytes() + end for word, row in zip(words, numbers, strict=True)]
    return f"{len(words)} {numbers.shape[1]}\n".encode() + b"".join(rows)


@pytest.mark.parametrize("end", [b"\n", b""], ids=["as word2vec writes it", "as gensim writes it"])
@pytest.mark.parametrize("dimension", [10, 300])
@pytest.mark.parametrize(
    "word", ["San Francisco", "New Y", "the cat", "東京 都", "a b c", "New York City", " of", "of "]
)
def test_a_binary_with_a_space_in_a_word_is_refused(tmp_path: Path, word: str, dimension: int, end: bytes) -> None:
    """Rows after such a word are read from the wrong bytes, until by chance they fit again."""
    words = [b"the", b"of", word.encode(), b"Paris", b"Rome", b"Oslo"]
    for seed in range(10):
        numbers = np.random.default_rng(seed).normal(scale=0.1, size=(6, dimension)).astype(np.float32)
        with pytest.raises(VectorsError, match=r"words and numbers cannot be told apart|its header announces"):
            StaticVectors.load(write(tmp_path, binary_rows(words, numbers, end)))


@pytest.mark.parametrize("end", [b"\n", b""], ids=["as word2vec writes it", "as gensim writes it"])
def test_a_binary_with_bytes_lost_or_added_is_refused(tmp_path: Path, end: bytes) -> None:
    """Without line ends, a byte lost or added in the last few numbers of a vector changes too little to be seen."""
    words = [b"the", b"of", b"Paris", b"Rome"]
    numbers = np.random.default_rng(0).normal(scale=0.1, size=(4, 50)).astype(np.float32)
    whole = binary_rows(words, numbers, end)
    assert len(StaticVectors.load(write(tmp_path, whole))) == 4
    for row in numbers[:3]:
        start = whole.index(row.tobytes())
        for position in range(start, start + 150, 7):
            for count in (1, 2, 3, 50):
                for damaged in (
                    whole[:position] + whole[position + count :],
                    whole[:position] + b"\x11" * count + whole[position:],
                ):
                    with pytest.raises(VectorsError):
                        StaticVectors.load(write(tmp_path, damaged))


def test_words_with_spaces_are_read_from_text(tmp_path: Path) -> None:
    """GloVe 840B has ". . ." and addresses; the numbers are counted from the end of the line."""
    content = b"the 1 2\n. . . 3 4\nat name@domain.com 5 6\nSan Francisco 7 8\n"
    for file in (content, b"4 2\n" + content, content.replace(b" 7 8", b"\t7\t8")):
        vectors = StaticVectors.load(write(tmp_path, file))
        assert vectors.keyed_vectors.index_to_key == ["the", ". . .", "at name@domain.com", "San Francisco"]
        assert vectors["San Francisco"].tolist() == [7, 8]
        assert vectors[". . ."].tolist() == [3, 4]


@pytest.mark.parametrize("content", [b"<unk> 0.6 0.6 0.6\na 1 2 3\n", b"2 3\n<unk> 0.6 0.6 0.6\na 1 2 3\n"])
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content,
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b" ", b"\t"),
        lambda content: content.replace(b" ", b"  ").replace(b"\n", b" \n"),
        lambda content: content + b"\n\n",
        lambda content: gzip.compress(b"\xef\xbb\xbf" + content),
    ],
    ids=["as it is", "byte-order mark", "tabs", "many spaces", "blank lines", "byte-order mark, gzipped"],
)
def test_a_constant_vector_and_what_editors_change(tmp_path: Path, content: bytes, change: Callable) -> None:
    vectors = StaticVectors.load(write(tmp_path, change(content)))
    assert vectors.keyed_vectors.index_to_key == ["<unk>", "a"]
    assert vectors["<unk>"].tolist() == np.float32([0.6, 0.6, 0.6]).tolist()
    assert vectors["a"].tolist() == [1, 2, 3]


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    (tmp_path / "zipped.txt").write_bytes(gzip.compress(text()))
    (tmp_path / "unzipped.txt.gz").write_bytes(text())  # as a browser may store it
    for file in tmp_path.iterdir():
        assert StaticVectors.load(file)["bank"].tolist() == NUMBERS[1].tolist()


def loads_right_or_is_refused(file: Path) -> None:
    try:
        vectors = StaticVectors.load(file)
    except MinibertError:
        return
    assert len(vectors) > 0
    for word in vectors.keyed_vectors.index_to_key:
        assert vectors[word].shape == (vectors.dimension,)
        assert vectors[word].isfinite().all()


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed") / "vectors"


@examples(60)
@given(content=st.binary(max_size=40), start=st.sampled_from([b"", b"the 1 2\n", b"2 1\n", b"1 3\n", b"\xef\xbb\xbf"]))
def test_files_of_anything(fuzzed: Path, content: bytes, start: bytes) -> None:
    fuzzed.write_bytes(start + content)
    loads_right_or_is_refused(fuzzed)


@examples(60)
@given(data=st.data(), whole=st.sampled_from(list(FORMATS.values())))
def test_whole_files_with_some_bytes_changed(fuzzed: Path, data: st.DataObject, whole: bytes) -> None:
    position = data.draw(st.integers(0, len(whole)))
    some, gone = data.draw(st.binary(max_size=6)), data.draw(st.integers(0, 8))
    fuzzed.write_bytes(whole[:position] + some + whole[position + gone :])
    loads_right_or_is_refused(fuzzed)


# A word as it is in any language: no white space or control characters.
any_word = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=12)


@examples(60)
@given(
    words=st.lists(any_word, min_size=1, max_size=5, unique=True).filter(lambda words: "word" not in words),
    dimension=st.integers(3, 9),
    seed=st.integers(0, 2**32 - 1),
    has_header=st.booleans(),
)
def test_any_words_and_numbers_are_read_back_from_every_format(
    fuzzed: Path, words: list[str], dimension: int, seed: int, has_header: bool
) -> None:
    words = [*words, "word"]  # numbers alone would be a matrix without words
    numbers = np.random.default_rng(seed).normal(size=(len(words), dimension)).astype(np.float32)
    rows = [f"{word} {' '.join(map(str, row))}\n" for word, row in zip(words, numbers, strict=True)]
    header = f"{len(words)} {dimension}\n" if has_header else ""
    encoded = [word.encode() for word in words]
    for content in ((header + "".join(rows)).encode(), *(binary_rows(encoded, numbers, end) for end in (b"\n", b""))):
        fuzzed.write_bytes(content)
        vectors = StaticVectors.load(fuzzed)
        assert vectors.keyed_vectors.index_to_key == words
        assert np.array_equal(vectors.keyed_vectors.vectors, numbers)


@pytest.mark.parametrize("content", [binary(), gzip.compress(text()), text()], ids=["binary", "gzip", "text"])
def test_a_file_cut_anywhere(tmp_path: Path, content: bytes) -> None:
    """Only a cut in the last number of a text goes unnoticed: nothing distinguishes 0.12 from 0.1."""
    noticed = len(content) - 1 if content != text() else content.rindex(b" ") + 2
    for length in range(noticed):
        with pytest.raises(VectorsError):
            StaticVectors.load(write(tmp_path, content[:length]))


def test_a_damaged_folder(tmp_path: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(VectorsError, match=message):
            StaticVectors.load(tmp_path)

    fails(r"must have one \*_emb\.npy and one \*_index\.parquet, got 0 and 0")
    for name in ("my_emb.npy", "my_index.parquet"):
        write_folder(tmp_path)
        whole = (tmp_path / name).read_bytes()
        for length in range(len(whole)):
            (tmp_path / name).write_bytes(whole[:length])
            fails("cannot be read as word vectors")
    write_folder(tmp_path)
    whole = (tmp_path / "my_emb.npy").read_bytes()
    (tmp_path / "my_emb.npy").write_bytes(whole.replace(b"}", b" "))
    fails("cannot be read as word vectors")
    write_folder(tmp_path, numbers=NUMBERS[:, 0])
    fails(r"my_emb\.npy must be floating-point numbers \(8, D\), got float32 numbers of shape \(8,\)")
    write_folder(tmp_path, numbers=NUMBERS[:-1])
    fails(r"my_emb\.npy must be floating-point numbers \(8, D\), got float32 numbers of shape \(7, 3\)")
    write_folder(tmp_path, numbers=NUMBERS.astype(int))
    fails("got int64 numbers")
    write_folder(tmp_path, words=list(range(8)))
    fails(r"my_index\.parquet must have one column of strings, the words")
    write_folder(tmp_path)
    (tmp_path / "other_emb.npy").touch()
    fails(r"must have one .*, got 2 and 1")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    write_folder(tmp_path)
    np.save(tmp_path / "my_emb.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(VectorsError, match=r"my_emb\.npy must be a matrix that numpy\.save wrote") as caught:
        StaticVectors.load(tmp_path)
    assert "allow_pickle" not in str(caught.value)  # NumPy's advice would run what the file contains


def test_a_word_twice_in_a_folder_has_its_first_vector(tmp_path: Path) -> None:
    vectors = StaticVectors.load(write_folder(tmp_path, words=["the", "bank", "the", *WORDS[3:]]))
    assert vectors["the"].tolist() == NUMBERS[0].tolist()
    assert len(vectors) == len(vectors.keyed_vectors.index_to_key) == 7
    assert vectors["U.S."].tolist() == NUMBERS[6].tolist()


def test_a_matrix_beyond_float32_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(VectorsError, match="must be finite, got infinity or NaN for 'the'"):
        StaticVectors.load(write_folder(tmp_path, numbers=np.full((8, 3), 1e300)))


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"there is no file or folder .*nowhere"):
        StaticVectors.load(tmp_path / "nowhere")


def test_a_word_is_looked_up_as_written_then_in_lower_case(vectors: StaticVectors) -> None:
    assert "Paris" in vectors
    assert "paris" not in vectors  # a different word: the vocabulary is cased
    assert vectors["BANK"].equal(vectors["bank"])
    keyed = KeyedVectors(1)
    keyed.add_vectors(["us", "US"], np.array([[1.0], [2.0]], dtype=np.float32))
    cased = StaticVectors(keyed)
    assert (cased["us"].item(), cased["US"].item(), cased["Us"].item()) == (1, 2, 1)


def test_a_word_without_a_vector(vectors: StaticVectors) -> None:
    with pytest.raises(VectorsError, match=r"neither 'paris' nor its .* the 8 words: did you mean Paris\?"):
        vectors["paris"]
    with pytest.raises(VectorsError, match="words: check with 'word in vectors'"):
        vectors["xyzzy"]
    with pytest.raises(TextTypeError, match="a word must be a string, got int"):
        vectors[0]


def test_a_vector_is_a_copy(vectors: StaticVectors) -> None:
    vectors["bank"].zero_()
    assert vectors["bank"].tolist() == NUMBERS[1].tolist()


def test_average(vectors: StaticVectors) -> None:
    average = vectors.average_vectors(["The bank, the BANK!", "Paris is xyzzy Xyzzy?"])
    expected = np.stack([NUMBERS[[0, 1, 0, 1]].mean(axis=0), NUMBERS[[2, 4]].mean(axis=0)])
    torch.testing.assert_close(average.vectors, torch.from_numpy(expected))
    assert average.missing == [[], ["xyzzy", "Xyzzy"]]
    one = vectors.average_vectors("Paris is xyzzy Xyzzy?")
    assert one.vectors.equal(average.vectors[1])
    assert one.missing == ["xyzzy", "Xyzzy"]


@pytest.mark.parametrize(
    "words,expected",
    [
        ("I saw a dog.", ["I", "saw", "a", "dog"]),
        ("I don't; it isn't", ["I", "don't", "it", "is", "n't"]),  # whole if it is known, otherwise split
        ("I DON\u2019T", ["I", "DON'T"]),
        ("the bank's well-known 'cash'", ["the", "bank", "'s", "well", "known", "cash"]),
        ("in 1990, 3.5 of 1,000.", ["in", "1990", "3.5", "of", "1,000"]),
        ("the U.S. bank. The end.", ["the", "U.S.", "bank", "The", "end"]),
        ("cafe\u0301 e\u0301 New_York", ["café", "é", "New_York"]),
    ],
)
def test_how_a_text_is_split(vectors: StaticVectors, words: str, expected: list[str]) -> None:
    average = vectors.average_vectors(f"{words} the")
    assert average.missing == [word for word in expected if word not in vectors]
    known = torch.stack([vectors[word] for word in [*expected, "the"] if word in vectors])
    torch.testing.assert_close(average.vectors, known.mean(dim=0))


@pytest.mark.parametrize(
    "texts,error,message",
    [
        ([], TextError, "texts must not be empty"),
        (["the", "xyzzy foo"], TextError, "text 1 has no average, none of its words has a vector: xyzzy, foo;"),
        (["the", "?!"], TextError, "text 1 has no average, it contains no word"),
        ("", TextError, "text 0 has no average, it contains no word"),
        ([["the", "bank"]], TextTypeError, "text 0 must be a string, got list: pass whole texts, not their words"),
        (["the", None], TextTypeError, "text 1 must be a string, got NoneType"),
        (b"the bank", TextTypeError, "texts must be a string or a list of strings, got bytes"),
        ({"the"}, TextTypeError, "got set"),
        (7, TextTypeError, "got int"),
    ],
)
def test_bad_texts(vectors: StaticVectors, texts: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vectors.average_vectors(texts)


def test_glove(glove: StaticVectors) -> None:
    assert (len(glove), glove.dimension) == (400_000, 50)
    assert glove["the"][:3].tolist() == pytest.approx([0.418, 0.24968, -0.41242])  # as in the published text file
    assert glove.keyed_vectors.most_similar("river", topn=1)[0][0] == "rivers"
    with pytest.raises(VectorsError, match=r"neither 'riverr' .* among the 400000 words: did you mean river "):
        glove["riverr"]


def test_the_four_banks(glove: StaticVectors) -> None:
    """The two river banks are similar, and so are the two money banks; the mixed pairs almost as much.

    Averaged over characters, which is what code for lists of words does with a text, all four are similar.
    """
    average = glove.average_vectors(SENTENCES)
    assert average.missing == [[]] * 4
    numbers = glove.keyed_vectors
    by_hand = [np.mean([numbers[word] for word in text.lower().split()], axis=0) for text in SENTENCES]
    torch.testing.assert_close(average.vectors, torch.from_numpy(np.stack(by_hand)))
    cosines = cosine_similarity(average.vectors)
    expected = [[1, 0.9255, 0.9793, 0.8966], [1, 0.9104, 0.9848], [1, 0.8775], [1]]
    for row, values in enumerate(expected):
        assert cosines[row, row:].tolist() == pytest.approx(values, abs=2e-4)
    letters = [np.mean([numbers[letter] for letter in text.lower() if letter in numbers], axis=0) for text in SENTENCES]
    assert cosine_similarity(torch.from_numpy(np.stack(letters))).min().item() == pytest.approx(0.9722, abs=2e-4)


@pytest.mark.parametrize("package", ["gensim", "pyarrow.parquet"])
def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    name = package.partition(".")[0]
    with pytest.raises(MissingPackageError, match=rf"need {name}.*: pip install {name}$"):
        StaticVectors.load(write_folder(tmp_path))


def test_import_pulls_in_no_extra() -> None:
    code = "import sys, torch; before = set(sys.modules); import minibert.vectors; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "minibert" in loaded
    assert loaded <= {"minibert", "safetensors", "tokenizers"} | set(sys.stdlib_module_names)
