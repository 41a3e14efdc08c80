"""A Hub of the tests' own for datasets: what huggingface_hub asks of one when files are read a range at a time.

It speaks what `HfFileSystem` of huggingface_hub 2.4 speaks: information, trees and paths of a repository, and ranges of
its files. It counts the bytes that it gives of each, and fails on request.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.helpers.hub_server import AnsweringHandler

COMMIT = "5" * 40
_DATE = "2026-01-01T00:00:00.000Z"


class DatasetServer:
    """The Hub. Use it as a context manager; `folders` maps ids of datasets to the folders with their files.

    `sent` counts the bytes of each file that were given, `requests` lists all requests. The next `failures` requests
    for bytes get status 503.
    """

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.sent: Counter[str] = Counter()
        self.requests: list[str] = []
        self.failures = 0
        self.closed = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def files(self, name: str) -> dict[str, Path]:
        folder = self.folders[name]
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def __enter__(self) -> DatasetServer:
        self.thread.start()
        return self

    def close(self) -> None:
        self.closed = True
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def __exit__(self, *error: object) -> None:
        if self.thread.is_alive():
            self.close()


class _Handler(AnsweringHandler):
    hub: DatasetServer

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if self.hub.closed:
            self.close_connection = True
            return None
        self.hub.requests.append(f"{self.command} {path}")
        for pattern, route in _ROUTES.items():
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                name = match["name"]
                if name not in self.hub.folders:
                    break
                return route(self, name, match.groupdict().get("path"), body)
        self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    do_GET = do_HEAD = do_POST = handle_request

    def log_message(self, *arguments: object) -> None:
        pass

    def info(self, name: str, path: str | None, body: bytes) -> None:
        content = {"_id": "1", "id": name, "sha": COMMIT, "private": False, "lastModified": _DATE, "tags": []}
        self.answer(200, content | {"siblings": [{"rfilename": file} for file in self.hub.files(name)]})

    def tree(self, name: str, path: str | None, body: bytes) -> None:
        below = f"{path}/" if path else ""
        entries: dict[str, None] = {}
        for file in self.hub.files(name):
            if file.startswith(below):
                part = below + file[len(below) :].split("/")[0]
                entries[file if "recursive" in self.path and "=True" in self.path else part] = None
        if not entries:
            return self.answer(404, {"error": "none"}, X_Error_Code="EntryNotFound")
        return self.answer(200, self.entries(name, entries))

    def paths(self, name: str, path: str | None, body: bytes) -> None:
        wanted = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
        self.answer(200, self.entries(name, wanted))

    def entries(self, name: str, paths: Any) -> list[dict[str, Any]]:
        files, found = self.hub.files(name), []
        for path in paths:
            if path in files:
                oid = hashlib.sha1(path.encode()).hexdigest()
                found.append({"type": "file", "path": path, "size": files[path].stat().st_size, "oid": oid})
            elif any(file.startswith(f"{path}/") for file in files):
                found.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        return found

    def resolve(self, name: str, path: str | None, body: bytes) -> None:
        file = self.hub.files(name).get(path or "")
        if file is None:
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        if self.command == "GET" and self.hub.failures:
            self.hub.failures -= 1
            return self.answer(503, b"")
        content, status = file.read_bytes(), 200
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        size = len(content)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span:
            content = content[int(span[1]) : int(span[2]) + 1 if span[2] else None]
            headers["Content-Range"] = f"bytes {span[1]}-{int(span[1]) + len(content) - 1}/{size}"
            status = 206
        if self.command == "GET":
            self.hub.sent[path or ""] += len(content)
        return self.answer(status, content, **headers)


_NAME, _REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?:main|5{40})"
_ROUTES = {
    rf"GET /api/datasets/{_NAME}(/revision/{_REVISION})?": _Handler.info,
    rf"GET /api/datasets/{_NAME}/tree/{_REVISION}(/(?P<path>.+))?": _Handler.tree,
    rf"POST /api/datasets/{_NAME}/paths-info/{_REVISION}": _Handler.paths,
    rf"(GET|HEAD) /datasets/{_NAME}/resolve/{_REVISION}/(?P<path>.+)": _Handler.resolve,
}
