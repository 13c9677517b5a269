"""Runs the tests as other processors would: `python tests/machines.py` puts on each face that this one can wear.

Which kernel computes a sum, and with how many threads, decides in which order its terms are added, and so its last
bits. Three libraries choose kernels by the processor (PyTorch itself, oneDNN and MKL), and each takes an environment
variable that restricts it to what an older processor has. A face is a choice of these; it ends in a row of the table.

What is run is all of `tests/` but what computes nothing that a processor could round (IGNORED), so that a new test is
included without being asked. The lessons, which take longest, run under the faces at the two ends alone.
`--short` is for CI, after `make test`: two faces unlike the native one, without the lessons.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import torch

TESTS = Path(__file__).parent
LESSONS = "test_lessons.py"
IGNORED = [
    "checkpoints/test_fuzz.py",  # damaged files
    "checkpoints/test_hub.py",  # downloads
    "checkpoints/test_quirks.py",
    "checkpoints/test_store.py",
    "show",  # pictures of numbers that are given
    "test_config.py",
    "test_house.py",  # imports
    "test_printed.py",
    "test_tokenizer.py",
    "test_vocabularies.py",
]


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
    Face("tests in random order", options=("--random-order",)),  # strings are hashed at random in every run
]


@dataclass(frozen=True)
class Result:
    face: Face
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    failures: tuple[str, ...] = ()

    def row(self) -> str:
        if not self.passed and not self.failed:
            return f"{self.face.name:32}  not on this processor"
        return f"{self.face.name:32} {self.passed:7} {self.failed:7} {self.seconds:8.0f}"


def can_wear(face: Face) -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    capabilities = cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.exists() else []
    return not face.needs or face.needs in capabilities


def run(face: Face, lessons: bool, arguments: list[str]) -> Result:
    """The tests under a face, in processes that have its environment from their start."""
    ignored = [*IGNORED, *([] if lessons else [LESSONS])]
    # In every worker as many threads as the face says; those without work sleep, because a worker has a core for all.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **face.variables}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        command += [*face.options, *arguments, *(f"--ignore={TESTS / name}" for name in ignored)]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if not report.exists():  # pytest itself failed
            return Result(face, 0, 1, seconds, (done.stdout + done.stderr,))
        cases = ElementTree.parse(report).getroot().iter("testcase")
        failures = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    names = tuple(f"{case.get('classname')}::{case.get('name')}" for case in failures)
    return Result(face, int(suite.get("tests", 0)) - len(names), len(names), seconds, names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two faces besides the native one, and no lessons")
    parser.add_argument("--no-lessons", action="store_true", help="leave out the lessons, which take longest")
    parser.add_argument("--face", help="only the faces whose name contains this")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --: -- -n 2 -k similarity")
    options = parser.parse_args()
    faces = [face for face in FACES if (face.short or not options.short) and (options.face or "") in face.name]
    missing = [name for name in [*IGNORED, LESSONS] if not (TESTS / name).exists()]
    assert not missing, f"{missing} have moved"
    print(f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores")
    print(f"{'face':32} {'passed':>7} {'failed':>7} {'seconds':>8}")
    results = []
    for face in faces:
        lessons = face.lessons and not (options.short or options.no_lessons)
        results.append(run(face, lessons, options.arguments) if can_wear(face) else Result(face))
        print(results[-1].row(), flush=True)
    for result in results:
        for failure in result.failures:
            print(f"{result.face.name}: {failure}")
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
