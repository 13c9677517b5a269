"""What does a survey cost, beside encoding the same sentences, and does its memory grow with the corpus?

    python tests/benchmarks/survey.py                    speed on 10,000 sentences, memory on up to 100,000
    python tests/benchmarks/survey.py --sentences 500    for a look; memory on up to ten times as many

Both take turns on windows of the same sentences, so a slow moment of the machine falls on both. The speed is the median
over the windows of the ratio. Memory is what the process holds at its peak, measured in a process for each corpus.
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from minibert import BertModel, BertTokenizer, SentenceEncoder
from minibert.checkpoints import store
from minibert.interpret.counts import OF_HEADS
from minibert.interpret.surveys import survey

WINDOW = 500  # sentences in a turn


def sentences(count: int) -> list[str]:
    """Real sentences of public-domain speeches, in one random order; the order begins again where they end."""
    found = []
    for file in sorted(store.resolve("speeches").glob("**/*.txt")):
        text = " ".join(file.read_text(encoding="utf-8").split())
        found += [f"{part}." for part in text.split(". ") if part.strip(" .")]
    random.Random(0).shuffle(found)
    return [found[number % len(found)] for number in range(count)]


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def speed(count: int) -> None:
    """Prints how fast a survey is, as a share of the speed of encoding the same sentences."""
    encoder = SentenceEncoder.from_pretrained(store.DEFAULT)
    model, tokenizer = BertModel.from_pretrained(store.DEFAULT), BertTokenizer.from_pretrained(store.DEFAULT)
    kinds: dict[str, tuple[str, ...]] = {"heads": tuple(OF_HEADS), "neurons": ("neurons",)}
    shares: dict[str, list[float]] = {name: [] for name in kinds}
    corpus = sentences(count)
    for begin in range(0, count, WINDOW):
        window = corpus[begin : begin + WINDOW]
        encoding = seconds(lambda window=window: encoder.encode(window))
        for name, chosen in kinds.items():
            counting = seconds(lambda window=window, chosen=chosen: survey(model, tokenizer, window, chosen))
            shares[name].append(encoding / counting)
    for name, values in shares.items():
        print(f"survey of {name}: {statistics.median(values):.2f} × the speed of encoding {count:,} sentences")


def memory(count: int) -> None:
    """Prints the peak memory after surveys of corpora that grow; the last is a hundred times as long as the first."""
    for texts in (count // 10, count, count * 10):
        command = [sys.executable, __file__, "--peak-of", str(texts)]
        print(f"peak memory of {texts:,} texts: {subprocess.check_output(command, text=True).strip()} MB")


def print_peak(count: int) -> None:
    """Prints the peak memory of this process, in MB, after a survey of short texts from a generator."""
    model, tokenizer = BertModel.from_pretrained(store.DEFAULT), BertTokenizer.from_pretrained(store.DEFAULT)
    draw = random.Random(0)

    def texts() -> Iterator[str]:
        for _ in range(count):
            yield " ".join(draw.choices(["a", "fly", "drank", "my", "soup"], k=6))

    survey(model, tokenizer, texts(), [*OF_HEADS, "neurons"], names="last_hidden_state", covariance=True)
    print(peak_memory())


def peak_memory() -> int:
    """The peak memory of this program, in MB.

    On Linux from /proc: `ru_maxrss` of a process that was just started is that of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) // 1024
    unit = 1 if sys.platform == "darwin" else 1024  # in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options.peak_of)
    else:
        speed(options.sentences)
        memory(options.sentences)
