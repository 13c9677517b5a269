import os
import stat
from pathlib import Path

import pytest

from minibert.checkpoints.atomic import replace_folder, restore_folder, write_atomically
from minibert.errors import CheckpointNotFoundError, StoreError


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_files_appear_together_and_the_last_one_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    replace = Path.replace

    def replace_and_note(file: Path, target: Path) -> Path:
        moved.append(str(target.relative_to(tmp_path)))
        return replace(file, target)

    monkeypatch.setattr(Path, "replace", replace_and_note)
    folder = tmp_path / "new" / "folder"
    with write_atomically(folder, last="b") as incoming:
        for name in ("b", "a", "c"):
            (incoming / name).write_text(f"new {name}")
        (incoming / "below").mkdir()
        (incoming / "below" / "b").write_text("new below/b")
        assert all(name.startswith(".incoming-") for name in contents(folder))
    assert contents(folder) == {"a": "new a", "b": "new b", "c": "new c", "below/b": "new below/b"}
    assert moved == [f"new/folder/{name}" for name in ("a", "below/b", "c", "b")]
    assert sorted(file.name for file in folder.iterdir()) == ["a", "b", "below", "c"]


def test_other_files_stay(tmp_path: Path) -> None:
    for name in ("old", "both"):
        (tmp_path / name).write_text("old")
    with write_atomically(tmp_path, last="both") as incoming:
        (incoming / "both").write_text("new")
    assert contents(tmp_path) == {"old": "old", "both": "new"}


@pytest.mark.parametrize("error", [OSError("the disk is full"), ValueError("a bug"), KeyboardInterrupt()])
def test_a_block_that_fails_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "file").write_text("old")
    expected = StoreError if isinstance(error, OSError) else type(error)

    def fail() -> None:
        with write_atomically(tmp_path, last="file") as incoming:
            (incoming / "file").write_text("half")
            raise error

    with pytest.raises(expected):
        fail()
    assert contents(tmp_path) == {"file": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_errors_of_minibert_pass_through(tmp_path: Path) -> None:
    """They are OSErrors too, and say themselves what is wrong."""
    with pytest.raises(CheckpointNotFoundError, match=r"^not there$"), write_atomically(tmp_path, last="file"):
        raise CheckpointNotFoundError("not there")


def test_one_inside_another(tmp_path: Path) -> None:
    with write_atomically(tmp_path, last="outer") as incoming:
        with write_atomically(incoming, last="inner") as inner:
            (inner / "inner").write_text("inner")
        (incoming / "outer").write_text("outer")
    assert contents(tmp_path) == {"inner": "inner", "outer": "outer"}


def test_everybody_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with write_atomically(tmp_path, last="private") as incoming:
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
    with write_atomically(tmp_path, last="b") as incoming:
        (incoming / "a").write_text("a")
        (incoming / "b").write_text("b")
    assert len(flushed) == 2


def test_a_folder_is_replaced_by_another(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert contents(tmp_path) == {"old/file": "new"}


@pytest.mark.parametrize("new_is_there", [True, False])
def test_a_killed_replacement_is_finished(tmp_path: Path, new_is_there: bool) -> None:
    (tmp_path / "incoming.old").mkdir()
    (tmp_path / "incoming.old" / "file").write_text("old")
    if new_is_there:
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "file").write_text("new")
    restore_folder(tmp_path / "incoming", tmp_path / "target")
    assert contents(tmp_path) == {"target/file": "new" if new_is_there else "old"}
