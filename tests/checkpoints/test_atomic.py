import contextlib
import errno
import json
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.crashes import crash_points, forks, needs_fork

from minibert.checkpoints import atomic
from minibert.checkpoints.atomic import (
    REMOVED,
    SAVED,
    finish_save,
    reading,
    write_atomically,
)
from minibert.errors import CheckpointNotFoundError, StoreError


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_other_files_stay_and_those_of_an_older_save_go(tmp_path: Path) -> None:
    for name in ("mine", "model-1", "config", "1_Old/config", "1_Old/mine"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    with write_atomically(tmp_path, ["config", "model-*", "[0-9]_*/config"]) as incoming:
        (incoming / "config").write_text("new")
        (incoming / "below").mkdir()
        (incoming / "below" / "b").write_text("new")
    assert contents(tmp_path) == {"mine": "old", "1_Old/mine": "old", "config": "new", "below/b": "new"}


def save(folder: Path, files: dict[str, str]) -> None:
    with write_atomically(folder, ["*", "[0-9]_*/*"]) as incoming:
        for name, text in files.items():
            (incoming / name).parent.mkdir(exist_ok=True)
            (incoming / name).write_text(text)


OLD = {"a": "old a", "b": "old b", "1_x/c": "old c", "only old": ""}
NEW = {"a": "new a", "b": "new b", "2_y/c": "new c", "only new": ""}


@needs_fork
@forks
@pytest.mark.parametrize("old", [OLD, {}])
def test_a_crash_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, old: dict[str, str]) -> None:
    folder, seen = tmp_path / "x", set()
    points = 0
    for _ in crash_points(lambda: save(folder, old), folder, lambda: save(folder, NEW)):
        points += 1
        finish_save(folder)
        found = {name: text for name, text in contents(folder).items() if not name.startswith(".")}
        assert found in (old, NEW)
        seen.add(found == NEW)
        save(folder, NEW)  # and the next save removes what was left behind
        assert contents(folder) == NEW
        assert not [file for file in folder.iterdir() if file.name.startswith(".")]
    assert points > 15
    assert seen == {True, False}


@needs_fork
@forks
def test_a_crash_while_a_save_is_finished(tmp_path: Path) -> None:
    """It can crash as often as it likes."""

    def make() -> None:
        save(tmp_path / "x", OLD)
        (tmp_path / "x" / SAVED).mkdir()
        for name, text in NEW.items():
            (tmp_path / "x" / SAVED / name).parent.mkdir(exist_ok=True)
            (tmp_path / "x" / SAVED / name).write_text(text)
        (tmp_path / "x" / SAVED / REMOVED).write_text(json.dumps(sorted(OLD.keys() - NEW.keys())))

    for _ in crash_points(make, tmp_path / "x", lambda: finish_save(tmp_path / "x")):
        finish_save(tmp_path / "x")
        assert contents(tmp_path / "x") == NEW


@pytest.mark.parametrize("name", ["../precious", "/tmp/precious", "a/../../precious"])
def test_a_foreign_list_of_files_to_remove(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "x" / SAVED).mkdir(parents=True)
    (tmp_path / "x" / SAVED / REMOVED).write_text(json.dumps([name]))
    with pytest.raises(StoreError, match="is not of minibert"):
        finish_save(tmp_path / "x")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_save_that_cannot_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / SAVED).mkdir()
    (tmp_path / SAVED / "a").write_text("new")

    def fail(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StoreError, match=r"holds a save that was interrupted, and cannot be finished .*: make the"):
        finish_save(tmp_path)


@pytest.mark.parametrize("lists", [[], ["elsewhere/precious"]])
def test_a_foreign_save_that_leads_out_of_its_folder(tmp_path: Path, lists: list[str]) -> None:
    """A folder from somebody else may hold anything: no link in it is followed to write or to remove a file."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/precious").write_text("mine")
    (tmp_path / "x" / SAVED / "elsewhere").mkdir(parents=True)
    (tmp_path / "x/elsewhere").symlink_to(tmp_path / "home")
    if not lists:
        (tmp_path / "x" / SAVED / "elsewhere/precious").write_text("theirs")
    (tmp_path / "x" / SAVED / REMOVED).write_text(json.dumps(lists))
    with pytest.raises(StoreError, match=r"elsewhere must be a folder, got a link|is not of minibert"):
        finish_save(tmp_path / "x")
    assert contents(tmp_path / "home") == {"precious": "mine"}


def test_a_foreign_save_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/precious").write_text("mine")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / SAVED).symlink_to(tmp_path / "home")
    with (
        pytest.raises(StoreError, match=r"\.saved must be a folder that a save has made, got a link"),
        reading(tmp_path / "x"),
    ):
        pass
    assert contents(tmp_path / "home") == {"precious": "mine"}


def test_a_save_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/c").write_text("mine")
    (tmp_path / "x").mkdir()
    for name in ("1_x", "2_y"):
        (tmp_path / "x" / name).symlink_to(tmp_path / "home")
    save(tmp_path / "x", {"a": "new"})
    assert contents(tmp_path / "home") == {"c": "mine"}
    with pytest.raises(StoreError, match=r"2_y must be a folder, got a link: remove the link, or save elsewhere"):
        save(tmp_path / "x", NEW)
    assert contents(tmp_path / "home") == {"c": "mine"}
    assert (tmp_path / "x/a").read_text() == "new"


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda folder: (folder / "b").mkdir(), "b must be a file, got a folder: move it away, or save elsewhere"),
        (lambda folder: (folder / "2_y").write_text("mine"), "File exists: .*2_y"),
    ],
)
def test_what_is_in_the_way_is_seen_before_anything_moves(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    save(tmp_path, {"a": "old"})
    make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=said):
        save(tmp_path, NEW)
    assert contents(tmp_path) == before
    with reading(tmp_path):
        assert (tmp_path / "a").read_text() == "old"


def test_a_save_that_is_killed_while_a_reader_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then `.saved` appears after the reader looked for it."""
    save(tmp_path, OLD)
    locked, waited = atomic._locked, []

    def locked_after_the_writer(path: Path, **options: Any) -> Any:
        if options.get("shared") and not waited:
            waited.append(path)
            (tmp_path / SAVED).mkdir()
            (tmp_path / SAVED / "a").write_text("new a")
        return locked(path, **options)

    monkeypatch.setattr(atomic, "_locked", locked_after_the_writer)
    with reading(tmp_path):
        assert (tmp_path / "a").read_text() == "new a"
        assert not (tmp_path / SAVED).exists()
    assert waited


@needs_fork  # so that there are locks
def test_no_save_takes_the_folder_of_another_for_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a new folder has a lock of its own, the one that it is in is locked."""
    mkdtemp, made = tempfile.mkdtemp, []

    def make_while_locked(**options: Any) -> str:
        with pytest.raises(BlockingIOError), atomic._locked(tmp_path, wait=False):
            pass
        made.append(mkdtemp(**options))
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_while_locked)
    with write_atomically(tmp_path, owns=["a"]) as incoming:
        assert str(incoming) in made
        with pytest.raises(BlockingIOError), atomic._locked(incoming / atomic.WRITER, wait=False):
            pass
        save(tmp_path, {"b": "of another save"})
        (incoming / "a").write_text("a")
    assert contents(tmp_path) == {"a": "a", "b": "of another save"}


def test_saves_at_once_and_readers_between_them(tmp_path: Path) -> None:
    """A reader finds the files of one save, never of two."""
    folder, mixed = tmp_path / "x", []
    save(folder, {"a": "0", "b": "0"})

    def write(number: int) -> None:
        for turn in range(15):
            save(folder, {"a": f"{number} {turn}", "b": f"{number} {turn}"})

    def read() -> None:
        for _ in range(100):
            with reading(folder):
                both = (folder / "a").read_text(), (folder / "b").read_text()
            if both[0] != both[1]:
                mixed.append(both)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed == []
    assert sorted(file.name for file in folder.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("at", range(8))
def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    save(tmp_path, OLD)
    write_text, left = Path.write_text, at

    def write(file: Path, text: str, **options: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(file, text, **options)

    monkeypatch.setattr(Path, "write_text", write)
    with contextlib.suppress(StoreError):
        save(tmp_path, NEW)
    assert contents(tmp_path) == (OLD if at < 5 else NEW)


@pytest.mark.parametrize("error", [OSError("the disk is full"), ValueError("a bug"), KeyboardInterrupt()])
def test_a_block_that_fails_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "file").write_text("old")
    expected = StoreError if isinstance(error, OSError) else type(error)

    def fail() -> None:
        with write_atomically(tmp_path, owns=["file"]) as incoming:
            (incoming / "file").write_text("half")
            raise error

    with pytest.raises(expected):
        fail()
    assert contents(tmp_path) == {"file": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_errors_of_minibert_pass_through(tmp_path: Path) -> None:
    """They are OSErrors too, and say themselves what is wrong."""
    with pytest.raises(CheckpointNotFoundError, match=r"^not there$"), write_atomically(tmp_path, owns=["file"]):
        raise CheckpointNotFoundError("not there")


def test_one_inside_another(tmp_path: Path) -> None:
    with write_atomically(tmp_path, owns=["outer"]) as incoming:
        with write_atomically(incoming, owns=["inner"]) as inner:
            (inner / "inner").write_text("inner")
        (incoming / "outer").write_text("outer")
    assert contents(tmp_path) == {"inner": "inner", "outer": "outer"}


def test_everybody_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with write_atomically(tmp_path, owns=["private"]) as incoming:
            (incoming / "private").touch(mode=0o600)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o640


def test_every_file_is_on_the_disk_before_it_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()
    fsync, replace = os.fsync, Path.replace

    def note_the_file(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def replace_if_flushed(file: Path, target: Path) -> Path:
        assert file.stat().st_ino in flushed
        return replace(file, target)

    monkeypatch.setattr(os, "fsync", note_the_file)
    monkeypatch.setattr(Path, "replace", replace_if_flushed)
    with write_atomically(tmp_path, owns=["b"]) as incoming:
        (incoming / "a").write_text("a")
        (incoming / "b").write_text("b")
    assert len(flushed) == 3  # and the list of files to remove
