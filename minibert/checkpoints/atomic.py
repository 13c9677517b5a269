"""How are files replaced so that nobody ever reads half of a save?

A save has several files, and a file system replaces them one by one. So a save is first written into a folder beside
the old files, and put on the disk. Renaming that folder to `.saved` is the one step that makes it count: whoever finds
`.saved` moves its files into place before anything is read (`finish_save`), and can be interrupted and begin again. A
save that was interrupted earlier left the old files as they were.
"""

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from minibert.checkpoints.json_files import read_strings
from minibert.checks import shown
from minibert.errors import CheckpointNotFoundError, MinibertError, StoreError

if sys.platform != "win32":
    import fcntl

INCOMING = ".incoming-"  # the beginning of the name of a folder that is being written
SAVED = ".saved"  # a complete save, whose files are not all in place yet
WRITER = ".writer"  # a file in either that is locked as long as its writer lives
REMOVED = ".removed.json"  # in either: which files of an older save the new one does not have


@contextmanager
def write_atomically(folder: str | os.PathLike[str], owns: Sequence[str]) -> Iterator[Path]:
    """Gives a temporary folder to write files into, which replace those of `folder` in one step when the block ends.

    If the block raises, or the process is killed, `folder` keeps its old files; what a killed process leaves behind is
    removed by the next save.

        with write_atomically(folder, owns=["config.json", "model*.safetensors"]) as incoming:
            save_file(tensors, incoming / "model.safetensors")
            (incoming / "config.json").write_text(text)

    Args:
        folder: where the files are to be; it is created if there is none. Files may be in subfolders.
        owns: names or patterns of the files that such a save may have. Those of an older one that the new one does not
            have are removed; other files in the folder are never touched.

    Raises:
        StoreError: the folder cannot be written to.
    """
    try:
        folder = Path(folder).expanduser()
    except (TypeError, RuntimeError) as error:  # not a path, or ~ of a user without a home
        raise StoreError(f"folder must be the path of a folder, got {shown(folder)} ({error})") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        incoming = Path(tempfile.mkdtemp(dir=folder, prefix=INCOMING))
        try:
            with _locked(incoming / WRITER):
                yield incoming
                _make_ready(incoming)
                with _locked(folder):
                    _finish(folder)  # an older save, if it was interrupted
                    _list_removed(incoming, folder, owns)
                    incoming.rename(folder / SAVED)
                    _finish(folder)
                    _remove_litter(folder)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
    except MinibertError:
        raise
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot save to the folder {folder}: {error}") from error


def finish_save(folder: Path) -> None:
    """Moves the files of an interrupted save into place, if there is one that was complete.

    Raises:
        StoreError: the folder cannot be written to.
    """
    if not (folder / SAVED).is_dir():
        return
    try:
        with _locked(folder):
            _finish(folder)
    except OSError as error:
        raise StoreError(
            f"{folder / SAVED} holds a save that was interrupted, and cannot be finished ({error}): make the folder "
            "writable, and load it again"
        ) from None


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Inside the block, no save changes the files of a folder; an interrupted one is finished first."""
    finish_save(folder)
    if not os.access(folder, os.R_OK):  # whoever reads its files says so
        yield
        return
    with _locked(folder, shared=True):
        yield


def _make_ready(incoming: Path) -> None:
    """Puts all files on the disk, with the permissions that the user wants for new files."""
    new_file = incoming / WRITER
    for file in _files(incoming):
        shutil.copymode(new_file, incoming / file)  # safetensors writes files that their owner alone can read
        _flush_to_disk(incoming / file)


def _list_removed(incoming: Path, folder: Path, owns: Iterable[str]) -> None:
    """Writes down which files of an older save have no successor."""
    older = {file.relative_to(folder) for pattern in owns for file in folder.glob(pattern) if file.is_file()}
    removed = sorted(map(str, older - set(_files(incoming))))
    (incoming / REMOVED).write_text(json.dumps(removed), encoding="utf-8")
    _flush_to_disk(incoming / REMOVED)


def _finish(folder: Path) -> None:
    """Moves what is in `.saved` into place. It can be interrupted at any step, and then does the rest."""
    saved = folder / SAVED
    if not saved.is_dir() or saved.is_symlink():
        return
    for file in _files(saved):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (saved / file).replace(folder / file)
    with suppress(CheckpointNotFoundError):  # removed in the last step of an earlier attempt
        for name in read_strings(saved / REMOVED, StoreError):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise StoreError(f"{saved} is not of minibert, for it names the file {shown(name)}: remove it")
            (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # a subfolder may hold other files
                (folder / name).parent.rmdir()
    shutil.rmtree(saved)


def _remove_litter(folder: Path) -> None:
    """Removes what killed processes were writing. One that still lives holds a lock."""
    for litter in folder.glob(f"{INCOMING}*"):
        try:
            with _locked(litter / WRITER, wait=False):
                shutil.rmtree(litter, ignore_errors=True)
        except OSError:
            continue


def _files(folder: Path) -> list[Path]:
    """The files of a save, relative to its folder."""
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return sorted(file for file in files if file not in (Path(WRITER), Path(REMOVED)))


@contextmanager
def _locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Holds a lock on a folder or file; a file that does not exist is created."""
    if sys.platform == "win32":  # has no such locks: saves at the same time, or during a load, are not kept apart
        if not path.exists():
            path.touch()
        yield
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
                raise
        yield
    finally:
        os.close(descriptor)


def _flush_to_disk(file: Path) -> None:
    """Makes sure that a file's content survives a power cut, before its name points to it."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def write_file(file: Path, text: str) -> None:
    """Writes one file of text, whole or not at all; raises a `StoreError` if it cannot."""
    incoming = file.with_name(f".{file.name}.{os.urandom(4).hex()}")
    try:
        incoming.write_text(text, encoding="utf-8")
        _flush_to_disk(incoming)
        incoming.replace(file)
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error}") from None
    finally:
        incoming.unlink(missing_ok=True)
