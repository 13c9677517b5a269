"""How far rounding can move a value is measured; and a mistake is larger than that."""

import pytest
import torch
from support.models import random_model
from torch import Tensor

from minibert.trace.compare import (
    NOISE_MARGIN,
    Values,
    example_inputs,
    first_difference,
    in_float64,
    is_close,
    max_difference,
    max_ulps,
    rounding_noise,
    typical_size,
)
from minibert.trace.recording import record


def measured(dtype: torch.dtype, **changes: object) -> tuple[Values, Values, dict[str, float]]:
    """A model's values in `dtype` and in float64, and what `rounding_noise` allows for the difference."""
    model = random_model(**changes)
    inputs = example_inputs(model)

    @torch.no_grad()
    def compute() -> Values:
        with record(model) as trace:
            model(**inputs)
        return dict(trace)

    model.to(dtype)
    rounded = compute()
    with in_float64(model):
        return rounded, compute(), rounding_noise(model, compute, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads, width", [(1, 2), (2, 1), (4, 6), (3, 7)])
def test_rounding_is_within_the_noise_and_a_mistake_is_not(heads: int, width: int, dtype: torch.dtype) -> None:
    rounded, exact, noise = measured(dtype, num_attention_heads=heads, hidden_size=heads * width)
    for name, value in exact.items():
        if name.endswith("masked_scores"):  # the mask itself is different in each dtype
            continue
        assert max_difference(rounded[name], value) <= noise[name] / 2, name
    for name in ("embeddings.sum", "encoder.layers.0.attention.output"):
        assert noise[name] < typical_size(exact[name])  # bfloat16 has two to three digits
    assert first_difference(rounded, exact, {}) is not None


def test_the_noise_of_float64_is_far_below_a_mistake() -> None:
    _, exact, noise = measured(torch.float64)
    for name, value in exact.items():
        assert 0 < noise[name] < 1e-9 * typical_size(value), name


def test_the_noise_grows_with_the_condition_of_the_model() -> None:
    """A LayerNorm of two numbers that are nearly equal magnifies their rounding."""
    model = random_model(num_attention_heads=1, hidden_size=2, num_hidden_layers=1)
    table = model.embeddings.word_embeddings.weight
    inputs = example_inputs(model)

    def noise_of_the_norm() -> float:
        def compute() -> Values:
            with record(model, "embeddings.*") as trace:
                model(**inputs)
            return dict(trace)

        with in_float64(model):
            return rounding_noise(model, compute, torch.float32)["embeddings.norm"]

    before = noise_of_the_norm()
    others = model.embeddings.position_embeddings.weight, model.embeddings.token_type_embeddings.weight
    for parameter in others:
        parameter.data.zero_()
    table.data[:, 1] = table.data[:, 0] * (1 + 1e-4)
    assert noise_of_the_norm() > 100 * before


def test_the_noise_is_the_same_each_time() -> None:
    assert measured(torch.float32)[2] == measured(torch.float32)[2]
    assert NOISE_MARGIN > 2  # the sums of other processors were at most twice as far off as the runs that measure it


@pytest.mark.parametrize(
    "a, b, noise, close",
    [
        ([1.0, 2.0], [1.0, 2.0 + 1e-9], 0.0, True),
        ([1.0, 2.0], [1.0, 2.0 + 1e-7], 0.0, False),
        ([1.0, 2.0], [1.0, 2.0 + 1e-7], 1e-6, True),
        ([1.0, float("nan")], [1.0, float("nan")], 0.0, True),
        ([1.0, float("nan")], [1.0, 2.0], 1.0, False),
        ([1.0, -1e300], [1.0, -1e300], 0.0, True),
        ([1.0, -1e300], [1.0, -10000.0], 0.0, False),
        ([[1.0, 2.0]], [1.0, 2.0], 0.0, True),
        ([1.0, 2.0, 3.0], [1.0, 2.0], 1.0, False),
    ],
)
def test_is_close(a: list, b: list, noise: float, close: bool) -> None:
    assert is_close(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), noise) is close


def test_ulps_are_counted_across_zero() -> None:
    def bits(number: int) -> Tensor:
        return torch.tensor([number], dtype=torch.int32).view(torch.float32)

    smallest = bits(1)
    assert max_ulps(smallest, -smallest) == 2
    assert max_ulps(torch.tensor([1.0]), torch.tensor([1.0]).nextafter(torch.tensor([2.0]))) == 1


def test_parameters_come_back_untouched() -> None:
    model = random_model()
    before = {name: (parameter, parameter.data_ptr()) for name, parameter in model.named_parameters()}

    def fail() -> None:
        with in_float64(model):
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {name: (parameter, parameter.data_ptr()) for name, parameter in model.named_parameters()} == before
