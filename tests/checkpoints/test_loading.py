import dataclasses
import json
import struct
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minibert import BertConfig, BertModel
from minibert.checkpoints.names import checkpoint_name
from minibert.errors import CheckpointError, CheckpointNotFoundError, ConfigError, MinibertError, StoreError

TINY = BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=12, num_attention_heads=2, intermediate_size=6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint of ours, for each test to damage."""
    BertModel(TINY).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_saved_and_loaded(dtype: torch.dtype, tmp_path: Path) -> None:
    model = BertModel(TINY).to(dtype)
    model.save_pretrained(tmp_path / "new" / "folder")
    again = BertModel.from_pretrained(tmp_path / "new" / "folder")
    theirs = transformers.BertModel.from_pretrained(tmp_path / "new" / "folder").state_dict()
    for name, parameter in model.named_parameters():
        loaded = again.get_parameter(name)
        assert loaded.dtype == dtype
        assert loaded.requires_grad
        assert torch.equal(loaded, parameter)
        assert torch.equal(theirs[checkpoint_name(name)], parameter)


def test_position_ids_are_the_one_tensor_ignored(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "embeddings.position_ids": torch.arange(512)[None]}, folder / "model.safetensors")
    assert BertModel.from_pretrained(folder).config == dataclasses.replace(TINY, dtype="float32")


def change(folder: Path, drop: str = "", **new: torch.Tensor) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(drop, None)
    save_file(
        {**tensors, **{name.replace("__", "."): value for name, value in new.items()}}, folder / "model.safetensors"
    )


def test_a_missing_tensor(folder: Path) -> None:
    change(folder, drop="encoder.layer.3.output.dense.bias")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors .*: encoder\.layer\.3\.output\.dense\.bias is missing"
    ):
        BertModel.from_pretrained(folder)


def test_an_extra_tensor(folder: Path) -> None:
    """Of the network itself, it is an error; `test_formats.py` has those that can be ignored."""
    change(folder, encoder__layer__12__output__dense__bias=torch.zeros(8))
    with pytest.raises(
        CheckpointError, match=r"BertModel of this config has no parameter for encoder\.layer\.12\.output"
    ):
        BertModel.from_pretrained(folder)


def test_a_tensor_of_another_shape(folder: Path) -> None:
    change(folder, pooler__dense__weight=torch.zeros(8, 9))
    message = r"pooler\.dense\.weight must have shape \(8, 8\) by the config, got \(8, 9\)"
    with pytest.raises(CheckpointError, match=message):
        BertModel.from_pretrained(folder)


def test_a_tensor_of_integers(folder: Path) -> None:
    change(folder, pooler__dense__bias=torch.zeros(8, dtype=torch.int32))
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.bias must hold floating-point numbers, got int32"):
        BertModel.from_pretrained(folder)


def test_many_problems_are_counted(folder: Path) -> None:
    bias = torch.zeros(8)
    save_file({"one": torch.zeros(1), "embeddings.LayerNorm.bias": bias}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"; and \d+ more$"):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 20_000, -1])
def test_a_truncated_file(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="is damaged"):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 8,
        struct.pack("<Q", 1 << 60) + b"{}",  # a header longer than any file
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_a_file_of_something_else(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or not a safetensors file"):
        BertModel.from_pretrained(folder)


def test_a_folder_that_lacks_a_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"has no weights: none of model\.safetensors, "):
        BertModel.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"config\.json does not exist"):
        BertModel.from_pretrained(folder)


def test_an_absurd_size_is_refused_before_memory_is_taken(folder: Path) -> None:
    """Tens of gigabytes by the config, kilobytes in the file."""
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "hidden_size": 12_000}))
    with pytest.raises(CheckpointError, match=r"must have shape \(12000,\) by the config"):
        BertModel.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**fields, "hidden_size": 60_000}))
    with pytest.raises(ConfigError, match="over the limit"):
        BertModel.from_pretrained(folder)


def test_an_unknown_activation_names_the_file(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "hidden_act": "gleu"}))
    with pytest.raises(ConfigError, match=r"config\.json: hidden_act must be one of gelu, .*, got 'gleu'"):
        BertModel.from_pretrained(folder)


def test_saving_where_nothing_can_be_written(folder: Path) -> None:
    for target in (folder / "config.json", folder / "config.json" / "below"):
        with pytest.raises(StoreError, match="cannot save to the folder"):
            BertModel(TINY).save_pretrained(target)


def test_everybody_may_read_what_was_saved(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_a_failed_save_leaves_the_old_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full_disk(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("minibert.checkpoints.loading.save_file", full_disk)
    with pytest.raises(StoreError, match="no space left on device"):
        BertModel(TINY).save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_errors_are_also_the_builtin_that_fits(folder: Path) -> None:
    for error, builtin in ((CheckpointError, ValueError), (CheckpointNotFoundError, FileNotFoundError)):
        assert issubclass(error, MinibertError)
        assert issubclass(error, builtin)


def test_how_parameters_start() -> None:
    """Cut off at two standard deviations; LayerNorms at 1, biases and the padding embedding at 0."""
    model = BertModel(BertConfig(vocab_size=500, num_hidden_layers=1, initializer_range=0.05))
    weight = model.encoder.layers[0].feed_forward.expand.weight
    assert weight.abs().max() <= 0.1
    assert weight.std().item() == pytest.approx(0.05 * 0.88, rel=0.01)  # what the cut leaves of the deviation
    assert model.embeddings.word_embeddings.weight[1:].std().item() == pytest.approx(0.05 * 0.88, rel=0.01)
    assert not model.embeddings.word_embeddings.weight[0].any()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert (parameter == (1 if name.endswith("norm.weight") else 0)).all(), name
    flat = BertModel(dataclasses.replace(TINY, initializer_range=0))
    assert (flat.embeddings.norm.weight == 1).all()
    assert not flat.pooler.dense.weight.any()
