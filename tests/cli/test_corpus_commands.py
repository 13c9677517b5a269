"""A file is searched with its vectors or without; how it is embedded is tested in tests/sentences."""

import re
from pathlib import Path

from support.command_line import run

from minibert.cli.corpus import BATCH_TOKENS, POOLING, embed
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
