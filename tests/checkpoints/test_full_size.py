"""Checkpoints as large as the public ones, random weights written by transformers: each head in another format.

Multiple choice has the tensors of a sequence classifier.
"""

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
    gamma_and_beta,
    other_bias,
    position_ids,
    rewrite,
    shard,
)
from transformers.initialization import no_init_weights

import minibert
from minibert.checkpoints import layout, weights

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def as_zip(folder: Path) -> None:
    file = folder / layout.SAFETENSORS
    torch.save(load_file(file), folder / layout.PICKLE)
    file.unlink()


def before_pytorch_1_6(folder: Path) -> None:
    file = folder / layout.SAFETENSORS
    torch.save(load_file(file), folder / layout.PICKLE, _use_new_zipfile_serialization=False)
    file.unlink()


def as_shards(folder: Path) -> None:
    shard(folder, layout.SAFETENSORS)


def as_pickled_shards(folder: Path) -> None:
    shard(folder, layout.PICKLE)


def with_tensorflow_names(folder: Path) -> None:
    rewrite(folder, gamma_and_beta)


def with_the_other_bias(folder: Path) -> None:
    rewrite(folder, other_bias)


def with_position_ids(folder: Path) -> None:
    rewrite(folder, position_ids)


@pytest.mark.parametrize(
    "name,rewrite_as,sizes",
    [
        ("BertForPreTraining", with_tensorflow_names, {}),
        ("BertForMaskedLM", with_the_other_bias, {}),
        ("BertForNextSentencePrediction", as_shards, {}),
        ("BertForSequenceClassification", as_zip, {"num_labels": 9}),
        ("BertForTokenClassification", before_pytorch_1_6, {"num_labels": 9, "vocab_size": 28_996}),
        ("BertForQuestionAnswering", as_pickled_shards, {}),
        ("BertModel", with_position_ids, {"vocab_size": 119_547}),
        ("BertForPreTraining", with_tensorflow_names, LARGE),
    ],
    ids=lambda value: "large" if value is LARGE else getattr(value, "__name__", ""),
)
@torch.no_grad()
def test_equal_to_transformers(
    name: str, rewrite_as: Callable[[Path], None], sizes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    for layer in (torch.nn.Linear, torch.nn.Embedding):  # random values that are overwritten at once take seconds
        monkeypatch.setattr(layer, "reset_parameters", lambda self: None)
    with no_init_weights():
        theirs = getattr(transformers, name)(transformers.BertConfig(**sizes)).eval()
    theirs.tie_weights()
    for parameter_name, parameter in theirs.named_parameters():
        parameter.uniform_(-0.05, 0.05)
        if parameter_name.endswith("LayerNorm.weight"):
            parameter += 1
    theirs.save_pretrained(tmp_path)
    rewrite_as(tmp_path)
    ours = getattr(minibert, name).from_pretrained(tmp_path)
    accounts_for_all(ours, weights.read(tmp_path)[1])
    for parameter in ours.parameters():
        parameter.data = parameter.data.clone()  # aligned as theirs are, which never were in a file
    a, b = ours(IDS, MASK), theirs(IDS, MASK)
    for field in a._fields:
        if getattr(a, field) is not None:
            assert torch.equal(getattr(a, field), getattr(b, field)), field
