"""How is a student's file checked so that it cannot harm the checker?

It runs in a process of its own, with a limit of time and memory, and computes in a copy of the reference that it loaded
itself. Only tensors come back, as safetensors files; they are compared here, with a reference that the file cannot
reach. That protects from accidents (endless loops, `os._exit`, weights that are overwritten), not from an attack.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import minibert
from minibert.checks import check_integer
from minibert.errors import ExerciseError, MinibertError
from minibert.teaching import exercises
from minibert.teaching.answers import Answer
from minibert.teaching.diagnosis import Diagnosis
from minibert.trace.compare import Values

SECONDS = 60
GIBIBYTES = 4
READY, FAILED = "ready", "failed.json"  # files: the student's code is about to run; why there is no answer
KINDS = ("values", "again", "exact")  # the fields of an Answer

# The current folder is not searched for packages: a random.py of the student's would replace Python's own. The folder
# that minibert lies in comes last, for a copy of it that is not installed.
PROGRAM = """
import sys
sys.path[:] = [folder for folder in sys.path if folder] + [sys.argv[1]]
from minibert.teaching.isolated import compute
compute(*sys.argv[2:])
"""


def check_file(name: str, folder: str | Path = ".", seconds: int = SECONDS, gibibytes: int = GIBIBYTES) -> Diagnosis:
    """Checks the function in an exercise's file, which runs in a process of its own.

    Args:
        name: the exercise; the file is `name`.py.
        folder: where the file is.
        seconds: how long the file may run, besides the time in which Python and the reference are loaded.
        gibibytes: how much memory it may have beyond what the reference takes. Only Linux enforces this limit: on macOS
            and Windows the operating system's own is the only one.

    Raises:
        ExerciseError: no exercise, no file, a file that does not run, ends Python or exceeds a limit, or no such
            function in it. What is wrong with the function is in what is returned.
    """
    exercise = exercises.find(name)
    check_integer("seconds", seconds, 1, error=ExerciseError)
    check_integer("gibibytes", gibibytes, 1, error=ExerciseError)
    file = exercises.file_of(exercise, folder)
    with tempfile.TemporaryDirectory(prefix="minibert-") as out:
        arguments = [str(Path(minibert.__file__).parents[1]), name, str(folder), out, str(gibibytes)]
        code = _run([sys.executable, "-c", PROGRAM, *arguments], Path(out) / READY, seconds)
        if code is None:
            raise ExerciseError(
                f"{file} must end within {seconds} seconds, and did not: look for a loop without an end, or give it "
                f"more time: minibert exercise check {name} --seconds {10 * seconds}"
            )
        return exercises.judge(exercise, _answers(Path(out), file, code))


def _run(command: list[str], ready: Path, seconds: int) -> int | None:
    """Runs a command to its end and returns its exit code; None if it ran longer than this after it was ready."""
    sys.stdout.flush()  # what the student's code prints comes after it
    # A session of its own: Ctrl-C reaches this process alone, which ends that one and all that it started.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while not ready.exists():
            with suppress(subprocess.TimeoutExpired):
                return process.wait(0.05)
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answers(out: Path, file: Path, code: int) -> Iterator[Answer]:
    """The answers that the process wrote, trial by trial.

    Raises:
        ExerciseError: it wrote why there is none, or ended before it had written this one.
    """
    if (out / FAILED).exists():
        raise ExerciseError(json.loads((out / FAILED).read_bytes()))
    for number in range(sys.maxsize):
        if code != 0:
            raise ExerciseError(f"{file} {_how_it_ended(code)}")
        try:
            with safe_open(out / f"{number}.safetensors", "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
                problem = json.loads(opened.metadata()["problem"])
        except (OSError, SafetensorError):
            raise ExerciseError(f"{file} {_how_it_ended(code)}") from None
        fields: dict[str, Values] = {kind: {} for kind in KINDS}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            fields[kind][name] = value
        yield Answer(**fields, problem=problem)


def _how_it_ended(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            ended = f"is ended by the signal {signal.Signals(-code).name}"
            return f"{ended}: the usual causes are too much memory and a recursion without an end."
    return f"ends Python (exit code {code}) before its function has returned: remove what does, such as os._exit."


# --- in the process of the student's file ----------------------------------------------------------------------------


def compute(name: str, folder: str, out: str, gibibytes: str) -> None:
    """Runs a student's file, writes what its function computes, and ends the process."""
    try:
        exercise = exercises.find(name)
        if not exercise.is_training:
            exercises.reference(exercise.checkpoint)
        _limit_memory(int(gibibytes))
        target = Path(out).resolve()
        (target / READY).touch()
        _write_answers(exercise, folder, target)
    except (MinibertError, KeyboardInterrupt) as error:
        message = str(error) or f"{name}.py raises {type(error).__name__}: remove the line that does."
        (Path(out) / FAILED).write_text(json.dumps(message), encoding="utf-8")
    with suppress(Exception):  # they are the student's to close
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # whatever threads and exit functions the file has left behind


def _write_answers(exercise: "exercises.Exercise", folder: str, target: Path) -> None:
    function = exercises.load(exercise.name, folder)
    for number, computed in enumerate(exercises.answers(exercise, function)):
        fields = {kind: getattr(computed, kind) for kind in KINDS}
        tensors = {f"{kind}/{name}": value for kind, values in fields.items() for name, value in values.items()}
        # Copies, because two names may share their numbers, which a safetensors file cannot.
        tensors = {key: value.contiguous().clone() for key, value in tensors.items()}
        save_file(tensors, target / f"{number}.safetensors", {"problem": json.dumps(computed.problem)})


def _limit_memory(gibibytes: int) -> None:
    """Limits the address space to what is in use and this much more, where the operating system can."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + gibibytes * 2**30
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
