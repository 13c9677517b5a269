"""The same function, faster: what changes, and what stays exact?

`model.py` is written to be read. This room computes what it computes, for many texts on a CPU, and is the second
chapter: the reader who knows the first finds every line of it here, in another order. What is different:

1. **No padding.** The tokens of all texts of a batch lie one after the other, (N, D). Everything but attention works on
   each token alone and never asks where a text ends. Exact: padding had no part in the result.
2. **No mask.** Attention does ask, and goes by buckets of texts of one length: (b, H, S, W), in which there is
   nothing to hide. Exact, for the same reason.
3. **One product for query, key and value**: their matrices stand on top of each other, (D) → (3·D). The same sums;
   a larger product may be cut into other blocks, and then rounds otherwise in the last bit.
4. **Position and segment in one table**, added once and not twice per text. Another order of two additions: rounding.
5. **In place.** The residual line is added to inside the product that computes the other (`addmm_`), and GELU writes
   over what it read: memory that is touched again is still in the cache, and fresh memory costs a page fault. The bias
   is added before the product and not after it: rounding.

`SentenceEncoder.from_pretrained(name, fast=True)` encodes by it. All in all the vectors differ from those of `model.py`
by less than 1e-6 at length 1 (`tests/test_fast.py`). What each step buys, `python tests/benchmarks/tricks.py` measures,
one at a time.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.config import choose
from minibert.model import ACTIVATIONS, BertModel, EncoderLayer

# Texts of one length that stand together: how many, and how long. The tokens of all are N.
Buckets = list[tuple[int, int]]


class FastLayer(NamedTuple):
    """One encoder layer's parameters, as they are multiplied here."""

    layer: EncoderLayer
    qkv_weight: Tensor  # (3·D, D)
    qkv_bias: Tensor  # (3·D)


class FastBert:
    """A `BertModel`'s function for texts of any lengths, without padding.

    It shares the model's parameters and copies some of them; when they are changed, make another (`is_of` tells).

    Args:
        model: with absolute positions; the other kinds change the scores, which are not formed here.
    """

    def __init__(self, model: BertModel) -> None:
        self.model = model
        self.version = _version(model)
        embeddings = model.embeddings
        activation = choose(ACTIVATIONS, "hidden_act", model.config.hidden_act)
        self.activate = torch.ops.aten.gelu_ if activation is F.gelu else activation
        self.places = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]  # (P, D)
        self.layers: list[FastLayer] = []
        for layer in model.encoder.layers:
            assert isinstance(layer, EncoderLayer)
            parts = [layer.attention.query, layer.attention.key, layer.attention.value]
            weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
            self.layers.append(FastLayer(layer, weight, bias))

    def is_of(self, model: BertModel) -> bool:
        """Is this what the model computes, with the parameters that it has now?"""
        return self.model is model and self.version == _version(model)

    def __call__(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Computes the last hidden states.

        Args:
            texts: the token ids of each, [CLS] and [SEP] included, of any lengths; texts of one length stand together.

        Returns:
            For each run of texts of one length, (b, S, D), in the order given.
        """
        buckets = [(len(list(run)), length) for length, run in groupby(map(len, texts))]
        hidden = self.embed(texts, buckets)
        for layer in self.layers:
            hidden = self.layer(hidden, layer, buckets)
        runs = hidden.split([count * length for count, length in buckets])
        return [run.view(count, length, -1) for run, (count, length) in zip(runs, buckets, strict=True)]

    def embed(self, texts: Sequence[Sequence[int]], buckets: Buckets) -> Tensor:
        """The embeddings of all tokens, (N, D)."""
        ids = torch.tensor([token for text in texts for token in text], device=self.places.device)  # (N)
        places = [self.places[:length].repeat(count, 1) for count, length in buckets]
        embeddings = self.model.embeddings
        return embeddings.norm(embeddings.word_embeddings(ids).add_(torch.cat(places)))

    def layer(self, hidden: Tensor, parts: FastLayer, buckets: Buckets) -> Tensor:
        """One encoder layer: (N, D) → (N, D). It writes over `hidden`."""
        layer, feed_forward = parts.layer, parts.layer.feed_forward
        qkv = F.linear(hidden, parts.qkv_weight, parts.qkv_bias)  # (N, D) → (N, 3·D)
        hidden = layer.attention_norm(self.add(hidden, layer.attention.output, self.attention(qkv, buckets)))
        expanded = self.activate(feed_forward.expand(hidden))  # (N, D) → (N, F)
        return layer.feed_forward_norm(self.add(hidden, feed_forward.contract, expanded))

    def attention(self, qkv: Tensor, buckets: Buckets) -> Tensor:
        """Each text looks at itself: (N, 3·D) → (N, D)."""
        runs, contexts = qkv.split([count * length for count, length in buckets]), []
        for run, (count, length) in zip(runs, buckets, strict=True):
            heads = run.view(count, length, 3, -1, self.model.config.head_width)  # (b·S, 3·D) → (b, S, 3, H, W)
            context = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))  # 3 of (b, H, S, W) → (b, H, S, W)
            contexts.append(context.transpose(1, 2).reshape(count * length, -1))  # (b, H, S, W) → (b·S, D)
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)

    def add(self, hidden: Tensor, linear: nn.Linear, inner: Tensor) -> Tensor:
        """hidden + linear(inner), written over `hidden`."""
        return hidden.add_(linear.bias).addmm_(inner, linear.weight.T)


def _version(model: BertModel) -> list[tuple[int, int]]:
    """Changes when a parameter is replaced, moved or written to."""
    return [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in model.parameters()]
