"""How many tokens a second does training take in, here and with the Trainer of transformers?

    python tests/benchmarks/training.py [rounds] [--task pretraining|finetuning] [--steps 12] [--precision bfloat16]
    python tests/benchmarks/training.py --memory      # of 2,000 steps, whether it stays flat

Both train the default checkpoint with a masked-language-model head on the same inputs of 32 × 128 tokens with the same
tokens hidden, in the same precision, with AdamW, clipping and the same schedule. The Trainer gets its batches ready-
made and computes logits at every position, as its model does; here the time includes hiding the tokens. Each run is a
process of its own; they take turns. For fine-tuning, a classifier of single lines, both put texts of similar length
together, the Trainer with `group_by_length`; only tokens that are not padding count. Printed are medians of tokens a
second, leaving out the first steps, in which kernels are chosen; the medians of the ratios round by round; the peak
memory of each process; and the share of the peak that matrix products of a BERT's shapes reach.
"""

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

WARM_UP = 4  # steps that are not counted
SHAPES = {"batch_size": 32, "length": 128}


def task_and_model(folder: Path, kind: str) -> tuple[Any, Any]:
    """Our task, and the model of either side, from the default checkpoint."""
    import transformers

    from minibert import BertForMaskedLM, BertTokenizer
    from minibert.checkpoints import store
    from minibert.training import Corpus
    from minibert.training.pretraining import Pretraining

    tokenizer = BertTokenizer.from_pretrained(store.DEFAULT)
    warnings.simplefilter("ignore")  # that the head is new, on both sides
    transformers.utils.logging.set_verbosity_error()
    source = store.resolve(store.DEFAULT)
    torch.manual_seed(0)
    model = (BertForMaskedLM if kind == "minibert" else transformers.BertForMaskedLM).from_pretrained(source)
    text = folder / "text.txt"
    corpus, held_out = Corpus.open(text, tokenizer).split(0.02)
    ours = model if kind == "minibert" else BertForMaskedLM.from_pretrained(source)
    task = Pretraining(
        ours,
        tokenizer,
        corpus,
        held_out,
        packing="contiguous",
        probability=0.15,
        max_predictions=None,
        whole_words=False,
        held_out_inputs=8,
        seed=0,
        **SHAPES,
    )
    return task, model


def lines(folder: Path, number: int) -> list[dict[str, Any]]:
    """Lines of different lengths, each with one of two labels."""
    texts = [line for line in (folder / "text.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
    words = [" ".join(text.split()[:60]) for text in dict.fromkeys(texts)]
    words = list(dict.fromkeys(words))[:number]
    return [{"text": text, "label": "ab"[len(text) % 2]} for text in words]


def finetune_ours(folder: Path, steps: int, precision: str) -> list[list[float]]:
    """Seconds and tokens of each step of our loop."""
    from minibert.checkpoints import store
    from minibert.training import TrainingSettings, finetune
    from minibert.training.classification import Classification

    rows = lines(folder, 32 * (steps + 1) + 8)
    marks: list[float] = []
    tokens: list[int] = []
    original = Classification.batch

    def batch(self: Classification, step: int) -> Any:
        marks.append(time.perf_counter())
        found = original(self, step)
        tokens.append(int(found["attention_mask"].sum()))
        return found

    Classification.batch = batch  # type: ignore[method-assign]  # a clock around it
    settings = TrainingSettings(
        steps=steps + 1, learning_rate=5e-5, precision=precision, evaluate_every=10**6, log_every=10**6
    )
    finetune(store.DEFAULT, rows[8:], folder / "ours", held_out=rows[:8], settings=settings, show=False)
    return [[after - before, count] for (before, after), count in zip(itertools.pairwise(marks), tokens, strict=False)]


def finetune_trainer(folder: Path, steps: int, precision: str) -> list[list[float]]:
    """Seconds and tokens of each step of transformers' Trainer."""
    import transformers

    from minibert.checkpoints import store

    source = str(store.resolve(store.DEFAULT))
    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    rows = lines(folder, 32 * (steps + 1) + 8)[8:]
    examples = [{**tokenizer(row["text"]), "labels": "ab".index(row["label"])} for row in rows]
    collate = transformers.DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
    tokens: list[int] = []

    def collated(features: list[dict[str, Any]]) -> Any:
        batch = collate(features)
        tokens.append(int(batch["attention_mask"].sum()))
        return batch

    marks = train_theirs(model, examples, folder, steps, precision, collated)
    return [[after - before, count] for (before, after), count in zip(itertools.pairwise(marks), tokens, strict=False)]


def run_ours(folder: Path, steps: int, precision: str) -> list[list[float]]:
    """Seconds and tokens of each step of our loop."""
    from minibert.training import TrainingSettings
    from minibert.training.loop import train

    task, model = task_and_model(folder, "minibert")
    marks: list[float] = []
    original = task.batch

    def batch(step: int) -> Any:  # the first thing in a step
        marks.append(time.perf_counter())
        return original(step)

    task.batch = batch
    settings = TrainingSettings(
        steps=steps + 1,
        learning_rate=1e-4,
        precision=precision,
        evaluate_every=10**6,
        log_every=10**6,
        batch_size=SHAPES["batch_size"],
    )
    train(model, task, folder / "ours", settings, show=False)
    return [[after - before, 32 * 128] for before, after in itertools.pairwise(marks)]


def run_trainer(folder: Path, steps: int, precision: str) -> list[list[float]]:
    """Seconds and tokens of each step of transformers' Trainer."""
    from minibert.heads import IGNORED

    task, model = task_and_model(folder, "transformers")
    batches = []
    for step in range(steps + 1):
        batch = task.batch(step)
        labels = torch.full_like(batch["input_ids"], IGNORED).scatter(1, batch["positions"], batch["labels"])
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        batches += [{name: tensor[row] for name, tensor in {**inputs, "labels": labels}.items()} for row in range(32)]
    marks = train_theirs(model, batches, folder, steps, precision, None)
    return [[after - before, 32 * 128] for before, after in itertools.pairwise(marks)]


def train_theirs(
    model: Any, examples: list[Any], folder: Path, steps: int, precision: str, collate: Any
) -> list[float]:
    """When each step of the Trainer begins."""
    import transformers

    marks: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "theirs"),
        per_device_train_batch_size=SHAPES["batch_size"],
        max_steps=steps + 1,
        learning_rate=1e-4,
        warmup_steps=round(0.1 * (steps + 1)),
        weight_decay=0.01,
        use_cpu=True,
        bf16=precision == "bfloat16",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length" if collate else "sequential",
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=examples, data_collator=collate, callbacks=[Clock()]
    )
    trainer.train()
    return marks


RUNS = {
    ("pretraining", "minibert"): run_ours,
    ("pretraining", "transformers"): run_trainer,
    ("finetuning", "minibert"): finetune_ours,
    ("finetuning", "transformers"): finetune_trainer,
}


def child(task: str, which: str, folder: Path, steps: int, precision: str) -> None:
    """What a process of its own runs: prints tokens a second and peak memory."""
    measured = RUNS[task, which](folder, steps, precision)[WARM_UP:]
    seconds, tokens = (sum(each) for each in zip(*measured, strict=True))
    if task == "pretraining":  # all steps are alike: the median is not disturbed by another process
        seconds, tokens = statistics.median(step for step, _ in measured), 32 * 128
    print(json.dumps({"speed": tokens / seconds, "peak": memory_of_process("VmHWM")}))


def memory_of_process(field: str) -> float:
    """MiB: "VmRSS" now, "VmHWM" at most."""
    return int(re.search(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def products_per_second(precision: str) -> float:
    """Additions and multiplications a second in the products of a feed-forward layer."""
    dtype = getattr(torch, precision)
    left, right = torch.ones(4096, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return 2 * 4096 * 384 * 1536 / statistics.median(times)


def flops_of_a_step() -> float:
    """Of the matrix products of the default checkpoint's masked language model: forward, and twice that backward."""
    rows, length, size, layers, vocabulary = 32, 128, 384, 6, 30_522
    tokens, chosen = rows * length, rows * 19
    layer = tokens * (4 * size * size + 2 * size * 4 * size) + 2 * tokens * length * size
    head = chosen * (size * size + size * vocabulary)
    return 3 * 2 * (layers * layer + head)


def compare(task: str, rounds: int, steps: int, precision: str) -> None:
    from minibert.checkpoints import store

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speeches = sorted((store.store_folder() / "speeches").glob("*.txt"))
        (folder / "text.txt").write_text("\n\n".join(file.read_text(encoding="utf-8") for file in speeches))
        found: dict[str, list[dict[str, float]]] = {"minibert": [], "transformers": []}
        for _ in range(rounds):
            for which, results in found.items():
                for output in ("ours", "theirs"):
                    subprocess.run(["rm", "-rf", str(folder / output)], check=True)
                command = [sys.executable, __file__, "--child", which, str(folder), "--steps", str(steps)]
                command += ["--precision", precision, "--task", task]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                results.append(json.loads(done.stdout.splitlines()[-1]))
    ratio = statistics.median(a["speed"] / b["speed"] for a, b in zip(*found.values(), strict=True))
    peak = products_per_second(precision)
    print(f"{task}, {precision}: torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    for which, results in found.items():
        speed, most = (statistics.median(each[key] for each in results) for key in ("speed", "peak"))
        share = ""
        if task == "pretraining":
            share = f"   {flops_of_a_step() * speed / (32 * 128) / peak:5.0%} of {peak / 1e9:,.0f} GFLOP/s"
        print(f"{which:14}{speed:8,.0f} tokens/s   {most:6,.0f} MiB at most{share}")
    print(f"ratio {ratio:.2f}")


def memory() -> None:
    """A small model over 2,000 steps: the memory of the process every 250 steps."""
    from support.training import small_config, small_text, small_tokenizer  # with tests/ on the path

    from minibert import BertForMaskedLM
    from minibert.training import TrainingSettings, pretrain
    from minibert.training.pretraining import Pretraining

    resident: list[str] = []
    original = Pretraining.batch

    def batch(self: Pretraining, step: int) -> Any:
        if step % 250 == 0:
            resident.append(f"{memory_of_process('VmRSS'):.0f}")
        return original(self, step)

    Pretraining.batch = batch  # type: ignore[method-assign]  # a clock around it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = small_tokenizer(folder)
        text = small_text(folder / "text.txt", documents=300)
        settings = TrainingSettings(steps=2001, precision="float32", log_every=100)
        for packing in ("full-sentences", "contiguous"):
            model = BertForMaskedLM(small_config(max_position_embeddings=128, hidden_size=64))
            pretrain(model, tokenizer, text, folder / packing, settings, packing=packing, length=64, show=False)
            print(f"{packing}: MiB after 0, 250, … 2,000 steps: {', '.join(resident)}")
            resident.clear()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--task", choices=["pretraining", "finetuning"], default="pretraining")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--child", nargs=2)
    chosen = parser.parse_args()
    if chosen.memory:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        memory()
    elif chosen.child:
        which, where = chosen.child
        child(chosen.task, which, Path(where), chosen.steps, chosen.precision)
    else:
        compare(chosen.task, chosen.rounds, chosen.steps, chosen.precision)
