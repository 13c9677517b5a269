"""How are files downloaded from the hub?

With `huggingface_hub`: its cache, its progress bars, its resumed downloads and its settings (`HF_HOME`, `HF_ENDPOINT`,
`HF_HUB_OFFLINE` …) are what people know. This module decides which files are needed, and says what went wrong.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from minibert.checkpoints import layout
from minibert.checks import shown
from minibert.errors import CheckpointNotFoundError, ChecksumError, DownloadError, MinibertError

PATIENCE = 10  # seconds to wait for an answer to a request
COMMIT_NOTE = ".commit"  # in a folder that is being downloaded: which commit its files are of
# The files that tell a sentence encoder from a plain BERT, and how it makes vectors.
TELLING = ("modules.json",)


def fetch(
    name: str,
    files: Sequence[str],
    *,
    revision: str,
    token: str | None = None,
    local_files_only: bool = False,
    folder: Path | None = None,
) -> Path:
    """Downloads the files of a repository that match a pattern in `files`; of several formats of weights only the best.

    Without a network, it returns what the client's cache has, if it is known to have all of it.

    Args:
        revision: a branch, tag or commit.
        token: an access token for private repositories.
        local_files_only: use the cache and never the network.
        folder: where to put the files; None means the client's cache.

    Returns:
        The folder that holds them.

    Raises:
        CheckpointNotFoundError: there is no such repository or revision, or this token gives no access to it.
        DownloadError: the hub cannot be reached, refuses or is silent, or the cache has only a part.
        ChecksumError: a file in `folder` is not the one that the hub lists.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    with _clients_errors_as_ours(name, revision):
        if local_files_only:
            return _cached(name, revision, files)
        try:
            # Requests that fail soon where there is no network; the client's later ones would retry each file.
            info = HfApi().model_info(name, revision=revision, token=token, timeout=PATIENCE, files_metadata=True)
            present = [sibling.rfilename for sibling in info.siblings or ()]
            wanted = needed(present, files)
            for file in _to_fetch(name, wanted, str(info.sha), folder):
                _ask(name, file, str(info.sha), token)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except Exception:
            if folder is None:
                with suppress(LocalEntryNotFoundError):
                    return _cached(name, revision, files)
            raise
        options: dict[str, Any] = {"allow_patterns": wanted, "token": token, "etag_timeout": PATIENCE}
        if folder is None:
            found = Path(snapshot_download(name, revision=revision, **options))
            _note_absent(found, [file for file in TELLING if file not in present])
            return found
        _begin(folder, str(info.sha))
        # By commit: for a branch that it cannot reach, the client would return whatever is in the folder.
        snapshot_download(name, revision=info.sha, local_dir=folder, **options)
        _check_hashes(folder, [sibling for sibling in info.siblings or () if sibling.rfilename in wanted])
        return folder


def _to_fetch(name: str, files: Iterable[str], commit: str, folder: Path | None) -> list[str]:
    """Those of the files that are not there yet, in a folder or in the client's cache."""
    from huggingface_hub import try_to_load_from_cache

    if folder is not None:
        return [file for file in files if not (folder / file).is_file()]
    return [file for file in files if not isinstance(try_to_load_from_cache(name, file, revision=commit), str)]


def _ask(name: str, file: str, commit: str, token: str | None) -> None:
    """Asks for one file's headers; raises the client's errors, and a `DownloadError` for an ETag that is not a hash.

    The client makes the ETag the name of a file: one with slashes in it could be anywhere.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    etag = get_hf_file_metadata(hf_hub_url(name, file, revision=commit), token=token, timeout=PATIENCE).etag
    if not re.fullmatch(r"[0-9a-fA-F-]{1,80}", str(etag)):
        raise DownloadError(f"the hub's answer for {file} of {name} is not to be trusted: its ETag is {shown(etag)}")


def _begin(folder: Path, commit: str) -> None:
    """Keeps what an interrupted download left in a folder if it was of the same commit, and removes it otherwise."""
    note = folder / COMMIT_NOTE
    if folder.exists() and not (note.is_file() and note.read_text(encoding="utf-8") == commit):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(commit, encoding="utf-8")


def _check_hashes(folder: Path, siblings: Iterable[Any]) -> None:
    """Raises a `ChecksumError`, and removes the files, if some are not what the hub lists."""
    wrong = [sibling.rfilename for sibling in siblings if not _is_as_listed(folder / sibling.rfilename, sibling)]
    for file in wrong:
        (folder / file).unlink()
    if wrong:
        raise ChecksumError(f"{', '.join(wrong)}: not the content that the hub lists; try again")


def _is_as_listed(file: Path, sibling: Any) -> bool:
    """Whether a file has the sha256 that the hub lists; of small files, it lists git's hash."""
    if sibling.lfs is not None:
        return sha256(file) == sibling.lfs.sha256
    content = file.read_bytes()
    return sibling.blob_id in (None, hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest())


def sha256(file: Path) -> str:
    """Returns the sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _cached(name: str, revision: str, files: Sequence[str]) -> Path:
    """The folder of a repository in the client's cache; the client's `LocalEntryNotFoundError` if it has none.

    Another program may have fetched a part of a repository: a BERT without the settings by which a sentence encoder
    makes vectors. If one of those files is asked for, it must be there, or be known not to exist.

    Raises:
        DownloadError: it is not known whether the cache has all of it.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    folder = Path(snapshot_download(name, revision=revision, allow_patterns=[layout.CONFIG], local_files_only=True))
    for file in TELLING:
        if file in files and try_to_load_from_cache(name, file, revision=folder.name) is None:
            raise DownloadError(
                f"the hub's cache has only a part of {name}: {file} is missing, and nothing says that the repository "
                "has none. Load it once with a network"
            )
    return folder


def _note_absent(snapshot: Path, files: Iterable[str]) -> None:
    """Notes in the client's cache that a repository does not have these files, as the client does."""
    folder = snapshot.parents[1] / ".no_exist" / snapshot.name
    for file in files:
        with suppress(OSError):  # a cache may be read-only
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()


@contextmanager
def _clients_errors_as_ours(name: str, revision: str) -> Iterator[None]:
    """Turns whatever the client raises into one of our errors, with the next step."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except MinibertError:
        raise
    except GatedRepoError as error:
        raise DownloadError(
            f"the hub gives {name} only to users who accepted its terms: accept them on its page, then set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointNotFoundError(f"the hub has no repository {name}; a private one needs HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise CheckpointNotFoundError(f"the hub has no revision {revision} of {name}") from error
    except Exception as error:  # from a refused connection to a full disk: the client has no common type for them
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DownloadError(f"the hub could not provide {name} ({reason})") from error


def needed(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Returns those of a repository's files that match a pattern; of its weights only the best format.

    `layout.WEIGHTS` lists the formats, the best first.
    """
    names = list(names)
    best = next((weights for weights in layout.WEIGHTS if weights in names), None)
    others = [pattern for weights, shards in layout.WEIGHTS.items() if weights != best for pattern in (weights, shards)]
    return [
        name
        for name in names
        if any(fnmatch(name, pattern) for pattern in patterns) and not any(fnmatch(name, pattern) for pattern in others)
    ]
