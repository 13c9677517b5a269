"""The fast path computes what the readable path does: within 1e-6 for vectors of length 1, and 1e-12 in float64."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from support.examples import examples
from support.texts import SIX
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils.parametrize import register_parametrization
from torch.overrides import TorchFunctionMode

from minibert import BertConfig, BertModel, SentenceEncoder, fast
from minibert import model as model_module
from minibert.errors import InputError
from minibert.model import ACTIVATIONS, EncoderLayer
from minibert.sentences.recipe import Dense, Normalize, Recipe
from minibert.teaching.bugs import BUGS, Bug
from minibert.teaching.parts import PARTS
from minibert.vectors.pooling import POOLING

SIZES = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
TEXTS = [" ".join(SIX[: number % 6 + 1])[: 7 * number] for number in range(1, 60, 3)]


def random_model(seed: int = 0, **changes: object) -> BertModel:
    """Every parameter random, in float64."""
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**{**SIZES, **changes})).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def assert_same(model: BertModel, texts: list[list[int]], within: float = 1e-12) -> None:
    assert fast.applies_to(model)
    runs = fast.last_hidden_states(model, texts)
    hidden = [row for run in runs for row in run]
    assert len(hidden) == len(texts)
    for text, ours in zip(texts, hidden, strict=True):
        expected = model(torch.tensor([text])).last_hidden_state[0]
        torch.testing.assert_close(ours, expected, atol=within, rtol=0)


@examples(60)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_any_lengths_in_any_order(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(50, (length,), generator=generator).tolist() for length in lengths]
    assert_same(random_model(seed), texts)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    assert_same(random_model(hidden_act=activation), [[1, 2, 3], [4, 5, 6], [7], list(range(40))])


def test_a_real_checkpoint(checkpoint: Path) -> None:
    ours = SentenceEncoder.from_pretrained(checkpoint)
    readable = SentenceEncoder.from_pretrained(checkpoint, fast=False)
    for texts in (TEXTS, TEXTS[:1], TEXTS[-1:], TEXTS[:6]):  # many rows, and few
        torch.testing.assert_close(ours.encode(texts), readable.encode(texts), atol=1e-6, rtol=0)
    assert not torch.equal(ours.encode(TEXTS), readable.encode(TEXTS))  # so they are two paths
    ours, readable = ours.double(), readable.double()
    torch.testing.assert_close(ours.encode(TEXTS), readable.encode(TEXTS), atol=1e-7, rtol=0)  # of float32 vectors


@pytest.mark.parametrize("mode", POOLING)
def test_every_recipe(small: Path, mode: str) -> None:
    base = SentenceEncoder.from_pretrained(small)
    steps = (Dense(48, 7), Normalize())
    for recipe in (
        Recipe(pooling=(mode,)),
        Recipe(pooling=(mode, "cls"), final_steps=steps),
        Recipe(pooling=("max",), include_prompt=False),
    ):
        vectors = [
            SentenceEncoder(base.model, base.tokenizer, recipe, fast=fast).eval().encode(TEXTS, prompt="a prompt: ")
            for fast in (True, False)
        ]
        torch.testing.assert_close(*vectors, atol=3e-6, rtol=1e-5)


@pytest.fixture
def small_encoder(small: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(small)


# --- what the user changed is what is computed ------------------------------------------------------------------------


def write(how: str, parameter: nn.Parameter) -> None:
    """Doubles a parameter, in ways of which some raise PyTorch's counter of changes and most do not."""
    doubled = (parameter * 2).detach()
    if how == "in place":
        parameter.detach().mul_(2)
    elif how == "data in place":
        parameter.data.mul_(2)
    elif how == "data replaced":
        parameter.data = doubled
    elif how == "NumPy":
        parameter.detach().numpy()[...] *= 2
    elif how == "DLPack":
        torch.from_dlpack(parameter.detach()).mul_(2)
    elif how == "storage":
        parameter.untyped_storage().copy_(doubled.clone().untyped_storage())
    elif how == "optimizer":
        parameter.grad = -parameter.detach().clone()
        torch.optim.SGD([parameter], lr=1).step()


@pytest.mark.parametrize("name", ["attention.query.weight", "attention_norm.bias", "feed_forward.expand.weight"])
@pytest.mark.parametrize(
    "how", ["in place", "data in place", "data replaced", "NumPy", "DLPack", "storage", "optimizer"]
)
def test_every_write_counts(small_encoder: SentenceEncoder, name: str, how: str) -> None:
    parameter = small_encoder.model.encoder.layers[1].get_parameter(name)
    parameter.data = parameter.detach() + 0.1  # the biases of `small` are zero
    before = small_encoder.encode(SIX)
    write(how, parameter)
    after = small_encoder.encode(SIX)
    assert not torch.equal(after, before)
    small_encoder.fast = False
    torch.testing.assert_close(after, small_encoder.encode(SIX), atol=3e-6, rtol=1e-5)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Wrapped(nn.Module):
    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.linear(x)


class Rotated(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.roll(1, 0)


class Reversed(TorchFunctionMode):
    """Turns the rows of every LayerNorm around."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        return result.flip(-1) if function is F.layer_norm else result


def double(module: nn.Module, inputs: object, output: Any) -> Any:
    return 2 * output if isinstance(output, Tensor) else output


def lora(encoder: SentenceEncoder) -> None:
    adapters = LoraConfig(target_modules=["query", "value"], r=4, init_lora_weights=False)
    inject_adapter_in_model(adapters, encoder.model)


def subclass(encoder: SentenceEncoder) -> None:
    encoder.model.encoder.layers[0].attention.value.__class__ = Doubled


def wrapper(encoder: SentenceEncoder) -> None:
    attention = encoder.model.encoder.layers[0].attention
    attention.value = Wrapped(attention.value)


def method_of_one_module(encoder: SentenceEncoder) -> None:
    part = encoder.model.encoder.layers[0].feed_forward
    part.forward = lambda hidden: hidden


def method_of_attention(encoder: SentenceEncoder) -> None:
    attention = encoder.model.encoder.layers[0].attention
    attention.merge_heads = lambda context: context.flip(1).transpose(1, 2).flatten(2)


def activation(encoder: SentenceEncoder) -> None:
    encoder.model.encoder.layers[0].feed_forward.activation = lambda x: F.relu(x).flip(1)


def attention_function(encoder: SentenceEncoder) -> None:
    encoder.model.attend = lambda query, key, value, mask, dropout: (value, None)


def parametrization(encoder: SentenceEncoder) -> None:
    register_parametrization(encoder.model.encoder.layers[0].attention.value, "weight", Rotated())


def quantised(encoder: SentenceEncoder) -> None:
    encoder.model = torch.ao.quantization.quantize_dynamic(encoder.model, {nn.Linear}, dtype=torch.qint8)


def compiled(encoder: SentenceEncoder) -> None:
    subclass(encoder)
    encoder.model.encoder = torch.compile(encoder.model.encoder, backend="eager")


def hook_of_a_module(encoder: SentenceEncoder) -> None:
    encoder.model.encoder.layers[0].attention.value.register_forward_hook(double)


def hook_of_the_encoder(encoder: SentenceEncoder) -> None:
    encoder.register_forward_hook(double)


def method_of_the_encoder(encoder: SentenceEncoder) -> None:
    forward = encoder.forward
    encoder.forward = lambda *inputs, **options: -forward(*inputs, **options)


class Tripled(Tensor):
    """A tensor that stands for another one, as those of quantised weights do."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(function, types, args, kwargs)
        return 3 * result.as_subclass(Tensor) if function is F.linear else result


def tensor_subclass(encoder: SentenceEncoder) -> None:
    value = encoder.model.encoder.layers[0].attention.value
    value.weight = nn.Parameter(value.weight.detach().as_subclass(Tripled))


def tensor_that_is_not_a_parameter(encoder: SentenceEncoder) -> None:
    value = encoder.model.encoder.layers[0].attention.value
    weight = value.weight.detach().as_subclass(Tripled)
    del value.weight
    value.weight = weight


def no_positions(encoder: SentenceEncoder) -> None:
    encoder.model.embeddings.absolute = False


def dropout(encoder: SentenceEncoder) -> None:
    encoder.model.embeddings.dropout.train()


def another_dropout(encoder: SentenceEncoder) -> None:
    encoder.model.encoder.layers[0].dropout = nn.Sequential(Wrapped(nn.Identity()))


CHANGES = [
    lora,
    subclass,
    wrapper,
    method_of_one_module,
    method_of_attention,
    activation,
    attention_function,
    parametrization,
    quantised,
    compiled,
    hook_of_a_module,
    hook_of_the_encoder,
    method_of_the_encoder,
    tensor_subclass,
    tensor_that_is_not_a_parameter,
    no_positions,
    dropout,
    another_dropout,
]


def assert_changed_alike(encoder: SentenceEncoder, before: Tensor) -> None:
    """The changed encoder computes with `model.py`: every bit is as with `fast=False`, and the vectors are new."""
    torch.manual_seed(0)  # for dropout
    fast = encoder.encode(SIX)
    encoder.fast = False
    torch.manual_seed(0)
    assert torch.equal(fast, encoder.encode(SIX))
    assert (fast - before).abs().max() > 1e-3


# Deprecated, and what people have in their code.
@pytest.mark.filterwarnings("ignore:.*quantization is deprecated", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_that_was_changed(small: Path, change: Callable[[SentenceEncoder], None]) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    before = encoder.encode(SIX)
    change(encoder)
    assert_changed_alike(encoder, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(
            model_module, "additive_mask", lambda mask, dtype: 3 * mask[:, None, None].to(dtype)
        ),
        lambda patch: patch.setattr(EncoderLayer, "forward", lambda self, hidden, mask, attend: (-hidden, None)),
        lambda patch: patch.setattr(F, "layer_norm", lambda x, shape, weight, bias, eps: x.flip(-1)),
        lambda patch: patch.setattr(nn.Linear, "forward", lambda self, x: F.linear(x, self.weight)),
        lambda patch: register_module_forward_hook(double),
        lambda patch: Reversed(),
        lambda patch: torch.autocast("cpu", torch.bfloat16),
    ],
    ids=["function", "method", "PyTorch's function", "PyTorch's method", "hook for all", "mode", "autocast"],
)
def test_functions_that_were_replaced(
    small: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], Any]
) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    for layer in encoder.model.encoder.layers:
        nn.init.normal_(layer.attention.query.bias)  # so that a product without a bias is another one
    before = encoder.encode(SIX)
    with change(monkeypatch) or nullcontext():
        assert_changed_alike(encoder, before)


def test_a_function_that_was_replaced_before_the_fast_path_was_imported() -> None:
    program = (  # a process of its own, in which nothing is imported yet
        "from minibert import model; model.FeedForward.forward = lambda self, hidden: hidden; "
        "from minibert import BertConfig, BertModel, fast; "
        "print(fast.applies_to(BertModel(BertConfig(num_hidden_layers=1, hidden_size=12)).eval()))"
    )
    for code, expected in ((program, "False"), (program.replace("model.FeedForward.forward", "forward"), "True")):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


IN_THE_MODEL = [bug for bug in BUGS.values() if bug.shows_at not in PARTS and bug.shows_at != "logits"]


@pytest.mark.parametrize("bug", IN_THE_MODEL, ids=lambda bug: bug.name)
def test_every_known_mistake_changes_both_paths_alike(small_encoder: SentenceEncoder, bug: Bug) -> None:
    vectors = []
    with bug.applied(small_encoder.model):
        for small_encoder.fast in (True, False):
            torch.manual_seed(0)  # for dropout
            vectors.append(small_encoder.encode(SIX))
    torch.testing.assert_close(*vectors, atol=3e-6, rtol=1e-5, equal_nan=True)


def test_ids_that_the_model_does_not_have(small: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    encoder.tokenizer.tokenizer.add_tokens(["zyzzogeton"])
    for encoder.fast in (True, False):
        with pytest.raises(InputError, match="28996"):
            encoder.encode(["an ordinary text", "the zyzzogeton"])


def test_copies(small: Path, tmp_path: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    expected = encoder.encode(SIX)
    torch.save(encoder, tmp_path / "encoder.pt")
    copies = [
        copy.copy(encoder),
        copy.deepcopy(encoder),
        pickle.loads(pickle.dumps(encoder)),
        torch.load(tmp_path / "encoder.pt", weights_only=False),
    ]
    for each in copies:
        assert torch.equal(each.encode(SIX), expected)
    for each in copies[1:]:
        each.model.encoder.layers[0].attention.value.weight.data.mul_(0)
        assert not torch.equal(each.encode(SIX), expected)
    assert torch.equal(encoder.encode(SIX), expected)


def test_a_model_without_a_pooler_and_one_without_something_else() -> None:
    model = BertModel(BertConfig(**SIZES), add_pooling_layer=False).eval()
    assert fast.applies_to(model)
    model = random_model()
    model.pooler = None
    assert fast.applies_to(model)
    model.embeddings.norm = None
    assert not fast.applies_to(model)
    model = random_model()
    del model.encoder.layers[0].dropout
    assert not fast.applies_to(model)
    model = random_model()
    model.encoder.layers[1].attention.adapter = nn.Linear(2, 2)
    assert not fast.applies_to(model)
    model = random_model()
    model.encoder.layers[1].attention.bfloat16()
    assert not fast.applies_to(model)


def test_asking_leaves_the_random_numbers_alone() -> None:
    fast._new_model.cache_clear()
    model, state = random_model(), torch.get_rng_state()
    assert fast.applies_to(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_and_relative_positions(small: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(small)
    expected = encoder.encode(SIX)
    torch.testing.assert_close(encoder.bfloat16().encode(SIX), expected, atol=0.1, rtol=0.1)
    relative = random_model(vocab_size=28_996, position_embedding_type="relative_key").float()
    assert not fast.applies_to(relative)
    assert SentenceEncoder(relative, encoder.tokenizer).eval().encode(SIX).shape == (6, 24)


def test_parameters_made_in_inference_mode(small: Path) -> None:
    with torch.inference_mode():
        encoder = SentenceEncoder.from_pretrained(small).double()
    assert encoder.encode(SIX).shape == (6, 24)
