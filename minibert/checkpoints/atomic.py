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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from minibert.checkpoints.json_files import read_strings
from minibert.checks import as_path, shown
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
        StoreError: the folder cannot be written to, or something in it is in the way of a file.
    """
    folder = as_path("folder", folder, error=StoreError)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _new_folder(folder) as incoming:
            yield incoming
            _make_ready(incoming)
            with _locked(folder):
                _finish(folder)  # an older save, if it was interrupted
                _make_room(incoming, folder)
                _list_removed(incoming, folder, owns)
                incoming.rename(folder / SAVED)
                _finish(folder)
                _remove_litter(folder)
    except MinibertError:
        raise
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot save to the folder {folder}: {error}") from error


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside another, puts it on the disk, and then in the place of that, in one step.

    Raises:
        StoreError: it cannot be written.
    """
    incoming = file.with_name(f"{file.name}.partial")
    try:
        incoming.unlink(missing_ok=True)
        incoming.touch()
        mode = (
            incoming.stat().st_mode
        )  # as the user wants new files; those of safetensors are readable by their owner alone
        write(incoming)
        incoming.chmod(mode)
        _flush_to_disk(incoming)
        incoming.replace(file)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot write {file}: {error}; what was there before is kept") from error


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
    except MinibertError:
        raise
    except OSError as error:
        raise StoreError(
            f"{folder / SAVED} holds a save that was interrupted, and cannot be finished ({error}): make the folder "
            "writable, and load it again"
        ) from None


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Inside the block, no save changes the files of a folder; an interrupted one is finished first."""
    if not os.access(folder, os.R_OK):  # whoever reads its files says so
        yield
        return
    while True:
        finish_save(folder)
        with _locked(folder, shared=True):
            if not (folder / SAVED).is_dir():  # else a save was killed while we waited for the lock
                yield
                return


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Gives a new folder in another, for the files of a save; afterwards it is removed, if it was not renamed."""
    with ExitStack() as stack:
        with _locked(folder):  # so that another save does not take it for litter before its writer has locked it
            incoming = Path(tempfile.mkdtemp(dir=folder, prefix=INCOMING))
            stack.callback(shutil.rmtree, incoming, ignore_errors=True)
            stack.enter_context(_locked(incoming / WRITER))
        yield incoming


def _make_ready(incoming: Path) -> None:
    """Puts all files on the disk, with the permissions that the user wants for new files."""
    new_file = incoming / WRITER
    for file in _files(incoming):
        shutil.copymode(new_file, incoming / file)  # safetensors writes files that their owner alone can read
        _flush_to_disk(incoming / file)


def _make_room(incoming: Path, folder: Path) -> None:
    """Makes the subfolders that the files of a save need; raises a `StoreError` if a file cannot move to its place."""
    for file in _files(incoming):
        if _is_elsewhere(file, folder):
            raise StoreError(f"{folder / file.parent} must be a folder, got a link: remove the link, or save elsewhere")
        if (folder / file).is_dir():
            raise StoreError(f"{folder / file} must be a file, got a folder: move it away, or save elsewhere")
    for file in _files(incoming):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)


def _is_elsewhere(file: Path, folder: Path) -> bool:
    """Whether a link leads out of a folder to a file in one of its subfolders."""
    return any((folder / above).is_symlink() for above in file.parents if above != Path())


def _list_removed(incoming: Path, folder: Path, owns: Iterable[str]) -> None:
    """Writes down which files of an older save have no successor."""
    older = {file.relative_to(folder) for pattern in owns for file in folder.glob(pattern) if file.is_file()}
    removed = sorted(str(file) for file in older - set(_files(incoming)) if not _is_elsewhere(file, folder))
    (incoming / REMOVED).write_text(json.dumps(removed), encoding="utf-8")
    _flush_to_disk(incoming / REMOVED)


def _finish(folder: Path) -> None:
    """Moves what is in `.saved` into place. It can be interrupted at any step, and then does the rest."""
    saved = folder / SAVED
    if not saved.is_dir():
        return
    if saved.is_symlink():
        raise StoreError(f"{saved} must be a folder that a save has made, got a link: remove it")
    _make_room(saved, folder)
    for file in _files(saved):
        (saved / file).replace(folder / file)
    with suppress(CheckpointNotFoundError):  # removed in the last step of an earlier attempt
        for name in read_strings(saved / REMOVED, StoreError):
            if Path(name).is_absolute() or ".." in Path(name).parts or _is_elsewhere(Path(name), folder):
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
