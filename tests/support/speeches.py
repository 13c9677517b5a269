"""Sentences of presidents of two centuries."""

import re

from minibert.checkpoints import store


def sentences(every: int = 4) -> list[str]:
    """Seven or so, of medium length, from every fourth speech, or as many as asked for."""
    found = []
    for file in sorted((store.store_folder() / "speeches").glob("*.txt"))[::every]:
        parts = re.split(r"(?<=[.!?])\s+", file.read_text(encoding="utf-8"))
        found += [each for each in parts[5:12] if 20 < len(each) < 300]
    return found
