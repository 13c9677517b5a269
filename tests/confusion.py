"""Which mistake does `diagnose` name, for each mistake that is made? Prints the table of `tests/CONFUSION.md`.

    python tests/confusion.py > tests/CONFUSION.md

Each known mistake is applied to a random model, alone, and diagnosed from the outside: once with every value in sight,
once from the hidden states alone, or the logits. LayerNorm's eps is 0.001, large enough for where it stands to be seen.
"""

from collections.abc import Callable
from typing import Any

from support.models import subject
from torch import Tensor

from minibert.checkpoints.loading import Pretrained
from minibert.teaching.bugs import BUGS
from minibert.teaching.diagnosis import Diagnosis, diagnose
from minibert.teaching.parts import PARTS


def black_box(model: Pretrained) -> Callable[..., Any]:
    """The model, with nothing of its inside to be seen."""

    def compute(**inputs: Tensor) -> Any:
        return model(**inputs, output_hidden_states=True)

    return compute


def words(found: Diagnosis, name: str) -> str:
    if found.correct:
        return "not to be seen"
    if found.bugs == (name,):
        return "named" if found.verdict != "unknown" else "named as possible"
    return " or ".join(found.bugs) if found.bugs else found.verdict


def main() -> None:
    rows, named = [], 0
    for bug in BUGS.values():
        student, reference = subject(bug.shows_at), subject(bug.shows_at)
        with bug.applied(student):
            inside = words(diagnose(student, reference), bug.name)
            outside = words(diagnose(black_box(student), reference), bug.name)
        named += inside == "named"
        outside = "not in the model" if bug.shows_at in PARTS else outside
        rows.append(f"| {bug.name} | {bug.shows_at} | {inside} | {outside} |")
    print("# Which mistake is named, for each that is made\n")
    print("Written by `python tests/confusion.py > tests/CONFUSION.md`. ", end="")
    print("“From inside”: every value can be seen; “from outside”: the hidden states alone, or the logits.\n")
    print(f"Named from inside: {named} of {len(BUGS)}.\n")
    print("| mistake | first value that differs | from inside | from outside |")
    print("| --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
