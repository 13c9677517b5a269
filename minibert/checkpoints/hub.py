"""How are files downloaded from the hub?

With `huggingface_hub`: its cache, its progress bars, its resumed downloads and its settings (`HF_HOME`, `HF_ENDPOINT`,
`HF_HUB_OFFLINE` …) are what people know. This module decides which files are needed, checks what arrives, and says what
went wrong.

A server is not trusted. All files are of the one commit that it names; each is written under a name of ours, is as
large as the server said before, and counts only when its hash is the one that the server stated. What the server calls
a hash is never the name of a file before it has been seen to be one: the client's own cache takes any ETag for a name.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from minibert.checkpoints import hub_cache
from minibert.checkpoints.hub_cache import COMMIT, needed
from minibert.checks import shown
from minibert.errors import (
    CachedCopyWarning,
    CheckpointNotFoundError,
    ChecksumError,
    DownloadError,
    MinibertError,
    StoreError,
    warn,
)

COMMIT_NOTE = ".commit"  # in a folder that is being downloaded: which commit its files are of
PARTIAL = ".cache"  # in the same folder: what has arrived of files that are not complete
RETRIES = 2  # of a connection that breaks or is silent; each has the client's time limit, 10 seconds


class Source(NamedTuple):
    """A repository at one commit."""

    name: str
    commit: str
    token: str | None
    hashes: dict[str, str]  # of each file, as the list of files has it; "" if it has none


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
        ChecksumError: a file is not the one that the hub stated.
        StoreError: the files cannot be written.

    Warns:
        CachedCopyWarning: the hub could not be reached, and what the cache has may be older.
    """
    _check_revision(revision)
    if local_files_only:
        return hub_cache.complete_snapshot(name, revision, files)
    try:
        with _clients_errors_as_ours(name, revision):
            return _download(_source(name, revision, token), files, revision, folder)
    except DownloadError as error:
        if folder is not None:
            raise
        return _instead(name, revision, files, error)


def _check_revision(revision: str) -> None:
    """Raises an error for what git takes for no name of a branch, tag or commit: it becomes a path in the cache."""
    if not isinstance(revision, str) or not re.fullmatch(r"(?!.*\.\.)[\w.+@-]+(/[\w.+@-]+)*", revision):
        raise CheckpointNotFoundError(f"revision must be a branch, a tag or a commit, got {shown(revision)}")


def _instead(name: str, revision: str, files: Sequence[str], error: DownloadError) -> Path:
    """The cache's copy after a download that failed; the download's error if there is none."""
    from huggingface_hub import constants

    try:
        snapshot = hub_cache.complete_snapshot(name, revision, files)
    except DownloadError as nothing:
        raise DownloadError(f"{error}; {nothing}") from error
    if revision != snapshot.name and not constants.HF_HUB_OFFLINE:
        warn(f"{error}: the copy in the cache is used, of commit {snapshot.name[:7]}", CachedCopyWarning)
    return snapshot


def _source(name: str, revision: str, token: str | None) -> Source:
    """Asks which commit a revision is and which files it has."""
    from huggingface_hub import HfApi, constants

    limit = constants.HF_HUB_ETAG_TIMEOUT
    info = HfApi().model_info(name, revision=revision, token=token, timeout=limit, files_metadata=True)
    if not COMMIT.fullmatch(str(info.sha)) or (COMMIT.fullmatch(revision) and info.sha != revision):
        raise DownloadError(f"the hub's answer for {name} is not to be trusted: its commit is {shown(info.sha)}")
    return Source(name, str(info.sha), token, {file.rfilename: _listed_hash(file) for file in info.siblings or ()})


def _listed_hash(sibling: Any) -> str:
    return str((sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or "")


def _download(source: Source, files: Sequence[str], revision: str, folder: Path | None) -> Path:
    """Downloads what is needed into a folder, or into the cache's folder for the commit."""
    if folder is None:
        repository = hub_cache.repository_folder(source.name)
        target, partial = repository / "snapshots" / source.commit, repository / ".minibert"
    else:
        target, partial = folder, folder / PARTIAL
        _begin(folder, source.commit)
    for file in needed(source.hashes, files):
        if not re.fullmatch(r"(?!(.*/)?\.\.?(/|$))[^/\\:\0]+(/[^/\\:\0]+)*", file):
            raise DownloadError(f"the hub's answer for {source.name} is not to be trusted: it has a file {shown(file)}")
        if not (target / file).is_file():
            _download_file(source, file, target / file, partial)
    if folder is None:
        hub_cache.note(source.name, revision, source.commit, source.hashes)
    return target


def _begin(folder: Path, commit: str) -> None:
    """Keeps what an interrupted download left in a folder if it was of the same commit, and removes it otherwise."""
    note = folder / COMMIT_NOTE
    if folder.exists() and not (note.is_file() and note.read_text(encoding="utf-8") == commit):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(commit, encoding="utf-8")


def _download_file(source: Source, file: str, target: Path, partial: Path) -> None:
    """Downloads one file beside its place, and moves it there when it is complete and correct."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    url, size, hashes = _stated(source, file)
    partial.mkdir(parents=True, exist_ok=True)
    incoming = partial / f"{hashes[0]}.incomplete"
    with WeakFileLock(incoming.with_suffix(".lock")):
        if target.is_file():  # another process was faster
            return
        with incoming.open("ab") as stream:
            if size is not None and stream.tell() > size:
                stream.truncate(0)
            http_get(
                url,
                Limited(stream, size),  # type: ignore[arg-type]  # it has what http_get calls
                resume_size=stream.tell(),
                headers=build_hf_headers(token=source.token),
                expected_size=size,
                displayed_filename=file,
                _nb_retries=RETRIES,
            )
        if not set(hashes) <= hashes_of(incoming):
            incoming.unlink()
            raise ChecksumError(f"{file} of {source.name} is not the content that the hub lists; try again")
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming.replace(target)


def _stated(source: Source, file: str) -> tuple[str, int | None, list[str]]:
    """What the hub says of a file: its address, its size, and its hashes, one or two that are the same."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(source.name, file, revision=source.commit)
    stated = get_hf_file_metadata(url, token=source.token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    answer = f"the hub's answer for {file} of {source.name} is not to be trusted"
    if not is_hash(stated.etag):
        raise DownloadError(f"{answer}: its ETag is {shown(stated.etag)}, which is not a hash")
    if source.hashes[file] and not is_hash(source.hashes[file]):
        raise DownloadError(f"{answer}: its hash is {shown(source.hashes[file])}")
    if stated.commit_hash != source.commit:
        raise DownloadError(f"{answer}: it is of commit {shown(stated.commit_hash)}, not of {source.commit}")
    return url, stated.size, [str(stated.etag), *filter(None, [source.hashes[file]])]


def is_hash(text: str | None) -> bool:
    """Whether a text is a sha1 or sha256 in hexadecimal digits."""
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", str(text)) is not None


class Limited:
    """A file that does not grow beyond a size, however much a server sends."""

    def __init__(self, stream: IO[bytes], limit: int | None) -> None:
        self.stream, self.limit = stream, limit

    def write(self, content: bytes) -> int:
        if self.limit is not None and self.stream.tell() + len(content) > self.limit:
            self.stream.truncate(0)
            raise DownloadError(f"the hub sends more than the {self.limit:,} bytes that it stated")
        return self.stream.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def hashes_of(file: Path) -> set[str]:
    """Returns what a server may state as a file's hash: its sha256, git's hash of it, or its plain sha1."""
    digests = [hashlib.sha256(), hashlib.sha1(b"blob %d\0" % file.stat().st_size), hashlib.sha1()]
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            for digest in digests:
                digest.update(block)
    return {digest.hexdigest() for digest in digests}


def sha256(file: Path) -> str:
    """Returns the sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _clients_errors_as_ours(name: str, revision: str) -> Iterator[None]:
    """Turns whatever the client raises into one of our errors, with the next step."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except MinibertError:
        raise
    except GatedRepoError as error:
        raise CheckpointNotFoundError(
            f"the hub gives {name} only to users who accepted its terms: accept them on its page, then set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointNotFoundError(f"the hub has no repository {name}; a private one needs HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise CheckpointNotFoundError(f"the hub has no revision {revision} of {name}") from error
    except Exception as error:  # from a refused connection to a full disk: the client has no common type for them
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, HfHubHTTPError):
            raise StoreError(
                f"the files of {name} cannot be written ({error}): free some space, or set HF_HOME and "
                "MINIBERT_WEIGHTS to folders of your own"
            ) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if any("Timeout" in kind.__name__ for kind in type(error).__mro__):
            reason = f"it did not answer in time: {reason}"
        raise DownloadError(f"the hub could not provide {name} ({reason})") from error
