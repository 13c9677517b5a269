"""The certificate says equal where it is; and where not, which value is the first, and whether it is a bug."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner

from minibert import BertConfig, BertModel
from minibert.checkpoints import store
from minibert.cli import main
from minibert.errors import ConfigError, MissingPackageError
from minibert.teaching.bugs import BUGS
from minibert.trace.certificate import verify

REACTIONS = [f"rxnfp/{name}" for name in ("bert_pretrained", "bert_ft", "bert_ft_10k_25s")]


@pytest.mark.parametrize("name", [store.DEFAULT, *REACTIONS])
def test_real_checkpoints(name: str, checkpoint: Path, reactions: Path) -> None:
    done = CliRunner().invoke(main, ["verify", name])
    assert done.exit_code == 0, done.output
    assert f"{name}: all 43 values equal to transformers {transformers.__version__}, to the last bit" in done.output
    rows = [line.split("  ") for line in done.output.splitlines() if line.startswith("encoder.layers.*")]
    assert len(rows) == 13


def test_a_bug_is_seen(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, applied = BertModel.from_pretrained, []

    def with_bug(folder: Path, **arguments: str) -> BertModel:
        model = original(folder, **arguments)
        applied.append(BUGS["GELU by tanh"].applied(model))
        applied[-1].__enter__()
        return model

    monkeypatch.setattr(BertModel, "from_pretrained", with_bug)
    found = verify(small)
    wrong = [line for line in found.lines if not line.equal]
    assert found.first == "encoder.layers.0.feed_forward.activation"
    assert {line.verdict for line in wrong if "layers" in line.value} == {"bug"}
    assert not found.equal
    assert "differ" in found.summary()
    done = CliRunner().invoke(main, ["verify", str(small), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.output)["equal"] is False


def test_rounding_is_told_from_a_bug(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = BertModel.from_pretrained

    def rounded_otherwise(folder: Path, **arguments: str) -> BertModel:
        model = original(folder, **arguments)
        for layer in model.encoder.layers:
            layer.feed_forward.activation = lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))
        return model

    monkeypatch.setattr(BertModel, "from_pretrained", rounded_otherwise)
    found = verify(small)
    wrong = [line for line in found.lines if not line.equal]
    assert wrong
    assert {line.verdict for line in wrong} == {"rounding"}
    assert all(line.difference < 1e-4 and line.ulps > 0 for line in wrong)


def test_for_keeping(small: Path) -> None:
    certificate = verify(small)
    kept = json.loads(certificate.to_json())
    assert kept["equal"] is True
    assert kept["files"]["model.safetensors"] == store.sha256(small / "model.safetensors")
    text = certificate.to_markdown()
    assert (
        text.count("| equal | equal |") == len({line.value for line in certificate.lines}) - 1
    )  # one is not formed by sdpa
    assert str(torch.get_num_threads()) in text


def test_no_reference(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"vocab_size": 9, "hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 4}
    BertModel(BertConfig(num_hidden_layers=1, position_embedding_type="relative_key", **sizes)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ConfigError, match=r"the reference for these is transformers 4\.57\.6"):
        verify(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingPackageError, match="pip install"):
        verify(small)
