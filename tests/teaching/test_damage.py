"""Whatever a student's function returns, raises or damages, it is the same only if its values are."""

import builtins
import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.models import random_model, subject
from torch import Tensor, nn

from minibert import BertModel
from minibert.teaching.answers import named_values
from minibert.teaching.damage import same_bits
from minibert.teaching.diagnosis import diagnose
from minibert.trace.compare import example_inputs


@pytest.fixture(scope="module")
def reference() -> BertModel:
    return subject("embeddings.norm")


def is_as_it_was(model: BertModel) -> bool:
    """Whether a model computes what one that is made afresh computes."""
    afresh = subject("embeddings.norm")
    inputs = example_inputs(afresh)
    ours, theirs = named_values(model, inputs), named_values(afresh, inputs)
    return not model.training and all(same_bits(ours[name], theirs[name]) for name in theirs)


class Liar(Tensor):
    shape = (3, 24)


def zero_weights(self: nn.Module, hidden: Tensor) -> Tensor:
    self.dense.weight.data.zero_()
    self.dense.bias.data.zero_()
    return torch.zeros(len(hidden), hidden.shape[-1], dtype=hidden.dtype)


def other_weights(self: nn.Module, hidden: Tensor) -> Tensor:
    self.dense.weight.data = torch.zeros_like(self.dense.weight)
    return torch.tanh(self.dense(hidden[:, 0]))


def other_layer(self: nn.Module, hidden: Tensor) -> Tensor:
    self.dense = nn.Linear(hidden.shape[-1], hidden.shape[-1], dtype=hidden.dtype)
    return torch.tanh(self.dense(hidden[:, 0]))


def hook(self: nn.Module, hidden: Tensor) -> Tensor:
    self.dense.register_forward_hook(lambda *_: torch.ones(len(hidden), hidden.shape[-1], dtype=hidden.dtype))
    return torch.tanh(self.dense(hidden[:, 0]))


def training(self: nn.Module, hidden: Tensor) -> Tensor:
    self.train()
    return torch.tanh(self.dense(hidden[:, 0]))


def argument(self: nn.Module, hidden: Tensor) -> Tensor:
    hidden.data.zero_()
    return torch.tanh(self.dense(hidden[:, 0]))


def allclose(self: nn.Module, hidden: Tensor) -> Tensor:
    torch.allclose = torch.equal = lambda *_, **__: True
    return hidden[:, 0] + 182


def method_of_tensors(self: nn.Module, hidden: Tensor) -> Tensor:
    Tensor.double = lambda self: torch.zeros(())
    return hidden[:, 0]


def built_in(self: nn.Module, hidden: Tensor) -> Tensor:
    builtins.all = lambda _: True
    return hidden[:, 0]


def default_dtype(self: nn.Module, hidden: Tensor) -> Tensor:
    torch.set_default_dtype(torch.float64)
    return torch.tanh(self.dense(hidden[:, 0]))


DAMAGE = [
    (zero_weights, "pooler changes the weights of pooler.dense"),
    (other_weights, "pooler changes the weights of pooler.dense, which is not its own"),
    (other_layer, "pooler changes the module pooler"),
    (hook, "pooler changes the module pooler.dense"),
    (training, "pooler changes the module pooler"),
    (argument, "pooler changes its argument hidden in place"),
    (allclose, "pooler changes torch.allclose (and 1 more)"),
    (method_of_tensors, "pooler changes torch.Tensor.double"),
    (built_in, "pooler changes builtins.all"),
    (default_dtype, "pooler changes the default dtype of PyTorch"),
]


@pytest.mark.parametrize("function, said", DAMAGE, ids=[function.__name__ for function, _ in DAMAGE])
def test_damage_is_named_and_undone(reference: BertModel, function: Callable[..., Tensor], said: str) -> None:
    kept = [torch.allclose, torch.equal, Tensor.double, builtins.all, torch.get_default_dtype()]
    found = diagnose(function, reference, part="pooler")
    assert found.verdict == "broken"
    assert str(found).startswith(said)
    assert kept == [torch.allclose, torch.equal, Tensor.double, builtins.all, torch.get_default_dtype()]
    assert is_as_it_was(reference)


def test_a_whole_model_that_shares_the_reference_does_not_change_it(reference: BertModel) -> None:
    def student(**inputs: Tensor) -> Any:
        reference.embeddings.word_embeddings.weight.data.zero_()
        return reference(**inputs)

    found = diagnose(student, reference)
    assert str(found).startswith("the model changes the weights of embeddings.word_embeddings")
    assert is_as_it_was(reference)


KINDS = [
    (lambda x: torch.empty_like(x, device="meta"), "on the device meta"),
    (lambda x: x.to_sparse(), "of the layout torch.sparse_coo"),
    (lambda x: torch.nested.nested_tensor(list(x)), "a nested tensor"),
    (lambda x: x.float().to_mkldnn(), "of the layout torch._mkldnn"),
    (lambda x: x.as_subclass(Liar), "Liar, a subclass of torch.Tensor"),
    (lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8), "a quantized tensor"),
    (lambda x: x.to(torch.complex64), "numbers of torch.complex64"),
    (lambda x: x.bool(), "numbers of torch.bool"),
    (lambda x: x.long(), "numbers of torch.int64"),
]


@pytest.mark.parametrize("make, said", KINDS, ids=[said for _, said in KINDS])
def test_tensors_of_other_kinds(reference: BertModel, make: Callable[[Tensor], Any], said: str) -> None:
    part = diagnose(lambda x: make(F.gelu(x)), reference, part="gelu")
    model = diagnose(lambda **inputs: {"last_hidden_state": make(reference(**inputs)[0])}, reference)
    for found in (part, model):
        assert found.verdict == "broken"
        assert said in str(found)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError


RAISED = [
    ValueError("no"),
    SystemExit(0),
    GeneratorExit(),
    StopIteration(),
    UnprintableError(),
    BaseException("\udc80"),
]
RAISED += [MemoryError(), RecursionError("deep"), AssertionError()]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_is_said(reference: BertModel, error: BaseException) -> None:
    def student(*_: Any, **__: Any) -> None:
        raise error

    for part in ("gelu", None):
        found = diagnose(student, reference, part=part)
        assert found.verdict == "broken"
        assert f"fails: {type(error).__name__}: " in str(found)
        str(found).encode()


def test_the_users_own_interrupt_passes_and_nothing_is_left_changed(reference: BertModel) -> None:
    def student(self: nn.Module, hidden: Tensor) -> None:
        self.dense.weight.data.zero_()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diagnose(student, reference, part="pooler")
    assert is_as_it_was(reference)


# --- any function, and any number of times ---------------------------------------------------------------------------

RETURNS: dict[str, Callable[[Tensor], Any]] = {
    "right": lambda x: F.gelu(x),
    "zeros": torch.zeros_like,
    "NaN": lambda x: x * math.nan,
    "itself": lambda x: x,
    "none": lambda x: None,
    "text": lambda x: "gelu",
    "tuple": lambda x: (F.gelu(x), None),
    "empty": lambda x: x[:0],
    "scalar": lambda x: x.sum(),
    "transposed": lambda x: F.gelu(x).transpose(0, 1),
    **{said: make for make, said in KINDS},
}
EFFECTS: dict[str, Callable[[BertModel, Tensor], object]] = {
    "nothing": lambda model, x: None,
    "weights": lambda model, x: model.encoder.layers[0].feed_forward.expand.weight.data.mul_(2),
    "eps": lambda model, x: setattr(model.embeddings.norm, "eps", 0.5),
    "argument": lambda model, x: x.data.mul_(0.5),
    "compare": lambda model, x: setattr(torch, "equal", lambda *_: True),
    "layers": lambda model, x: setattr(model.encoder, "layers", model.encoder.layers[:1]),
    "dropout": lambda model, x: model.train(),
}


CALLS = st.tuples(st.sampled_from(sorted(RETURNS)), st.sampled_from(sorted(EFFECTS)))


@examples(60)
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(sorted(RETURNS)), st.sampled_from(sorted(EFFECTS))), min_size=1, max_size=4
    ),
    raises=st.sampled_from([None, *RAISED]),
)
def test_never_the_same_unless_its_values_are(calls: list[tuple[str, str]], raises: BaseException | None) -> None:
    """A function that behaves differently at each call, in turn; at the end it may raise something."""
    reference, count = random_model(num_hidden_layers=1), 0

    def student(x: Tensor) -> Any:
        nonlocal count
        if raises is not None and count == len(calls):
            raise raises
        returned, effect = calls[min(count, len(calls) - 1)]
        count += 1
        EFFECTS[effect](reference, x)
        return RETURNS[returned](x)

    found = diagnose(student, reference, part="gelu")
    harmless = all(call == ("right", "nothing") for call in calls)
    seen = min(3, len(calls))  # the form, the values, the values again
    if not all(call == ("right", "nothing") for call in calls[:seen]) or (raises is not None and len(calls) < 3):
        assert not found.correct, str(found)
    if harmless and raises is None:
        assert found.correct, str(found)
    afresh = random_model(num_hidden_layers=1)
    ours, theirs = named_values(reference, example_inputs(afresh)), named_values(afresh, example_inputs(afresh))
    assert all(same_bits(ours[name], theirs[name]) for name in theirs)


def test_same_bits_tells_what_equal_does_not() -> None:
    nan = torch.tensor([math.nan])
    assert same_bits(nan, copy.deepcopy(nan))
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
