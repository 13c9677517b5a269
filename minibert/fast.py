"""The same function as `model.py`, faster: what changes, and what stays exact?

`model.py` is written to be read, and it comes first. This module computes the same hidden states for many texts in less
time; every line of it has its counterpart in `model.py`. `SentenceEncoder` uses it unless it is created with
`fast=False` or the model has relative positions, and `model.py` does not know that it exists.

The speed comes from seven tricks. In brackets is how much longer it takes without each of them: for paragraphs of mixed
length, and for one short text, on two cores (`python tests/benchmarks/tricks.py` removes one trick at a time; the
last was not measured).

1. **Batch texts of similar length** (2.5 × together with the next one, -). In batches of texts in the order given, most
   positions are padding. `vectors/batches.py` sorts the texts by length and fills each batch with about 1,024 tokens:
   matrix products of fewer rows are slower (256 tokens: 1.26 ×), larger ones are not faster (4,096 tokens: 0.99 ×). Not
   exact: the sums in products of different shapes are computed in different orders, so they are rounded differently.
2. **No padding** (1.15 ×, 1.06 ×). The tokens of all texts in a batch are concatenated, (N, D). Everything except
   attention works on each token alone and never needs to know where a text ends. Exact: padding never affected the
   result.
3. **No attention mask** (1.00 ×, 1.04 ×). Attention does need to know where a text ends. It is computed for one bucket
   of texts of equal length at a time, (b, H, S, W), where no position has to be masked. Exact, for the same reason.
4. **One product for query, key and value** (0.99 ×, 1.11 ×). Their matrices are stacked into one of (3·D, D). The sums
   are the same, but a larger product may be split into different blocks and differ in the last bit.
5. **Packed weights** for small batches (1.00 ×, 1.41 ×). With 16 rows, most of the time goes into reading the weights,
   and the processor reads them fastest in the order in which the product uses them. This costs a second copy of the
   weights. Not exact: the blocks of the product are different ones.
6. **In-place operations** (1.01 ×, 1.00 ×). The residual connection and GELU overwrite their inputs. Exact. This saves
   memory, but no measurable time.
7. **One table for positions and segments.** Every token is in segment 0, so the sum of the two embeddings is computed
   once for each position, not for each text. Not exact: three vectors are added in a different order.

Vectors of length 1 differ from those of `model.py` by less than 1e-6 (`tests/test_fast.py`). Where the rest of the time
goes, and which other tricks did not help, is in `tests/benchmarks/README.md`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.model import ACTIVATIONS, BertModel, EncoderLayer

# For each run of texts of equal length, (how many texts, their length in tokens); N is the number of tokens in all.
Buckets = list[tuple[int, int]]

ROWS = 16  # N is rounded up to a multiple of this: kernels are fastest at round sizes, and fewer sizes occur
PACK_UP_TO = 128  # rows; for every number of rows that occurs, oneDNN keeps a kernel of about a megabyte


class PackedLinear:
    """x·Wᵀ + b: (N, in) → (N, out), with the weights packed if x has few rows.

    Several layers that read the same x become one: their weights are stacked.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        self.layers = layers
        self.bias = torch.cat([layer.bias.detach() for layer in layers])  # (out)
        on_cpu = self.bias.device.type == "cpu" and self.bias.dtype == torch.float32
        self.can_pack = on_cpu and torch.backends.mkldnn.is_available()

    def stacked(self) -> Tensor:
        """The weights of all layers, (out, in)."""
        weights = [layer.weight.detach() for layer in self.layers]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    # `weight` and `packed` are computed when first used: encoding one text at a time never needs both.
    weight = cached_property(stacked)

    @cached_property
    def packed(self) -> Tensor:
        """The weights in the order in which oneDNN, one of PyTorch's libraries for the CPU, reads them."""
        return torch.ops.mkldnn._reorder_linear_weight(self.stacked(), ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        if self.can_pack and len(x) <= PACK_UP_TO:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


class FastLayer:
    """One encoder layer: (N, D) → (N, D)."""

    def __init__(self, layer: nn.Module, head_size: int, activate: Callable[[Tensor], Tensor]) -> None:
        assert isinstance(layer, EncoderLayer)
        attention, feed_forward = layer.attention, layer.feed_forward
        self.head_size = head_size
        self.activate = activate
        self.query_key_value = PackedLinear(attention.query, attention.key, attention.value)
        self.output = PackedLinear(attention.output)
        self.attention_norm = layer.attention_norm
        self.expand = PackedLinear(feed_forward.expand)
        self.contract = PackedLinear(feed_forward.contract)
        self.feed_forward_norm = layer.feed_forward_norm

    def __call__(self, hidden: Tensor, buckets: Buckets) -> Tensor:
        context = self.attention(self.query_key_value(hidden), buckets)  # (N, D) → (N, 3·D) → (N, D)
        hidden = self.attention_norm(self.output(context).add_(hidden))
        expanded = self.activate(self.expand(hidden))  # (N, D) → (N, F)
        return self.feed_forward_norm(self.contract(expanded).add_(hidden))  # (N, F) → (N, D)

    def attention(self, qkv: Tensor, buckets: Buckets) -> Tensor:
        """The tokens of each text attend to that text alone: (N, 3·D) → (N, D)."""
        contexts = qkv.new_zeros(len(qkv), qkv.shape[1] // 3)  # (N, D)
        start = 0
        for count, length in buckets:
            end = start + count * length
            heads = qkv[start:end].view(count, length, 3, -1, self.head_size)  # (b·S, 3·D) → (b, S, 3, H, W)
            context = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))  # 3 of (b, H, S, W) → (b, H, S, W)
            context = context.transpose(1, 2).flatten(2)  # (b, H, S, W) → (b, S, D)
            contexts[start:end] = context.flatten(0, 1)  # (b, S, D) → (b·S, D)
            start = end
        return contexts


class FastBert:
    """Computes what a `BertModel` computes, for texts of any lengths, without padding.

    It holds stacked and packed copies of the model's parameters. When `matches` is False, they are out of date: create
    a new one.

    Args:
        model: with absolute positions; relative ones change the attention scores, which are never computed here.
    """

    def __init__(self, model: BertModel) -> None:
        self.modules = list(model.modules())
        self.versions = self.parameter_versions()
        embeddings, config = model.embeddings, model.config
        activation = ACTIVATIONS[config.hidden_act]
        activate = torch.ops.aten.gelu_ if activation is F.gelu else activation
        self.words, self.norm = embeddings.word_embeddings, embeddings.norm
        positions, segments = embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight
        self.positions = (positions + segments[0]).detach()  # (positions, D)
        self.layers = [FastLayer(layer, config.head_size, activate) for layer in model.encoder.layers]

    def matches(self, model: BertModel) -> bool:
        """Whether this was created from `model`, and no module or parameter of it has changed since."""
        return self.modules[0] is model and self.versions == self.parameter_versions()

    def parameter_versions(self) -> list[tuple[int, int]]:
        """An address and a version for each module and parameter: replacing, moving or writing to one changes them."""
        modules = [(id(child), 0) for module in self.modules for child in module._modules.values()]
        tensors = [tensor for module in self.modules for tensor in module._parameters.values() if tensor is not None]
        # PyTorch does not count the changes of tensors that were created in inference mode.
        return modules + [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in tensors]

    def __call__(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Computes the last hidden states.

        Args:
            texts: the token ids of each, [CLS] and [SEP] included. Texts of equal length should be adjacent, as
                `vectors.batches.by_length` orders them.

        Returns:
            For each run of adjacent texts of equal length, (b, S, D), in the order given.
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
        positions = [position for text in texts for position in range(len(text))] + filler
        ids, positions = torch.tensor([ids, positions], device=self.positions.device)  # (N)
        return self.norm(self.words(ids).add_(self.positions[positions]))
