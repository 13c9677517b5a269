"""A process that ends at each step of a save in turn, for tests of what it leaves behind."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
# Python warns of forks beside threads; here the threads are what is tested, or idle ones of PyTorch.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def crash_after(steps: int) -> None:
    """The process ends, without a word, at a later call of one of the functions that change files."""
    left, is_inside = steps, False  # a step, whose own calls do not count: `Path.rename` calls `os.rename`

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left, is_inside
            if is_inside:
                return function(*arguments, **options)
            if left == 0:
                os._exit(9)
            left, is_inside = left - 1, True
            try:
                return function(*arguments, **options)
            finally:
                is_inside = False

        return call

    for owner, name in ((os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (os, "fsync")):
        setattr(owner, name, counted(getattr(owner, name)))
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "write_text"):
        setattr(Path, name, counted(getattr(Path, name)))


def crash_points(make: Callable[[], None], folder: Path, save: Callable[[], None]) -> Iterator[bool]:
    """Makes the old state and saves over it, and crashes at each step in turn; yields whether the save went through."""
    for steps in range(500):
        shutil.rmtree(folder, ignore_errors=True)
        with mock.patch("os.fsync"):  # these crashes are not power cuts, and it takes most of the time
            make()
            child = os.fork()
            if child == 0:
                crash_after(steps)
                save()
                os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        yield code == 0
        if code == 0:
            return
