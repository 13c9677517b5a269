"""Relative positions, against what transformers 4.57.6 computed (see golden/relative_positions.py)."""

import json
from pathlib import Path

import pytest
import torch
from golden.relative_positions import SIZES
from safetensors.torch import load_file, save_file
from torch import Tensor

from minibert import BertModel

GOLDEN = load_file(Path(__file__).parent / "golden" / "relative_positions.safetensors")
KINDS = ["relative_key", "relative_key_query"]


def load(kind: str, folder: Path, attention: str = "sdpa") -> BertModel:
    """The checkpoint as a file of that shape, with the names that transformers 4 gave it."""
    parameters = {
        name.removeprefix(f"{kind}/parameters/"): tensor
        for name, tensor in GOLDEN.items()
        if name.startswith(f"{kind}/parameters/")
    }
    save_file(parameters, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**SIZES, "position_embedding_type": kind}))
    return BertModel.from_pretrained(folder, attention=attention)


def largest_difference(model: BertModel, kind: str, batch: str) -> float:
    with torch.no_grad():
        mask = GOLDEN[f"{kind}/{batch}/mask"]
        out = model(GOLDEN[f"{kind}/ids"], mask, output_hidden_states=True, output_attentions=True)
    ours: dict[str, Tensor] = {
        "hidden_states": torch.stack(out.hidden_states),
        "attentions": torch.stack(out.attentions),
        "pooler_output": out.pooler_output,
    }
    return max((tensor - GOLDEN[f"{kind}/{batch}/{name}"]).abs().max().item() for name, tensor in ours.items())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("batch", ["unpadded", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_transformers_4(kind: str, batch: str, attention: str, tmp_path: Path) -> None:
    """In float64, to the 15th digit: the golden numbers may come from another processor, so not to the last bit."""
    model = load(kind, tmp_path, attention)
    assert all(story.status == "used" for story in model.load_report.tensors)
    assert largest_difference(model, kind, batch) < 1e-5  # float32 parameters, float32 arithmetic
    assert largest_difference(model.double(), kind, batch) < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_it_matters(kind: str, tmp_path: Path) -> None:
    """The golden numbers tell the mistakes apart that one can make here."""
    model = load(kind, tmp_path).double()
    relative = model.encoder.layers[0].attention.relative
    relative.with_key = not relative.with_key
    assert largest_difference(model, kind, "padded") > 0.01
    relative.with_key = not relative.with_key
    relative.longest += 1  # off by one in the table
    relative.distance_embedding.weight.data = torch.cat(
        [relative.distance_embedding.weight, torch.zeros(2, model.config.head_size, dtype=torch.float64)]
    )
    assert largest_difference(model, kind, "padded") > 0.01


def test_positions_are_not_added_to_the_embeddings(tmp_path: Path) -> None:
    model = load("relative_key", tmp_path)
    model.embeddings.position_embeddings.weight.data.fill_(1000)
    assert largest_difference(model.double(), "relative_key", "padded") < 1e-13


def test_saved_and_loaded(tmp_path: Path) -> None:
    load("relative_key", tmp_path).save_pretrained(tmp_path / "again")
    assert largest_difference(BertModel.from_pretrained(tmp_path / "again").double(), "relative_key", "padded") < 1e-13
