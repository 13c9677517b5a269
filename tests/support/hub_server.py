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

Answers = dict[str, dict[str, Any]]


class Hub(ThreadingHTTPServer):
    """Serves the files of one folder as the repository `REPOSITORY`, at one commit.

    Attributes:
        commit: the commit that `main` is at.
        status: the HTTP status of every answer; 0 means the correct one.
        token: the access token that a request must have; "" means none.
        cut: a file name, and the number of bytes after which the connection breaks when it is first requested.
        stall: the same, but the connection stays open and silent.
        silent: a pattern; requests like it ("GET /path") are never answered.
        answers: what is wrong with the answer to "HEAD config.json", "GET config.json" …, or to "GET " for the list of
            files: another `status` or `body`, and `headers` instead of the correct ones, of which None means none.
        obliging: whether it has any file that is asked for, of whatever commit it was said to be.
        scripts: several `answers`; a request for "/script/3" makes the fourth the one that counts.
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
        self.answers: Answers = {}
        self.obliging = False
        self.scripts: list[Answers] = []
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
        if path.startswith("/script/"):
            self.server.answers = self.server.scripts[int(path.removeprefix("/script/"))]
            return self.answer(200, b"")
        if self.server.silent and re.match(self.server.silent, f"{self.command} {self.path}"):
            threading.Event().wait(60)
            self.close_connection = True
            return None
        if self.server.status:
            return self.answer(self.server.status, b"{}")
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            if path.rpartition("/")[2] not in ("main", commit):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            siblings = [listed(name, content) for name, content in files.items()]
            return self.answer(
                200, json.dumps({"id": REPOSITORY, "sha": commit, "siblings": siblings}).encode(), name=""
            )
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return self.answer(200, json.dumps(tree).encode())
        prefix = f"/{REPOSITORY}/resolve/{commit}/"
        if path.startswith(prefix) and path.removeprefix(prefix) in files:
            return self.send_file(path.removeprefix(prefix), files[path.removeprefix(prefix)], part)
        if self.server.obliging and not path.startswith("/api/"):
            said = json.loads(self.server.answers["GET "]["body"]).get("sha")
            blob = '"9e26dfeeb6e641a33dae4961196235bdb965b21b"'  # git's hash of {}
            return self.answer(200, b"{}", {"ETag": blob, "X-Repo-Commit": str(said)})
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815 - the name that http.server asks for

    def send_file(self, name: str, content: bytes, part: str) -> None:
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.server.commit}
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
        self.answer(status, content, headers, name=name)

    def answer(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        most: int | None = None,
        name: str | None = None,
    ) -> None:
        wrong = {} if name is None else self.server.answers.get(f"{self.command} {name}", {})
        content = wrong.get("body", content)
        self.send_response(wrong.get("status", status))
        usual = {**(headers or {}), "Content-Length": str(len(content))}
        for header, value in {**usual, **wrong.get("headers", {})}.items():
            if value is not None:
                self.send_header(header, value)
        self.end_headers()
        if wrong:
            self.close_connection = True
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
