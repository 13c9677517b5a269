"""What does each trick of `fast.py` buy? Each is taken back, one at a time.

    python tests/benchmarks/tricks.py [rounds]

All take turns on the same paragraphs. The ratio is the time without the trick over the time with it: above 1, it pays.
"""

import statistics
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from bench import paragraphs
from torch import Tensor, nn

from minibert import SentenceEncoder, store
from minibert.batches import by_length
from minibert.fast import Buckets, FastBert, FastLayer


class WithPadding(FastBert):
    """All texts of a batch as long as the longest; what is too much is computed as well, and masked."""

    def __call__(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        longest = max(map(len, texts))
        self.mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts]).bool()[
            :, None, None
        ]
        return super().__call__([[*text, *[0] * (longest - len(text))] for text in texts])

    def attention(self, qkv: Tensor, buckets: Buckets) -> Tensor:
        ((count, length),) = buckets
        heads = qkv.view(count, length, 3, -1, self.model.config.head_width).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(*heads, self.mask).transpose(1, 2).reshape(count * length, -1)


class WithMask(FastBert):
    """A mask that hides nothing."""

    def attention(self, qkv: Tensor, buckets: Buckets) -> Tensor:
        runs, contexts = qkv.split([count * length for count, length in buckets]), []
        for run, (count, length) in zip(runs, buckets, strict=True):
            heads = run.view(count, length, 3, -1, self.model.config.head_width).permute(2, 0, 3, 1, 4)
            mask = torch.zeros(count, 1, 1, length)
            contexts.append(F.scaled_dot_product_attention(*heads, mask).transpose(1, 2).reshape(count * length, -1))
        return torch.cat(contexts)


class ThreeProducts(FastBert):
    """Query, key and value each by a product of its own."""

    def layer(self, hidden: Tensor, parts: FastLayer, buckets: Buckets) -> Tensor:
        attention = parts.layer.attention
        three = [part(hidden) for part in (attention.query, attention.key, attention.value)]
        runs, contexts = [part.split([count * length for count, length in buckets]) for part in three], []
        for *run, (count, length) in zip(*runs, buckets, strict=True):
            heads = [part.view(count, length, -1, self.model.config.head_width).transpose(1, 2) for part in run]
            contexts.append(F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(count * length, -1))
        hidden = parts.layer.attention_norm(self.add(hidden, attention.output, torch.cat(contexts)))
        feed_forward = parts.layer.feed_forward
        expanded = self.activate(feed_forward.expand(hidden))
        return parts.layer.feed_forward_norm(self.add(hidden, feed_forward.contract, expanded))


class NotInPlace(FastBert):
    """New memory for each result."""

    def __init__(self, model) -> None:
        super().__init__(model)
        self.activate = F.gelu

    def add(self, hidden: Tensor, linear: nn.Linear, inner: Tensor) -> Tensor:
        return hidden + linear(inner)


def main(rounds: int) -> None:
    encoder = SentenceEncoder.from_pretrained(store.DEFAULT)
    variants = {
        "all tricks": FastBert,
        "with padding": WithPadding,
        "with a mask": WithMask,
        "three products for query, key and value": ThreeProducts,
        "not in place": NotInPlace,
    }
    texts = [encoding.ids for encoding in encoder.tokenizer.encode(paragraphs(100 * rounds), 256)]
    seconds: dict[str, list[float]] = {name: [] for name in [*variants, "batches unsorted", "batches of 4,096 tokens"]}
    with torch.inference_mode():
        models = {name: variant(encoder.model) for name, variant in variants.items()}
        for turn in range(rounds):
            piece = texts[turn::rounds]
            numbers = list(range(len(piece)))
            batches = by_length([len(text) for text in piece])
            work = {name: (model, batches) for name, model in models.items()}
            unsorted = [numbers[start : start + 12] for start in numbers[::12]]
            work["batches unsorted"] = (models["with padding"], unsorted)
            work["batches of 4,096 tokens"] = (models["all tricks"], by_length([len(text) for text in piece], 4096))
            for name, (model, groups) in work.items():
                start = time.perf_counter()
                for batch in groups:
                    model([piece[number] for number in batch])
                seconds[name].append(time.perf_counter() - start)
    print(f"{'':44}{'ratio':>8}   ({rounds} rounds of 100 paragraphs)")
    for name, times in seconds.items():
        ratios = [mine / ours for mine, ours in zip(times, seconds["all tricks"], strict=True)]
        print(f"{name:44}{statistics.median(ratios):8.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
