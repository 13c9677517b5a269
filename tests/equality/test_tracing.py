"""A model that PyTorch traces, exports, compiles or maps over computes as it does when called, on other inputs too.

The example that is traced has no padding: what is then decided by its values would be wrong for every padded batch.
"""

import io
from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
from support.heads import CASES, twins
from support.models import random_model
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from minibert import BertModel
from minibert.checkpoints.loading import Pretrained
from minibert.model import BertOutput
from minibert.vectors.pooling import POOLING
from minibert.vectors.similarity import similarity

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated"),  # and still used
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python integer"),  # the size of a head, a constant
    pytest.mark.filterwarnings("ignore:.*the batching rule for aten"),  # vmap is slow there, not wrong
]
IDS = torch.arange(14).reshape(2, 7)
ALL_TOKENS = torch.ones(2, 7, dtype=torch.long)
PADDED = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]])
LONGER = torch.arange(30).reshape(3, 10)
LONGER_MASK = (torch.arange(10) < torch.tensor([[10], [4], [1]])).long()

Function = Callable[..., Any]


def jit_traced(model: nn.Module, *example: Tensor) -> Function:
    return torch.jit.trace(model, example)


def exported(model: nn.Module, *example: Tensor) -> Function:
    return torch.export.export(model, example).module()


def compiled(model: nn.Module, *example: Tensor) -> Function:
    torch.compiler.reset()
    function = torch.compile(model, fullgraph=True, backend="eager")
    function(*example)
    return function


def made_fx(model: nn.Module, *example: Tensor) -> Function:
    return make_fx(model)(*example)


WAYS = [jit_traced, exported, compiled, made_fx]


def small_model(attention: str = "eager", **changes: object) -> Pretrained:
    return random_model(attention, num_hidden_layers=1, **changes)


class LastHiddenState(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(ids, mask).last_hidden_state


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_a_mask_of_another_call_is_not_ignored(way: Function, attention: str) -> None:
    model = small_model(attention).double()
    function = way(LastHiddenState(model), IDS, ALL_TOKENS)
    for ids, mask in ((IDS, PADDED), (IDS.flip(0), PADDED.flip(1))):
        assert torch.equal(function(ids, mask), model(ids, mask).last_hidden_state)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # this exporter needs no further package
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")  # it makes tensors of True and False
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_onnx_keeps_its_mask(attention: str) -> None:
    """The exported graph, run by onnxruntime; decimals, as its kernels are not PyTorch's."""
    model, file = small_model(attention), io.BytesIO()
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(model, (IDS, ALL_TOKENS), file, dynamo=False, input_names=names)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == names
    hidden, _ = session.run(None, {"input_ids": IDS.numpy(), "attention_mask": PADDED.numpy()})
    torch.testing.assert_close(torch.tensor(hidden), model(IDS, PADDED).last_hidden_state, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_relative_positions() -> None:
    model = small_model(position_embedding_type="relative_key_query")
    function = jit_traced(LastHiddenState(model), IDS, ALL_TOKENS)
    assert torch.equal(function(IDS, PADDED), model(IDS, PADDED).last_hidden_state)


@torch.no_grad()
def test_other_lengths_than_the_example() -> None:
    model = small_model("sdpa")
    dimensions = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    program = torch.export.export(model, (IDS, ALL_TOKENS), dynamic_shapes=(dimensions, dimensions))
    expected = model(LONGER, LONGER_MASK)
    assert torch.equal(program.module()(LONGER, LONGER_MASK).last_hidden_state, expected.last_hidden_state)
    assert torch.equal(jit_traced(model, IDS, ALL_TOKENS)(LONGER, LONGER_MASK)[0], expected.last_hidden_state)


@torch.no_grad()
def test_a_traced_model_returns_a_tuple_without_none() -> None:
    """torch.jit.trace cannot return None. As a part of the traced module, a model returns what it always does."""
    model = small_model()
    out = jit_traced(model, IDS, ALL_TOKENS)(IDS, PADDED)
    expected = model(IDS, PADDED)
    assert type(out) is tuple
    assert all(torch.equal(a, b) for a, b in zip(out, expected[:2], strict=True))
    assert isinstance(expected, BertOutput)
    assert torch.equal(jit_traced(LastHiddenState(model), IDS, ALL_TOKENS)(IDS, PADDED), expected[0])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_vmap_over_texts(attention: str) -> None:
    model = small_model(attention)

    def of_one_text(ids: Tensor, mask: Tensor) -> Tensor:
        return model(ids[None], mask[None]).last_hidden_state[0]

    expected = model(IDS, PADDED).last_hidden_state
    torch.testing.assert_close(torch.vmap(of_one_text)(IDS, PADDED), expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_each_text() -> None:
    """By vmap over grad, against one backward pass for each."""
    model, _, inputs = twins("a class", "eager", torch.float64)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], ids: Tensor, mask: Tensor, label: Tensor) -> Tensor:
        arguments = {"input_ids": ids[None], "attention_mask": mask[None], "labels": label[None]}
        return torch.func.functional_call(model, parameters, kwargs=arguments).loss

    names = ("input_ids", "attention_mask", "labels")
    at_once = torch.func.vmap(torch.func.grad(loss), (None, 0, 0, 0))(parameters, *(inputs[name] for name in names))
    for row in range(3):
        model.zero_grad()
        model(**{name: inputs[name][row : row + 1] for name in names}).loss.backward()
        torch.testing.assert_close(at_once["classifier.weight"][row], model.classifier.weight.grad)
        query = "bert.encoder.layers.0.attention.query.weight"
        torch.testing.assert_close(at_once[query][row], model.get_parameter(query).grad)


HEADS = [(jit_traced, case) for case in CASES] + [(exported, "several classes"), (compiled, "a class")]


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")  # in PyTorch's own losses
@pytest.mark.parametrize("way,case", HEADS, ids=lambda value: getattr(value, "__name__", value))
@torch.no_grad()
def test_heads(way: Function, case: str) -> None:
    """Their logits and losses, with other labels than the example's."""
    model, _, inputs = twins(case, "sdpa")

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: Tensor) -> tuple[Tensor, Tensor]:
            return self.model(**dict(zip(inputs, values, strict=True)))[:2]

    example = {name: value.flip(0) for name, value in inputs.items()}
    example["attention_mask"] = torch.ones_like(example["attention_mask"])
    function = way(Positional(), *example.values())
    for ours, expected in zip(function(*inputs.values()), model(**inputs)[:2], strict=True):
        assert torch.equal(ours, expected)


class Pool(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return POOLING[self.mode](hidden, mask)


class Similarity(Pool):
    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return similarity(super().forward(hidden, mask))


HIDDEN = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", POOLING)
def test_a_traced_pool_takes_any_number_of_texts(mode: str) -> None:
    hidden, mask = torch.cat([HIDDEN, HIDDEN.flip(1)]), torch.cat([PADDED, PADDED.flip(1)])
    traced = jit_traced(Pool(mode), HIDDEN, ALL_TOKENS)
    torch.testing.assert_close(traced(hidden, mask), POOLING[mode](hidden, mask))


@pytest.mark.parametrize("way", [exported, compiled, made_fx], ids=lambda way: way.__name__)
def test_pooling_and_similarity(way: Function) -> None:
    function = way(Similarity("mean"), HIDDEN, ALL_TOKENS)
    torch.testing.assert_close(function(HIDDEN, PADDED), Similarity("mean")(HIDDEN, PADDED))


def test_shapes_without_values() -> None:
    """On the meta device and of fake tensors."""
    with torch.device("meta"):
        model = BertModel(small_model().config)
    assert model(IDS.to("meta"), PADDED.to("meta")).last_hidden_state.shape == (2, 7, 24)
    model = small_model()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        out = model(mode.from_tensor(IDS), mode.from_tensor(PADDED))
    assert out.last_hidden_state.shape == (2, 7, 24)
