"""How fast are the instruments of `minibert.interpret`, beside the plain loop and beside TransformerLens's bridge?

    python tests/benchmarks/instruments.py [rounds]

Each piece of work is a function that returns its contestants by name; to add one, write such a function and put it into
WORK. The first contestant is ours, and before anything is timed the results of all are compared with its results,
so that nobody is quick at something else. All take turns; a figure is the median over the rounds of the other's time
divided by ours in the same round, ± half of the span between the quartiles.
"""

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import Tensor

from minibert import BertModel, BertTokenizer
from minibert.checkpoints import store
from minibert.interpret import decompose, patch
from minibert.trace.recording import edit, record

try:
    from transformer_lens.model_bridge import TransformerBridge
except ImportError:  # it is not among the packages that the tests need
    TransformerBridge = None

Contestants = dict[str, Callable[[], Tensor]]

CLEAN = (  # 30 tokens, and another word in the place of one of them
    "The old farmer drove his cart along the muddy river road to the market, where he sold apples, eggs and "
    "bread until the evening came."
)
CORRUPTED = CLEAN.replace("farmer", "doctor")
TOLERANCE = 1e-4  # between the results, relative to the largest


class Work(NamedTuple):
    """A model, and a clean and a corrupted text."""

    folder: str
    model: BertModel
    clean: Any
    corrupted: Any


def metric(out: Any) -> Tensor:
    """The mean of the last hidden states, in a direction that is not special: (B, S, D) → (B,)."""
    last = out.last_hidden_state
    return last.mean(dim=1) @ torch.linspace(-1, 1, last.shape[-1])


# --- work ------------------------------------------------------------------------------------------------------------


def patch_sweep(work: Work) -> Contestants:
    """Every layer's output patched at every position, (L, S)."""
    contestants: Contestants = {
        "patch": lambda: patch(work.model, work.clean, work.corrupted, metric).values,
        "a loop with record and edit": lambda: patch_loop(work),
    }
    if TransformerBridge is not None:
        bridge = bridge_of(work.folder)
        contestants["a loop with TransformerLens, and the head that it computes"] = lambda: bridge_loop(bridge, work)
    return contestants


def patch_heads(work: Work) -> Contestants:
    """Every head's context patched, (L, H)."""
    return {
        "patch": lambda: patch(work.model, work.clean, work.corrupted, metric, at="head").values,
        "a loop with record and edit": lambda: head_loop(work),
    }


def decompose_by_head(work: Work) -> Contestants:
    """The last hidden states as a sum of heads; beside it the forward pass alone, the least that it could take."""
    return {
        "decompose": lambda: decompose(work.model, work.clean, by="head").values.sum(dim=0),
        "the forward pass alone": lambda: work.model(**work.clean).last_hidden_state,
    }


WORK: list[Callable[[Work], Contestants]] = [patch_sweep, patch_heads, decompose_by_head]


# --- the loops that one would write ---------------------------------------------------------------------------------


def patch_loop(work: Work) -> Tensor:
    names = [f"hidden_states[{layer + 1}]" for layer in range(len(work.model.encoder.layers))]
    with record(work.model, names) as source:
        work.model(**work.clean)
    before = metric(work.model(**work.corrupted))
    effects = torch.zeros(len(names), work.clean["input_ids"].shape[1])
    for layer, name in enumerate(names):
        put = source[name]
        for position in range(effects.shape[1]):
            with edit(work.model, name, lambda _, put=put: put, positions=position):
                effects[layer, position] = metric(work.model(**work.corrupted)) - before
    return effects


def head_loop(work: Work) -> Tensor:
    names = [f"encoder.layers.{layer}.attention.context" for layer in range(len(work.model.encoder.layers))]
    with record(work.model, names) as source:
        work.model(**work.clean)
    before = metric(work.model(**work.corrupted))
    effects = torch.zeros(len(names), work.model.config.num_attention_heads)
    for layer, name in enumerate(names):
        for head in range(effects.shape[1]):
            with edit(work.model, name, lambda _, name=name: source[name], heads=head):
                effects[layer, head] = metric(work.model(**work.corrupted)) - before
    return effects


def bridge_of(folder: str) -> Any:
    """The same checkpoint in TransformerLens, which puts a head of random weights on it.

    Its logits are not used, but each of its runs computes them: part of its time.
    """
    model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    return TransformerBridge.boot_transformers(folder, hf_model=model)


def bridge_loop(bridge: Any, work: Work) -> Tensor:
    layers, tokens = len(work.model.encoder.layers), work.clean["input_ids"].shape[1]
    names = [f"blocks.{layer}.hook_out" for layer in range(layers)]
    last: list[Tensor] = []

    def keep(value: Tensor, hook: Any) -> None:
        last.append(value)

    def run(put: list[Any]) -> Tensor:
        bridge.run_with_hooks(work.corrupted["input_ids"], fwd_hooks=[*put, (names[-1], keep)])
        return last.pop().mean(dim=1) @ torch.linspace(-1, 1, work.model.config.hidden_size)

    _, source = bridge.run_with_cache(work.clean["input_ids"], names_filter=lambda name: name in names)
    before = run([])
    effects = torch.zeros(layers, tokens)
    for layer, name in enumerate(names):
        for position in range(tokens):

            def put(value: Tensor, hook: Any, name: str = name, position: int = position) -> Tensor:
                value = value.clone()
                value[:, position] = source[name][:, position]
                return value

            effects[layer, position] = run([(name, put)]) - before
    return effects


# --- who is faster ---------------------------------------------------------------------------------------------------


def compare(title: str, contestants: Contestants, rounds: int) -> None:
    """Prints how long each takes, beside the first."""
    names = list(contestants)
    expected = contestants[names[0]]()  # the first call of each is not timed
    for name in names[1:]:
        off = (contestants[name]() - expected).abs().max() / expected.abs().max()
        if not off <= TOLERANCE:
            raise SystemExit(f"{title}: {name} is off by {off:.1e}, and was not timed")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    ours = seconds[names[0]]
    print(f"{title}\n    {statistics.median(ours) * 1000:8.1f} ms  {names[0]}")
    for name in names[1:]:
        ratios = [theirs / our for theirs, our in zip(seconds[name], ours, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"    {middle:8.2f} ×   {name} (± {(high - low) / 2:.2f})")


@torch.no_grad()
def main(rounds: int) -> None:
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    folder = store.resolve(store.DEFAULT)
    model, tokenizer = BertModel.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
    clean, corrupted = tokenizer(CLEAN), tokenizer(CORRUPTED)
    tokens = clean["input_ids"].shape[1]
    print(f"{tokens} tokens, {len(model.encoder.layers)} layers, {torch.get_num_threads()} threads, {rounds} rounds")
    for work in WORK:
        compare((work.__doc__ or "").strip(), work(Work(str(folder), model, clean, corrupted)), rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
