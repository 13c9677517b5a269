"""How much does a layer mix, in one number?

Kobayashi et al. 2021, "Incorporating Residual and Normalization Layers into Analysis of Masked Language Models".
"""

import torch
from torch import Tensor, nn

from minibert.checks import check_one_of
from minibert.interpret.layer_runs import layer_runs, mixing_names
from minibert.interpret.mixing import Method
from minibert.interpret.runs import Inputs, as_inputs, bert_of, mask_of
from minibert.model import EncoderLayer
from minibert.trace.recording import record


@torch.no_grad()
def mixing_ratio(model: nn.Module, inputs: Inputs, how: Method = "norm+residual+ln") -> Tensor:
    """Returns how much of each vector comes from other positions, (L, B, S): 0 nothing, 1 all (Kobayashi et al. 2021,
    equation 14).

    It is ‖others‖ / (‖others‖ + ‖itself‖), with the vectors of all other positions summed before their length is taken;
    of the attention weights it is the sum of those to others. At padding it is 0.

    Args:
        model, inputs: as for `contributions`.
        how: "attention", "norm", "norm+residual" or "norm+residual+ln".
    """
    bert = bert_of(model)
    as_inputs(inputs)
    check_one_of("how", how, ("attention", "norm", "norm+residual", "norm+residual+ln"))
    with record(bert, mixing_names(bert)) as trace:
        bert(**inputs)
    ratios = []
    for run in layer_runs(bert, trace):
        if how == "attention":
            weights = run.probabilities.mean(dim=1)
            ratios.append(weights.sum(dim=-1) - weights.diagonal(dim1=1, dim2=2))
            continue
        vectors = run.attended()
        if how != "norm":
            vectors = run.with_residual(vectors)
        if how == "norm+residual+ln":
            vectors = run.through_attention_norm(vectors)
        itself = vectors.diagonal(dim1=1, dim2=2).transpose(1, 2)  # (B, S, S, D) → (B, S, D)
        others = (vectors.sum(dim=2) - itself).norm(dim=-1)
        total = others + itself.norm(dim=-1)
        ratios.append(others / torch.where(total == 0, 1, total))
    return torch.stack(ratios).masked_fill(~mask_of(inputs), 0)


@torch.no_grad()
def expansion_rates(model: nn.Module) -> Tensor:
    """Returns how much each layer's value and output matrices lengthen a vector on average, (L,): from weights alone.

    It is the Frobenius norm of the map f(x) = (x·Wᵛ + bᵛ)·Wᵒ + bᵒ, as a matrix on vectors that end in 1, over √(D + 1)
    (section 4.4). The paper's code puts bᵒ into a column of that matrix where it belongs into a row, so that published
    rates differ from these in the second or third decimal: 0.676 by that code and 0.669 here for MiniLM's first layer.
    """
    rates = []
    for layer in bert_of(model).encoder.layers:
        assert isinstance(layer, EncoderLayer)
        value, output = _affine(layer.attention.value), _affine(layer.attention.output)
        rates.append((value @ output).norm() / len(value) ** 0.5)
    return torch.stack(rates)


def _affine(linear: nn.Linear) -> Tensor:
    """A linear map with its bias as one matrix (I + 1, D + 1), for row vectors that end in 1."""
    inputs, outputs = linear.in_features, linear.out_features
    matrix = linear.weight.new_zeros(inputs + 1, outputs + 1)
    matrix[:inputs, :outputs] = linear.weight.T
    matrix[inputs, :outputs] = linear.bias
    matrix[inputs, outputs] = 1
    return matrix
