"""The commands about checkpoints print what the store and the files say."""

import json
from pathlib import Path

import torch
import transformers
from support.command_line import run

from minibert import BertForPreTraining
from minibert.checkpoints import store


def test_download(checkpoint: Path) -> None:
    result = run("download")
    assert result.exit_code == 0
    assert result.stdout == f"{checkpoint}: 10 files, every sha256 as pinned\n"


def test_list(checkpoint: Path) -> None:
    lines = run("list").output.splitlines()
    assert lines[0].split() == ["name", "licence", "what", "it", "is"]
    assert lines[1].startswith("✓  sentence-transformers/all-MiniLM-L6-v2 ")
    assert sum(line.startswith(("✓  ", "   ")) for line in lines[1:]) == len(store.catalogue())


def test_info(checkpoint: Path) -> None:
    result = run("info", str(checkpoint))
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "BERT: 6 layers, hidden size 384, 12 heads of size 32, feed-forward size 1536 (gelu)"
    assert lines[1] == "30,522 tokens in the vocabulary, at most 512 in a sequence, 2 segments"
    rows = {line[:40].strip().split("  ")[0]: line.split()[-1] for line in lines if line}
    assert rows["word_embeddings"] == "11,720,448"
    assert rows["attention.query"] == "147,840"
    assert rows["encoder: 6 layers, each"] == "1,774,464"
    assert rows["total"] == "22,713,216"
    assert lines[-1] == "90,868,376 bytes, sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


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
    assert all(tensor.status == "used" for tensor in after.load_report.tensors)
    for name, parameter in before.named_parameters():
        assert torch.equal(parameter, after.get_parameter(name))
