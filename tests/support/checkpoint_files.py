"""The names and file formats in which the same BERT can be stored."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minibert.checkpoints import layout
from minibert.checkpoints.loading import Pretrained

IDS = torch.randint(1, 40, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7])


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / layout.SAFETENSORS
    save_file({name: tensor.clone() for name, tensor in change(load_file(file)).items()}, file)


def accounts_for_all(model: Pretrained, tensors: dict[str, Tensor]) -> None:
    entries = model.load_report.tensors
    assert sorted(entry.name for entry in entries if entry.name) == sorted(tensors)
    ours = {entry.parameter for entry in entries if entry.status in ("used", "renamed", "new")}
    assert ours == {name for name, _ in model.named_parameters()}
    for entry in entries:
        assert (entry.status == "used") == (entry.reason == ""), entry
    assert len(str(model.load_report).splitlines()) <= 10
    assert len(model.load_report.table().splitlines()) == len(entries) + 1


def no_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("bert."): tensor for name, tensor in tensors.items() if not name.startswith("cls.")}


def gamma_and_beta(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    def tensorflow_name(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    return {tensorflow_name(name): tensor for name, tensor in tensors.items()}


def both_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's bias under both of its names, and the tied decoder itself."""
    bias = tensors["cls.predictions.bias"]
    return {
        **tensors,
        "cls.predictions.decoder.bias": bias,
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
    }


def other_bias(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's bias under the name that is not canonical."""
    tensors = both_biases(tensors)
    del tensors["cls.predictions.bias"]
    return tensors


def position_ids(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "bert.embeddings.position_ids": torch.arange(512)[None]}


def shard(folder: Path, name: str) -> None:
    """Replaces the weights file by two shards and their index; `name` is what a single file would be called."""
    tensors = load_file(folder / layout.SAFETENSORS)
    (folder / layout.SAFETENSORS).unlink()
    stem, extension = name.rsplit(".", 1)
    weight_map = {}
    for number, part in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        file = folder / f"{stem}-0000{number}-of-00002.{extension}"
        chosen = {name: tensors[name].clone() for name in part}
        if extension == "bin":
            torch.save(chosen, file)
        else:
            save_file(chosen, file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file.name)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
