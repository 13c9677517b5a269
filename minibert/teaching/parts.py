"""Which parts of a BERT can be exchanged, and for what?

A part is a function of ours that has a place in a model. Another of the same form can be put there, a student's or one
with a known mistake, and taken away again:

    with ExitStack() as stack:
        PARTS["gelu"].put(model, stack, torch.relu)     # every layer computes with ReLU, until the stack closes
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert import model as model_module
from minibert.heads import MaskedLMHead, class_loss
from minibert.model import (
    Attention,
    BertModel,
    BertOutput,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    Pooler,
    additive_mask,
    eager_attention,
    gelu_python,
)
from minibert.trace.recording import EAGER_STEPS, EMBEDDINGS, OpenAttention, bert_of, through
from minibert.vectors.pooling import combine_layers, mean_pool
from minibert.vectors.similarity import cosine_similarity

Function = Callable[..., Any]
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """A function that has a place in a model.

    Args:
        ours: the function of ours.
        parameters: what it is called with, by name.
        put: put(model, stack, function) exchanges it for another, until the stack closes.
        call: for what comes after the model, how it is called with what a model returned; None if that has not got
            what it needs.
        inside: the names of values that are formed inside it, as they end; they tell where a mistake is, but what
            counts is what the function returns.
    """

    ours: Function
    parameters: tuple[str, ...]
    put: Callable[[nn.Module, ExitStack, Function], None]
    call: Callable[[Function, BertOutput, Inputs], Tensor | None] | None = None
    inside: tuple[str, ...] = ()


# --- how a model is changed, and back ------------------------------------------------------------------------------


def layers_of(model: nn.Module) -> list[EncoderLayer]:
    return _all(model, EncoderLayer)


def norms_of(model: nn.Module) -> list[nn.LayerNorm]:
    return _all(model, nn.LayerNorm)


def _all(model: nn.Module, kind: type) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


def exchange(stack: ExitStack, things: Sequence[object], name: str, make: Callable[..., object]) -> None:
    """Sets an attribute of each single object to make(object), until the stack closes."""
    for thing in things:
        own = vars(thing)
        if name in own:
            stack.callback(setattr, thing, name, own[name])
        else:  # the class has it: afterwards it is that one again
            stack.callback(delattr, thing, name)
        object.__setattr__(thing, name, make(thing))


def overwrite(stack: ExitStack, parameter: Tensor, values: Tensor) -> None:
    """Gives a parameter other values; its own are kept, and come back untouched."""
    stack.callback(setattr, parameter, "data", parameter.data)
    parameter.data = values.detach().clone()


# --- parts of the model --------------------------------------------------------------------------------------------


def _method(kind: type[nn.Module], name: str, *parameters: str, inside: tuple[str, ...] = ()) -> Part:
    """A method of each module of a kind, called with the module, which has the parameters, as its first argument."""

    def put(model: nn.Module, stack: ExitStack, function: Function) -> None:
        exchange(stack, _all(model, kind), name, lambda module: partial(function, module))

    return Part(getattr(kind, name), ("self", *parameters), put, inside=inside)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm (Ba et al. 2016, equations 3 and 4), which model.py leaves to PyTorch."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def _put_gelu(model: nn.Module, stack: ExitStack, function: Function) -> None:
    exchange(stack, _all(model, FeedForward), "activation", lambda _: function)


def _put_layer_norm(model: nn.Module, stack: ExitStack, function: Function) -> None:
    exchange(stack, norms_of(model), "forward", lambda norm: lambda x: function(x, norm.weight, norm.bias, norm.eps))


def _put_mask(model: nn.Module, stack: ExitStack, function: Function) -> None:
    exchange(stack, [model_module], "additive_mask", lambda _: function)


def _put_attention(model: nn.Module, stack: ExitStack, function: Function) -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Any:
        context = function(query, key, value, mask)
        return context if isinstance(context, tuple) else (context, None)

    for attention in _all(model, Attention):
        stack.callback(through(attention, lambda open_: OpenAttention(attend, None, open_.taps)).remove)


def _with_probabilities(kind: type[nn.Module], inside: tuple[str, ...]) -> Part:
    """A module that returns its hidden states and the attention probabilities; a student's may leave these out."""

    def put(model: nn.Module, stack: ExitStack, function: Function) -> None:
        def forward(module: nn.Module, hidden: Tensor, mask: Tensor | None = None, *_: object) -> Any:
            result = function(module, hidden, mask)
            return result if isinstance(result, tuple) else (result, *[None] * (2 if kind is Encoder else 1))

        exchange(stack, _all(model, kind), "forward", lambda module: partial(forward, module))

    return Part(kind.forward, ("self", "hidden", "mask"), put, inside=inside)


def _put_bert(model: nn.Module, stack: ExitStack, function: Function) -> None:
    def forward(
        bert: nn.Module, input_ids: Tensor, attention_mask: Any = None, token_type_ids: Any = None, *_: Any, **__: Any
    ) -> BertOutput:
        result = function(bert, input_ids, attention_mask, token_type_ids)
        return BertOutput(result, None) if isinstance(result, Tensor) else BertOutput(*result)

    exchange(stack, [bert_of(model)], "forward", lambda bert: partial(forward, bert))


# --- what comes after the model ------------------------------------------------------------------------------------


def word_vector(hidden: Tensor, pieces: Sequence[str], word: str) -> Tensor:
    """The hidden state of a word that is one token: (S, D) → (D).

    `pieces` are the tokens of the text alone; `hidden` begins with [CLS], and ends with [SEP].
    """
    return hidden[pieces.index(word) + 1]


def sum_of_last_four(hidden_states: Sequence[Tensor]) -> Tensor:
    """The sum of the last four layers: L + 1 of (B, S, D) → (B, S, D) (BERT, section 5.3)."""
    return combine_layers(hidden_states, [-4, -3, -2, -1], how="sum")


def second_to_last(hidden_states: Sequence[Tensor]) -> Tensor:
    """The second-to-last layer: L + 1 of (B, S, D) → (B, S, D) (BERT, section 5.3)."""
    return hidden_states[-2]


def masked_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of the masked words: logits (B, S, V), labels (B, S) with −100 where nothing is masked → ()."""
    return class_loss(logits, labels)


def _call_mean(function: Function, out: BertOutput, inputs: Inputs) -> Tensor | None:
    mask = inputs.get("attention_mask")
    return None if mask is None else function(out.last_hidden_state, mask)


def _call_word(function: Function, out: BertOutput, inputs: Inputs) -> Tensor:
    hidden = out.last_hidden_state[0]
    pieces = ["a" * number for number in range(len(hidden) - 2, 0, -1)]  # between [CLS] and [SEP]; each in those before
    return torch.stack([function(hidden, pieces, piece) for piece in tuple(pieces)])  # a list that grows has no end


def _call_layers(function: Function, out: BertOutput, inputs: Inputs) -> Tensor | None:
    states = out.hidden_states
    if states is None or len(states) < 5:
        return None
    return torch.stack([function(states), function(states[:-1])])  # a layer with a fixed number is another one there


def _call_cosine(function: Function, out: BertOutput, inputs: Inputs) -> Tensor:
    return function(out.last_hidden_state[0], out.last_hidden_state[-1, 1:])  # not as many: (N, M) is not (M, N)


def _call_loss(function: Function, out: BertOutput, inputs: Inputs) -> Tensor:
    logits = out.last_hidden_state  # (B, S, D), taken for the scores of D words
    labels = inputs["input_ids"] % logits.shape[-1]
    labels[:, 1] = 0  # the first word of a vocabulary is one as well
    places, rows = torch.arange(labels.shape[1]), torch.arange(len(labels))[:, None]
    return function(logits, labels.masked_fill(places % (rows + 2) != 1, -100))  # some are masked, not as many in each


def _after(ours: Function, call: Callable[[Function, BertOutput, Inputs], Tensor | None]) -> Part:
    """What comes after a model; `observe` looks for another function at the model, under the name of ours."""

    def put(model: nn.Module, stack: ExitStack, function: Function) -> None:
        exchange(stack, [bert_of(model)], ours.__name__, lambda _: function)

    return Part(ours, tuple(inspect.signature(ours).parameters), put, call)


# Values inside a part, as their names end.
TABLES = tuple(f"embeddings.{name}" for name in EMBEDDINGS)
ATTENTION = tuple(f"attention.{name}" for name in ("query", "key", "value", *EAGER_STEPS, "output"))
FEED_FORWARD = tuple(f"feed_forward.{name}" for name in ("expand", "activation", "contract"))
LAYER = (*ATTENTION, "attention_sum", "attention_norm", *FEED_FORWARD, "feed_forward_sum", "feed_forward_norm")
ALL = (*TABLES, *LAYER, "pooler.dense", "pooler.tanh")

PARTS: dict[str, Part] = {
    # in the order of model.py
    "embeddings": _method(Embeddings, "forward", "input_ids", "token_type_ids", "position_ids", inside=TABLES),
    "additive_mask": Part(additive_mask, ("attention_mask", "dtype"), _put_mask),
    "attention": Part(eager_attention, ("query", "key", "value", "mask"), _put_attention),
    "split_heads": _method(Attention, "split_heads", "projected"),
    "merge_heads": _method(Attention, "merge_heads", "context"),
    "self_attention": _with_probabilities(Attention, ATTENTION),
    "gelu": Part(gelu_python, ("x",), _put_gelu),
    "layer_norm": Part(layer_norm, ("x", "weight", "bias", "eps"), _put_layer_norm),
    "feed_forward": _method(FeedForward, "forward", "hidden", inside=FEED_FORWARD),
    "layer": _with_probabilities(EncoderLayer, LAYER),
    "encoder": _with_probabilities(Encoder, LAYER),
    "pooler": _method(Pooler, "forward", "hidden", inside=("pooler.dense",)),
    "bert": Part(BertModel.forward, ("self", "input_ids", "attention_mask", "token_type_ids"), _put_bert, inside=ALL),
    # of heads.py
    "masked_lm": _method(MaskedLMHead, "forward", "hidden", "word_embeddings"),
    # what is made of a model's output
    "masked_loss": _after(masked_loss, _call_loss),
    "mean_pool": _after(mean_pool, _call_mean),
    "word_vector": _after(word_vector, _call_word),
    "sum_of_last_four": _after(sum_of_last_four, _call_layers),
    "second_to_last": _after(second_to_last, _call_layers),
    "cosine_similarity": _after(cosine_similarity, _call_cosine),
}
