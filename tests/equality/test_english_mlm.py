"""The English masked language model, where `make english-mlm` has made it: what it is, and what its card says of it."""

import json
from pathlib import Path

import card
import pytest
import score
import torch
import transformers
from click.testing import CliRunner

from minibert import BertForMaskedLM, BertTokenizer
from minibert.checkpoints import store
from minibert.cli import main

FOLDER = store.store_folder() / store.MASKED_LM

made = pytest.mark.skipif(not FOLDER.is_dir(), reason="minibert/english-mlm has not been made: make english-mlm")


@pytest.fixture(scope="module")
def model() -> BertForMaskedLM:
    return BertForMaskedLM.from_pretrained(store.MASKED_LM)


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads((FOLDER / "scores.json").read_text(encoding="utf-8"))


@made
def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 50e6


@made
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_it_equals_transformers(attention: str) -> None:
    ours = BertForMaskedLM.from_pretrained(store.MASKED_LM, attention=attention)
    theirs = transformers.BertForMaskedLM.from_pretrained(FOLDER, attn_implementation=attention).eval()
    assert {parameter.dtype for parameter in [*ours.parameters(), *theirs.parameters()]} == {torch.float32}
    for parameter in [*ours.parameters(), *theirs.parameters()]:
        parameter.data = parameter.data.clone()  # a product rounds by where in memory a matrix lies
    inputs = BertTokenizer.from_pretrained(store.MASKED_LM)(["The capital of France is [MASK].", "He [MASK] a letter."])
    with torch.inference_mode():
        assert torch.equal(ours(**inputs).logits, theirs(**inputs).logits)


@made
def test_the_card_shows_the_scores(report: dict) -> None:
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == card.card(report)


@made
def test_it_says_what_the_scores_say(model: BertForMaskedLM, report: dict) -> None:
    """A processor that rounds differently may swap two guesses that are nearly as probable, here and there."""
    tokenizer = BertTokenizer.from_pretrained(store.MASKED_LM)
    found = score.cloze_guesses(score.guesses_of(model), tokenizer)
    reported = report["scores"][store.MASKED_LM]["cloze_guesses"]
    same = sum(ours[0] == theirs[0] for ours, theirs in zip(found, reported, strict=True))
    assert len(found) == 60
    assert same >= 57


@made
def test_it_is_better_than_counting(report: dict) -> None:
    scores = report["scores"]
    ours, counts = scores[store.MASKED_LM], scores["counts of both neighbours"]
    for corpus, found in ours["held_out"].items():
        assert found["loss"] < counts["held_out"][corpus]["loss"], corpus
    assert ours["cloze"]["first"] > 2 * counts["cloze"]["first"]


@made
def test_words_are_predicted_with_it() -> None:
    result = CliRunner().invoke(main, ["fill-mask", "The sun rises in the [MASK].", "-k", "3"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("[MASK]")
    assert len(result.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    "command, advice",
    [
        (["fill-mask", "a [MASK] here"], "or choose another checkpoint that predicts words"),
        (["lens", "a [MASK] here"], "or choose another checkpoint that predicts words"),
        (["decompose", "a [MASK] here"], "or choose another checkpoint that predicts words"),
        (["download", store.MASKED_LM], "cannot be downloaded"),
    ],
)
def test_where_it_is_missing_the_commands_say_how_to_make_it(
    command: list[str], advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINIBERT_WEIGHTS", str(tmp_path))
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "'make english-mlm' in a clone of the repository makes it" in result.stderr
    assert advice in result.stderr
