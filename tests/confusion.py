"""Which mistake does `diagnose` name, for each mistake that is made? Prints the table of `tests/CONFUSION.md`.

    python tests/confusion.py > tests/CONFUSION.md

Each known mistake is applied to a random model, alone, and diagnosed from the outside: once with every value in sight,
once from the hidden states alone. LayerNorm's eps is 0.001, large enough for where it stands to be seen.
"""

from collections.abc import Callable
from typing import Any

from test_diagnose import EPS
from test_recording import random_model
from torch import Tensor

from minibert import BertModel
from minibert.bugs import BUGS
from minibert.diagnose import Diagnosis, diagnose


def black_box(model: BertModel) -> Callable[..., Any]:
    """The model, with nothing of its inside to be seen."""

    def compute(**inputs: Tensor) -> Any:
        return model(**inputs, output_hidden_states=True)

    return compute


def words(found: Diagnosis, name: str) -> str:
    if found.healthy:
        return "not to be seen"
    if found.bugs == (name,):
        return "named"
    return " or ".join(found.bugs) if found.bugs else found.verdict


def main() -> None:
    reference = random_model(layer_norm_eps=EPS)
    rows, named = [], 0
    for name, bug in BUGS.items():
        student = random_model(layer_norm_eps=EPS)
        with bug.applied(student):
            inside, outside = diagnose(student, reference), diagnose(black_box(student), reference)
        named += inside.bugs == (name,)
        rows.append(f"| {name} | {bug.first} | {words(inside, name)} | {words(outside, name)} |")
    print("# Which mistake is named, for each that is made\n")
    print("Written by `python tests/confusion.py > tests/CONFUSION.md`. ", end="")
    print("“From inside”: every value can be seen; “from outside”: the hidden states alone.\n")
    print(f"Named from inside: {named} of {len(BUGS)}.\n")
    print("| mistake | first value that differs | from inside | from outside |")
    print("| --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
