"""What does `import minibert` add to `import torch`, and to a process's way to its first hidden state?

And how fast do the commands start that need no PyTorch? `minibert list` should take less than 0.3 seconds.

    python tests/benchmarks/import_time.py [rounds]

Each command is a process of its own; they take turns, so a slow moment of the machine falls on all of them. Printed
are medians, their spread, and the ratio to `import torch` as the median of the ratios round by round.
"""

import statistics
import subprocess
import sys
import time

from minibert.checkpoints import store

LOAD = f"model = BertModel.from_pretrained({store.DEFAULT!r}); model(torch.tensor([[101, 7592, 2088, 102]]))"
COMMANDS = {
    "import torch": "import torch",
    "import minibert": "import minibert",
    "minibert --help": "from minibert.cli import main; main(['--help'])",
    "minibert list": "from minibert.cli import main; main(['list'])",
    "minibert, first hidden state": f"import torch; from minibert import BertModel; {LOAD}",
    "transformers, first hidden state": f"import torch; from transformers import BertModel; {LOAD}".replace(
        repr(store.DEFAULT), repr(str(store.resolve(store.DEFAULT)))
    ),
}


def main(rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, code in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if turn:  # the first round warms the disk cache
                seconds[name].append(time.perf_counter() - start)
    base = seconds["import torch"]
    print(f"{'':34}{'median':>8}{'min':>8}{'max':>8}{'ratio':>8}   ({rounds} rounds)")
    for name, times in seconds.items():
        ratio = statistics.median(own / torch for own, torch in zip(times, base, strict=True))
        print(f"{name:34}{statistics.median(times):7.2f}s{min(times):7.2f}s{max(times):7.2f}s{ratio:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
