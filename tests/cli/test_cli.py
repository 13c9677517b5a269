import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from sentence_transformers import SentenceTransformer
from support.texts import SIX

from minibert import BertForPreTraining, __version__
from minibert.checkpoints import store
from minibert.cli import main
from minibert.cli.demo import FLIES
from minibert.show.tables import table

COMMANDS = sorted(main.commands)


def run(*arguments: str, **options) -> Result:
    return CliRunner().invoke(main, arguments, **options)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    minibert {command}" in result.output


def test_the_commands() -> None:
    assert [
        *("convert", "demo", "download", "embed", "exercise", "fill-mask", "info", "list", "search", "similarity"),
        *("tokens", "verify", "word"),
    ] == COMMANDS
    assert run("--version").output == f"minibert, version {__version__}\n"
    for command in COMMANDS:
        assert f"  {command} " in run("-h").output


def test_download(checkpoint: Path) -> None:
    result = run("download")
    assert result.exit_code == 0
    assert result.stdout == f"{checkpoint}: 10 files, every sha256 as pinned\n"


def test_info(checkpoint: Path) -> None:
    result = run("info", str(checkpoint))
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "BERT: 6 layers, hidden size 384, 12 heads of width 32, feed-forward 1536 (gelu)"
    assert lines[1] == "30,522 tokens, at most 512 in a sequence, 2 segments"
    rows = {line[:40].strip().split("  ")[0]: line.split()[-1] for line in lines if line}
    assert rows["word_embeddings"] == "11,720,448"
    assert rows["attention.query"] == "147,840"
    assert rows["encoder, 6 layers of"] == "1,774,464"
    assert rows["all"] == "22,713,216"
    assert lines[-1] == "90,868,376 bytes, sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


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
    last = [float(value) for value in lines[-1].split()[2:]]
    assert last == pytest.approx([0.9406, 0.5686, 0.5630], abs=1e-4)
    twice = run("word", "bank", "a bank by the river bank").output.splitlines()
    assert [line.split()[:2] for line in twice[1:3]] == [["1", "2"], ["2", "6"]]


def test_search(checkpoint: Path, tmp_path: Path) -> None:
    """With and without vectors that were made before."""
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
    assert f"{vectors} was made by another model than {small}: say which with --model" in other.output
    corpus.write_text("one\nand two\n")
    assert f"{vectors} was not made of {corpus} as it is now: embed it again" in run(*arguments).output
    vectors.write_bytes(b"junk")
    assert "is no file of vectors that 'minibert embed' wrote" in run(*arguments).output
    corpus.write_text("")
    assert f"{corpus} is empty: there is nothing to search in" in run(*arguments).output


def test_list(checkpoint: Path) -> None:
    lines = run("list").output.splitlines()
    assert lines[0].split() == ["name", "licence", "what", "it", "is"]
    assert lines[1].startswith("✓  sentence-transformers/all-MiniLM-L6-v2 ")
    assert sum(line.startswith(("✓  ", "   ")) for line in lines[1:]) == len(store.catalogue())


def test_info_with_every_tensor(reactions: Path) -> None:
    lines = run("info", str(reactions / "bert_pretrained"), "--tensors").output.splitlines()
    rows = {line.split()[0]: line for line in lines[1:208]}
    assert len(rows) == 207
    assert rows["cls.predictions.bias"].split()[1:] == ["masked_lm.bias", "591", "float32", "used"]
    assert rows["cls.predictions.decoder.weight"].endswith(" the decoder is the embedding table")
    assert any(line.startswith("masked_lm ") for line in lines)
    assert "206 used, 1 tied" in lines


def test_convert(reactions: Path, tmp_path: Path) -> None:
    result = run("convert", str(reactions / "bert_pretrained"), str(tmp_path / "clean"))
    assert result.exit_code == 0, result.output
    assert result.output.endswith(f"written to {tmp_path / 'clean'}\n")
    assert sorted(file.name for file in (tmp_path / "clean").iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    assert json.loads((tmp_path / "clean" / "config.json").read_text())["model_type"] == "bert"
    assert isinstance(transformers.AutoModel.from_pretrained(tmp_path / "clean"), transformers.BertModel)
    before = BertForPreTraining.from_pretrained(reactions / "bert_pretrained")
    after = BertForPreTraining.from_pretrained(tmp_path / "clean")
    assert all(story.status == "used" for story in after.load_report.tensors)
    for name, parameter in before.named_parameters():
        assert torch.equal(parameter, after.get_parameter(name))


def test_fill_mask(checkpoint: Path, reactions: Path) -> None:
    model = ("--model", str(reactions / "bert_pretrained"))
    result = run("fill-mask", "n c 1 c c c c 2 c n c [MASK] c 1 2", "-k", "3", *model)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0] == ["[MASK]", "token", "12"]
    chances = [float(line[-1]) for line in lines[1:]]
    assert len(chances) == 3
    assert chances == sorted(chances, reverse=True)
    assert lines[1][0] == "c"
    unmasked = run("fill-mask", "no mask here", *model)
    assert unmasked.exit_code == 2
    assert "the text has no [MASK], in capitals and brackets, to be filled" in unmasked.output
    headless = run("fill-mask", "a [MASK] here", "--model", str(checkpoint))
    assert headless.exit_code == 1
    assert "has no head for masked words: take a pretrained checkpoint" in headless.output


def test_the_demo(checkpoint: Path) -> None:
    result = run("demo")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) <= 25
    assert "sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in result.output
    assert "equal, to the last bit" in result.output


def test_the_demo_sees_a_difference(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minibert.model import ACTIVATIONS, gelu_tanh

    monkeypatch.setitem(ACTIVATIONS, "gelu", gelu_tanh)
    result = run("demo")
    assert result.exit_code == 1
    assert "NOT EQUAL" in result.output


@pytest.mark.parametrize(
    "arguments,code,message",
    [
        (["tokens", ""], 1, "Error: text 0 has nothing to encode: ''\n"),
        (["tokens", "text", "--model", "../x"], 1, "Error: a checkpoint's name must be 'name' or"),
        (["similarity", "only one"], 2, "one text has nothing to be compared with"),
        (["similarity", "a", " "], 1, "Error: text 1 has nothing to encode: ' '"),
        (
            ["word", "fly", "a butterfly", "a fly"],
            1,
            "Error: sentence 0: 'fly' is no word of 'a butterfly'; it has 'butterfly'",
        ),
        (["word", "fly", "a fly in my soup"], 2, "'fly' is there once, and has nothing to be compared with"),
        (["search", "nothing.txt", "fly"], 1, "Error: [Errno 2] No such file or directory: 'nothing.txt'"),
        (["info", "nobody/nothing"], 1, "Error: nobody/nothing is neither a folder nor in the store"),
        (["downlod"], 2, "No such command 'downlod'"),
    ],
)
def test_mistakes_are_a_line_or_two(checkpoint: Path, arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) <= (2 if code == 1 else 4)  # click adds its usage to code 2


def test_a_damaged_checkpoint_as_the_shell_sees_it(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"half a fi")
    done = subprocess.run(
        [sys.executable, "-m", "minibert", "info", str(tmp_path / "damaged")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(
        r"Error: .*model\.safetensors is damaged or not a safetensors file .*: download it again\n", done.stderr
    )


def test_table_counts_columns_as_a_terminal_does() -> None:
    rows = [["東京", "1"], ["cafe\u0301", "22"], ["x", "333"]]
    assert table(rows, right=[1]) == "東京    1\ncafe\u0301   22\nx     333"
