"""How does a step change the weights?

AdamW, with the settings of BERT's appendix A.2: a rate that rises linearly from 0 and falls linearly to 0, weight decay
of 0.01 on matrices but not on biases and LayerNorms, and gradients whose norm is cut at 1.
"""

from typing import Any

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    """Returns a model's parameters in two groups: matrices, with weight decay, and biases and LayerNorms, without.

    The latter are vectors: BERT's own code leaves out the same parameters, by their names. Decay pulls a matrix towards
    0, unless its gradient resists; but a LayerNorm's weight is neutral at 1, and a bias is not what overfits. Frozen
    parameters are in neither group.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [each for each in trained if each.dim() > 1], "weight_decay": weight_decay},
        {"params": [each for each in trained if each.dim() <= 1], "weight_decay": 0.0},
    ]


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Returns the rate of a step, counted from 0: it rises from 0 to `peak` in `warmup` steps, then falls to 0.

    The same numbers as transformers' `get_linear_schedule_with_warmup`; with a warm-up, the first step changes nothing.
    """
    if step < warmup:
        return peak * (step / max(1, warmup))
    return peak * max(0.0, (steps - step) / max(1, steps - warmup))


def adamw(model: nn.Module, *, weight_decay: float, betas: tuple[float, float], epsilon: float) -> torch.optim.AdamW:
    """Returns PyTorch's AdamW (Loshchilov & Hutter 2019) over the two groups; the rate is set anew at each step."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=0.0, betas=betas, eps=epsilon, fused=True)
