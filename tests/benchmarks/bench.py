"""How fast is minibert, beside everything that people would use instead?

    python tests/benchmarks/bench.py             ten minutes (make bench)
    python tests/benchmarks/bench.py --quick     two minutes, for a look
    python tests/benchmarks/bench.py --readme    as the first, and writes the table into README.md

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

import numpy as np
import onnxruntime
import sentence_transformers
import torch
import transformers
from torch import Tensor, nn

import minibert
from minibert import BertConfig, BertModel, BertTokenizer, SentenceEncoder, mean_pool
from minibert.checkpoints import layout, store
from minibert.model import eager_attention
from minibert.vectors.batches import by_length

warnings.simplefilter("ignore")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

Encode = Callable[[Sequence[str]], object]
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"  # what --readme writes between


def paragraphs(count: int) -> list[str]:
    """Real paragraphs of public-domain speeches, of mixed length, in one random order."""
    found = []
    for file in sorted(store.resolve("speeches").glob("**/*.txt")):
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


def takers(folder: Path, scratch: Path, quick: bool) -> dict[str, Encode]:
    """Everybody, by name; the first is ours, the second what the ratios are to."""
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    onnx = onnx_model(folder, scratch)
    everybody: dict[str, Encode] = {
        "minibert": SentenceEncoder.from_pretrained(folder).encode,
        "sentence-transformers": lambda texts: theirs.encode(list(texts), convert_to_tensor=True),
        "transformers, sdpa": Padded(folder, "sdpa"),
        "onnxruntime, our batches": Sorted(folder, onnx),
    }
    if not quick:
        everybody["minibert, readable path"] = SentenceEncoder.from_pretrained(folder, fast=False).encode
        everybody["transformers, eager"] = Padded(folder, "eager")
        everybody["onnxruntime, 256 texts unsorted, as fastembed"] = Sorted(folder, onnx, batch_texts=256)
        everybody["torch.compile, our batches"] = Sorted(folder, torch.compile(Graph(folder).eval(), dynamic=True))
    return everybody


def one_at_a_time(everybody: dict[str, Encode]) -> dict[str, Encode]:
    """The same, given texts one by one."""
    return {name: lambda texts, encode=encode: [encode([text]) for text in texts] for name, encode in everybody.items()}


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


def table(rows: Sequence[Row]) -> str:
    """Figure and target side by side, as Markdown."""
    lines = ["| what | figure | target | |", "| --- | --- | --- | --- |"]
    for row in rows:
        met = row.figure >= row.target if row.sign == "≥" else row.figure <= row.target
        target, verdict = (f"{row.sign} {row.target:.2f}", "met" if met else "missed") if row.sign else ("", "")
        lines.append(f"| {row.what} | {row.figure:.2f} | {target} | {verdict} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> float:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return (high - low) / 2


def in_turns(everybody: dict[str, Encode], work: Sequence[Sequence[str]], config: BertConfig, title: str) -> dict:
    """Every piece of work, done by all in turn: seconds, speeds as ratios to the second of them, shares of the peak."""
    tokenizer = BertTokenizer.from_pretrained(store.DEFAULT)
    seconds: dict[str, list[float]] = {name: [] for name in everybody}
    shares: dict[str, list[float]] = {name: [] for name in everybody}
    for encode in everybody.values():
        encode(work[0][:40])  # warm
    for number, piece in enumerate(work):
        needed = needed_flops([len(encoding) for encoding in tokenizer.encode(list(piece), 256)], config)
        peak = peak_flops()
        order = list(everybody.items())
        first = number % len(order)  # in each round another one begins
        for name, encode in order[first:] + order[:first]:
            time.sleep(0.05)  # onnxruntime's threads keep a core busy for a moment after their work
            start = time.perf_counter()
            encode(piece)
            seconds[name].append(time.perf_counter() - start)
            shares[name].append(needed / seconds[name][-1] / peak)
    _, base, *_ = seconds.values()
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
PAIR = ("minibert", "transformers")
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


def processes(codes: dict[str, str], folder: Path, rounds: int, title: str, warm: bool) -> dict:
    """Each piece of code in a process of its own, in turn: seconds and peak memory in MiB."""
    figures: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "peak": []} for name in codes}
    for turn in range(rounds + warm):
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
            if turn >= warm:  # the first round warms the disk cache
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
def texts(count):
    return (f"text {number} of many " + "and more " * (number % 4) for number in range(count))
for vectors in encoder.encode_stream(texts(1000)): pass
START
for vectors in encoder.encode_stream(texts(COUNT)): pass
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two minutes, for a look")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    options = parser.parse_args()
    quick = options.quick
    folder = store.resolve(store.DEFAULT)
    config = BertConfig.from_json_file(folder / "config.json")
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} threads"
    versions = ", ".join(
        f"{package.__name__.replace('_', '-')} {package.__version__}"
        for package in (minibert, torch, transformers, sentence_transformers, onnxruntime)
    )
    print(f"{machine}; {versions}; peak {peak_flops() / 1e9:.0f} GFLOP/s")

    rounds = 2 if quick else 7
    corpus = paragraphs(rounds * (25 if quick else 80))
    mixed = [corpus[number::rounds] for number in range(rounds)]
    single = [[text[:60] for text in corpus[start : start + 5]] for start in range(0, 5 * (6 if quick else 15), 5)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        everybody = takers(folder, Path(scratch), quick)
        all_a = in_turns(everybody, mixed, config, "(a) paragraphs of mixed length")
        ours, onnx = all_a["minibert"], all_a["onnxruntime, our batches"]
        rows += [
            Row("(a) paragraphs of mixed length: speed against sentence-transformers", ours["ratio"], "≥", 2.2),
            Row("(a) against onnxruntime, on the same batches", ours["ratio"] / onnx["ratio"], "≥", 1.15),
            Row("(a) share of the matrix-multiply peak", ours["share"], "≥", 0.85),
        ]
        if not quick:
            short = [[text[:24] for text in piece] for piece in mixed]
            all_b = in_turns(everybody, short, config, "(b) short texts")
            rows.append(Row("(b) short texts: speed against sentence-transformers", all_b["minibert"]["ratio"]))
            words = " ".join(corpus).split()
            full = [[" ".join(words[(turn * 16 + text) * 200 :][:300]) for text in range(16)] for turn in range(4)]
            all_c = in_turns(everybody, full, config, "(c) texts at the limit of 256 tokens")
            rows.append(
                Row(
                    "(c) at the limit of 256 tokens: against sentence-transformers",
                    all_c["minibert"]["ratio"],
                    "≥",
                    1.3,
                )
            )
            del everybody["torch.compile, our batches"]
        all_d = in_turns(one_at_a_time(everybody), single, config, "(d) one short text at a time")
        ours = all_d["minibert"]["ratio"]
        rows += [
            Row("(d) one short text: time against transformers", all_d["transformers, sdpa"]["ratio"] / ours, "≤", 0.5),
            Row("(d) against onnxruntime", all_d["onnxruntime, our batches"]["ratio"] / ours, "≤", 1.1),
        ]
        del everybody
    e = processes(STARTS, folder, 1 if quick else 3, "(e) process start to first vector, and peak memory", not quick)
    start, memory = (
        ratio(e, "seconds", "minibert", "import torch"),
        ratio(e, "peak", "minibert", "sentence-transformers"),
    )
    rows += [
        Row("(e) process start to first vector: time against `import torch`", start, "≤", 1.35),
        Row("(e) peak memory against sentence-transformers", memory, "≤", 0.7),
    ]
    with tempfile.TemporaryDirectory() as base:
        BertModel(BertConfig()).save_pretrained(base)
        f = processes(LOADS, Path(base), 1 if quick else 5, "(f) loading a BERT-base file (440 MB)", True)
        rows += [
            Row("(f) loading BERT-base: time against transformers", ratio(f, "seconds", *PAIR), "≤", 0.5),
            Row("(f) peak memory against transformers", ratio(f, "peak", *PAIR), "≤", 0.7),
        ]
        if not quick:
            for file in layout.TOKENIZER:
                if (folder / file).is_file():
                    (Path(base) / file).write_bytes((folder / file).read_bytes())
            large: dict[str, Encode] = {
                "minibert": SentenceEncoder.from_pretrained(base).encode,
                "transformers, sdpa": Padded(Path(base), "sdpa"),
            }
            large_config = BertConfig.from_json_file(Path(base) / "config.json")
            large_a = in_turns(large, [piece[:32] for piece in mixed[:3]], large_config, "(a) of BERT-base")["minibert"]
            large_d = in_turns(one_at_a_time(large), single[:6], large_config, "(d) of BERT-base")["minibert"]
            rows += [
                Row("(a) of BERT-base: speed against transformers, batches of 32 unsorted", large_a["ratio"]),
                Row("(a) of BERT-base: share of the peak", large_a["share"]),
                Row("(d) of BERT-base: time against transformers", 1 / large_d["ratio"]),
            ]
    counts = (1_000, 5_000) if quick else (1_000, 200_000)
    few, many = (f"{count:,} texts" for count in counts)
    growth = {f"{count:,} texts": GROWTH.replace("COUNT", str(count)) for count in counts}
    g = processes(growth, folder, 1, "(g) growth, on the first layer alone", False)
    per_text = ratio(g, "seconds", many, few) * counts[0] / counts[1]
    rows += [
        Row(f"(g) {many}: time per text against {few}", per_text, "≤", 1.05),
        Row("(g) peak memory against the same", ratio(g, "peak", many, few), "≤", 1.05),
    ]
    text = table(rows) + f"\n\n{machine}; {versions}.\n"
    print(f"\n{text}")
    if options.readme:
        readme = Path(__file__).parents[2] / "README.md"
        before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        readme.write_text(f"{before}{BEGIN}\n{text}{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
