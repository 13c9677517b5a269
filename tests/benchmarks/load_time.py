"""How long does it take to load a BERT-base file, and how much memory, here and in transformers?

    python tests/benchmarks/load_time.py [rounds]

A BERT-base checkpoint of random weights (440 MB) is written once to a temporary folder. Each load is a process of its
own; they take turns. It reports the seconds of `from_pretrained` alone, without imports, and the peak memory of the
process, as Linux counts it: after the imports, after loading, and after one forward pass. Printed are medians, and the
medians of the ratios round by round.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from minibert import BertConfig, BertModel

CODE = """
import json, re, sys, time
import torch
from {package} import BertModel

def peak():  # MiB; what getrusage says would start from the memory of the parent process
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024

imported = peak()
start = time.perf_counter()
model = BertModel.from_pretrained(sys.argv[1])
seconds = time.perf_counter() - start
loaded = peak()
with torch.no_grad():
    model(torch.randint(1000, (1, 16)))
used = peak()
print(json.dumps(dict(seconds=seconds, imported=imported, loaded=loaded, used=used)))
"""


def measure(package: str, folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(package=package), str(folder)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        BertModel(BertConfig()).save_pretrained(folder)
        figures: dict[str, list[dict[str, float]]] = {"minibert": [], "transformers": []}
        for turn in range(rounds + 1):
            for package, found in figures.items():
                measured = measure(package, folder)
                if turn:  # the first round warms the disk cache
                    found.append(measured)
    print(
        f"BERT-base, 440 MB of float32; torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds"
    )
    print(f"{'':34}{'minibert':>12}{'transformers':>14}{'ratio':>8}")
    for key, title, unit in (
        ("seconds", "from_pretrained", "s"),
        ("imported", "peak memory after the imports", "MiB"),
        ("loaded", "peak memory after loading", "MiB"),
        ("used", "peak memory after a forward pass", "MiB"),
    ):
        ours, theirs = ([each[key] for each in found] for found in figures.values())
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        values = [f"{statistics.median(each):.2f} {unit}" for each in (ours, theirs)]
        print(f"{title:34}{values[0]:>12}{values[1]:>14}{ratio:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
