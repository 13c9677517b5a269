"""What became of each tensor of a checkpoint, and where did each parameter come from?"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from minibert.show.tables import table

Status = Literal["used", "renamed", "tied", "ignored", "new"]


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor of a file, or where one parameter's values came from.

    Attributes:
        name: its name in the file; None for a parameter that the file does not have.
        parameter: our name of the parameter that it became; None if it did not become one.
        shape, dtype: of the tensor, or of the new parameter.
        status: "used" under its canonical name; "renamed" from another naming scheme; "tied": a second, equal copy of a
            parameter; "ignored"; or "new": not in the file, started at random.
        reason: why it was renamed, tied, ignored or new.
    """

    name: str | None
    parameter: str | None
    shape: tuple[int, ...]
    dtype: str
    status: Status
    reason: str = ""


@dataclass(frozen=True)
class LoadReport:
    """What `from_pretrained` did: `print(model.load_report)` in short, `print(model.load_report.table())` in full."""

    source: str  # the weights file, or the index of its shards
    model: str  # the name of the model's class
    tensors: tuple[TensorReport, ...]  # an entry for every tensor of the file, then one for every new parameter

    def with_status(self, status: Status) -> list[TensorReport]:
        """Returns the entries of one status, in the report's order."""
        return [tensor for tensor in self.tensors if tensor.status == status]

    def __str__(self) -> str:
        counts = Counter(tensor.status for tensor in self.tensors)
        lines = [f"{self.model} from {self.source}", ", ".join(f"{count} {status}" for status, count in counts.items())]
        reasons = Counter((tensor.status, tensor.reason) for tensor in self.tensors if tensor.reason)
        lines += [f"  {count} {status}: {reason}" for (status, reason), count in reasons.items()]
        return "\n".join(lines)

    def table(self) -> str:
        """Returns a table with a row for each entry."""
        rows = [["tensor in the file", "parameter", "shape", "dtype", "status", "reason"]]
        for entry in self.tensors:
            shape = " × ".join(map(str, entry.shape))
            rows.append([entry.name or "–", entry.parameter or "–", shape, entry.dtype, entry.status, entry.reason])
        return table(rows)
