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

from minibert import BertForPreTraining, __version__, store
from minibert.cli import main
from minibert.tables import table

COMMANDS = sorted(main.commands)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    minibert {command}" in result.output


def test_the_commands() -> None:
    assert COMMANDS == ["convert", "demo", "download", "fill-mask", "info", "list", "similarity", "tokens"]
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
        (["tokens", "text", "--model", "../x"], 1, "Error: '../x' is no checkpoint name of the form"),
        (["similarity", "only one"], 2, "one text has nothing to be compared with"),
        (["similarity", "a", "b " * 600], 1, "Error: text 1 has 602 tokens, and the limit is 512"),
        (["info", "nobody/nothing"], 1, "Error: nobody/nothing is no folder, and not in the store"),
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
        r"Error: .*model\.safetensors is damaged or no safetensors file .*: download it again\n", done.stderr
    )


def test_table_counts_columns_as_a_terminal_does() -> None:
    rows = [["東京", "1"], ["cafe\u0301", "22"], ["x", "333"]]
    assert table(rows, right=[1]) == "東京    1\ncafe\u0301   22\nx     333"
