"""Which examples train, and which are held out?

A score means something only if the model has not seen the texts that it is scored on. Texts of one source (a film, an
author, a document) share words and opinions, so that a column "group" keeps them together.
"""

import random
from collections.abc import Callable, Hashable

from minibert.errors import TrainingError
from minibert.training.records import Records, Row

GROUP = "group"  # the column whose equal values stay on one side

Key = Callable[[Row], Hashable]  # what of a row must not be on both sides


def split(records: Records, share: float, seed: int, source: Key) -> tuple[Records, Records]:
    """Returns the rows that train, and those that are held out: about this share of them, and at least one.

    Rows of one group stay together: of one value in the column "group", or, without that column, of one source: the
    text, and for questions the context. Which
    groups are held out follows from the seed.

    Raises:
        TrainingError: there is only one group.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, row in enumerate(records.rows):
        name = _group(row) if GROUP in records.columns else source(row)
        groups.setdefault(name, []).append(index)
    if len(groups) < 2:
        what = f"groups, by the column {GROUP!r}," if GROUP in records.columns else "texts"
        raise TrainingError(
            f"held_out must be a file or a list of its own, since {records.source} has fewer than two {what} to split"
        )
    order = list(groups)
    random.Random(seed).shuffle(order)
    held_out: list[int] = []
    most = max(share * len(records), min(map(len, groups.values())))  # at least one group is held out
    for name in order:
        count = len(held_out) + len(groups[name])
        if count <= most and count < len(records):  # and at least one trains
            held_out += groups[name]
    chosen = set(held_out)
    return records.take([index for index in range(len(records)) if index not in chosen]), records.take(sorted(chosen))


def check_apart(train: Records, held_out: Records, key: Key) -> None:
    """Raises a `TrainingError` if a text, or a group, is on both sides; the message names the first.

    Texts are the same if they differ in nothing but white space.
    """
    shared = _first_shared(train, held_out, key)
    if shared:
        raise TrainingError(
            f"{shared[1].name} has the text of {shared[0].name}: a model that was trained on it cannot be scored on "
            "it, so remove one of them"
        )
    if GROUP in train.columns and GROUP in held_out.columns:
        shared = _first_shared(train, held_out, _group)
        if shared:
            raise TrainingError(
                f"{shared[1].name} has the group {_group(shared[1])!r}, as {shared[0].name} has: a group must be on "
                "one side, so move its rows"
            )


def _first_shared(train: Records, held_out: Records, key: Key) -> tuple[Row, Row] | None:
    """The first held-out row with something that a training row has as well, after that row."""
    seen = {key(row): row for row in train.rows}
    return next(((seen[key(row)], row) for row in held_out.rows if key(row) in seen), None)


def plain(text: str) -> str:
    """Returns a text with each run of white space as one space."""
    return " ".join(text.split())


def _group(row: Row) -> Hashable:
    value = row.values.get(GROUP)
    if value is None or not isinstance(value, Hashable):
        raise TrainingError(f"{GROUP} must name the group of {row.name}, got a blank cell or a list")
    return value
