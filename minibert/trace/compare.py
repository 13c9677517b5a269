"""Are two sets of named values the same, and if not, is it rounding?

`verify`, `diagnose` and the tests ask this in the same way. Both sides compute in float64, where a mistake stays as
large as it was and rounding all but disappears; and how far rounding can move a value is measured on the model itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from minibert.model import BertModel
from minibert.trace.recording import edit
from minibert.trace.values import value_names

Values = dict[str, Tensor]  # by name, in the order computed

# Relative to the typical size of a value: constants that are written with nine digits are not mistakes.
SAME = 1e-8

# How many times further off a correct model may be than the few runs that measure it; the most seen is 2.
NOISE_MARGIN = 8


def example_inputs(model: BertModel, seed: int = 0) -> dict[str, Tensor]:
    """Three texts of random ids, (3, S): of several lengths, padded on the right, one of them a pair."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    longest = min(11, config.max_position_embeddings)
    lengths = [longest, max(2, longest - 4), max(2, longest // 2)]
    ids = torch.randint(config.vocab_size, (len(lengths), longest), generator=generator)
    mask = torch.tensor([[int(position < length) for position in range(longest)] for length in lengths])
    types = torch.zeros_like(ids)
    types[1, lengths[1] // 2 : lengths[1]] = config.type_vocab_size - 1
    device = model.embeddings.word_embeddings.weight.device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "token_type_ids": types.to(device)}


def rounding_noise(
    model: nn.Module, compute: Callable[[], Values], dtype: torch.dtype, rounded: Sequence[Values] = (), runs: int = 4
) -> dict[str, float]:
    """How far rounding in `dtype` can move each value, whatever the order of the sums.

    Measured by Monte Carlo arithmetic (Parker 1997, "Monte Carlo Arithmetic: exploiting randomness in floating-point
    arithmetic"): the model computes in float64 a few times, each time with every number of every value that has a name
    multiplied by 1 + ε·u, where ε is the machine epsilon of `dtype` and u is drawn from [−1, 1]. What that does to a
    value further on, or to a cosine, mean or loss that is computed from the last ones, rounding does to it too: a
    LayerNorm of two nearly equal numbers, say, makes it large.

    Args:
        model: in float64; see `in_float64`.
        compute: runs the model and returns the values.
        dtype: the precision that is rounded to.
        rounded: what the model has computed in that precision itself, if it has.
        runs: how many times to compute.

    Returns:
        For each value that `compute` returns, the largest difference seen, times a margin.
    """
    epsilon = torch.finfo(dtype).eps
    generator = torch.Generator().manual_seed(0)

    def perturb(value: Tensor) -> Tensor:
        draws = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value.device)
        return value * (1 + epsilon * (2 * draws - 1))

    # A masked score is a score plus 0 or the most negative number there is, and so rounded with the score.
    names = [name for name in value_names(model) if not name.endswith("masked_scores")]
    exact, samples = compute(), list(rounded)
    for _ in range(runs):
        with edit(model, names, perturb):
            samples.append(compute())
    noise = {}
    for name, value in exact.items():
        if name.endswith("masked_scores"):
            noise[name] = max(max_difference(sample[name], value) for sample in samples[len(rounded) :])
        else:
            differences = [max_difference(sample[name], value) for sample in samples]
            noise[name] = max(epsilon * _largest(value), *differences)
    return {name: NOISE_MARGIN * bound for name, bound in noise.items()}


def first_difference(ours: Values, theirs: Values, noise: Mapping[str, float]) -> str | None:
    """The first value, in the order of `theirs`, that both have and that differs by more than rounding."""
    shared = [name for name in theirs if name in ours]
    return next((name for name in shared if not is_close(ours[name], theirs[name], noise.get(name, 0.0))), None)


def is_close(a: Tensor, b: Tensor, noise: float = 0.0) -> bool:
    """Whether two values are the same but for rounding; `noise` is by how much the precision of `a` may move it."""
    a, b = _of_one_shape(a, b)
    if a.shape != b.shape:
        return False
    return torch.allclose(a.double(), b.double(), rtol=SAME, atol=max(noise, SAME * typical_size(b)), equal_nan=True)


def max_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two values; infinite between different shapes, or where one is NaN."""
    a, b = _of_one_shape(a, b)
    if a.shape != b.shape:
        return float("inf")
    same = (a == b) | (a.isnan() & b.isnan())
    return (a.double() - b.double()).abs().nan_to_num(nan=float("inf")).masked_fill(same, 0).max().item()


def _largest(value: Tensor) -> float:
    return value.abs().nan_to_num(nan=0.0, posinf=0.0).max().item()


def max_ulps(a: Tensor, b: Tensor) -> int:
    """The largest distance of two float32 numbers, counted in the float32 numbers between them."""
    bits = [each.float().contiguous().view(torch.int32).long() for each in (a, b)]
    first, second = (torch.where(each < 0, -(2**31) - each, each) for each in bits)
    return int((first - second).abs().max())


def typical_size(value: Tensor) -> float:
    """The median of the absolute values: some of those of a mask are as large as numbers go."""
    return value.abs().nan_to_num(posinf=0.0).median().item()


@contextmanager
def in_float64(*modules: nn.Module) -> Iterator[None]:
    """Parameters and buffers in float64 inside the block; afterwards they are their own again, untouched."""
    tensors = [tensor for module in modules for tensor in [*module.parameters(), *module.buffers()]]
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    kept = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        yield
    finally:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = data


def _of_one_shape(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The same without leading axes of length 1: position vectors may be (S, D) or (1, S, D)."""
    while a.dim() > b.dim() and len(a) == 1:
        a = a[0]
    while b.dim() > a.dim() and len(b) == 1:
        b = b[0]
    return a, b
