"""Small models of random weights."""

import torch

from minibert import BertConfig, BertForMaskedLM, BertModel
from minibert.checkpoints.loading import Pretrained

SMALL = BertConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=20,
)
SIZES = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}

EPS = 1e-3  # large enough for where it stands to be seen


def random_model(attention: str = "eager", kind: type[Pretrained] = BertModel, **changes: object) -> Pretrained:
    torch.manual_seed(0)
    model = kind(BertConfig(**{**SIZES, **changes}), attention=attention).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3
    return model.requires_grad_(False)


def hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def subject(first: str) -> Pretrained:
    """A small model in which a mistake that begins at this value can be seen."""
    kind = BertForMaskedLM if first == "logits" else BertModel
    layers = 4 if first in ("sum_of_last_four", "second_to_last") else 2
    return random_model("eager", kind, layer_norm_eps=EPS, num_hidden_layers=layers)
