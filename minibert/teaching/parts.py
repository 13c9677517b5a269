"""Which parts of a BERT can be replaced, and by what?

A part is one of our functions that a model calls. Inside a `with` block another function of the same signature can
replace it: a student's, or one with a known mistake.

    with replace_part(model, "gelu", torch.relu):
        model(**inputs)                                 # every layer computes with ReLU
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert import model as model_module
from minibert.heads import MaskedLMHead, bert_in, class_loss
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
from minibert.teaching import analysis
from minibert.trace.attention import TracedFunction, replace_attention
from minibert.trace.values import EMBEDDINGS, LAYER, MASKED_LM, VALUES
from minibert.vectors.pooling import combine_layers, mean_pool
from minibert.vectors.similarity import cosine_similarity

Function = Callable[..., Any]
Inputs = Mapping[str, Tensor]
Change = AbstractContextManager[None]  # a context manager: changes a model inside the block, and restores it afterwards


@dataclass(frozen=True)
class Part:
    """A function that a model computes by, or that is applied to its output."""

    ours: Function
    parameters: tuple[str, ...]  # what it is called with, by name
    replace: Callable[[nn.Module, Function], Change]  # puts a function in its place, inside a block
    # For what is applied to a model's output: how the function is called with it. None without what it needs.
    call: Callable[[Function, BertOutput, Inputs], Tensor | None] | None = None
    # Values computed inside the function, by their short names. They show where a mistake is; what counts is what the
    # function returns.
    inside: frozenset[str] = frozenset()


def replace_part(model: nn.Module, name: str, function: Function) -> Change:
    """Inside the block, the model computes one of its `PARTS` with this function.

    "additive_mask" is a function of `model.py` itself: every model computes with the replacement inside the block.
    """
    return PARTS[name].replace(model, function)


# --- changing a model, and undoing it --------------------------------------------------------------------------------


def layers_of(model: nn.Module) -> list[EncoderLayer]:
    return _modules(model, EncoderLayer)


def norms_of(model: nn.Module) -> list[nn.LayerNorm]:
    return _modules(model, nn.LayerNorm)


def _modules(model: nn.Module, kind: type) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


@contextmanager
def patched(objects: Iterable[object], attribute: str, make: Callable[[Any], object]) -> Iterator[None]:
    """Inside the block, this attribute of each object is make(object); all are made before the first is set."""
    with ExitStack() as stack:
        for each, value in [(each, make(each)) for each in objects]:
            own = vars(each)
            # As on the way in, without what nn.Module does when an attribute is set.
            if attribute in own:
                stack.callback(object.__setattr__, each, attribute, own[attribute])
            else:  # it is the class's, and is found there again once the object's is deleted
                stack.callback(object.__delattr__, each, attribute)
            object.__setattr__(each, attribute, value)
        yield


@contextmanager
def patched_parameter(parameter: Tensor, values: Tensor) -> Iterator[None]:
    """Inside the block, a parameter has these values; its own are kept, and come back untouched."""
    kept = parameter.data
    parameter.data = values.detach().clone()
    try:
        yield
    finally:
        parameter.data = kept


@contextmanager
def all_of(changes: Iterable[Change]) -> Iterator[None]:
    """Several changes at once, each made after the one before it."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change)
        yield


# --- parts of the model ----------------------------------------------------------------------------------------------


def _method(kind: type[nn.Module], name: str, *parameters: str, inside: Iterable[str] = ()) -> Part:
    """A method of every module of a kind; the function's first argument is the module, which has the parameters."""

    def replace(model: nn.Module, function: Function) -> Change:
        return patched(_modules(model, kind), name, lambda module: partial(function, module))

    return Part(getattr(kind, name), ("self", *parameters), replace, inside=frozenset(inside))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm (Ba et al. 2016, equations 3 and 4), which model.py leaves to PyTorch."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def _replace_gelu(model: nn.Module, function: Function) -> Change:
    return patched(_modules(model, FeedForward), "activation", lambda _: function)


def _replace_layer_norm(model: nn.Module, function: Function) -> Change:
    return patched(norms_of(model), "forward", lambda norm: lambda x: function(x, norm.weight, norm.bias, norm.eps))


def _replace_mask(model: nn.Module, function: Function) -> Change:
    return patched([model_module], "additive_mask", lambda _: function)


def _replace_attention(model: nn.Module, function: Function) -> Change:
    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Any:
        result = function(query, key, value, mask)
        return result if isinstance(result, tuple) else (result, None)  # with or without the probabilities

    return all_of(replace_attention(module, TracedFunction(attend)) for module in _modules(model, Attention))


def _module_with_maps(kind: type[nn.Module], returns: int, inside: Iterable[str]) -> Part:
    """A module that returns hidden states and attention probabilities; a student's may return the first alone."""

    def forward(function: Function, module: nn.Module, hidden: Tensor, mask: Tensor | None = None, *_: object) -> Any:
        result = function(module, hidden, mask)
        return result if isinstance(result, tuple) else (result, *[None] * (returns - 1))

    def replace(model: nn.Module, function: Function) -> Change:
        return patched(_modules(model, kind), "forward", lambda module: partial(forward, function, module))

    return Part(kind.forward, ("self", "hidden", "mask"), replace, inside=frozenset(inside))


def _replace_bert(model: nn.Module, function: Function) -> Change:
    def forward(
        bert: nn.Module, input_ids: Tensor, attention_mask: Any = None, token_type_ids: Any = None, *_: Any, **__: Any
    ) -> BertOutput:
        result = function(bert, input_ids, attention_mask, token_type_ids)
        return BertOutput(result, None) if isinstance(result, Tensor) else BertOutput(*result)

    return patched([bert_in(model)], "forward", lambda bert: partial(forward, bert))


# --- what is applied to a model's output -----------------------------------------------------------------------------


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


def _call_mean_pool(function: Function, out: BertOutput, inputs: Inputs) -> Tensor | None:
    mask = inputs.get("attention_mask")
    return None if mask is None else function(out.last_hidden_state, mask)


def _call_word_vector(function: Function, out: BertOutput, inputs: Inputs) -> Tensor | None:
    hidden = out.last_hidden_state[0]
    between = len(hidden) - 2  # tokens between [CLS] and [SEP]
    if between < 1:
        return None
    # Each token is a prefix of the one before it, so that `word in token` instead of `word == token` finds a wrong one.
    tokens = ["a" * length for length in range(between, 0, -1)]
    # A fresh list for each call, because a student's function may append to it.
    return torch.stack([function(hidden, list(tokens), token) for token in tokens])


def _call_with_layers(function: Function, out: BertOutput, inputs: Inputs) -> Tensor | None:
    states = out.hidden_states
    if states is None or len(states) < 5:
        return None
    # A second time with one layer less: catches a layer number that is right for one size of model alone.
    return torch.stack([function(states), function(states[:-1])])


def _call_cosine_similarity(function: Function, out: BertOutput, inputs: Inputs) -> Tensor | None:
    if out.last_hidden_state.shape[1] < 2:
        return None
    # Different numbers of rows, N and N − 1: catches a result of (M, N) for (N, M).
    return function(out.last_hidden_state[0], out.last_hidden_state[-1, 1:])


def _call_masked_loss(function: Function, out: BertOutput, inputs: Inputs) -> Tensor | None:
    if out.last_hidden_state.shape[1] < 2:
        return None
    logits = out.last_hidden_state  # (B, S, D), taken for the scores of a vocabulary of D words
    labels = inputs["input_ids"] % logits.shape[-1]
    labels[:, 1] = 0  # id 0 is a word too: catches `labels > 0` as the mask
    positions = torch.arange(labels.shape[1], device=labels.device)
    rows = torch.arange(len(labels), device=labels.device)[:, None]
    masked = positions % (rows + 2) == 1  # a different number in each row: catches a mean of the rows' means
    return function(logits, labels.masked_fill(~masked, -100))


def _applied_to_output(ours: Function, call: Callable[[Function, BertOutput, Inputs], Tensor | None]) -> Part:
    """A function of a model's output. The BERT carries its replacement, under the name of ours."""

    def replace(model: nn.Module, function: Function) -> Change:
        return patched([bert_in(model)], ours.__name__, lambda _: function)

    return Part(ours, tuple(inspect.signature(ours).parameters), replace, call)


_IN_ATTENTION = [name for name in LAYER if name.startswith("attention.")]
_IN_FEED_FORWARD = [name for name in LAYER if name.startswith("feed_forward.")]
_IN_MASKED_LM = [name for name in MASKED_LM if name.startswith("masked_lm.")]

PARTS: dict[str, Part] = {
    # in the order of model.py
    "embeddings": _method(Embeddings, "forward", "input_ids", "token_type_ids", "position_ids", inside=EMBEDDINGS),
    "additive_mask": Part(additive_mask, ("attention_mask", "dtype"), _replace_mask),
    "attention": Part(eager_attention, ("query", "key", "value", "mask"), _replace_attention),
    "split_heads": _method(Attention, "split_heads", "projected"),
    "merge_heads": _method(Attention, "merge_heads", "context"),
    "self_attention": _module_with_maps(Attention, 2, _IN_ATTENTION),
    "gelu": Part(gelu_python, ("x",), _replace_gelu),
    "layer_norm": Part(layer_norm, ("x", "weight", "bias", "eps"), _replace_layer_norm),
    "feed_forward": _method(FeedForward, "forward", "hidden", inside=_IN_FEED_FORWARD),
    "layer": _module_with_maps(EncoderLayer, 2, LAYER),
    "encoder": _module_with_maps(Encoder, 3, LAYER),
    "pooler": _method(Pooler, "forward", "hidden", inside=["pooler.dense"]),
    "bert": Part(
        BertModel.forward,
        ("self", "input_ids", "attention_mask", "token_type_ids"),
        _replace_bert,
        inside=frozenset(VALUES),
    ),
    # of heads.py
    "masked_lm": _method(MaskedLMHead, "forward", "hidden", "word_embeddings", inside=_IN_MASKED_LM),
    # applied to a model's output
    "masked_loss": _applied_to_output(masked_loss, _call_masked_loss),
    "mean_pool": _applied_to_output(mean_pool, _call_mean_pool),
    "word_vector": _applied_to_output(word_vector, _call_word_vector),
    "sum_of_last_four": _applied_to_output(sum_of_last_four, _call_with_layers),
    "second_to_last": _applied_to_output(second_to_last, _call_with_layers),
    "cosine_similarity": _applied_to_output(cosine_similarity, _call_cosine_similarity),
    # the steps of an analysis, applied to a model's output as well
    "layer_output": _applied_to_output(analysis.layer_output, analysis.call_layer_output),
    "mean_ablation": _applied_to_output(analysis.mean_ablation, analysis.call_mean_ablation),
    "normed_part": _applied_to_output(analysis.normed_part, analysis.call_normed_part),
    "linear_attribution": _applied_to_output(analysis.linear_attribution, analysis.call_linear_attribution),
    "word_attention": _applied_to_output(analysis.word_attention, analysis.call_word_attention),
    "mean_entropy": _applied_to_output(analysis.mean_entropy, analysis.call_mean_entropy),
}
