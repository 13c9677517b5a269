"""The same function, faster: what changes, and what stays exact?

`model.py` is written to be read. This room computes what it computes, for many texts, and is the second chapter: the
reader who knows the first finds every line of it here, in another order. In brackets stands how much longer it takes
without the trick, for paragraphs of mixed length and for a single short text, on two cores
(`python tests/benchmarks/tricks.py` takes them back one at a time):

1. **Texts of one length go together** (2.5 ×, -). Where texts come as they are given, most of a batch is padding.
   That is `batches.py`; a batch has about 1,024 tokens, as a product of fewer rows is slower (of 256: 1.26 ×), and one
   of more is not faster (of 4,096: 0.99 ×). Rounding: products of other shapes are summed in other orders.
2. **No padding** (1.15 ×, 1.06 ×). The tokens of all texts of a batch lie one after the other, (N, D). Everything but
   attention works on each token alone and never asks where a text ends. Exact: padding had no part in the result.
3. **No mask** (1.00 ×, 1.04 ×). Attention does ask, and goes by buckets of texts of one length: (b, H, S, W), in which
   there is nothing to hide. Exact, for the same reason.
4. **One product for query, key and value** (0.99 ×, 1.11 ×): their matrices stand on top of each other, (3·D, D). The
   same sums; a larger product may be cut into other blocks, and then rounds otherwise in the last bit.
5. **Packed matrices** for few rows (1.00 ×, 1.41 ×). With 16 rows the time goes into reading the matrix, and a kernel
   reads it fastest in the order in which it uses it. A second copy of the matrices, and other blocks: rounding.
6. **In place** (1.01 ×, 1.00 ×). The residual sum and GELU write over what they read. Exact. It saves memory, and
   no time that can be measured.
7. **Position and segment in one table**, added once and not twice per text. Another order of two sums: rounding.

All in all the vectors differ from those of `model.py` by less than 1e-6 at length 1 (`tests/test_fast.py`).
`SentenceEncoder` encodes by this room unless it is told `fast=False`; `model.py` does not know that it exists. What
the rest of the time goes into, and what was tried in vain, stands in `tests/benchmarks/README.md`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.config import choose
from minibert.model import ACTIVATIONS, BertModel, EncoderLayer

# Texts of one length that stand together: how many, and how long. The tokens of all are N.
Buckets = list[tuple[int, int]]


ROWS = 16  # N is filled up to a multiple of it: there are fewer sizes, and kernels like them round
FEW = 128  # the most rows for which a product reads its matrix from the packed copy


class Product:
    """x·Wᵀ + b: (N, in) → (N, out).

    Layers that read the same x become one: their matrices stand on top of each other.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        self.layers = layers
        self.bias = torch.cat([layer.bias.detach() for layer in layers])  # (out)
        on_cpu = self.bias.device.type == "cpu" and self.bias.dtype == torch.float32
        self.can_pack = on_cpu and torch.backends.mkldnn.is_available()

    def stacked(self) -> Tensor:
        """The matrices on top of each other, (out, in)."""
        weights = [layer.weight.detach() for layer in self.layers]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    # Each of the two is made when it is first needed: who encodes one text at a time has no use for the other.
    weight = cached_property(stacked)

    @cached_property
    def packed(self) -> Tensor:
        """The matrix in the blocks in which a kernel of oneDNN, a library inside PyTorch, reads it."""
        return torch.ops.mkldnn._reorder_linear_weight(self.stacked(), ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        if self.can_pack and len(x) <= FEW:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


class FastLayer:
    """One encoder layer: (N, D) → (N, D)."""

    def __init__(self, layer: nn.Module, head_width: int, activate: Callable[[Tensor], Tensor]) -> None:
        assert isinstance(layer, EncoderLayer)
        attention, feed_forward = layer.attention, layer.feed_forward
        self.head_width = head_width
        self.activate = activate
        self.query_key_value = Product(attention.query, attention.key, attention.value)
        self.output = Product(attention.output)
        self.attention_norm = layer.attention_norm
        self.expand, self.contract = Product(feed_forward.expand), Product(feed_forward.contract)
        self.feed_forward_norm = layer.feed_forward_norm

    def __call__(self, hidden: Tensor, buckets: Buckets) -> Tensor:
        context = self.attention(self.query_key_value(hidden), buckets)  # (N, D) → (N, 3·D) → (N, D)
        hidden = self.attention_norm(self.output(context).add_(hidden))
        expanded = self.activate(self.expand(hidden))  # (N, D) → (N, F)
        return self.feed_forward_norm(self.contract(expanded).add_(hidden))  # (N, F) → (N, D)

    def attention(self, qkv: Tensor, buckets: Buckets) -> Tensor:
        """Each text looks at itself: (N, 3·D) → (N, D)."""
        contexts = qkv.new_zeros(len(qkv), qkv.shape[1] // 3)  # (N, D)
        start = 0
        for count, length in buckets:
            run = slice(start, start := start + count * length)
            heads = qkv[run].view(count, length, 3, -1, self.head_width)  # (b·S, 3·D) → (b, S, 3, H, W)
            context = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))  # 3 of (b, H, S, W) → (b, H, S, W)
            contexts[run] = context.transpose(1, 2).flatten(2).flatten(0, 1)  # (b, H, S, W) → (b, S, D) → (b·S, D)
        return contexts


class FastBert:
    """A `BertModel`'s function for texts of any lengths, without padding.

    It holds matrices of its own, made from the model's parameters; when those change, make another (`is_of` tells).

    Args:
        model: with absolute positions; the other kinds change the scores, which are not formed here.
    """

    def __init__(self, model: BertModel) -> None:
        self.modules = list(model.modules())
        self.state = self.state_now()
        embeddings, config = model.embeddings, model.config
        activation = choose(ACTIVATIONS, "hidden_act", config.hidden_act)
        activate = torch.ops.aten.gelu_ if activation is F.gelu else activation
        self.words, self.norm = embeddings.word_embeddings, embeddings.norm
        places, segments = embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight
        self.places = (places + segments[0]).detach()  # (positions, D)
        self.layers = [FastLayer(layer, config.head_width, activate) for layer in model.encoder.layers]

    def is_of(self, model: BertModel) -> bool:
        """Is this what the model computes, with the parts and parameters that it has now?"""
        return self.modules[0] is model and self.state == self.state_now()

    def state_now(self) -> list[tuple[int, int]]:
        """Changes when a part or a parameter is replaced, moved or written to."""
        parts = [(id(part), 0) for module in self.modules for part in module._modules.values()]
        tensors = [tensor for module in self.modules for tensor in module._parameters.values() if tensor is not None]
        return parts + [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in tensors]

    def __call__(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Computes the last hidden states.

        Args:
            texts: the token ids of each, [CLS] and [SEP] included, of any lengths; texts of one length stand together.

        Returns:
            For each run of texts of one length, (b, S, D), in the order given.
        """
        buckets = [(len(list(run)), length) for length, run in groupby(map(len, texts))]
        hidden = self.embed(texts)
        for layer in self.layers:
            hidden = layer(hidden, buckets)
        runs = hidden[: sum(map(len, texts))].split([count * length for count, length in buckets])
        return [run.view(count, length, -1) for run, (count, length) in zip(runs, buckets, strict=True)]

    def embed(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The embeddings of all tokens, (N, D)."""
        filler = [0] * (-sum(map(len, texts)) % ROWS)
        ids = [token for text in texts for token in text] + filler
        places = [place for text in texts for place in range(len(text))] + filler
        ids, places = torch.tensor([ids, places], device=self.places.device)  # (N)
        return self.norm(self.words(ids).add_(self.places[places]))
