"""Which layers does a probe use if it may use all of them?

A scalar mix is one vector made of all layers, h = c Σ s_l h_l, where s = softmax(a): the numbers a and c are trained
together with a linear probe of h. The weights s show where the property is, and their centre of gravity Σ l s_l is one
number for it. The layers are standardised, so that one of large values does not need a small weight.

Peters et al. 2018, "Deep contextualized word representations", equation 1; Tenney et al. 2019, "BERT Rediscovers the
Classical NLP Pipeline", equations 1 and 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.interpret.folds import standard_error
from minibert.show.tables import table

STEPS = 50  # of L-BFGS


@dataclass(frozen=True)
class ScalarMix:
    """The weights of the layers in a probe of all of them; K counts folds."""

    weights: Tensor  # (L + 1,), which sum to 1: the mean over folds
    by_fold: Tensor  # (K, L + 1)
    accuracy: float  # of the probe, on rows that neither it nor the weights were trained on
    standard_error: float  # of the accuracy, from its spread over folds

    @property
    def centre_of_gravity(self) -> float:
        """The mean layer, by weight (Tenney et al. 2019, equation 2)."""
        return (self.weights * torch.arange(len(self.weights))).sum().item()

    def __str__(self) -> str:
        spread = self.by_fold.std(dim=0)
        rows = [(str(layer), f"{each:.3f}", f"{spread[layer]:.3f}") for layer, each in enumerate(self.weights.tolist())]
        end = f"centre of gravity {self.centre_of_gravity:.2f}, accuracy {self.accuracy:.1%}"
        return f"{table([('layer', 'weight', 'spread'), *rows], right=range(3))}\n{end}"

    def plot(self) -> Any:
        """A picture of the weights by layer."""
        from minibert.show.plots import plot_layers

        return plot_layers({"weight": self.weights}, quantity="weight in the mix")


def mix_layers(
    values: Tensor, numbers: Tensor, splits: Sequence[tuple[Any, Any]], classes: int, regularisation: float
) -> ScalarMix:
    """Trains a mix of layers with a linear probe, for each fold.

    Args:
        values: (L + 1, N, D), with L at least 1.
        numbers: (N,) the class of each row.
        splits: the rows that train and those that test.
        classes: how many there are.
        regularisation: half of this times the squared norm of the probe's weights is added to the summed loss.
    """
    weights, right = [], []
    for train, test in splits:
        rows, held_out = torch.as_tensor(train), torch.as_tensor(test)
        mean = values[:, rows].mean(dim=1, keepdim=True)
        deviation = values[:, rows].std(dim=1, keepdim=True, correction=0)
        deviation = torch.where(deviation > 0, deviation, 1.0)
        with torch.inference_mode(False), torch.enable_grad():  # also where the caller switched gradients off
            trained = _train((values[:, rows] - mean) / deviation, numbers[rows].clone(), classes, regularisation)
        mixed, scale, weight, bias = trained
        hidden = scale * torch.einsum("l,lnd->nd", mixed, (values[:, held_out] - mean) / deviation)  # (N, D)
        weights.append(mixed)
        right.append(((hidden @ weight.T + bias).argmax(dim=-1) == numbers[held_out]).double())
    by_fold = torch.stack(weights)
    accuracies = torch.stack([each.mean() for each in right])
    accuracy = torch.cat(right).mean().item()
    return ScalarMix(by_fold.mean(dim=0), by_fold, accuracy, standard_error(accuracies).item())


def _train(values: Tensor, numbers: Tensor, classes: int, regularisation: float) -> tuple[Tensor, ...]:
    """The weights s of the layers, the scale c, and the weight and bias of the probe; the vectors are standardised."""
    layers, count, size = values.shape
    values = values.clone()  # a tensor made in inference mode cannot be part of a gradient
    scores = nn.Parameter(torch.zeros(layers, dtype=values.dtype))
    scale = nn.Parameter(torch.ones((), dtype=values.dtype))
    weight = nn.Parameter(torch.zeros(classes, size, dtype=values.dtype))
    bias = nn.Parameter(torch.zeros(classes, dtype=values.dtype))
    parameters = [scores, scale, weight, bias]
    optimizer = torch.optim.LBFGS(parameters, max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        hidden = scale * torch.einsum("l,lnd->nd", scores.softmax(dim=0), values)
        total = F.cross_entropy(hidden @ weight.T + bias, numbers)
        total = total + regularisation / 2 * weight.square().sum() / count
        total.backward()
        return total

    optimizer.step(loss)
    return scores.detach().softmax(dim=0), scale.detach(), weight.detach(), bias.detach()
