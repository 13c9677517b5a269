"""How much does each trick of `fast.py` save? They are removed one at a time.

    python tests/benchmarks/tricks.py [rounds]

All variants take turns at the same work. A figure is the time without the trick divided by the time with it.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch
import torch.nn.functional as F
from bench import paragraphs
from torch import Tensor, nn

from minibert import SentenceEncoder, fast
from minibert.checkpoints import store
from minibert.fast import Buckets, last_hidden_states
from minibert.model import Attention, BertModel, EncoderLayer, sdpa_attention
from minibert.vectors.batches import by_length

Compute = Callable[[BertModel, Sequence[Sequence[int]]], object]


def without(**functions: Callable[..., object]) -> Compute:
    """The fast path with some of its functions replaced by those that do without a trick."""

    def compute(model: BertModel, texts: Sequence[Sequence[int]]) -> object:
        with patch.multiple(fast, **functions):
            return last_hidden_states(model, texts)

    return compute


def attend_with_mask(attention: Attention, hidden: Tensor, buckets: Buckets, mask: Tensor | None = None) -> Tensor:
    """As `fast.attend`, with a mask: (N, D) → (N, D)."""
    contexts = torch.zeros_like(hidden)
    projected = [fast.linear(part, hidden) for part in (attention.query, attention.key, attention.value)]
    start = 0
    for count, length in buckets:
        end = start + count * length
        heads = [attention.split_heads(part[start:end].view(count, length, -1)) for part in projected]
        visible = torch.zeros(count, 1, 1, length) if mask is None else mask
        context = sdpa_attention(*heads, visible)[0]
        contexts[start:end] = attention.merge_heads(context).flatten(0, 1)
        start = end
    return fast.linear(attention.output, contexts)


def with_padding(model: BertModel, texts: Sequence[Sequence[int]]) -> object:
    """All texts of a batch padded to the longest; padding is computed too, and masked."""
    longest = max(map(len, texts))
    hidden = [[0.0] * len(text) + [1.0] * (longest - len(text)) for text in texts]
    mask = torch.tensor(hidden)[:, None, None]
    compute = without(attend=lambda *inputs: attend_with_mask(*inputs, mask))
    return compute(model, [[*text, *[0] * (longest - len(text))] for text in texts])


def layer_not_in_place(layer: EncoderLayer, hidden: Tensor, buckets: Buckets) -> Tensor:
    """New memory for each sum and each GELU."""
    hidden = layer.attention_norm(hidden + fast.attend(layer.attention, hidden, buckets))
    expanded = F.gelu(fast.linear(layer.feed_forward.expand, hidden))
    return layer.feed_forward_norm(hidden + fast.linear(layer.feed_forward.contract, expanded))


def linear_by_mkl(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


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
    variants: dict[str, Compute] = {
        "all tricks": last_hidden_states,
        "with padding and its mask": with_padding,
        "with a mask that masks nothing": without(attend=attend_with_mask),
        "MKL's products": without(linear=linear_by_mkl),
        "not in place": without(encode_layer=layer_not_in_place),
    }
    texts = [encoding.ids for encoding in encoder.tokenizer.encode(paragraphs(60 * rounds), 256)]

    def mixed(compute: Compute, batch_tokens: int = 1024, batch_texts: int = 0) -> Callable[[int], object]:
        def do(turn: int) -> None:
            piece = texts[turn::rounds]
            batches = by_length([len(text) for text in piece], batch_tokens)
            if batch_texts:
                numbers = list(range(len(piece)))
                batches = [numbers[start : start + batch_texts] for start in numbers[::batch_texts]]
            for batch in batches:
                compute(model, [piece[number] for number in batch])

        return do

    everybody = {name: mixed(compute) for name, compute in variants.items()}
    everybody["padding, batches of 12 unsorted"] = mixed(with_padding, batch_texts=12)
    everybody["batches of 256 tokens"] = mixed(last_hidden_states, 256)
    everybody["batches of 4,096 tokens"] = mixed(last_hidden_states, 4096)
    measure("60 paragraphs of mixed length", rounds, everybody)

    def single(compute: Compute) -> Callable[[int], object]:
        return lambda turn: [compute(model, [text[:16]]) for text in texts[turn : turn + 5]]

    one = {name: single(compute) for name, compute in variants.items()}
    one["the readable path"] = single(lambda model, texts: model(torch.tensor(texts)))
    one["only asking whether the fast path applies"] = single(lambda model, texts: fast.applies_to(model))
    measure("5 single texts of 16 tokens", 4 * rounds, one)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measure("the same on one thread", 4 * rounds, {"all tricks": one["all tricks"]})
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
