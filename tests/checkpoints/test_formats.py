"""Every format and naming scheme that BERTs are stored in: each loads, equals its reference, and is accounted for."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.checkpoint_files import (
    IDS,
    MASK,
    accounts_for_all,
    both_biases,
    gamma_and_beta,
    no_prefix,
    other_bias,
    position_ids,
    rewrite,
    shard,
)
from torch import Tensor

import minibert
from minibert import BertConfig, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel
from minibert.checkpoints import layout, weights
from minibert.checkpoints.loading import Pretrained
from minibert.errors import CheckpointError, CheckpointNotFoundError, NewParametersWarning
from minibert.heads import HEADS, model_class

SMALL = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pretraining checkpoint as transformers writes it, every parameter random."""
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(transformers.BertConfig(**SMALL.to_dict()))
    for name, parameter in model.named_parameters():
        parameter.data = (1 if name.endswith("LayerNorm.weight") else 0) + 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    return tmp_path


def equal_to_transformers(folder: Path, name: str, reference: Path | None = None) -> Pretrained:
    """Loads both, copies the parameters of both to addresses that are aligned alike, and compares every output."""
    ours = getattr(minibert, name).from_pretrained(folder)
    theirs = getattr(transformers, name).from_pretrained(reference or folder)
    for model in (ours, theirs):
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    with torch.no_grad():
        a, b = ours(IDS, MASK), theirs(IDS, MASK)
    for field in a._fields:
        if getattr(a, field) is not None:
            assert torch.equal(getattr(a, field), getattr(b, field)), field
    accounts_for_all(ours, weights.read(folder)[1])
    return ours


def not_of_a_bert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "projection.weight": torch.zeros(3, 3), "gamma": torch.zeros(1)}


def in_half(dtype: torch.dtype) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def halve(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(dtype) for name, tensor in tensors.items()}

    halve.__name__ = f"in_{str(dtype).removeprefix('torch.')}"
    return halve


CHANGES = [dict, gamma_and_beta, both_biases, other_bias, position_ids, not_of_a_bert]
HALVES = [in_half(torch.float16), in_half(torch.bfloat16)]


@pytest.mark.parametrize(
    "name", ["BertModel", "BertForPreTraining", "BertForMaskedLM", "BertForNextSentencePrediction"]
)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_names(folder: Path, change: Callable, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    reference = shutil.copytree(folder, tmp_path_factory.mktemp("reference") / "plain")
    rewrite(folder, change)
    equal_to_transformers(folder, name, reference)


@pytest.mark.parametrize("change", HALVES, ids=lambda change: change.__name__)
def test_half_precision(folder: Path, change: Callable) -> None:
    rewrite(folder, change)
    fields = json.loads((folder / "config.json").read_text())
    del fields["dtype"]
    (folder / "config.json").write_text(json.dumps(fields))
    model = equal_to_transformers(folder, "BertForPreTraining")
    assert {str(parameter.dtype) for parameter in model.parameters()} == {f"torch.{change.__name__[3:]}"}


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_config_names_another_dtype(folder: Path, name: str) -> None:
    """transformers converts to it, so we do."""
    fields = json.loads((folder / "config.json").read_text())
    del fields["dtype"]
    (folder / "config.json").write_text(json.dumps({**fields, name: "float16"}))
    assert equal_to_transformers(folder, "BertModel").pooler.dense.weight.dtype == torch.float16


def test_a_file_of_mixed_dtypes_becomes_the_widest(folder: Path) -> None:
    rewrite(folder, lambda tensors: {name: t.half() if "query" in name else t for name, t in tensors.items()})
    fields = json.loads((folder / "config.json").read_text())
    del fields["dtype"]
    (folder / "config.json").write_text(json.dumps(fields))
    model = BertModel.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(IDS).last_hidden_state.isfinite().all()


def test_a_base_model_without_prefix_gives_a_head_what_it_has(folder: Path) -> None:
    rewrite(folder, no_prefix)
    equal_to_transformers(folder, "BertModel")
    with pytest.warns(NewParametersWarning, match=r"classifier\.weight, classifier\.bias are not in .*: train them"):
        model = BertForSequenceClassification.from_pretrained(folder, num_labels=5)
    accounts_for_all(model, weights.read(folder)[1])
    assert [entry.parameter for entry in model.load_report.with_status("new")] == [
        "classifier.weight",
        "classifier.bias",
    ]
    assert model.config.num_labels == 5
    assert model(IDS, MASK).logits.shape == (3, 5)
    assert 0.01 < model.classifier.weight.std() < 0.03
    assert model.classifier.weight.abs().max() <= 0.04
    assert not model.classifier.bias.any()


def test_loading_is_silent(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BertForPreTraining.from_pretrained(folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("prefix", [True, False], ids=["with prefix", "without"])
def test_no_pooler(folder: Path, prefix: bool) -> None:
    """As in embedding and named-entity models. A model that needs a pooler gets a new one, others have none."""
    rewrite(folder, lambda tensors: {n: t for n, t in tensors.items() if "pooler" not in n and "seq_rel" not in n})
    if not prefix:
        rewrite(folder, no_prefix)
    model = BertModel.from_pretrained(folder)
    theirs = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    with torch.no_grad():
        assert torch.equal(model(IDS, MASK).last_hidden_state, theirs(IDS, MASK).last_hidden_state)
    assert model(IDS).pooler_output is None
    accounts_for_all(model, weights.read(folder)[1])
    with pytest.warns(
        NewParametersWarning, match=r"bert\.pooler\.dense\.weight, bert\.pooler\.dense\.bias, classifier"
    ):
        BertForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("name", [layout.SAFETENSORS, layout.PICKLE])
def test_shards(folder: Path, name: str) -> None:
    shard(folder, name)
    equal_to_transformers(folder, "BertForPreTraining")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_pickles(folder: Path, zipped: bool) -> None:
    tensors = load_file(folder / layout.SAFETENSORS)
    (folder / layout.SAFETENSORS).unlink()
    torch.save(tensors, folder / layout.PICKLE, _use_new_zipfile_serialization=zipped)
    equal_to_transformers(folder, "BertForPreTraining")


def test_safetensors_before_pickles(folder: Path) -> None:
    (folder / layout.PICKLE).write_bytes(b"never looked at")
    assert BertModel.from_pretrained(folder).load_report.source.endswith(layout.SAFETENSORS)


class Runs:
    """What a hostile pickle contains."""

    def __reduce__(self):  # pragma: no cover - the point is that it never happens
        return Path.write_text, (Path("pwned"), "code ran")


@pytest.mark.parametrize(
    "content,message",
    [
        (Runs(), "holds more than tensors, which is refused"),
        ({"bert.pooler.dense.weight": Runs()}, "holds more than tensors, which is refused"),
        ([1, 2], "must hold tensors by name, got a list"),
        ({"state_dict": {"weight": torch.zeros(1)}}, "must hold tensors by name, got a dict for 'state_dict'"),
        ({1: torch.zeros(1)}, "must hold tensors by name, got a Tensor for 1"),
        ({"x": torch.zeros(2, 2).to_sparse()}, r"is refused: torch\._utils\._rebuild_sparse_tensor"),
        ({"x": torch.zeros(1).expand(10**12)}, r"x has shape \(1000000000000,\), but fewer numbers in the file"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_runs_no_code(
    folder: Path, content: object, message: str, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / layout.SAFETENSORS).unlink()
    torch.save(content, folder / layout.PICKLE, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=message):
        BertModel.from_pretrained(folder)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "shard_name",
    [
        "../elsewhere.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..",
        "",
        "model.bin",
        "a\\b.safetensors",
        "\0",
    ],
)
def test_an_index_cannot_point_out_of_its_folder(folder: Path, shard_name: str) -> None:
    shutil.copy(folder / layout.SAFETENSORS, folder.parent / "elsewhere.safetensors")
    (folder / layout.SAFETENSORS).unlink()
    index = folder / f"{layout.SAFETENSORS}.index.json"
    index.write_text(json.dumps({"weight_map": {"embeddings.word_embeddings.weight": shard_name}}))
    with pytest.raises(CheckpointError, match=r"must name \.safetensors files in its own folder, got"):
        BertModel.from_pretrained(folder)


def test_an_index_that_is_wrong(folder: Path) -> None:
    shard(folder, layout.SAFETENSORS)
    index = folder / f"{layout.SAFETENSORS}.index.json"
    right = index.read_text()
    weight_map = json.loads(right)["weight_map"]
    name = "bert.pooler.dense.bias"
    weight_map[name] = next(other for other in weight_map.values() if other != weight_map[name])
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"has no bert\.pooler\.dense\.bias, although model\.safetensors\.index"):
        BertModel.from_pretrained(folder)
    index.write_text(right)
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"names the file model-00002-of-00002\.safetensors, which is"):
        BertModel.from_pretrained(folder)
    for content in ({}, {"weight_map": []}, {"weight_map": {"x": 1}}):
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="must have a weight_map from tensors to files"):
            BertModel.from_pretrained(folder)


def test_two_copies_that_differ(folder: Path) -> None:
    rewrite(folder, lambda tensors: {**both_biases(tensors), "cls.predictions.decoder.weight": torch.zeros(40, 16)})
    with pytest.raises(CheckpointError, match="are one parameter, but differ"):
        BertForMaskedLM.from_pretrained(folder)


def test_half_a_head_is_refused(folder: Path) -> None:
    rewrite(folder, lambda tensors: {n: t for n, t in tensors.items() if n != "cls.predictions.transform.dense.bias"})
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.transform\.dense\.bias is missing"):
        BertForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("named", [True, False], ids=["by architectures", "by its tensors"])
def test_every_head_is_written_read_and_recognised(name: str, named: bool, tmp_path: Path) -> None:
    model = HEADS[name](SMALL)
    model.save_pretrained(tmp_path)
    if not named:
        fields = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**fields, "architectures": None}))
    found = model_class(tmp_path)
    assert found is HEADS[name] or (not named and name == "BertForMultipleChoice")  # the same tensors as a classifier
    again = HEADS[name].from_pretrained(tmp_path)
    accounts_for_all(again, weights.read(tmp_path)[1])
    theirs, report = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    tensors = theirs.state_dict()
    for key, tensor in weights.read(tmp_path)[1].items():
        assert torch.equal(tensor, tensors[key])


def test_a_model_without_a_decoder_ignores_an_untied_one(folder: Path) -> None:
    rewrite(folder, lambda tensors: {**both_biases(tensors), "cls.predictions.decoder.weight": torch.zeros(40, 16)})
    model = equal_to_transformers(folder, "BertModel")
    entry = next(entry for entry in model.load_report.tensors if entry.name == "cls.predictions.decoder.weight")
    assert (entry.status, entry.reason) == ("ignored", "of a head that BertModel does not have")


def test_the_tensors_say_which_heads_there_are(folder: Path) -> None:
    """Not the config, which may name a class that lacks some of them, or a head that is not there."""
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "architectures": ["BertForMaskedLM"]}))
    assert model_class(folder) is BertForPreTraining
    rewrite(folder, no_prefix)
    rewrite(folder, lambda tensors: {**tensors, "pre_classifier.weight": torch.zeros(2)})
    (folder / "config.json").write_text(json.dumps({**fields, "architectures": ["BertForSequenceClassification"]}))
    assert model_class(folder) is BertModel


def test_new_parameters_are_the_same_for_the_same_seed(folder: Path) -> None:
    """In another process, too: nothing depends on the order of a set."""
    rewrite(folder, no_prefix)
    code = (
        "import sys, torch, warnings; warnings.simplefilter('ignore'); torch.manual_seed(0); import minibert; "
        "model = minibert.BertForPreTraining.from_pretrained(sys.argv[1]); "
        "print([parameter.sum().item() for parameter in model.masked_lm.parameters()])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_a_pickle_cannot_multiply_memory(folder: Path) -> None:
    """Many tensors that share memory take many times the file's size once they are converted or trained."""
    (folder / layout.SAFETENSORS).unlink()
    stretch = torch.zeros(50_000)
    torch.save({f"x{number}": stretch for number in range(5)}, folder / layout.PICKLE)
    with pytest.raises(CheckpointError, match=r"holds tensors of 1,000,000 bytes that share"):
        BertModel.from_pretrained(folder)
