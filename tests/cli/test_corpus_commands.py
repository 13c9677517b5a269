"""A file is searched with its vectors or without; how it is embedded is tested in tests/sentences."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.command_line import run

from minibert.cli.corpus import BATCH_TOKENS, POOLING, embed
from minibert.sentences.vector_files import digest
from minibert.vectors import batches, pooling


def test_the_settings_written_out_are_those_of_the_package(small: Path, tmp_path: Path) -> None:
    """So that `--help` need not import what defines them."""
    assert tuple(pooling.POOLING) == POOLING
    assert batches.BATCH_TOKENS == BATCH_TOKENS
    (tmp_path / "corpus.txt").write_text("one\n")
    (output,) = (option for option in embed.params if option.name == "output")
    refused = run("embed", str(tmp_path / "corpus.txt"), "-o", "out.txt", "--model", str(small)).output
    assert set(re.findall(r"\.[a-z]+", output.help)) == set(re.findall(r"\.[a-z]+", refused)) - {".txt"}


def test_search(checkpoint: Path, tmp_path: Path) -> None:
    """With a file of vectors and without one."""
    corpus, vectors = tmp_path / "corpus.txt", tmp_path / "corpus.safetensors"
    corpus.write_text("A man is eating food.\nA monkey is playing drums.\nA cheetah is running.\n")
    queries = ("somebody plays the drums", "a meal")
    without = run("search", str(corpus), *queries, "-k", "2")
    lines = without.output.splitlines()
    assert (lines[0], lines[5]) == queries
    assert lines[1].split() == ["score", "line", "text"]
    assert lines[2].split(maxsplit=2)[1:] == ["2", "A monkey is playing drums."]
    assert lines[7].split(maxsplit=2)[1:] == ["1", "A man is eating food."]
    assert (lines[4], len(lines)) == ("", 9)
    assert run("embed", str(corpus), "-o", str(vectors)).exit_code == 0
    assert run("search", str(corpus), *queries, "-k", "2", "--vectors", str(vectors)).output == without.output
    assert run("search", "-", *queries, "-k", "2", input=corpus.read_bytes()).output == without.output


def test_search_refuses_vectors_of_something_else(checkpoint: Path, small: Path, tmp_path: Path) -> None:
    corpus, vectors = tmp_path / "corpus.txt", tmp_path / "corpus.safetensors"
    corpus.write_text("one\ntwo\n")
    run("embed", str(corpus), "-o", str(vectors), "--layer", "2")
    arguments = ("search", str(corpus), "one", "--vectors", str(vectors))
    assert run(*arguments).exit_code == 0
    other = run(*arguments, "--model", str(small))
    assert f"{vectors} was made by a different model than {small}: give that one with --model" in other.output
    corpus.write_text("one\nand two\n")
    assert f"{vectors} was not made from {corpus} as it is now: embed it again" in run(*arguments).output
    vectors.write_bytes(b"junk")
    assert "file of vectors that 'minibert embed' wrote" in run(*arguments).output
    corpus.write_text("")
    assert f"{corpus} is empty: there is nothing to search in" in run(*arguments).output


@pytest.mark.parametrize(
    "lines,queries,message",
    [
        ("one\n\u200b\n", ["one"], "Error: line 2 of {corpus} has nothing to encode: '\\u200b'"),
        ("one\ntwo\n", ["one", ""], "Error: query 2 has nothing to encode: ''"),
        ("one\n\u200b\n", ["\u200b"], "Error: line 2 of {corpus} has nothing to encode"),
        ("one\n[CLS] two\n", ["one"], "Note: line 2 of {corpus} begins with [CLS], which the tokenizer adds itself"),
        ("one\n", ["[CLS] two"], "Note: query 1 begins with [CLS], which the tokenizer adds itself"),
    ],
)
@pytest.mark.filterwarnings("default::minibert.errors.DoubledTokensWarning")
def test_messages_name_the_line_or_the_query(
    small: Path, tmp_path: Path, lines: str, queries: list[str], message: str
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(lines, encoding="utf-8")
    result = run("search", str(corpus), *queries, "--model", str(small))
    assert result.stderr.startswith(message.format(corpus=corpus))


def test_the_last_extension_says_what_a_file_is(small: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv.txt").write_text("one\ntwo\n")
    (tmp_path / "notes.txt.CSV").write_text("one\ntwo\n")
    arguments = ("one", "--model", str(small))
    assert run("search", str(tmp_path / "table.csv.txt"), *arguments).exit_code == 0
    refused = run("search", str(tmp_path / "notes.txt.CSV"), *arguments)
    assert (refused.exit_code, "FILE must hold one text per line, got" in refused.output) == (2, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "["},
        {"pooling": "5"},
        {"pooling": "[" * 100_000},
        {"layers": "null"},
        {"layers": "1.5"},
        {"vectors": torch.ones(2)},
        {"vectors": torch.ones(2, 24, dtype=torch.float64)},
        {"vectors": torch.ones(2, 24, dtype=torch.int64)},
        {"pooling": None},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_file_of_vectors_may_hold_anything(small: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "corpus.txt").write_text("one\ntwo\n")
    metadata = {
        "encoder": "",
        "pooling": '["mean"]',
        "layers": "2",
        "prompt": "",
        "texts_sha256": digest(["one", "two"]),
    }
    metadata |= {name: value for name, value in changes.items() if name != "vectors"}
    vectors = {"vectors": changes.get("vectors", torch.ones(2, 24))}
    save_file(vectors, tmp_path / "a.safetensors", {name: text for name, text in metadata.items() if text is not None})
    options = ("--vectors", str(tmp_path / "a.safetensors"), "--model", str(small))
    result = run("search", str(tmp_path / "corpus.txt"), "one", *options)
    assert result.exit_code == 1
    assert "a.safetensors is not a file of vectors that 'minibert embed' wrote" in result.output
    assert isinstance(result.exception, SystemExit)
