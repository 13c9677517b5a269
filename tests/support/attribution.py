"""Models and inputs on which attributions must add up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support.models import random_model
from torch import Tensor

from minibert import BertForMaskedLM, BertModel, BertTokenizer
from minibert.checkpoints.loading import Pretrained
from minibert.heads import bert_in
from minibert.trace.compare import example_inputs

# By a name: changes to the config of a random model.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "small": {},
    "one layer, one head": {"num_hidden_layers": 1, "num_attention_heads": 1},
    "relu, large eps": {"hidden_act": "relu", "layer_norm_eps": 0.1},
    "tanh GELU, eight heads": {"hidden_act": "gelu_new", "num_attention_heads": 8},
    "relative positions": {"position_embedding_type": "relative_key"},
    "relative positions with keys": {"position_embedding_type": "relative_key_query"},
}
# By a name: the inputs made of three texts of which two are padded on the right, and one is a pair.
INPUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "padded, with a pair": lambda inputs: inputs,
    "padded on the left": lambda inputs: {name: tensor.flip(1) for name, tensor in inputs.items()},
    "one token": lambda inputs: {"input_ids": inputs["input_ids"][:1, :1]},
}
SENTENCES = ["There was a fly drinking from my soup", "He had to fly for 1500 hours, and [MASK] came back."]


def random_case(configuration: str, inputs: str, kind: type[Pretrained] = BertModel) -> tuple[Any, dict[str, Tensor]]:
    """A random model in float64, and inputs for it."""
    model = random_model(kind=kind, **CONFIGURATIONS[configuration]).double()
    return model, INPUTS[inputs](example_inputs(bert_in(model)))


def real_case(name: str, checkpoint: Path, reactions: Path, tiny: Path) -> tuple[Any, Any]:
    """A real checkpoint, by name, and texts for it: one alone would not show what padding does."""
    if name == "MiniLM":
        return BertModel.from_pretrained(checkpoint), BertTokenizer.from_pretrained(checkpoint)(SENTENCES)
    folder = reactions / "bert_pretrained" if name == "rxnfp" else tiny
    texts = ["CC(=O)O.OCC>>CC(=O)[MASK]CC", "CCO>>CC=[MASK]"] if name == "rxnfp" else [SENTENCES[1], "The [MASK] river"]
    return BertForMaskedLM.from_pretrained(folder), BertTokenizer.from_pretrained(folder)(texts)


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)).item()
