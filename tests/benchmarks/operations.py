"""Where does the time of the fast path go? The share of each operation, as PyTorch's profiler sees it.

python tests/benchmarks/operations.py
"""

from collections.abc import Sequence

import torch
from bench import needed_flops, paragraphs, peak_flops
from torch.profiler import ProfilerActivity, profile

from minibert import SentenceEncoder
from minibert.checkpoints import store
from minibert.fast import last_hidden_states
from minibert.model import BertModel
from minibert.vectors.batches import by_length

NAMES = {
    "matrix products": ("addmm", "mm", "linear_pointwise"),
    "attention": ("scaled_dot_product",),
    "GELU": ("gelu",),
    "LayerNorm": ("layer_norm",),
    "residual sums": ("add_",),
    "copies": ("copy_", "cat"),
}


@torch.inference_mode()
def shares(title: str, model: BertModel, batches: list[list[Sequence[int]]]) -> None:
    for batch in batches[:20]:
        last_hidden_states(model, batch)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for batch in batches:
            last_hidden_states(model, batch)
    events = profiler.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    needed = needed_flops([len(text) for batch in batches for text in batch], model.config)
    peak = peak_flops()
    print(f"\n{title}: {needed / peak / whole * 1e6:.0%} of the peak of {peak / 1e9:.0f} GFLOP/s")
    left = 1.0
    for name, parts in NAMES.items():
        share = sum(e.self_cpu_time_total for e in events if any(part in e.key for part in parts)) / whole
        left -= share
        print(f"  {name:20}{share:6.1%}")
    print(f"  {'all else':20}{left:6.1%}")


def main() -> None:
    encoder = SentenceEncoder.from_pretrained(store.DEFAULT)
    model = encoder.model
    texts = [encoding.ids for encoding in encoder.tokenizer.encode(paragraphs(300), 256)]
    mixed = [[texts[number] for number in batch] for batch in by_length([len(text) for text in texts])]
    shares("paragraphs of mixed length", model, mixed)
    shares("at the length limit", model, [[(texts[n] * 256)[:256] for n in range(4)]] * 20)
    shares("single texts of 16 tokens", model, [[(text * 16)[:16]] for text in texts])


if __name__ == "__main__":
    main()
