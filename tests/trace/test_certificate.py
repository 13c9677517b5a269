"""The certificate says equal where it is; and where not, which value is the first, and whether it is a bug."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from click.testing import CliRunner

from minibert import BertConfig, BertModel
from minibert.checkpoints import store
from minibert.cli import main
from minibert.errors import ConfigError, InputError, MissingPackageError
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


class WrongBackward(torch.autograd.Function):
    """GELU, to the last bit; but backward it is a ReLU."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = context.saved_tensors
        return gradient * (x > 0)


@pytest.mark.parametrize("name", [store.DEFAULT, "rxnfp/bert_ft"])
def test_gradients_of_real_checkpoints(name: str, checkpoint: Path, reactions: Path) -> None:
    done = CliRunner().invoke(main, ["verify", name, "--gradients"])
    assert done.exit_code == 0, done.output
    assert f"{name}: all 132 values equal to transformers {transformers.__version__}, to the last bit" in done.output
    lines = done.output.splitlines()
    assert len([line for line in lines if line.startswith("gradient of encoder.layers.*")]) == 13 + 16  # parameters


def test_a_wrong_backward_pass_is_seen(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = BertModel.from_pretrained

    def with_bug(folder: Path, **arguments: str) -> BertModel:
        model = original(folder, **arguments)
        model.encoder.layers[1].feed_forward.activation = WrongBackward.apply
        return model

    monkeypatch.setattr(BertModel, "from_pretrained", with_bug)
    assert verify(small).equal  # the values alone do not show it
    found = verify(small, gradients=True)
    assert found.first == "gradient of encoder.layers.1.feed_forward.expand"
    verdicts = {line.value: line.verdict for line in found.lines}
    assert verdicts["gradient of encoder.layers.*.feed_forward.expand"] == "bug"
    assert verdicts["gradient of embeddings.word_embeddings.weight"] == "bug"
    assert verdicts["gradient of encoder.layers.*.feed_forward.activation"] == "bug"  # of the layer below
    assert verdicts["gradient of pooler.dense"] == "equal"


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_gradients_where_the_caller_wants_none(small: Path, block: Any) -> None:
    with block():
        found = verify(small, gradients=True)
    assert found.equal, found
    assert "gradient of embeddings.word_embeddings.weight" in {line.value for line in found.lines}


def test_gradients_is_true_or_false(small: Path) -> None:
    with pytest.raises(InputError, match="gradients must be one of True, False, got 'all'"):
        verify(small, gradients="all")


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
    assert {line.verdict for line in verify(small, gradients=True).lines if not line.equal} == {"rounding"}


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
