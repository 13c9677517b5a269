"""How do files come from the hub?

Through `huggingface_hub`: its cache, its progress bars, its resumed downloads and its settings (`HF_HOME`,
`HF_ENDPOINT`, `HF_HUB_OFFLINE` …) are what people know. This room says which files are needed, and what went wrong.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
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
    """Fetches the files of a repository that match a pattern in `files`; of the forms of weights only the best.

    Without a network, the client's cache serves what it has.

    Args:
        revision: a branch, tag or commit.
        token: an access token for private repositories.
        local_files_only: use the cache and never the network.
        folder: where to put the files; the client's cache when left out.

    Returns:
        The folder that holds them.

    Raises:
        CheckpointNotFoundError: no such repository or revision, as far as this token may know.
        DownloadError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def cached() -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["config.json"], local_files_only=True))

    try:
        if local_files_only:
            return cached()
        try:
            # One request, which fails at once where there is no network; the client's later ones would retry.
            info = HfApi().model_info(name, revision=revision, token=token)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except Exception:
            if folder is None:
                with suppress(LocalEntryNotFoundError):
                    return cached()
            raise
        wanted = needed([sibling.rfilename for sibling in info.siblings or ()], files)
        if folder is None:
            return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, token=token))
        # By commit: for a branch that it cannot reach, the client would return whatever lies in the folder.
        return Path(snapshot_download(name, revision=info.sha, allow_patterns=wanted, token=token, local_dir=folder))
    except GatedRepoError as error:
        raise DownloadError(
            f"the hub gives {name} only to those who accepted its terms: do so on its page, then set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointNotFoundError(f"the hub has no repository {name}; a private one needs HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise CheckpointNotFoundError(f"the hub has no revision {revision} of {name}") from error
    except Exception as error:  # from a connection refused to a full disk: the client has no common type for them
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DownloadError(f"the hub cannot give {name} ({reason})") from error


def needed(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Of a repository's files those that match a pattern; of its weights only the best of `layout.WEIGHTS`."""
    names = list(names)
    best = next((form for form in layout.WEIGHTS if form in names), None)
    others = [pattern for form, shards in layout.WEIGHTS.items() if form != best for pattern in (form, shards)]
    return [
        name
        for name in names
        if any(fnmatch(name, pattern) for pattern in patterns) and not any(fnmatch(name, pattern) for pattern in others)
    ]
