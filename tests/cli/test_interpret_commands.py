"""What the commands print is what the functions return, and what cannot be asked is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import run

from minibert import BertForMaskedLM, BertModel, BertTokenizer
from minibert.checkpoints import store
from minibert.interpret import decompose, logit_lens, survey

SENTENCE = "There was a fly drinking from my soup"
MASKED = "He sat by the [MASK] bank."


@pytest.fixture
def tiny(data: Callable[[str], Path]) -> Path:
    return data("bert-tiny")


def test_decompose_a_hidden_state(checkpoint: Path) -> None:
    model, inputs = BertModel.from_pretrained(checkpoint), BertTokenizer.from_pretrained(checkpoint)(SENTENCE)
    found = run("decompose", SENTENCE, "--position", "4", "--top", "3")
    assert found.exit_code == 0
    assert found.output.strip() == decompose(model, inputs, by="head", position=4).table(3)
    assert len(run("decompose", SENTENCE).output.splitlines()) == 16


def test_decompose_a_logit(tiny: Path) -> None:
    model, inputs = BertForMaskedLM.from_pretrained(tiny), BertTokenizer.from_pretrained(tiny)(MASKED)
    found = run("decompose", MASKED, "--model", str(tiny), "--token", "river", "--by", "part")
    assert found.output.strip() == decompose(model, inputs, to="logit", token="river").table(12)
    assert run("decompose", MASKED, "--model", str(tiny)).output.startswith("logit of ")


def test_lens(tiny: Path) -> None:
    model, tokenizer = BertForMaskedLM.from_pretrained(tiny), BertTokenizer.from_pretrained(tiny)
    found = run("lens", MASKED, "--model", str(tiny), "--top", "2")
    assert found.output.strip() == logit_lens(model, tokenizer(MASKED)).at(k=2)
    whole = run("lens", SENTENCE, "--model", str(tiny))
    assert whole.output.strip() == str(logit_lens(model, tokenizer(SENTENCE)))
    at_4 = run("lens", SENTENCE, "--model", str(tiny), "--position", "4")
    assert at_4.output.strip() == logit_lens(model, tokenizer(SENTENCE)).at(4)


def test_heads(checkpoint: Path) -> None:
    model, tokenizer = BertModel.from_pretrained(checkpoint), BertTokenizer.from_pretrained(checkpoint)
    lines = run("heads", SENTENCE).output.splitlines()
    found = survey(model, tokenizer, [SENTENCE]).heads
    assert lines[0].split() == ["layer", "head", *found]
    assert len(lines) == 73
    assert lines[3].split() == ["0", "2", *(f"{values[0, 2]:.2f}" for values in found.values())]


WITHOUT_HEAD = ("--model", store.DEFAULT)


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("decompose", SENTENCE, "--token", "river"), 2, r"--token needs a text with [MASK], in capitals and brackets"),
        (("decompose", SENTENCE, "--position", "50"), 1, "position must be an integer from 0 to 9, got 50"),
        (("decompose", MASKED, *WITHOUT_HEAD), 1, "has no masked-language-model head: choose a checkpoint"),
        (("decompose", SENTENCE, "--by", "neurons"), 2, "'neurons' is not one of 'part', 'head'"),
        (("lens", MASKED, *WITHOUT_HEAD), 1, "has no masked-language-model head"),
        (("lens", MASKED, "--top", "0"), 2, "0 is not in the range x>=1"),
        (("lens", SENTENCE, "--top", "3", *WITHOUT_HEAD), 2, "--top needs a text with one [MASK], or --position"),
        (("heads",), 2, "Missing argument 'TEXT...'"),
        (("heads", ""), 1, "has nothing to encode"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], code: int, message: str) -> None:
    found = run(*arguments)
    assert found.exit_code == code
    assert message in found.output
