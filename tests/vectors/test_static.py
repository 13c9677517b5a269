import gzip
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

from minibert import cosine_similarity
from minibert.errors import CheckpointNotFoundError, MissingPackageError, TextError, TextTypeError, VectorsError
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


@pytest.mark.parametrize(
    "content,message",
    [
        (b"", "it does not begin with a word and its vector"),
        (b"He is sitting near the river bank\n", "it does not begin with a word and its vector"),
        (b"\x80\x02cgensim.models.word2vec\nWord2Vec\n", "it does not begin with a word and its vector"),
        (b"3 2\nthe 1 2\n", "unexpected end of input"),
        (b"2 2\nthe 1 2\na 3\n", "the vector of 'a' is one number, not a vector"),
        (b"2 2\nthe 1 2\na -3e-1 4 5\n", "could not broadcast"),
        (b"the 1 2\na 3 four\n", "could not convert string to float: 'four'"),
        (b"the 1 2\na 3 nan\n", "the vector of 'a' is not finite"),
        (b"the 1 2\na 3 1e39\n", "overflow"),
        (binary()[:-5], "unexpected end of input"),
        (gzip.compress(text())[:-9], "before the end-of-stream marker"),
        (gzip.compress(text())[:40] + b"\0" * 100, "Error -3 while decompressing"),
    ],
)
def test_a_damaged_or_foreign_file(tmp_path: Path, content: bytes, message: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(VectorsError) as caught:
        StaticVectors.load(file)
    assert str(caught.value).startswith(f"{file} cannot be read as word vectors (")
    assert message in str(caught.value)
    assert str(caught.value).endswith("download it again")


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
    with pytest.raises(VectorsError, match="allow_pickle=False"):
        StaticVectors.load(tmp_path)


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
    with pytest.raises(MissingPackageError, match=rf"need {name}.*install {name}, or .*pip install -e '\.\[static\]'"):
        StaticVectors.load(write_folder(tmp_path))


def test_import_pulls_in_no_extra() -> None:
    code = "import sys, torch; before = set(sys.modules); import minibert.vectors; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "minibert" in loaded
    assert loaded <= {"minibert", "safetensors", "tokenizers"} | set(sys.stdlib_module_names)
