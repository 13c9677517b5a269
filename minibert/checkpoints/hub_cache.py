"""What does the hub client's cache have of a repository, and is that all of what is asked for?

A snapshot in the cache may be a part of a commit: another program fetched only what it needed, or a download was
interrupted. The folder alone does not tell a file that is missing from one that was never in the repository, and
without `modules.json` a sentence encoder is a plain BERT, without `tokenizer_config.json` a cased tokenizer an uncased
one. So a snapshot is used if a list of the commit's files says that it is complete; or, where no list was kept, if each
file that is asked for is there or is noted as absent, as `transformers` and `sentence-transformers` note it.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from minibert.checkpoints import layout
from minibert.checkpoints.json_files import read_object, read_objects
from minibert.errors import CheckpointError, DownloadError, MinibertError, StoreError

COMMIT = re.compile(r"[0-9a-f]{40}")


def repository_folder(name: str) -> Path:
    """Returns the folder of a repository in the client's cache, which `HF_HOME` moves; it need not exist."""
    from huggingface_hub import constants

    try:
        return Path(constants.HF_HUB_CACHE).expanduser() / f"models--{name.replace('/', '--')}"
    except RuntimeError:  # a user without a home, as in some containers
        raise StoreError("the hub's cache has no folder, for there is no home: set HF_HOME to one") from None


def complete_snapshot(name: str, revision: str, patterns: Sequence[str]) -> Path:
    """Returns the folder of a commit in the cache that has all files that match a pattern.

    Raises:
        DownloadError: there is none, or it is not known to have all of them.
    """
    repository = repository_folder(name)
    commit = revision
    if not COMMIT.fullmatch(revision):
        try:
            commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            commit = ""
    snapshot = repository / "snapshots" / commit
    if not COMMIT.fullmatch(commit) or not snapshot.is_dir():
        raise DownloadError(f"the hub's cache {repository.parent} has no {name} at revision {revision}")
    listed = _listed_files(repository, commit)
    if listed is None:
        missing = _unknown_files(snapshot, repository / ".no_exist" / commit, patterns)
    else:
        missing = [file for file in needed(listed, patterns) if not (snapshot / file).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DownloadError(
            f"the hub's cache has only a part of {name}, as far as is known: {', '.join(missing[:3])}{more} is missing"
        )
    return snapshot


def needed(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Returns those of a repository's files that match a pattern; of the weights in a folder only the best format.

    `layout.WEIGHTS` lists the formats, the best first.
    """
    names = dict.fromkeys(names)

    def is_worse(name: str) -> bool:
        folder, slash, file = name.rpartition("/")
        best = next((weights for weights in layout.WEIGHTS if f"{folder}{slash}{weights}" in names), None)
        others = [(weights, shards) for weights, shards in layout.WEIGHTS.items() if weights != best]
        return any(file == weights or fnmatchcase(file, shards) for weights, shards in others)

    wanted = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return [name for name in wanted if not is_worse(name)]


def note(name: str, revision: str, commit: str, files: Iterable[str]) -> None:
    """Notes which files a commit has, and that a branch or tag was last seen at it."""
    repository = repository_folder(name)
    listing, reference = _listing(repository, commit), repository / "refs" / revision
    with suppress(OSError):  # a cache may be read-only
        if not listing.is_file():
            _write(listing, json.dumps({"files": dict.fromkeys(sorted(files))}))
        if revision != commit and not (reference.is_file() and reference.read_text(encoding="utf-8") == commit):
            _write(reference, commit)


def _write(file: Path, text: str) -> None:
    """Writes a file in one step, for other programs read it at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    incoming = file.with_name(f".{file.name}.{os.urandom(4).hex()}")
    incoming.write_text(text, encoding="utf-8")
    incoming.replace(file)


def _listing(repository: Path, commit: str) -> Path:
    return repository / ".minibert" / f"{commit}.json"


def _listed_files(repository: Path, commit: str) -> list[str] | None:
    """The files of a commit as we noted them, or as the client's newer versions do; None if nobody did."""
    for listing in (_listing(repository, commit), repository / "trees" / f"{commit}.json"):
        with suppress(MinibertError):
            files = read_object(listing, CheckpointError).get("files")
            if isinstance(files, dict):
                return list(files)
    return None


def _unknown_files(snapshot: Path, absent: Path, patterns: Sequence[str]) -> list[str]:
    """The files of which nobody knows whether the commit has them. Where one of several will do, one must be there."""

    def is_known(file: str) -> bool:
        return (snapshot / file).is_file() or (absent / file).is_file()

    inner, optional = "", [file for file in patterns if file in (*layout.TOKENIZER, *layout.SENTENCE_ENCODER)]
    if "modules.json" in optional and (snapshot / "modules.json").is_file():
        inner, of_steps = _files_of_steps(snapshot)
        optional = [f"{inner}{file}" if file in layout.TOKENIZER else file for file in optional] + of_steps
    unknown = [file for file in optional if not any(sign in file for sign in "*[") and not is_known(file)]
    for alternatives in (tuple(layout.WEIGHTS), (layout.CONFIG, layout.OLD_CONFIG)):
        is_asked = any(file in patterns for file in alternatives)
        if is_asked and not any((snapshot / f"{inner}{file}").is_file() for file in alternatives):
            unknown.append(f"{inner}{alternatives[0]}")
    return unknown


def _files_of_steps(snapshot: Path) -> tuple[str, list[str]]:
    """The folder of a sentence encoder's BERT, "" or one that ends in a slash, and the settings of its steps."""
    try:
        paths = [str(step.get("path", "")) for step in read_objects(snapshot / "modules.json", CheckpointError)]
    except CheckpointError:  # whoever reads the recipe says so
        return "", []
    inner = f"{paths[0]}/" if paths and paths[0] else ""
    files = [f"{path}/{layout.CONFIG}" for path in paths[1:]]
    if not any((snapshot / inner).glob("sentence_*_config.json")):
        files.append(f"{inner}sentence_bert_config.json")  # the first that sentence-transformers looks for
    return inner, files
