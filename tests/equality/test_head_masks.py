"""Gates and pruned heads, against what transformers 4.57.6 computed (see golden/heads.py)."""

import json
from pathlib import Path

import pytest
import torch
from golden.heads import PRUNED, SIZES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from minibert import BertConfig, BertForMaskedLM
from minibert.interpret import prune_heads
from minibert.trace.edits import gate
from minibert.trace.recording import edit

FILE = Path(__file__).parent / "golden" / "heads.safetensors"
GOLDEN = load_file(FILE)


def load(prefix: str, config: dict[str, object], folder: Path) -> BertForMaskedLM:
    """A checkpoint as transformers 4 writes it."""
    parameters = {name.removeprefix(prefix): tensor for name, tensor in GOLDEN.items() if name.startswith(prefix)}
    save_file(parameters, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return BertForMaskedLM.from_pretrained(folder).double()


def check(model: BertForMaskedLM, kind: str) -> None:
    """In float64, to the 13th digit: the golden numbers may come from another processor."""
    with torch.no_grad():
        out = model(GOLDEN["ids"], GOLDEN["mask"], output_hidden_states=True)
    for name, found in (("hidden", out.hidden_states[-1]), ("logits", out.logits)):
        torch.testing.assert_close(found, GOLDEN[f"{kind}/{name}"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("at", ["*.attention.probabilities", "*.attention.context"])
def test_gates_are_a_head_mask(at: str, tmp_path: Path) -> None:
    model = load("parameters/", SIZES, tmp_path)
    with edit(model, at, gate(GOLDEN["head_mask"])):
        check(model, "masked")
    with pytest.raises(AssertionError), edit(model, at, gate(GOLDEN["head_mask"].T)):
        check(model, "masked")


def test_pruned_heads(tmp_path: Path) -> None:
    check(prune_heads(load("parameters/", SIZES, tmp_path), PRUNED), "pruned")


def test_a_pruned_checkpoint_of_transformers_4_loads(tmp_path: Path) -> None:
    with safe_open(FILE, "pt") as file:
        config = json.loads(file.metadata()["config"])
    assert config["pruned_heads"] == {"0": [1], "2": [0, 2]}
    model = load("pruned/parameters/", config, tmp_path)
    assert model.config.pruned_heads == ((0, (1,)), (2, (0, 2)))
    check(model, "pruned")
    again = tmp_path / "again"
    model.save_pretrained(again)
    check(BertForMaskedLM.from_pretrained(again).double(), "pruned")
    assert json.loads((again / "config.json").read_text())["pruned_heads"] == config["pruned_heads"]
    assert "pruned_heads" not in BertConfig().to_dict()


def shapes(model: BertForMaskedLM) -> list[tuple[int, ...]]:
    def of(tensor: Tensor) -> tuple[int, ...]:
        return tuple(tensor.shape)

    return [of(layer.attention.output.weight) for layer in model.bert.encoder.layers]


def test_the_matrices_are_smaller(tmp_path: Path) -> None:
    model = load("parameters/", SIZES, tmp_path)
    assert shapes(prune_heads(model, PRUNED)) == [(12, 8), (12, 12), (12, 4)]
    assert shapes(model) == [(12, 12)] * 3
