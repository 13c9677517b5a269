"""How fast is minibert, beside everything that people would use instead?

    python tests/benchmarks/bench.py [--quick]        (make bench)

All take turns: in each round every one of them does the same piece of work, so a slow moment of the machine falls on
all. A figure is the median over the rounds of the ratio in that round; ± is half of the span between the quartiles.
The matrix-multiply peak is measured in each round as well. "Share of peak" counts the floating-point operations that
the real tokens need, and none for padding.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import onnxruntime
import real_data
import sentence_transformers
import torch
import transformers
from torch import Tensor, nn

import minibert
from minibert import BertConfig, BertModel, BertTokenizer, SentenceEncoder, mean_pool, store
from minibert.batches import by_length
from minibert.model import eager_attention

warnings.simplefilter("ignore")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

Encode = Callable[[Sequence[str]], object]


def paragraphs(count: int) -> list[str]:
    """Real paragraphs of public-domain speeches, of mixed length, in one random order."""
    found = []
    for file in sorted(real_data.folder("speeches").glob("**/*.txt")):
        found += [" ".join(part.split()) for part in file.read_text(encoding="utf-8").split("\n\n") if part.strip()]
    random.Random(0).shuffle(found)
    return found[:count]


# --- those who take part -------------------------------------------------------------------------------------------


class Padded:
    """`transformers` as its documentation has it: batches of 32 in the order given, padded, masked mean."""

    def __init__(self, folder: Path, attention: str) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.BertModel.from_pretrained(folder, attn_implementation=attention).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        found = []
        for start in range(0, len(texts), 32):
            batch = list(texts[start : start + 32])
            inputs = self.tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
            found.append(mean_pool(self.model(**inputs).last_hidden_state, inputs["attention_mask"]))
        return nn.functional.normalize(torch.cat(found))


class Sorted:
    """Another model behind our tokenizer and our batches: texts sorted by length, about 1,024 tokens at a time."""

    def __init__(self, folder: Path, model: Callable[[Tensor, Tensor], Tensor], batch_texts: int = 0) -> None:
        self.tokenizer = BertTokenizer.from_pretrained(folder)
        self.model = model
        self.batch_texts = batch_texts  # instead: so many texts at a time, in the order given

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        encodings = self.tokenizer.encode(list(texts), 256)
        batches = by_length([len(encoding) for encoding in encodings])
        if self.batch_texts:
            numbers = list(range(len(texts)))
            batches = [numbers[start : start + self.batch_texts] for start in numbers[:: self.batch_texts]]
        vectors = torch.empty(len(texts), 384)
        for batch in batches:
            inputs = self.tokenizer.pad([encodings[number] for number in batch])
            hidden = self.model(inputs["input_ids"], inputs["attention_mask"])
            vectors[batch] = mean_pool(hidden, inputs["attention_mask"])
        return nn.functional.normalize(vectors)


class Graph(nn.Module):
    """The network as one graph of tensors, without a look at the mask's content: for exporters and compilers."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model = BertModel.from_pretrained(folder)
        for parameter in self.model.parameters():
            parameter.data = parameter.data.clone()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = attention_mask[:, None, None, :] == 0
        mask = torch.zeros_like(hidden, dtype=torch.float32).masked_fill(hidden, torch.finfo(torch.float32).min)
        return self.model.encoder(self.model.embeddings(input_ids), mask, eager_attention)[0]


def onnx_model(folder: Path, scratch: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """The graph in onnxruntime: float32, fused by its optimiser for transformers, all its own optimisations on."""
    from onnxruntime.transformers import optimizer

    inputs = torch.randint(1000, (2, 8))
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=512)
    names = ["input_ids", "attention_mask"]
    exported = torch.onnx.export(
        Graph(folder).eval(),
        (inputs, torch.ones_like(inputs)),
        dynamo=True,
        dynamic_shapes=[{0: batch, 1: sequence}] * 2,
        input_names=names,
        verbose=False,
    )
    exported.save(scratch / "model.onnx")
    optimised = optimizer.optimize_model(
        str(scratch / "model.onnx"), model_type="bert", num_heads=12, hidden_size=384, opt_level=0
    )
    optimised.save_model_to_file(str(scratch / "optimised.onnx"))
    session = onnxruntime.InferenceSession(str(scratch / "optimised.onnx"), providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, dict(zip(names, map(np.asarray, tensors), strict=True)))[0])

    return run


def takers(folder: Path, scratch: Path, compiled: bool) -> dict[str, Encode]:
    """Everybody, by name; the first is ours, the second what the ratios are to."""
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    onnx = onnx_model(folder, scratch)
    everybody: dict[str, Encode] = {
        "minibert": SentenceEncoder.from_pretrained(folder, fast=True).encode,
        "sentence-transformers": lambda texts: theirs.encode(list(texts), convert_to_tensor=True),
        "minibert, readable path": SentenceEncoder.from_pretrained(folder).encode,
        "transformers, sdpa": Padded(folder, "sdpa"),
        "transformers, eager": Padded(folder, "eager"),
        "onnxruntime, our batches": Sorted(folder, onnx),
        "onnxruntime, 256 texts unsorted, as fastembed": Sorted(folder, onnx, batch_texts=256),
    }
    if compiled:
        everybody["torch.compile, our batches"] = Sorted(folder, torch.compile(Graph(folder).eval(), dynamic=True))
    return everybody


# --- measuring -----------------------------------------------------------------------------------------------------


def peak_flops() -> float:
    """Floating-point operations per second of a large matrix product, the best of some."""
    a, times = torch.randn(2048, 2048), []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


def needed_flops(lengths: Sequence[int], config: BertConfig) -> float:
    """What the real tokens need: the matrices of each layer, and scores and weighted sums of attention."""
    d, f, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    return sum(layers * length * (2 * (4 * d * d + 2 * d * f) + 4 * length * d) for length in lengths)


class Row(NamedTuple):
    """A line of the table."""

    what: str
    figure: float
    sign: str = ""
    target: float = 0.0


def spread(values: Sequence[float]) -> float:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return (high - low) / 2


def in_turns(everybody: dict[str, Encode], work: Sequence[Sequence[str]], config: BertConfig, title: str) -> dict:
    """Every piece of work, done by all in turn: seconds, ratios to the second of them, shares of the peak."""
    tokenizer = BertTokenizer.from_pretrained(store.DEFAULT)
    seconds: dict[str, list[float]] = {name: [] for name in everybody}
    shares: dict[str, list[float]] = {name: [] for name in everybody}
    for encode in everybody.values():
        encode(work[0][:40])  # warm
    for piece in work:
        needed = needed_flops([len(encoding) for encoding in tokenizer.encode(list(piece), 256)], config)
        peak = peak_flops()
        for name, encode in everybody.items():
            time.sleep(0.05)  # onnxruntime's threads keep a core busy for a moment after their work
            start = time.perf_counter()
            encode(piece)
            seconds[name].append(time.perf_counter() - start)
            shares[name].append(needed / seconds[name][-1] / peak)
    base = seconds["sentence-transformers"]
    found = {}
    print(f"\n{title}: {len(work)} rounds of {len(work[0])} texts")
    print(f"  {'':48}{'time':>10}{'speed':>9}{'±':>6}{'of peak':>9}")
    for name, times in seconds.items():
        ratios = [theirs / mine for mine, theirs in zip(times, base, strict=True)]
        found[name] = {
            "seconds": statistics.median(times),
            "ratio": statistics.median(ratios),
            "share": statistics.median(shares[name]),
        }
        figures = found[name]
        time_of_one = figures["seconds"] / len(work[0]) * 1000
        print(f"  {name:48}{time_of_one:7.2f} ms{figures['ratio']:8.2f}×{spread(ratios):6.2f}{figures['share']:8.0%}")
    return found


STARTS = {
    "import torch": "import torch",
    "minibert": "from minibert import SentenceEncoder; SentenceEncoder.from_pretrained(FOLDER).encode('a fly')",
    "transformers": (
        "from transformers import AutoModel, AutoTokenizer; t = AutoTokenizer.from_pretrained(FOLDER); "
        "AutoModel.from_pretrained(FOLDER)(**t('a fly', return_tensors='pt'))"
    ),
    "sentence-transformers": (
        "from sentence_transformers import SentenceTransformer; "
        "SentenceTransformer(FOLDER, device='cpu').encode('a fly')"
    ),
}
LOADS = {
    "minibert": "from minibert import BertModel; START; BertModel.from_pretrained(FOLDER)",
    "transformers": "from transformers import BertModel; START; BertModel.from_pretrained(FOLDER)",
}
PROCESS = """
import json, re, time
def clock(): global start; start = time.perf_counter()
clock()
CODE
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps(dict(seconds=seconds, peak=peak)))
"""


def processes(codes: dict[str, str], folder: Path, rounds: int, title: str) -> dict:
    """Each piece of code in a process of its own, in turn: seconds and peak memory in MiB."""
    figures: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "peak": []} for name in codes}
    for turn in range(rounds + 1):
        for name, code in codes.items():
            code = PROCESS.replace("CODE", code).replace("FOLDER", repr(str(folder))).replace("START", "clock()")
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
            )
            whole = time.perf_counter() - start
            measured = json.loads(done.stdout.splitlines()[-1])
            if codes is STARTS:
                measured["seconds"] = whole  # the start of the process counts
            if turn:  # the first round warms the disk cache
                for key, values in figures[name].items():
                    values.append(measured[key])
    print(f"\n{title}: {rounds} rounds")
    for name, values in figures.items():
        seconds, peak = statistics.median(values["seconds"]), statistics.median(values["peak"])
        print(f"  {name:48}{seconds:7.2f} s  {peak:7.0f} MiB")
    return figures


def ratio(figures: dict, key: str, one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(figures[one][key], figures[other][key], strict=True))


GROWTH = """
from minibert import SentenceEncoder
encoder = SentenceEncoder.from_pretrained(FOLDER, layer=1)
texts = (f"text {number} of many " + "and more " * (number % 9) for number in range(COUNT))
encoder.encode("a fly"); clock()
for vectors in encoder.encode_stream(texts): pass
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four minutes, for a look")
    quick = parser.parse_args().quick
    folder = store.resolve(store.DEFAULT)
    config = BertConfig.from_json_file(folder / "config.json")
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} threads"
    versions = ", ".join(
        f"{package.__name__.replace('_', '-')} {package.__version__}"
        for package in (minibert, torch, transformers, sentence_transformers, onnxruntime)
    )
    print(f"{machine}; {versions}; peak {peak_flops() / 1e9:.0f} GFLOP/s")

    rounds = 3 if quick else 5
    corpus = paragraphs(rounds * (40 if quick else 200))
    mixed = [corpus[number::rounds] for number in range(rounds)]
    short = [[text[:24] for text in piece] for piece in mixed]
    whole = " ".join(corpus)
    full = [[whole[start : start + 2400] for start in range(turn * 1000, 40_000, 10_000)] for turn in range(rounds)]
    single = [[text[:60]] for text in corpus[: 20 if quick else 60]]
    with tempfile.TemporaryDirectory() as scratch:
        everybody = takers(folder, Path(scratch), compiled=not quick)
        a = in_turns(everybody, mixed, config, "(a) paragraphs of mixed length")
        b = in_turns(everybody, short, config, "(b) short texts")
        c = in_turns(everybody, full, config, "(c) texts at the limit of 256 tokens")
        everybody.pop("torch.compile, our batches", None)
        d = in_turns(everybody, single, config, "(d) one short text at a time")
        del everybody
    e = processes(STARTS, folder, 2 if quick else 5, "(e) process start to first vector, and peak memory")
    with tempfile.TemporaryDirectory() as base:
        BertModel(BertConfig()).save_pretrained(base)
        f = processes(LOADS, Path(base), 2 if quick else 5, "(f) loading a BERT-base file (440 MB)")
        if not quick:
            for file in store.TOKENIZER_FILES:
                if (folder / file).is_file():
                    (Path(base) / file).write_bytes((folder / file).read_bytes())
            large = {
                "minibert": SentenceEncoder.from_pretrained(base, fast=True).encode,
                "sentence-transformers": Padded(Path(base), "sdpa"),
            }
            large_config = BertConfig.from_json_file(Path(base) / "config.json")
            in_turns(large, [piece[:24] for piece in mixed[:3]], large_config, "(a) of BERT-base, beside transformers")
            in_turns(large, single[:20], large_config, "(d) of BERT-base, beside transformers")
    counts = (1_000, 20_000) if quick else (1_000, 50_000, 200_000)
    growth = {f"{count:,} texts": GROWTH.replace("COUNT", str(count)) for count in counts}
    g = processes(growth, folder, 1 if quick else 3, "(g) growth, on the first layer alone")
    few, many = f"{counts[0]:,} texts", f"{counts[-1]:,} texts"

    ours, onnx, one = a["minibert"], a["onnxruntime, our batches"], d["minibert"]
    rows = [
        Row("(a) mixed paragraphs, speed against sentence-transformers", ours["ratio"], "≥", 2.2),
        Row("(a) the same, against onnxruntime on the same batches", ours["ratio"] / onnx["ratio"], "≥", 1.15),
        Row("(a) share of the matrix-multiply peak", ours["share"], "≥", 0.85),
        Row("(b) short texts, speed against sentence-transformers", b["minibert"]["ratio"]),
        Row("(c) at the length limit, speed against sentence-transformers", c["minibert"]["ratio"], "≥", 1.3),
        Row("(d) one short text, time against transformers", d["transformers, sdpa"]["ratio"] / one["ratio"], "≤", 0.5),
        Row("(d) the same, against onnxruntime", d["onnxruntime, our batches"]["ratio"] / one["ratio"], "≤", 1.1),
        Row(
            "(e) start to first vector, time against `import torch`",
            ratio(e, "seconds", "minibert", "import torch"),
            "≤",
            1.35,
        ),
        Row(
            "(e) peak memory against sentence-transformers",
            ratio(e, "peak", "minibert", "sentence-transformers"),
            "≤",
            0.7,
        ),
        Row(
            "(f) loading BERT-base, time against transformers",
            ratio(f, "seconds", "minibert", "transformers"),
            "≤",
            0.5,
        ),
        Row("(f) peak memory against transformers", ratio(f, "peak", "minibert", "transformers"), "≤", 0.7),
        Row(
            f"(g) time per text, {many} against {few}",
            ratio(g, "seconds", many, few) * counts[0] / counts[-1],
            "≤",
            1.05,
        ),
        Row(f"(g) peak memory, {many} against {few}", ratio(g, "peak", many, few), "≤", 1.05),
    ]
    table = ["| what | figure | target |", "| --- | --- | --- |"]
    for row in rows:
        target = f"{row.sign} {row.target:.2f}" if row.sign else ""
        met = not row.sign or (row.figure >= row.target if row.sign == "≥" else row.figure <= row.target)
        table.append(f"| {row.what} | {row.figure:.2f} | {target}{'' if met else ' (missed)'} |")
    text = "\n".join([*table, "", f"{machine}; {versions}."])
    print(f"\n{text}")


if __name__ == "__main__":
    main()
