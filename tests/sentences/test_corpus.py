"""`minibert embed`: every line has its row, and an interrupted run ends in the same bytes as one that was not."""

import gzip
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from support.examples import examples

from minibert import SentenceEncoder
from minibert.cli import main
from minibert.errors import EmbedError, StoreError, TextError, TextTypeError
from minibert.sentences import embed, read_vectors
from minibert.sentences.corpus import _flush_to_disk, read_lines
from minibert.sentences.recipe import Recipe
from minibert.sentences.vector_files import FORMATS, digest

LINES = [f"line {number} of a text that is {'very ' * (number % 7)}long" for number in range(100)]


def run(*arguments: object, **options) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)


@pytest.fixture(scope="module")
def encoder(small: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(small)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(LINES) + "\n")
    return file


def read(file: Path) -> np.ndarray:
    if file.suffix == ".npy":
        return np.load(file)
    if file.suffix == ".jsonl":
        entries = [json.loads(line) for line in file.read_text().splitlines()]
        assert [entry["text"] for entry in entries] == LINES
        return np.array([entry["vector"] for entry in entries], dtype=np.float32)
    with safe_open(file, "numpy") as opened:
        return opened.get_tensor("vectors")


@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_holds_the_same_numbers(
    small: Path, encoder, corpus: Path, tmp_path: Path, extension: str
) -> None:
    file = tmp_path / f"out{extension}"
    result = run("embed", corpus, "-o", file, "--model", small)
    assert result.output == f"{file}: 100 vectors of 24 numbers\n"
    vectors = read(file)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, encoder.encode(LINES).numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt", f"out{extension}"]
    assert run("embed", corpus, "-o", file, "--model", small).exit_code == 0  # a second time, over the first


def test_what_a_file_says_of_itself(small: Path, corpus: Path, tmp_path: Path) -> None:
    run("embed", corpus, "-o", tmp_path / "a.safetensors", "--model", small, "--layer", 1, "--pooling", "cls")
    vectors, made = read_vectors(tmp_path / "a.safetensors")
    assert (made["layers"], made["pooling"], made["texts_sha256"]) == ("1", '["cls"]', digest(LINES))
    same = SentenceEncoder.from_pretrained(small, layer=1, pooling="cls")
    assert made["encoder"] == same.fingerprint() != SentenceEncoder.from_pretrained(small, layer=1).fingerprint()
    assert torch.equal(vectors, same.encode(LINES))


def test_standard_input_and_options(small: Path, corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.npy"
    result = run("embed", "-", "-o", file, "--model", small, "--batch-tokens", 50, input=corpus.read_bytes())
    assert result.exit_code == 0
    expected = SentenceEncoder.from_pretrained(small).encode(LINES, batch_tokens=50)
    assert np.array_equal(np.load(file), expected.numpy())


class Crash(BaseException):
    """A power failure: nothing is done after it."""


@pytest.mark.parametrize("extension", FORMATS)
def test_a_crash_at_any_step(encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str) -> None:
    """Before and after every step that changes the disk; the second run may crash too."""
    monkeypatch.setattr("minibert.sentences.encoder.WINDOW", 16)
    lines, whole, file = LINES[:40], tmp_path / f"whole{extension}", tmp_path / f"out{extension}"
    embed(encoder, lines, whole)
    left = -1

    def counted(function):
        def step(*arguments, **options):
            nonlocal left
            result = None
            for after in (False, True):
                left -= left > 0
                if left == 0:  # and it stays 0, so nothing is cleaned up either
                    raise Crash
                if not after:
                    result = function(*arguments, **options)
            return result

        return step

    monkeypatch.setattr("minibert.sentences.corpus._flush_to_disk", counted(_flush_to_disk))
    for name in ("replace", "mkdir", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    for number in range(1, 1000):
        left, crashes = -1, 0
        file.unlink(missing_ok=True)
        for limit in (number, number // 2 + 1, -1):
            left = limit
            try:
                done = embed(encoder, lines, file, resume=crashes > 0)
            except Crash:
                crashes += 1
                continue
            break
        left = -1
        assert done == 40
        assert file.read_bytes() == whole.read_bytes()
        assert not (tmp_path / f"out{extension}.partial").exists()
        if not crashes:
            break
    assert 20 < number < 60


def test_kill_9_of_a_hundred_thousand_lines(small: Path, tmp_path: Path) -> None:
    """Killed twice at random, and resumed: byte for byte the file of an uninterrupted run."""
    corpus, whole, out = (tmp_path / name for name in ("corpus.txt", "whole.safetensors", "out.safetensors"))
    generator = random.Random(0)
    words = ["a", "fly", "soup", "bank", "the", "river", "pilot", "juice"]
    corpus.write_text(
        "".join(f"{' '.join(generator.choices(words, k=generator.randint(1, 5)))}\n" for _ in range(100_000))
    )
    options = ["--model", str(small), "--layer", "1", "--batch-tokens", "4096", "-o"]
    command = [sys.executable, "-m", "minibert", "embed", str(corpus), *options]
    assert run("embed", corpus, *options, whole).exit_code == 0
    progress = tmp_path / "out.safetensors.partial" / "progress.json"
    killed, seen = 0, ""
    while True:
        running = subprocess.Popen([*command, out, "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while running.poll() is None and killed < 2 and not (progress.exists() and progress.read_text() != seen):
            time.sleep(0.01)
        if killed < 2 and running.poll() is None:  # it has made progress: let it write for another moment
            time.sleep(generator.uniform(0, 0.3))
            running.send_signal(signal.SIGKILL)
        assert running.stderr.read() == b""
        running.wait()
        running.stderr.close()
        if running.returncode == 0:
            break
        assert running.returncode == -signal.SIGKILL
        assert not out.exists()
        killed, seen = killed + 1, progress.read_text()
    assert killed == 2
    assert out.read_bytes() == whole.read_bytes()
    assert not progress.parent.exists()
    assert read_vectors(out)[0].shape == (100_000, 24)


def interrupted(encoder, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends after 64 of the lines."""
    monkeypatch.setattr("minibert.sentences.encoder.WINDOW", 16)

    def lines() -> Iterator[str]:
        yield from LINES[:70]
        raise Crash

    with pytest.raises(Crash):
        embed(encoder, lines(), file)


def test_an_interrupted_run_is_kept(small: Path, encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.npy"
    interrupted(encoder, file, monkeypatch)
    progress = json.loads((tmp_path / "out.npy.partial" / "progress.json").read_text())
    assert progress["texts"] == 64

    def fails(message: str, lines: list[str], by: SentenceEncoder = encoder, resume: bool = True, **options) -> None:
        with pytest.raises(EmbedError, match=message):
            embed(by, lines, file, resume=resume, **options)

    other = SentenceEncoder.from_pretrained(small, pooling="cls")
    fails(
        r"out\.npy\.partial holds an interrupted run: resume it \(--resume\), or delete the folder", LINES, resume=False
    )
    fails("was started with pooling .'mean'., and now it is .'cls'.: resume with the same settings", LINES, other)
    fails("was started with batch_tokens 1024, and now it is 512", LINES, batch_tokens=512)
    fails("the first 64 texts are not those", LINES[1:])
    fails("the first 64 texts are not those", LINES[:10])
    changed = SentenceEncoder.from_pretrained(small)
    with torch.no_grad():
        changed.model.encoder.layers[1].attention.query.bias[3] += 1
    fails("was started with encoder '[0-9a-f]+.*', and now it is", LINES, changed)
    assert json.loads((tmp_path / "out.npy.partial" / "progress.json").read_text()) == progress
    assert embed(encoder, [*LINES[:80], "a different end"], file, resume=True) == 81
    assert np.load(file).shape == (81, 24)
    assert embed(encoder, LINES, file, resume=True) == 100  # there was none to resume
    interrupted(encoder, file, monkeypatch)
    with (tmp_path / "out.npy.partial" / "rows").open("r+b") as rows:
        rows.truncate(1000)
    fails("rows is shorter than .*progress.json says: delete the folder", LINES)
    (tmp_path / "out.npy.partial" / "progress.json").write_text('{"texts": 64')
    fails(r"progress\.json cannot be read as JSON .*: delete the folder .* and start over", LINES)


def test_a_run_interrupted_when_all_was_done(encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is in place, but the progress file was not removed: only the same texts finish the run."""
    file = tmp_path / "out.npy"

    unlink = Path.unlink

    def crash(path: Path, **options: bool) -> None:
        if path.name == "progress.json":
            raise Crash
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(Crash):
            embed(encoder, LINES[:40], file)
    content = file.read_bytes()
    with pytest.raises(EmbedError, match=r"out\.npy was completed with 40 texts, and now there are more: delete"):
        embed(encoder, LINES, file, resume=True)
    assert file.read_bytes() == content
    assert embed(encoder, LINES[:40], file, resume=True) == 40
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


def test_two_runs_at_once(encoder, tmp_path: Path) -> None:
    """The second is refused, and does not disturb the first."""
    file = tmp_path / "out.npy"

    def lines() -> Iterator[str]:
        for number, line in enumerate(LINES):
            if number == 50:
                for resume in (False, True):
                    with pytest.raises(EmbedError, match=r"another run is writing .*out\.npy: wait until it ends"):
                        embed(encoder, LINES, file, resume=resume)
            yield line

    assert embed(encoder, lines(), file) == 100
    assert np.array_equal(np.load(file), encoder.encode(LINES).numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


def test_a_run_killed_before_its_first_window_was_counted(encoder, tmp_path: Path) -> None:
    """An older output is not mistaken for that of the killed run, and unknown files are kept."""
    file, partial = tmp_path / "out.npy", tmp_path / "out.npy.partial"
    embed(encoder, LINES[:1], file)
    partial.mkdir()
    (partial / "lock").touch()
    (partial / "rows").write_bytes(b"half a")
    (partial / "mine.txt").write_text("precious")
    assert embed(encoder, LINES, file, resume=True) == 100
    assert np.load(file).shape == (100, 24)
    assert [path.name for path in partial.iterdir()] == ["mine.txt"]


def test_a_file_that_is_there_is_replaced_at_the_end(encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text("of yesterday")
    interrupted(encoder, file, monkeypatch)
    assert file.read_text() == "of yesterday"


@pytest.mark.parametrize(
    "content,message",
    [
        (b"", "there are no texts to embed"),
        (b"one\n\nthree\n", "line 2 of {file} is blank, but every line must be a text: remove it"),
        (b"one\n \t\r\n", "line 2 of {file} is blank"),
        (b"one\ntw\xe9\n", "line 2 of {file} is not UTF-8 text (invalid continuation byte at byte 2)"),
        ("one\n\u200b\n".encode(), "line 2 of {file} has nothing to encode: '\\u200b'"),
        (b"one\rtwo\r", "line 1 of {file} holds a carriage return: convert the line ends, as with tr"),
        (gzip.compress(b"one", mtime=0), "line 1 of {file} is of a gzip file: convert"),
        ("one".encode("utf-16"), "line 1 of {file} is UTF-16: convert"),
    ],
)
def test_lines_that_are_not_texts(small: Path, tmp_path: Path, content: bytes, message: str) -> None:
    """They are refused, and nothing is left behind that would stop the next run."""
    file, out = tmp_path / "corpus.txt", tmp_path / "out.npy"
    file.write_bytes(content)
    result = run("embed", file, "-o", out, "--model", small)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {message.format(file=file)}")
    file.write_bytes(b"one\r\ntwo\x0b and a half\nthree, without a line break")
    assert run("embed", file, "-o", out, "--model", small).exit_code == 0
    assert np.load(out).shape == (3, 24)


@pytest.mark.parametrize(
    "options,message",
    [
        (
            ["-o", "{folder}/out.txt"],
            "the extension of {folder}/out.txt must be one of .safetensors, .npy, .jsonl, got",
        ),
        (["-o", "{folder}/no/out.npy"], "cannot write {folder}/no/out.npy"),
        (["-o", "{folder}/corpus.txt"], "output must not be the file of texts, got '{folder}/corpus.txt'"),
        (["-o", "{folder}/out.npy", "--device", "meta"], "cannot compute on 'meta'"),
        (["-o", "{folder}/out.npy", "--device", "gpu"], "cannot compute on 'gpu'"),
        (["-o", "{folder}/out.npy", "--layer", "9"], "layer must be an integer from 1 to 2, or from -2 to -1, got 9"),
        (["-o", "{folder}/out.npy", "--prompt-name", "query"], "unknown prompt 'query': this checkpoint has none"),
        (["-o", "{folder}/out.npy", "--pooling", "median"], "'median' is not one of"),
    ],
)
def test_invalid_options(small: Path, corpus: Path, tmp_path: Path, options: list[str], message: str) -> None:
    """They are refused, and nothing is written."""
    result = run("embed", corpus, *[option.format(folder=tmp_path) for option in options], "--model", small)
    assert result.exit_code != 0
    assert message.format(folder=tmp_path) in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_a_file_of_texts_that_does_not_exist(small: Path, tmp_path: Path) -> None:
    result = run("embed", tmp_path / "no", "-o", tmp_path / "out.npy", "--model", small)
    assert result.exit_code != 0
    assert f"Error: '{tmp_path / 'no'}' cannot be read: No such file or directory" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("texts", ["abc", b"abc", np.array("abc"), torch.tensor(3), 5])
def test_a_single_thing_for_texts(encoder, tmp_path: Path, texts: Any) -> None:
    with pytest.raises(TextTypeError, match=f"texts must be a list .* got {type(texts).__name__}"):
        embed(encoder, texts, tmp_path / "out.npy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default::minibert.errors.TruncationWarning")
def test_texts_that_are_cut_are_noted(small: Path, corpus: Path, tmp_path: Path) -> None:
    corpus.write_text("so " * 600 + "\nshort\n")
    result = run("embed", corpus, "-o", tmp_path / "out.npy", "--model", small)
    assert result.exit_code == 0
    assert "Note: 1 of 2 texts are longer than 512 tokens and were cut" in result.stderr


def test_reading_vectors_from_a_different_file(corpus: Path) -> None:
    with pytest.raises(EmbedError, match="is not a file of vectors that 'minibert embed' wrote"):
        read_vectors(corpus)


def test_a_disk_that_is_full(encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("minibert.sentences.corpus._flush_to_disk", full)
    with pytest.raises(StoreError, match=r"cannot write .*out\.npy: .* No space left"):
        embed(encoder, LINES, tmp_path / "out.npy")


def test_a_byte_order_mark_and_young_emoji_are_no_obstacle(small: Path, encoder, tmp_path: Path) -> None:
    file, out = tmp_path / "corpus.txt", tmp_path / "out.npy"
    file.write_bytes("\ufeffthe first\n\U0001fa77\n".encode())
    assert run("embed", file, "-o", out, "--model", small).exit_code == 0
    torch.testing.assert_close(torch.from_numpy(np.load(out)[0]), encoder.encode("the first"), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["a.jsonl", "a.CSV", "a.txt.gz", "a.parquet", "a.json"])
def test_files_whose_lines_are_not_texts(small: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": "one"}\n')
    for command in (("embed", tmp_path / name, "-o", tmp_path / "out.npy"), ("search", tmp_path / name, "a query")):
        result = run(*command, "--model", small)
        assert result.exit_code == 2
        assert "must hold one text per line" in result.output
    assert run("embed", "-", "-o", tmp_path / "out.npy", "--model", small, input=b'{"text": "one"}\n').exit_code == 0


def test_a_digest_tells_one_text_of_two_lines_from_two_texts() -> None:
    assert digest(["a\nb"]) != digest(["a", "b"])
    assert digest(["a", ""]) != digest(["a"])
    assert digest(["1:a"]) != digest(["a"])
    assert digest(["ab", "c"]) != digest(["a", "bc"])


def test_vectors_with_another_prompt_than_a_search_takes(small: Path, corpus: Path, tmp_path: Path) -> None:
    base = SentenceEncoder.from_pretrained(small)
    recipe = Recipe(prompts={"query": "query: ", "passage": "passage: "})
    SentenceEncoder(base.model, base.tokenizer, recipe).save_pretrained(tmp_path / "model")
    model, out = ("--model", str(tmp_path / "model")), tmp_path / "out.safetensors"
    assert run("embed", corpus, "-o", out, *model).exit_code == 0
    result = run("search", corpus, "the fish", "--vectors", out, *model)
    assert result.exit_code == 1
    assert "with the prompt '' before each text, and a search takes 'passage: ': embed it again" in result.output
    assert run("embed", corpus, "-o", out, "--prompt-name", "passage", *model).exit_code == 0
    assert (
        run("search", corpus, "the fish", "--vectors", out, *model).output
        == run("search", corpus, "the fish", *model).output
    )


@pytest.mark.parametrize("extension", [".npy", ".jsonl"])
def test_files_that_do_not_say_what_they_were_made_from(encoder, tmp_path: Path, extension: str) -> None:
    embed(encoder, LINES[:2], tmp_path / f"out{extension}")
    with pytest.raises(EmbedError, match=r"does not say what its vectors were made from: embed the texts into a \.saf"):
        read_vectors(tmp_path / f"out{extension}")


def test_a_partial_folder_of_somebody_else_is_left_alone(encoder, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "rows").write_text("precious")
    (tmp_path / "a.npy.partial").symlink_to(mine)
    with pytest.raises(EmbedError, match="must not be a link"):
        embed(encoder, LINES, tmp_path / "a.npy")
    (tmp_path / "c.npy.partial").mkdir()
    (tmp_path / "c.npy.partial" / "lock").touch()
    for name in ("rows", "progress.json.partial"):  # links in a folder of ours
        (tmp_path / "c.npy.partial" / name).symlink_to(mine / "rows")
        with pytest.raises(EmbedError, match=f"{name} must not be a link"):
            embed(encoder, LINES, tmp_path / "c.npy")
        (tmp_path / "c.npy.partial" / name).unlink()
    assert (mine / "rows").read_text() == "precious"
    mine.rename(tmp_path / "b.npy.partial")
    with pytest.raises(EmbedError, match="holds files of somebody else"):
        embed(encoder, LINES, tmp_path / "b.npy")
    assert (tmp_path / "b.npy.partial" / "rows").read_text() == "precious"


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("change", [{"size": 0}, {"size": -4}, {"size": 7}, {"texts": 63}, {"texts": 65}, {"texts": 0}])
def test_a_progress_file_whose_numbers_do_not_fit_the_rows(
    encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, change: dict[str, int]
) -> None:
    """Going on from there would write a file with rows of other texts, or with parts of rows."""
    file = tmp_path / f"out{extension}"
    interrupted(encoder, file, monkeypatch)
    progress = tmp_path / f"out{extension}.partial" / "progress.json"
    done = json.loads(progress.read_text())
    texts = change.get("texts", done["texts"])
    size = done["size"] + change["size"] if change.get("size", 0) < 0 else change.get("size", done["size"])
    changed = {**done, "texts": texts, "size": size, "texts_sha256": digest(LINES[:texts])}
    progress.write_text(json.dumps(changed))
    with pytest.raises(EmbedError, match=r"does not hold .* vectors|is damaged"):
        embed(encoder, LINES, file, resume=True)
    progress.write_text(json.dumps(done))
    assert embed(encoder, LINES, file, resume=True) == 100
    assert np.array_equal(read(file), encoder.encode(LINES).numpy())


def test_lines_that_begin_as_other_files_do_are_texts() -> None:
    """PAR1 is a receptor as well as the start of a Parquet file."""
    lines = [b"PAR1 is a receptor\n", b"BZh is not a word\n", b"PK\n"]
    assert list(read_lines(lines, "x")) == ["PAR1 is a receptor", "BZh is not a word", "PK"]


@pytest.mark.parametrize(
    "content,kind",
    [
        (gzip.compress(b"a text\n", mtime=0), "of a gzip file"),
        (b"PAR1\x15\x04\x00\x00", "of a Parquet file"),
        (b"PK\x03\x04\x14\x00\x00", "of a zip file"),
        ("a text\n".encode("utf-16"), "UTF-16"),
        ("a text\n".encode("utf-16-be"), r"not text \(a null character at 0\)"),
    ],
)
def test_what_a_file_is_that_is_not_text(content: bytes, kind: str) -> None:
    with pytest.raises(EmbedError, match=f"line 1 of x is {kind}: convert the file to UTF-8 text, one text per line"):
        list(read_lines(io.BytesIO(content), "x"))


def test_a_target_that_is_a_folder(encoder, tmp_path: Path) -> None:
    """It is seen before anything is computed."""
    (tmp_path / "out.npy").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*out\.npy: it is a folder"):
        embed(encoder, iter(()), tmp_path / "out.npy")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=3)
FIELDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("texts", "size", "texts_sha256", "made_from", "another"), JSON)
)


@examples(150)
@given(content=st.one_of(st.binary(max_size=20), JSON.map(json.dumps), FIELDS.map(json.dumps)))
@example(content='{"texts": 1.5, "size": 1, "texts_sha256": "", "made_from": {}}')
@example(content='{"texts": 1, "size": {}, "texts_sha256": "", "made_from": {}}')
@example(content='{"texts": 1, "size": 1, "texts_sha256": "", "made_from": 5}')
@example(content="[" * 100_000)
def test_any_progress_file(encoder, tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    """It may be anything: the message says to start over, and nothing is overwritten."""
    file = tmp_path_factory.getbasetemp() / "any.npy"
    partial = file.with_name("any.npy.partial")
    partial.mkdir(exist_ok=True)
    (partial / "lock").touch()
    progress = partial / "progress.json"
    progress.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    before = progress.read_bytes()
    with pytest.raises(EmbedError, match=r"start over|was started with"):
        embed(encoder, LINES[:1], file, resume=True)
    assert progress.read_bytes() == before


@pytest.mark.parametrize("texts", [[b"a"], [None], ["\ud800"], [5], [["a"]]])
@pytest.mark.parametrize("resume", [True, False])
def test_texts_that_are_none(
    encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list, resume: bool
) -> None:
    file = tmp_path / "out.npy"
    if resume:
        interrupted(encoder, file, monkeypatch)
    with pytest.raises((TextTypeError, TextError), match="text 0 must be"):
        embed(encoder, texts, file, resume=resume)


@pytest.mark.parametrize("target", [None, 5, b"a.npy", ["a.npy"], "a\0b.npy"])
def test_a_target_that_is_not_a_path(encoder, target: Any) -> None:
    with pytest.raises(EmbedError, match="file must be the path of a file, got"):
        embed(encoder, LINES, target)


@examples(100)
@given(
    content=st.lists(
        st.sampled_from([b"a", b"\n", b"\r", b" ", b"\xff", b"\x00", b"\xef\xbb\xbf", b"\x0c", b"\xc2\x85"])
    )
)
def test_any_bytes(content: list[bytes]) -> None:
    """Lines end at line feeds alone, as in every other program; each is a text or has an error with its number."""
    whole = b"".join(content)
    texts, problem = [], ""
    try:
        texts.extend(read_lines(io.BytesIO(whole), "x"))
    except EmbedError as error:
        problem = str(error)
    assert re.match(r"line \d+ of x |$", problem)
    assert problem or len(texts) == len(whole.removesuffix(b"\n").split(b"\n") if whole else [])
    assert all(text.strip() and "\n" not in text and "\r" not in text for text in texts)
