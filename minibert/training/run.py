"""What is left of a run?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibert.checks import as_path, check_one_of
from minibert.errors import TrainingError
from minibert.show.tables import table
from minibert.training.journal import METRICS


@dataclass(frozen=True)
class Run:
    """A folder with a trained model, and the log of how it was trained. `print` it for a table."""

    folder: Path
    entries: list[dict[str, Any]]  # each with "step" and what was measured then

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Returns the run in a folder, as far as it got.

        Raises:
            TrainingError: there is no log in it.
        """
        folder = as_path("folder", folder, error=TrainingError)
        file = folder / METRICS
        if not file.is_file():
            raise TrainingError(f"folder must be one that a run has written, and there is no {file}")
        return cls(folder, [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])

    def values(self, name: str) -> tuple[list[int], list[float]]:
        """Returns the steps at which something was measured, and what came out."""
        names = dict.fromkeys(key for entry in self.entries for key in entry if key != "step")
        check_one_of("name", name, names, TrainingError)
        found = [(entry["step"], entry[name]) for entry in self.entries if name in entry]
        return [step for step, _ in found], [value for _, value in found]

    def __str__(self) -> str:
        evaluated = [entry for entry in self.entries if any(name.startswith("held_out") for name in entry)]
        names = ["step", "loss", *(name for name in evaluated[-1] if name.startswith("held_out"))] if evaluated else []
        rows = [[f"{entry['step']:,}", *(_shown(entry.get(name)) for name in names[1:])] for entry in evaluated]
        return table([[name.replace("_", " ") for name in names], *rows])


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
