"""Runs the tests as other processors would: `python tests/machines.py` puts on each face that this one can wear.

Which kernel computes a sum, and with how many threads, decides in which order its terms are added, and so its last
bits. Three libraries choose kernels by the processor (PyTorch itself, oneDNN and MKL), and each takes an environment
variable that restricts it to what an older processor has. A face is a choice of these, and a row of the table.

What is run is all of `tests/` but what computes nothing that a processor could round (EXACT), so that a new test is
included without being asked. The lessons, which take longest, run under the two faces that are furthest apart.
`--short` is for CI, after `make test`: two faces unlike the native one, without the lessons and without what is slow
and computes nothing that the rest does not (SLOW).
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import torch

TESTS = Path(__file__).parent
LESSONS = ["test_lessons.py"]
EXACT = [
    "checkpoints/test_fuzz.py",  # damaged files
    "checkpoints/test_hub.py",  # downloads
    "checkpoints/test_quirks.py",
    "checkpoints/test_store.py",
    "show",  # pictures of numbers that are given
    "test_config.py",
    "test_english_mlm_text.py",
    "test_house.py",  # imports
    "test_printed.py",
    "test_tokenizer.py",
    "test_vocabularies.py",
    "training/test_memory_mapped_corpus.py",
    "training/test_masking.py",
    "training/test_packing.py",
    "training/test_records.py",
]
SLOW = ["checkpoints", "cli", "sentences/test_corpus.py", "training/test_loop.py"]
# A worker for each core. Each has as many threads as the face says, and those without work sleep instead of waiting
# busily, because the cores are taken.
WORKERS = ["-n", "logical", "--maxprocesses", "4", "--dist", "worksteal"]
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
SEED = random.randrange(1_000_000)


@dataclass(frozen=True)
class Face:
    """A processor to pass for."""

    name: str
    variables: dict[str, str] = field(default_factory=dict)
    needs: str = ""  # a capability of the processor, as the kernel of Linux names it in /proc/cpuinfo
    options: tuple[str, ...] = ()  # of pytest
    lessons: bool = False
    short: bool = False


def kernels(pytorch: str, onednn: str, mkl: str, threads: int) -> dict[str, str]:
    """The environment in which the three libraries take the kernels of these instruction sets."""
    chosen = {"ATEN_CPU_CAPABILITY": pytorch, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_CBWR": mkl}
    return chosen | threads_of(threads)


def threads_of(number: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(number), "MKL_DYNAMIC": "FALSE"}  # MKL would take no more than there are cores


FACES = [
    Face("native"),
    Face("no vectors, 1 thread", kernels("default", "SSE41", "COMPATIBLE", 1), lessons=True),
    Face("AVX2, 1 thread", kernels("avx2", "AVX2", "AVX2", 1), "avx2"),
    Face("AVX2, 2 threads", kernels("avx2", "AVX2", "AVX2", 2), "avx2", short=True),
    Face("AVX-512, 4 threads", kernels("avx512", "AVX512_CORE", "AVX512", 4), "avx512f", lessons=True),
    Face("AMX", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, "amx_tile"),
    Face("only PyTorch without vectors", {"ATEN_CPU_CAPABILITY": "default"}),
    Face("only PyTorch in AVX2", {"ATEN_CPU_CAPABILITY": "avx2"}, "avx2"),
    Face("only oneDNN in AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx2"),
    Face("only oneDNN in AVX-512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "avx512f"),
    Face("only MKL without vectors", {"MKL_CBWR": "COMPATIBLE"}, short=True),
    Face("1 thread", threads_of(1)),
    Face("2 threads", threads_of(2)),
    Face("4 threads", threads_of(4)),
    # Python hashes strings by a seed of its own in every run. Of the order, all workers need the same.
    Face(f"random order {SEED}", options=("--random-order", f"--random-order-seed={SEED}")),
]


@dataclass(frozen=True)
class Result:
    """What pytest found under a face."""

    passed: int
    failed: list[str]  # names of tests
    seconds: float


def can_wear(face: Face) -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    capabilities = cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.exists() else []
    return not face.needs or face.needs in capabilities


def run(face: Face, ignored: list[str], arguments: list[str]) -> Result:
    """The tests under a face, in processes that have its environment from their start."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml={report}", *WORKERS]
        command += [*face.options, *arguments, *(f"--ignore={TESTS / name}" for name in ignored)]
        environment = os.environ | PATIENT | face.variables
        start = time.perf_counter()
        done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    names = [f"{case.get('classname')}::{case.get('name')}" for case in failed]
    if done.returncode and not names:  # pytest itself failed, or found no test
        names = [(done.stdout + done.stderr).strip()]
    return Result(len(cases) - len(failed), names, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two faces besides the native one, and no lessons")
    parser.add_argument("--no-lessons", action="store_true", help="leave out the lessons")
    parser.add_argument("--face", default="", help="only the faces whose name contains this")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --: -- -k similarity")
    options = parser.parse_args()

    missing = [name for name in [*EXACT, *SLOW, *LESSONS] if not (TESTS / name).exists()]
    if missing:
        parser.error(f"{', '.join(missing)}: not in tests/ any more; change the lists in {__file__}")
    print(f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores\n")
    print(f"{'face':32} {'passed':>7} {'failed':>7} {'seconds':>8}")
    failed = []
    for face in FACES:
        if options.face not in face.name or (options.short and not face.short):
            continue
        if not can_wear(face):
            print(f"{face.name:32} not on this processor")
            continue
        ignored = EXACT + (SLOW if options.short else [])
        if options.short or options.no_lessons or not face.lessons:
            ignored = ignored + LESSONS
        result = run(face, ignored, options.arguments)
        print(f"{face.name:32} {result.passed:7} {len(result.failed):7} {result.seconds:8.0f}", flush=True)
        failed += [f"{face.name}: {name}" for name in result.failed]
    print("", *failed, sep="\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
