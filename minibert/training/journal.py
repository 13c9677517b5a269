"""What does one see of a run, and what is left to plot?

Each entry is a line on the screen, a line in `metrics.jsonl`, and a point in TensorBoard if that is installed.
"""

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from minibert.errors import StoreError

METRICS = "metrics.jsonl"


class Journal:
    """Writes down how a run goes. Only the first process of a run has one that writes."""

    def __init__(self, folder: Path, size: int, steps: int, writes: bool, show: bool) -> None:
        self.file = folder / METRICS
        self.steps = steps
        self.writes = writes
        self.shows = writes and show
        self.entries: list[dict[str, Any]] = []
        self.tensorboard: Any = None
        if writes:
            self._keep(size)
            self.tensorboard = _tensorboard(folder, self.entries)

    def _keep(self, size: int) -> None:
        """Forgets what was written after the checkpoint that the run goes on from: it will be written again."""
        self.file.touch()
        with self.file.open("r+b") as file:
            file.truncate(size)
            self.entries = [json.loads(line) for line in file.read().splitlines()]

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.tensorboard is not None:
            self.tensorboard.close()

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.file.stat().st_size if self.writes else 0

    def say(self, line: str) -> None:
        """Shows a line."""
        if self.shows:
            print(line, file=sys.stderr, flush=True)

    def write(self, step: int, values: dict[str, float], seconds_left: float | None = None) -> None:
        """Adds an entry: values by name, after so many steps."""
        if not self.writes:
            return
        entry = {"step": step, **values}
        self.entries.append(entry)
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise StoreError(f"cannot write {self.file}: {error}; the last checkpoint is kept") from error
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(name, value, step)
        left = "" if seconds_left is None else f"  {duration(seconds_left)} left"
        numbers = "  ".join(f"{name.replace('_', ' ')} {_number(name, value)}" for name, value in values.items())
        self.say(f"step {step:>{len(f'{self.steps:,}')},}/{self.steps:,}  {numbers}{left}")


def _tensorboard(folder: Path, entries: list[dict[str, Any]]) -> Any:
    """A writer for TensorBoard, or None if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    first = entries[-1]["step"] + 1 if entries else 0
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first)


def _number(name: str, value: float) -> str:
    if name == "learning_rate":
        return f"{value:.1e}"
    if name == "tokens_per_second":
        return f"{value:,.0f}"
    return f"{value:.3f}"


def duration(seconds: float) -> str:
    """Returns a duration in words: "45 s", "3 min", "2 h 5 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
