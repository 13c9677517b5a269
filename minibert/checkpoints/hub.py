"""How are files downloaded from the hub?

With `huggingface_hub`: its cache, its progress bars, its resumed downloads and its settings (`HF_HOME`, `HF_ENDPOINT`,
`HF_HUB_OFFLINE` …) are what people know. This module decides which files are needed, and says what went wrong.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from minibert.checkpoints import layout
from minibert.errors import CheckpointNotFoundError, DownloadError


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

    Without a network, it returns what the client's cache has.

    Args:
        revision: a branch, tag or commit.
        token: an access token for private repositories.
        local_files_only: use the cache and never the network.
        folder: where to put the files; None means the client's cache.

    Returns:
        The folder that holds them.

    Raises:
        CheckpointNotFoundError: there is no such repository or revision, or this token gives no access to it.
        DownloadError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    with _clients_errors_as_ours(name, revision):
        if local_files_only:
            return _cached(name, revision)
        try:
            # One request, which fails at once where there is no network; the client's later ones would retry.
            info = HfApi().model_info(name, revision=revision, token=token)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except Exception:
            if folder is None:
                with suppress(LocalEntryNotFoundError):
                    return _cached(name, revision)
            raise
        wanted = needed([sibling.rfilename for sibling in info.siblings or ()], files)
        if folder is None:
            return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, token=token))
        # By commit: for a branch that it cannot reach, the client would return whatever is in the folder.
        return Path(snapshot_download(name, revision=info.sha, allow_patterns=wanted, token=token, local_dir=folder))


def _cached(name: str, revision: str) -> Path:
    """The folder of a repository in the client's cache; the client's `LocalEntryNotFoundError` if it has none."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=[layout.CONFIG], local_files_only=True))


@contextmanager
def _clients_errors_as_ours(name: str, revision: str) -> Iterator[None]:
    """Turns whatever the client raises into one of our errors, with the next step."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
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
