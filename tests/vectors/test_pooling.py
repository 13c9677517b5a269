import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor

from minibert import cls_pool, combine_layers, max_pool, mean_pool
from minibert.errors import PoolingError
from minibert.vectors.pooling import POOLING, last_token_pool, mean_sqrt_len_pool, weighted_mean_pool

POOLS = list(POOLING.values())
HIDDEN = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [50.0, 50.0]], [[1.0, 2.0], [3.0, 4.0], [8.0, 0.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    "pool,expected",
    [
        (mean_pool, [[2.0, -3.0], [4.0, 2.0]]),
        (max_pool, [[3.0, -2.0], [8.0, 4.0]]),
        (cls_pool, [[1.0, -4.0], [1.0, 2.0]]),
        (last_token_pool, [[3.0, -2.0], [8.0, 0.0]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_by_hand(pool, expected: list, dtype: torch.dtype) -> None:
    pooled = pool(HIDDEN.to(dtype), MASK)
    assert pooled.dtype == dtype
    assert pooled.tolist() == expected


def test_by_hand_with_fractions() -> None:
    pooled = mean_sqrt_len_pool(HIDDEN, MASK)  # sums over √2 and √3
    torch.testing.assert_close(pooled, torch.tensor([[4 / 2**0.5, -6 / 2**0.5], [12 / 3**0.5, 6 / 3**0.5]]))
    pooled = weighted_mean_pool(HIDDEN, MASK)  # (1·x₁ + 2·x₂) / 3 and (1·x₁ + 2·x₂ + 3·x₃) / 6
    torch.testing.assert_close(pooled, torch.tensor([[7 / 3, -8 / 3], [31 / 6, 10 / 6]]))


@pytest.mark.parametrize("mode", POOLING)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", ["right", "left"])
def test_equal_to_sentence_transformers(mode: str, dtype: torch.dtype, side: str) -> None:
    """To the last bit."""
    hidden = torch.randn(5, 40, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    mask = (torch.arange(40) < torch.tensor([[40], [1], [17], [39], [2]])).long()
    if side == "left":
        mask = mask.flip(1)
    theirs = Pooling(24, mode)({"token_embeddings": hidden, "attention_mask": mask})["sentence_embedding"]
    ours = POOLING[mode](hidden, mask)
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)


def test_our_modes_are_all_of_theirs() -> None:
    assert set(POOLING) == set(Pooling.POOLING_MODES)


def test_a_long_mean_in_float16_does_not_overflow() -> None:
    assert mean_pool(torch.full((1, 512, 2), 200.0).half(), torch.ones(1, 512)).tolist() == [[200.0, 200.0]]


@pytest.mark.parametrize("pool", POOLS)
@given(length=st.integers(1, 6), padding=st.integers(0, 5), left=st.booleans(), seed=st.integers(0, 99))
def test_padding_never_counts(pool, length: int, padding: int, left: bool, seed: int) -> None:
    """Neither its amount, its side nor its values, not even NaN; and no argument is modified."""
    tokens = torch.randn(1, length, 4, generator=torch.Generator().manual_seed(seed))
    invalid = torch.full((1, padding, 4), float("nan"))
    parts, marks = [tokens, invalid], [torch.ones(1, length), torch.zeros(1, padding)]
    if left:
        parts.reverse()
        marks.reverse()
    hidden, mask = torch.cat(parts, dim=1), torch.cat(marks, dim=1).long()
    kept, kept_mask = hidden.clone(), mask.clone()
    torch.testing.assert_close(pool(hidden, mask), pool(tokens, torch.ones(1, length)))
    assert torch.equal(hidden.nan_to_num(7), kept.nan_to_num(7))
    assert torch.equal(mask, kept_mask)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "hidden,mask,message",
    [
        (HIDDEN, torch.tensor([[1, 0, 0], [0, 0, 0]]), "row 1 of attention_mask is all padding"),
        (HIDDEN, torch.ones(2, 2), r"got \(2, 3, 2\) and \(2, 2\)"),
        (HIDDEN[0], torch.ones(3), r"hidden must be \(batch, sequence, size\)"),
        (HIDDEN.long(), MASK, "hidden must be floating-point numbers"),
        (HIDDEN, (1 - MASK) * -10000, "attention_mask must be 1 for each token and 0 for each padding position"),
        ((HIDDEN, None), MASK, "hidden must be a tensor, got tuple: pass out.last_hidden_state and"),
        (HIDDEN, None, "attention_mask must be a tensor, got NoneType"),
    ],
)
def test_bad_input_of_a_pool(pool, hidden: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(PoolingError, match=message):
        pool(hidden, mask)


def test_combine_layers() -> None:
    states = tuple(torch.full((1, 2, 3), float(number)) for number in range(5))
    assert combine_layers(states, [-4, -3, -2, -1])[0, 0].tolist() == [10.0] * 3
    assert combine_layers(states, layers=[1, 2], how="mean")[0, 0].tolist() == [1.5] * 3
    assert combine_layers(states, layers=[-1, 0], how="concat")[0, 1].tolist() == [4.0] * 3 + [0.0] * 3
    assert combine_layers(states, layers=(-2,)).shape == (1, 2, 3)
    assert [state.unique().item() for state in states] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "name,numbers",
    [
        ("embeddings", [0]),
        ("last", [4]),
        ("second to last", [3]),
        ("last four", [1, 2, 3, 4]),
        ("all layers", [1, 2, 3, 4]),
    ],
)
def test_layers_by_name(name: str, numbers: list[int]) -> None:
    states = tuple(torch.full((1, 2, 1), float(number)) for number in range(5))
    assert combine_layers(states, name, "concat")[0, 0].tolist() == numbers


@pytest.mark.parametrize(
    "arguments,message",
    [
        ((None, [1]), "call the model with output_hidden_states=True"),
        (([HIDDEN] * 3, [3]), "there is no layer 3: with 3 hidden states, layers run from 0 to 2, or from -3 to -1"),
        (([HIDDEN] * 3, [-4]), "there is no layer -4"),
        (([HIDDEN] * 3, []), "layers must not be empty: with 3 hidden states"),
        (([HIDDEN] * 3, -1), r"layers must be a list of integers, such as \[-2, -1\], got -1"),
        (([HIDDEN] * 3, [1.0]), "layers must be a list of integers"),
        (
            ([HIDDEN] * 3, "third"),
            "layers must be a list of integers, or one of embeddings, last, .*, all layers, got 'third'",
        ),
        (([HIDDEN] * 3, "last for"), r"got 'last for': did you mean last four or last\?"),
        (([HIDDEN] * 4, "last four"), "there are too few layers for 'last four': the model has 3"),
        (([HIDDEN], "all layers"), "there are too few layers for 'all layers': the model has 0"),
        (([HIDDEN], "last"), "there are too few layers for 'last': the model has 0"),
        ((HIDDEN, [0]), "pass out.hidden_states, not the whole output"),
        (((HIDDEN, None), [0]), "pass out.hidden_states, not the whole output"),
        (([HIDDEN] * 3, [1], "max"), "how must be one of sum, mean, concat, got 'max'"),
    ],
)
def test_bad_input_of_combine_layers(arguments: tuple, message: str) -> None:
    with pytest.raises(PoolingError, match=message):
        combine_layers(*arguments)
