"""How are files replaced so that nobody ever reads half of one?

The new files are written beside the old ones, under temporary names, and renamed once they are complete: a file system
renames in one step. So an interrupted program leaves each file whole, the old one or the new one.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from minibert.checks import shown
from minibert.errors import MinibertError, StoreError


@contextmanager
def write_atomically(folder: str | os.PathLike[str], last: str) -> Iterator[Path]:
    """Gives a temporary folder to write files into, and moves them to `folder` at the end of the `with` block.

    If the block raises, `folder` keeps its old files. If the process is killed, a temporary folder `.incoming-…` stays
    behind, which nothing reads.

        with write_atomically(folder, last="config.json") as incoming:
            save_file(tensors, incoming / "model.safetensors")
            (incoming / "config.json").write_text(text)

    Args:
        folder: where the files are to be; it is created if there is none. Files may be in subfolders.
        last: the file that is moved last: the one by which readers know that the others are there.

    Raises:
        StoreError: the folder cannot be written to.
    """
    try:
        folder = Path(folder).expanduser()
    except (TypeError, RuntimeError) as error:  # not a path, or ~ of a user without a home
        raise StoreError(f"folder must be the path of a folder, got {shown(folder)} ({error})") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as name:
            incoming = Path(name)
            yield incoming
            _move_files(incoming, folder, last)
    except MinibertError:
        raise
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot save to the folder {folder}: {error}") from error


def _move_files(incoming: Path, folder: Path, last: str) -> None:
    """Moves the files of one folder into another, one step for each file.

    Between two of these steps a reader finds new files beside old ones; to make them one step, change this function.
    """
    files = sorted(file.relative_to(incoming) for file in incoming.rglob("*") if file.is_file())
    new_file = incoming / ".permissions"
    new_file.touch()  # with the permissions that the user wants for new files
    for file in files:
        shutil.copymode(new_file, incoming / file)  # safetensors writes files that their owner alone can read
        _flush_to_disk(incoming / file)
    for file in sorted(files, key=lambda file: file == Path(last)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (incoming / file).replace(folder / file)


def _flush_to_disk(file: Path) -> None:
    """Makes sure that a file's content survives a power cut, before its name points to it."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def replace_folder(incoming: Path, target: Path) -> None:
    """Puts a complete folder in the place of another, which stays there until the new one is.

    If the process is killed between the two renames, `restore_folder` finishes what it began.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(_old_folder(incoming))
    try:
        incoming.rename(target)
    finally:
        restore_folder(incoming, target)


def restore_folder(incoming: Path, target: Path) -> None:
    """Puts back the old folder after an interrupted `replace_folder`, or deletes it if the new one is there."""
    old = _old_folder(incoming)
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _old_folder(incoming: Path) -> Path:
    return Path(f"{incoming}.old")
