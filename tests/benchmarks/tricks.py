"""How much does each trick of `fast.py` save? They are removed one at a time.

    python tests/benchmarks/tricks.py [rounds]

All variants take turns at the same work. A figure is the time without the trick divided by the time with it.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from bench import paragraphs
from torch import Tensor

from minibert import BertModel, SentenceEncoder, fast
from minibert.checkpoints import store
from minibert.fast import Buckets, FastBert, FastLayer, PackedLinear
from minibert.vectors.batches import by_length


class Variant(FastLayer):
    """The same layer, which can also take a mask, and query, key and value from separate products."""

    mask: Tensor | None = None

    def attention(self, qkv: Tensor | Sequence[Tensor], buckets: Buckets) -> Tensor:
        parts = qkv.chunk(3, dim=1) if isinstance(qkv, Tensor) else qkv
        contexts, start = parts[0].new_zeros(parts[0].shape), 0
        for count, length in buckets:
            end = start + count * length
            heads = [part[start:end].view(count, length, -1, self.head_size).transpose(1, 2) for part in parts]
            mask = self.mask if self.mask is None or self.mask.numel() else torch.zeros(count, 1, 1, length)
            context = F.scaled_dot_product_attention(*heads, mask)
            contexts[start:end] = context.transpose(1, 2).flatten(2).flatten(0, 1)
            start = end
        return contexts


class WithMask(Variant):
    """A mask of zeros, which masks nothing."""

    mask = torch.empty(0)


class ThreeProducts(Variant):
    """A separate product for each of query, key and value."""

    def __init__(self, layer, head_size: int, activate: Callable[[Tensor], Tensor]) -> None:
        super().__init__(layer, head_size, activate)
        three = [PackedLinear(part) for part in (layer.attention.query, layer.attention.key, layer.attention.value)]
        self.query_key_value = lambda hidden: [product(hidden) for product in three]


class NotInPlace(FastLayer):
    """New memory for each sum and each GELU."""

    def __call__(self, hidden: Tensor, buckets: Buckets) -> Tensor:
        hidden = self.attention_norm(hidden + self.output(self.attention(self.query_key_value(hidden), buckets)))
        return self.feed_forward_norm(hidden + self.contract(F.gelu(self.expand(hidden))))


class NotPacked(PackedLinear):
    """The weights as they are in the model, for few rows too."""

    can_pack = property(lambda self: False, lambda self, value: None)


class WithPadding(FastBert):
    """All texts of a batch padded to the longest; padding is computed too, and masked."""

    def __call__(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        longest = max(map(len, texts))
        visible = [[True] * len(text) + [False] * (longest - len(text)) for text in texts]
        Variant.mask = torch.tensor(visible)[:, None, None]
        try:
            return super().__call__([[*text, *[0] * (longest - len(text))] for text in texts])
        finally:
            Variant.mask = None


def build(model: BertModel, whole: type = FastBert, layer: type = FastLayer, product: type = PackedLinear) -> FastBert:
    """The fast path with one part replaced."""
    fast.FastLayer, fast.PackedLinear = layer, product
    try:
        return whole(model)
    finally:
        fast.FastLayer, fast.PackedLinear = FastLayer, PackedLinear


def measure(title: str, rounds: int, work: dict[str, Callable[[int], object]]) -> None:
    """Runs every variant in each round, and prints its time relative to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds):
        for name, do in work.items():
            start = time.perf_counter()
            do(turn)
            seconds[name].append(time.perf_counter() - start)
    base = seconds["all tricks"]
    print(f"\n{title}: {statistics.median(base) * 1000:.1f} ms with all tricks, median of {rounds} rounds")
    for name, times in seconds.items():
        print(f"  {name:48}{statistics.median(a / b for a, b in zip(times, base, strict=True)):8.2f}")


@torch.inference_mode()
def main(rounds: int) -> None:
    encoder = SentenceEncoder.from_pretrained(store.DEFAULT)
    model = encoder.model
    variants = {
        "all tricks": build(model),
        "with padding and its mask": build(model, WithPadding, Variant),
        "with a mask that masks nothing": build(model, layer=WithMask),
        "three products for query, key and value": build(model, layer=ThreeProducts),
        "weights not packed for few rows": build(model, product=NotPacked),
        "not in place": build(model, layer=NotInPlace),
    }
    texts = [encoding.ids for encoding in encoder.tokenizer.encode(paragraphs(60 * rounds), 256)]

    def mixed(compute: FastBert, batch_tokens: int = 1024, batch_texts: int = 0) -> Callable[[int], object]:
        def do(turn: int) -> None:
            piece = texts[turn::rounds]
            batches = by_length([len(text) for text in piece], batch_tokens)
            if batch_texts:
                numbers = list(range(len(piece)))
                batches = [numbers[start : start + batch_texts] for start in numbers[::batch_texts]]
            for batch in batches:
                compute([piece[number] for number in batch])

        return do

    everybody = {name: mixed(compute) for name, compute in variants.items()}
    everybody["padding, batches of 12 unsorted"] = mixed(variants["with padding and its mask"], batch_texts=12)
    everybody["batches of 256 tokens"] = mixed(variants["all tricks"], 256)
    everybody["batches of 4,096 tokens"] = mixed(variants["all tricks"], 4096)
    measure("60 paragraphs of mixed length", rounds, everybody)

    def single(compute: Callable[[list[list[int]]], object]) -> Callable[[int], object]:
        return lambda turn: [compute([text[:16]]) for text in texts[turn : turn + 5]]

    one = {name: single(compute) for name, compute in variants.items()}
    one["the readable path"] = single(lambda text: model(torch.tensor(text)))
    measure("5 single texts of 16 tokens", 4 * rounds, one)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measure("the same on one thread", 4 * rounds, {"all tricks": one["all tricks"]})
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
