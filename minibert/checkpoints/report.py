"""What became of each tensor of a checkpoint, and where did each parameter come from?"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from minibert.show.tables import table

Status = Literal["used", "renamed", "tied", "ignored", "new"]


@dataclass(frozen=True)
class TensorReport:
    """The story of one tensor.

    Attributes:
        name: its name in the file; None for a parameter that the file does not have.
        parameter: the parameter of ours that it became; None if it became none.
        shape, dtype: of the tensor, or of the new parameter.
        status: "used" under the usual name; "renamed" from another dialect; "tied": a second copy of a parameter, and
            equal to it; "ignored"; or "new": not in the file, started at random.
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

    source: str
    model: str
    tensors: tuple[TensorReport, ...]

    def with_status(self, status: Status) -> list[TensorReport]:
        return [tensor for tensor in self.tensors if tensor.status == status]

    def __str__(self) -> str:
        counts = Counter(tensor.status for tensor in self.tensors)
        lines = [f"{self.model} from {self.source}", ", ".join(f"{count} {status}" for status, count in counts.items())]
        reasons = Counter((tensor.status, tensor.reason) for tensor in self.tensors if tensor.reason)
        lines += [f"  {count} {status}: {reason}" for (status, reason), count in reasons.items()]
        return "\n".join(lines)

    def table(self) -> str:
        """A row for every tensor of the file and every parameter of the model."""
        rows = [["tensor in the file", "parameter", "shape", "dtype", "status", "reason"]]
        for each in self.tensors:
            shape = " × ".join(map(str, each.shape))
            rows.append([each.name or "–", each.parameter or "–", shape, each.dtype, each.status, each.reason])
        return table(rows)
