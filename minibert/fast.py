"""The same function as `model.py`, faster: what changes, and what stays exact?

`model.py` is written to be read, and it comes first. This module computes the same hidden states for many texts in less
time; every line of it has its counterpart in `model.py`, which does not know that it exists.

Two rules keep it from ever computing something else. It keeps nothing between two calls: it reads the model's own
parameters each time, so no copy can be out of date. And `applies_to` looks at every part of the model first: if one is
not precisely as `model.py` made it, `SentenceEncoder` computes with `model.py` instead.

The speed comes from five tricks. In brackets is how much longer it takes without each of them: for paragraphs of mixed
length, and for one short text, on two cores with AVX-512 (`python tests/benchmarks/tricks.py` removes one trick at a
time).

1. **Batch texts of similar length** (2.3 × together with the next one, -). In batches of texts in the order given, most
   positions are padding. `vectors/batches.py` sorts the texts by length and fills each batch with about 1,024 tokens:
   matrix products of fewer rows are slower (256 tokens: 1.17 ×), larger ones are not faster (4,096 tokens: 1.07 ×). Not
   exact: the sums in products of different shapes are computed in different orders, so they are rounded differently.
2. **No padding** (1.12 ×, 0.94 ×). The tokens of all texts in a batch are concatenated, (N, D). Everything except
   attention works on each token alone and never needs to know where a text ends. Exact: padding never affected the
   result.
3. **No attention mask** (0.99 ×, 0.93 ×). Attention does need to know where a text ends. It is computed for one bucket
   of texts of equal length at a time, (b, H, S, W), where no position has to be masked. Exact, for the same reason.
4. **oneDNN's matrix products** (1.75 ×, 1.51 ×). PyTorch has two libraries for float32 products on a CPU and gives
   those of a linear layer to MKL, which does not use the widest instructions of this processor, an AMD EPYC. Not exact:
   the sums are computed in a different order.
5. **In-place operations** (1.04 ×, 1.01 ×). The residual connection and GELU overwrite their inputs. Exact. This saves
   memory, and hardly any time.

Vectors of length 1 differ from those of `model.py` by less than 1e-6 (`tests/test_fast.py`). Where the rest of the time
goes, and which other tricks did not help, is in `tests/benchmarks/README.md`.
"""

import functools
from collections.abc import Hashable, Sequence
from inspect import isfunction
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from minibert import model as model_module
from minibert.config import BertConfig
from minibert.inputs import check_inputs
from minibert.model import (
    ACTIVATIONS,
    ATTENTION,
    Attention,
    BertModel,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
)

# For each run of texts of equal length, (how many texts, their length in tokens); N is the number of tokens in all.
Buckets = list[tuple[int, int]]

# --- the computation -------------------------------------------------------------------------------------------------


@torch.no_grad()
def last_hidden_states(model: BertModel, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Computes the last hidden states of texts of any lengths, without gradients, by a model that this `applies_to`.

    Args:
        model: one for which `applies_to` is True; it is not asked again here.
        texts: the token ids of each, [CLS] and [SEP] included. Texts of equal length should be adjacent, as
            `vectors.batches.by_length` orders them.

    Returns:
        For each run of adjacent texts of equal length, (b, S, D), in the order given.

    Raises:
        InputError: an id or a length that the model cannot take.
    """
    for extreme in (max(texts, key=max), max(texts, key=len)):
        check_inputs(model.config, torch.tensor([extreme]), None, None, None)
    buckets = [(len(list(run)), length) for length, run in groupby(map(len, texts))]
    hidden = embed(model.embeddings, texts)
    for layer in layers_of(model):
        hidden = encode_layer(layer, hidden, buckets)
    runs = hidden[: sum(map(len, texts))].split([count * length for count, length in buckets])
    return [run.view(count, length, -1) for run, (count, length) in zip(runs, buckets, strict=True)]


def layers_of(model: BertModel) -> list[EncoderLayer]:
    return [layer for layer in model.encoder.layers if isinstance(layer, EncoderLayer)]


def embed(embeddings: Embeddings, texts: Sequence[Sequence[int]]) -> Tensor:
    """The embeddings of all tokens, (N, D), with a few more rows that fill the last block."""
    filler = [0] * filler_rows(sum(map(len, texts)))
    words = [token for text in texts for token in text] + filler
    positions = [position for text in texts for position in range(len(text))] + filler
    ids = torch.tensor([words, [0] * len(words), positions], device=embeddings.word_embeddings.weight.device)
    embedded = embeddings.word_embeddings(ids[0]).add_(embeddings.token_type_embeddings(ids[1]))  # (N) → (N, D)
    return embeddings.norm(embedded.add_(embeddings.position_embeddings(ids[2])))


def filler_rows(tokens: int) -> int:
    """How many rows to add to N tokens: products are fastest at round sizes, and oneDNN keeps code for each size.

    Blocks are of 16 rows up to N = 256, and of a sixteenth of the next power of two above: less than 7 % of the rows.
    """
    block = max(16, 1 << (tokens - 1).bit_length() >> 4)
    return -tokens % block


def encode_layer(layer: EncoderLayer, hidden: Tensor, buckets: Buckets) -> Tensor:
    """One encoder layer: (N, D) → (N, D)."""
    attended = attend(layer.attention, hidden, buckets)
    hidden = layer.attention_norm(attended.add_(hidden))
    return layer.feed_forward_norm(feed_forward(layer.feed_forward, hidden).add_(hidden))


def attend(attention: Attention, hidden: Tensor, buckets: Buckets) -> Tensor:
    """The tokens of each text attend to that text alone: (N, D) → (N, D)."""
    projected = [linear(part, hidden) for part in (attention.query, attention.key, attention.value)]  # 3 of (N, D)
    contexts = torch.zeros_like(projected[2])
    start = 0
    for count, length in buckets:
        end = start + count * length
        of_bucket = [part[start:end].view(count, length, -1) for part in projected]  # (b·S, D) → (b, S, D)
        query, key, value = [attention.split_heads(part) for part in of_bucket]  # (b, S, D) → (b, H, S, W)
        context = F.scaled_dot_product_attention(query, key, value)  # (b, H, S, W)
        contexts[start:end] = attention.merge_heads(context).flatten(0, 1)  # (b, H, S, W) → (b, S, D) → (b·S, D)
        start = end
    return linear(attention.output, contexts)


def feed_forward(part: FeedForward, hidden: Tensor) -> Tensor:
    activate = torch.ops.aten.gelu_ if part.activation is F.gelu else part.activation
    return linear(part.contract, activate(linear(part.expand, hidden)))  # (N, D) → (N, F) → (N, D)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """x·Wᵀ + b: (N, in) → (N, out)."""
    onednn = torch.backends.mkldnn  # by its former name
    if x.device.type == "cpu" and x.dtype == torch.float32 and onednn.is_available() and onednn.enabled:
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")
    return F.linear(x, layer.weight, layer.bias)


# --- where it applies ------------------------------------------------------------------------------------------------

OURS = (model_module, BertModel, Embeddings, Encoder, EncoderLayer, Attention, FeedForward)
PYTORCHS = (F, nn.Module, nn.ModuleList, nn.Linear, nn.LayerNorm, nn.Embedding, nn.Dropout)
# Every function that a BERT computes with, as it was when this module was imported, and the namespace it is in.
ORIGINAL = [
    (vars(owner), name, value)
    for owner in OURS + PYTORCHS
    for name, value in vars(owner).items()
    # torch.compile wraps the last two for its own records; calling a module uses neither.
    if callable(value) and name not in ("__init__", "__setstate__")
]
# Whether one of `model.py`'s was replaced before that, by a function of another file.
REPLACED_BEFORE = any(
    isfunction(value)
    and value is not NamedTuple
    and not value.__code__.co_filename.startswith(str(Path(__file__).parent))
    for owner in OURS
    for value in vars(owner).values()
)
ORIGINAL_ACTIVATIONS = tuple(ACTIVATIONS.values())
ORIGINAL_ATTENTION = tuple(ATTENTION.values())


def applies_to(model: BertModel) -> bool:
    """Whether `last_hidden_states` computes what calling `model` would compute now.

    Not if a part of it is of another type than in a new `BertModel`, as after adding adapters, quantising or compiling;
    if a hook or a function of the user's own would be called; in training mode; with relative positions, which change
    the attention scores; or while something changes what PyTorch's functions compute, such as autocast.
    """
    return (
        _is_as_new(model)
        and model.embeddings.absolute
        and model.attend in ORIGINAL_ATTENTION
        and all(layer.feed_forward.activation in ORIGINAL_ACTIVATIONS for layer in layers_of(model))
        and not _functions_were_replaced()
        and not _pytorch_is_changed(next(model.parameters()).device.type)
    )


def calls_only_forward(module: nn.Module) -> bool:
    """Whether calling a module runs its class's `forward` and nothing else: no hook, no method set on this object."""
    own = vars(module)
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"]
    return not hooks and own.keys().isdisjoint(_methods(type(module)))  # type: ignore[arg-type]  # hashed by id


@functools.lru_cache(maxsize=100)  # the user may define any number of classes
def _methods(kind: Hashable) -> frozenset[str]:
    """The names that an object finds in its class; one that is set on the object itself is found first."""
    return frozenset(dir(kind)).difference(vars(nn.Module()))


@functools.cache
def _new_model() -> BertModel:
    """A model of one layer, as `model.py` constructs it, without memory for its parameters."""
    with torch.device("meta"):
        return BertModel(BertConfig(vocab_size=1, hidden_size=1, num_attention_heads=1, num_hidden_layers=1)).eval()


def _is_as_new(model: BertModel) -> bool:
    """Whether all modules have the types, methods and names of a new model's, and their parameters one dtype."""
    tensors: set[object] = set()
    pairs: list[tuple[nn.Module, nn.Module]] = [(model, _new_model())]
    while pairs:
        module, new = pairs.pop()
        if type(module) is not type(new) or module.training or not calls_only_forward(module):
            return False
        parts, new_parts = vars(module)["_modules"], vars(new)["_modules"]
        parameters, new_parameters = vars(module)["_parameters"], vars(new)["_parameters"]
        if type(module) is nn.ModuleList:  # the layers: as many as there are
            new_parts = dict.fromkeys(parts, new_parts["0"])
        if not new_parts.keys() - {"pooler"} <= parts.keys() <= new_parts.keys():  # it may be missing, or None
            return False
        if parameters.keys() != new_parameters.keys():
            return False
        pairs += [(part, new_parts[name]) for name, part in parts.items() if part is not None or name != "pooler"]
        tensors |= {(type(x), x.dtype, x.device, x.layout) for x in parameters.values() if x is not None}
    return len(tensors) == 1


def _functions_were_replaced() -> bool:
    return REPLACED_BEFORE or any(functions.get(name) is not value for functions, name, value in ORIGINAL)


def _pytorch_is_changed(device: str) -> bool:
    """Whether a hook for all modules, autocast or a mode changes what PyTorch's modules and functions compute."""
    modes = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    return bool(
        modes
        or torch._C._len_torch_dispatch_stack()
        or torch.is_autocast_enabled(device)
        or nn.modules.module._has_any_global_hook()
    )
