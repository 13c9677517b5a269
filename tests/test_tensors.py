"""Tensors of every kind, wherever one is taken: the result is that of a plain tensor, or an error of ours."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.heads import CASES, CONFIG, twins
from support.models import random_model
from torch import Tensor

import minibert
from minibert.errors import InputError, MinibertError, PoolingError
from minibert.heads import class_loss
from minibert.vectors.pooling import POOLING
from minibert.vectors.similarity import SCORES, pairwise_similarity, semantic_search, similarity

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),  # PyTorch calls both a beta
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]


class Subclass(Tensor):
    pass


DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)
USUAL = [torch.int64, torch.float32, torch.bool, torch.uint8, torch.float16]


def nested(tensor: Tensor, layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor([*tensor], layout=layout)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "a subclass": lambda x: x.as_subclass(Subclass),
    "a parameter": lambda x: torch.nn.Parameter(x, requires_grad=x.is_floating_point()),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "a slice": lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],
    "expanded": lambda x: x[:1].expand(x.shape),
    "meta": lambda x: x.to("meta"),
    "sparse_coo": Tensor.to_sparse,
    "sparse_csr": Tensor.to_sparse_csr,
    "mkldnn": Tensor.to_mkldnn,
    "nested": lambda x: nested(x, torch.strided),
    "jagged": lambda x: nested(x, torch.jagged),
    "quantized": lambda x: torch.quantize_per_tensor(x.float(), 1.0, 0, torch.quint8),
}
NOT_TENSORS = [None, 1, "text", [[1, 2]], (1.0,), object()]


@st.composite
def tensors(draw: st.DrawFn, *shape: int) -> Any:
    """Mostly of the shape given, of small numbers; of any kind, if PyTorch can make one of that shape and dtype."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.sampled_from(NOT_TENSORS))
    if draw(st.integers(0, 3)) == 0:
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    low, high = draw(st.sampled_from([(0, 2), (0, 3), (-101, 300)]))
    values = torch.randint(low, high, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    dtype = draw(st.sampled_from(USUAL) | st.sampled_from(DTYPES))
    kind = draw(st.sampled_from(["plain"] * 3 + list(KINDS)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return KINDS[kind](values.to(dtype))
    except (RuntimeError, IndexError, TypeError, NotImplementedError):  # PyTorch has no such tensor
        return values


def plain(value: Any) -> Any:
    """The same numbers in a new tensor, integers in 64 bits."""
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().clone(memory_format=torch.contiguous_format).as_subclass(Tensor)
    return copy if copy.is_floating_point() else copy.long()


def is_same(ours: Any, plain: Any) -> bool:
    if not isinstance(ours, Tensor):
        return ours == plain
    if ours.is_meta:
        return plain.is_meta and ours.shape == plain.shape
    return torch.equal(ours.nan_to_num(), plain.nan_to_num())  # a loss without any label is NaN


def works_or_is_refused(function: Callable[..., Any], *values: Any, error: type[MinibertError] = InputError) -> None:
    try:
        results = function(*values)
    except error:
        return
    expected = function(*map(plain, values))
    results, expected = [each if isinstance(each, tuple) else (each,) for each in (results, expected)]
    assert all(map(is_same, results, expected))


MODEL = random_model(vocab_size=20, max_position_embeddings=6, num_hidden_layers=1)
many = examples(100)
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


@many
@given(tensors(2, 3), st.just(MASK) | tensors(2, 3), st.none() | tensors(2, 3), st.none() | tensors(1, 3))
def test_inputs(ids: Any, mask: Any, segments: Any, positions: Any) -> None:
    works_or_is_refused(MODEL, ids, mask, segments, positions)
    works_or_is_refused(MODEL, IDS, mask, segments, positions)


HEADS = {case: twins(case, "sdpa")[::2] for case in CASES if "tanh" not in case}
LABELS = ("labels", "next_sentence_label", "start_positions", "end_positions")


@many
@given(st.sampled_from(list(HEADS)), st.data())
def test_labels(case: str, data: st.DataObject) -> None:
    model, inputs = HEADS[case]
    name = data.draw(st.sampled_from([name for name in inputs if name in LABELS]))
    value = data.draw(tensors(*inputs[name].shape))

    def loss(value: Any) -> Any:
        return model(**{**inputs, name: value}).loss

    works_or_is_refused(loss, value)


@many
@given(st.sampled_from(list(POOLING)), tensors(2, 3, 4), st.just(MASK) | tensors(2, 3))
def test_pools(mode: str, hidden: Any, mask: Any) -> None:
    works_or_is_refused(POOLING[mode], hidden, mask, error=PoolingError)


@many
@given(st.sampled_from(list(SCORES)), tensors(2, 3), tensors(2, 3))
def test_similarities(score: str, a: Any, b: Any) -> None:
    for function in (similarity, pairwise_similarity, semantic_search):
        works_or_is_refused(partial(function, score=score), a, b, error=PoolingError)


@pytest.mark.parametrize("kind", ["meta", "sparse_coo", "sparse_csr", "mkldnn", "nested", "jagged"])
@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "token_type_ids", "position_ids", "labels"])
def test_other_kinds_are_named(kind: str, name: str) -> None:
    model = minibert.BertForTokenClassification(CONFIG)
    tensor = KINDS[kind](torch.ones(2, 3)) if kind == "mkldnn" else KINDS[kind](torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(InputError, match=f"{name} must be (a dense tensor, got one of layout|on cpu).*"):
        model(**{"input_ids": IDS, name: tensor})


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e5m2])
@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "token_type_ids", "position_ids", "labels"])
def test_other_dtypes_are_named(dtype: torch.dtype, name: str) -> None:
    model = minibert.BertForSequenceClassification(CONFIG)
    with pytest.raises(InputError, match=f"{name} must be .*, got {dtype}: convert it"):
        model(**{"input_ids": IDS, name: torch.ones(2, 3).to(dtype)})


def test_labels_that_are_a_slice() -> None:
    """Of a sequence's own ids, and of a transposed tensor."""
    model = minibert.BertForMaskedLM(CONFIG).eval()
    ids = torch.arange(24).reshape(3, 8)
    for labels in (ids[:, 1:], ids.T.contiguous().T[:, :7], ids[:1, :7].expand(3, 7)):
        expected = model(ids[:, :7], labels=labels.clone(memory_format=torch.contiguous_format)).loss
        assert torch.equal(model(ids[:, :7], labels=labels).loss, expected)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16])
def test_small_integers_do_not_wrap_around(dtype: torch.dtype) -> None:
    """In uint8, -100 is 156; in int8, 200 classes are -56."""
    logits = torch.randn(2, 200, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 156 if dtype == torch.uint8 else 100])
    assert torch.equal(class_loss(logits, labels.to(dtype)), torch.nn.functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("case,name", [("an answer", "start_positions"), ("pretraining", "next_sentence_label")])
def test_labels_are_called_by_their_names(case: str, name: str) -> None:
    model, inputs = HEADS[case]
    for wrong in (torch.ones(2, dtype=torch.long), torch.ones(3), [1, 2, 3]):
        with pytest.raises(InputError, match=f"^{name} must be"):
            model(**{**inputs, name: wrong})
