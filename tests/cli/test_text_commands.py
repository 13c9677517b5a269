"""What the commands print of a text is what the package computes, and what others compute."""

import re
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from support.command_line import run
from support.printed import difference
from support.texts import SIX

from minibert.cli.demo import FLIES


def test_tokens(checkpoint: Path) -> None:
    result = run("tokens", "Flying Dutchman, 東")
    assert result.exit_code == 0
    rows = [line.split() for line in result.output.splitlines()]
    assert rows[0] == ["token", "id", "characters", "text"]
    assert rows[1] == ["0", "[CLS]", "101"]
    assert rows[4] == ["3", "##man", "2386", "12–15", "man"]
    assert rows[6] == ["5", "東", "1879", "17–18", "東"]


def test_similarity(checkpoint: Path) -> None:
    result = run("similarity", "a river bank", "the shore of a river", "prime numbers")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[1].startswith("1  a river bank")
    values = [[float(value) for value in re.findall(r"-?\d\.\d{4}", line)] for line in lines[1:]]
    assert values[0][0] == values[1][1] == values[2][2] == 1
    assert values[0][1] == values[1][0] > 0.5 > values[0][2]


def test_the_six_sentences_in_one_line(checkpoint: Path) -> None:
    """The first row is the first sentence's cosines with all six, as sentence-transformers has them."""
    row = run("similarity", *SIX).output.splitlines()[1].removeprefix(f"1  {SIX[0]}").split()
    theirs = SentenceTransformer(str(checkpoint), device="cpu")
    vectors = theirs.encode(SIX, convert_to_tensor=True)
    expected = theirs.similarity(vectors[0], vectors)[0].tolist()
    assert [float(value) for value in row] == pytest.approx(expected, abs=6e-5)


@pytest.mark.filterwarnings("default::minibert.errors.TruncationWarning")
def test_what_was_cut_is_noted(checkpoint: Path) -> None:
    result = run("similarity", "a", "b " * 600)
    assert result.exit_code == 0
    assert result.stderr.startswith("Note: 1 of 2 texts are longer than 256 tokens and were cut")


def test_word(checkpoint: Path) -> None:
    lines = run("word", "Fly", *FLIES).output.splitlines()
    assert lines[1] == "1  4      fly   There was a fly drinking from my soup"
    assert lines[3].startswith("3  10     fly   To become a commercial pilot")
    assert lines[5].split() == ["cosine", "of", "1", "and", "2", "1", "and", "3", "2", "and", "3"]
    assert [line.split()[0] for line in lines[6:]] == ["embeddings", *["layer"] * 6]
    assert difference("layer 6 0.9406 0.5686 0.5630", " ".join(lines[-1].split())) is None
    twice = run("word", "bank", "a bank by the river bank").output.splitlines()
    assert [line.split()[:2] for line in twice[1:3]] == [["1", "2"], ["2", "6"]]


def test_fill_mask(checkpoint: Path, reactions: Path) -> None:
    model = ("--model", str(reactions / "bert_pretrained"))
    result = run("fill-mask", "n c 1 c c c c 2 c n c [MASK] c 1 2", "-k", "3", *model)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0] == ["[MASK]", "token", "12"]
    probabilities = [float(line[-1]) for line in lines[1:]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert lines[1][0] == "c"
    unmasked = run("fill-mask", "no mask here", *model)
    assert unmasked.exit_code == 2
    assert "text must contain [MASK], in capitals and brackets, got 'no mask here'" in unmasked.output
    headless = run("fill-mask", "a [MASK] here", "--model", str(checkpoint))
    assert headless.exit_code == 1
    assert "has no masked-language-model head: choose a checkpoint that was pretrained with one" in headless.output
