"""A server on loopback that speaks the part of the hub's protocol that downloads need, and can be made to fail."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = "somebody/tiny-bert"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of one folder as the repository `REPOSITORY`, at one commit.

    Attributes:
        commit: the commit that `main` is at.
        status: the HTTP status of every answer; 0 means the correct one.
        token: the access token that a request must have; "" means none.
        cut: a file name, and the number of bytes after which the connection breaks when it is first requested.
        stall: the same, but the connection stays open and silent.
        silent: part of a path; requests for it are never answered.
        etag: the ETag of the files whose names end with `etag_of`, instead of their hash.
        lie: whether files are sent as zeros, of the right length.
        stalled: set when a connection has stalled.
        requests: the requests so far, with the range if only a part of a file was requested.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.commit = COMMIT
        self.status = 0
        self.token = ""
        self.cut: tuple[str, int] | None = None
        self.stall: tuple[str, int] | None = None
        self.silent = ""
        self.etag = self.etag_of = ""
        self.lie = False
        self.stalled = threading.Event()
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self) -> dict[str, bytes]:
        return {
            file.relative_to(self.folder).as_posix(): file.read_bytes()
            for file in self.folder.rglob("*")
            if file.is_file()
        }


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        part = self.headers.get("Range", "")
        self.server.requests.append(f"{self.command} {self.path} {part}".strip())
        path = self.path.partition("?")[0]
        files = self.server.files()
        commit = self.server.commit
        if self.server.silent and self.server.silent in self.path:
            threading.Event().wait(60)
        if self.server.status:
            return self.answer(self.server.status, b"{}")
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            if path.rpartition("/")[2] not in ("main", commit):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            siblings = [listed(name, content) for name, content in files.items()]
            return self.answer(200, json.dumps({"id": REPOSITORY, "sha": commit, "siblings": siblings}).encode())
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return self.answer(200, json.dumps(tree).encode())
        prefix = f"/{REPOSITORY}/resolve/{commit}/"
        if path.startswith(prefix) and path.removeprefix(prefix) in files:
            return self.send_file(path.removeprefix(prefix), files[path.removeprefix(prefix)], part)
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815 - the name that http.server asks for

    def send_file(self, name: str, content: bytes, part: str) -> None:
        etag = hashlib.sha1(content).hexdigest()
        if self.server.etag and name.endswith(self.server.etag_of):
            etag = self.server.etag
        if self.server.lie:
            content = bytes(len(content))
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.server.commit}
        headers["Accept-Ranges"] = "bytes"
        start = re.match(r"bytes=(\d+)-", part)
        status = 206 if start else 200
        if start:
            headers["Content-Range"] = f"bytes {start[1]}-{len(content) - 1}/{len(content)}"
            content = content[int(start[1]) :]
        for trouble in ("cut", "stall"):
            planned = getattr(self.server, trouble)
            if self.command == "GET" and planned and planned[0] == name:
                setattr(self.server, trouble, None)
                self.answer(status, content, headers, planned[1])
                if trouble == "stall":
                    self.server.stalled.set()
                    threading.Event().wait(60)
                self.close_connection = True
                return
        self.answer(status, content, headers)

    def answer(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, most: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:most])
            self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        pass


def listed(name: str, content: bytes) -> dict[str, Any]:
    """What the hub says of a file: git's hash of it, and the sha256 of large ones."""
    blob = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
    facts: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith((".safetensors", ".bin")):
        facts["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 9}
    return facts


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    with Hub(folder) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
