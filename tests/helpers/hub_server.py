"""A Hub for tests on 127.0.0.1, with what huggingface_hub needs to push and to download a model.

It implements the protocol of huggingface_hub 2.4 without Xet (`hf_api.py`, `_commit_api.py`, `lfs.py`,
`file_download.py` there), keeps everything in memory, and fails on demand. Like the real Hub it stores large files
under another host name, where requests must not contain a token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_LFS_SUFFIXES = (".safetensors", ".onnx", ".png")
_DATE = "2026-01-01T00:00:00.000Z"


def git_hash(content: bytes) -> str:
    """Return the id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit: `lfs_oid` is its SHA-256 where it is stored apart, and None where git holds it."""

    content: bytes
    lfs_oid: str | None = None

    @property
    def blob_id(self) -> str:
        if self.lfs_oid is None:
            return git_hash(self.content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.lfs_oid}\nsize {len(self.content)}\n"
        return git_hash(pointer.encode())


@dataclass
class Commit:
    message: str
    files: dict[str, StoredFile]
    parent: str | None

    @property
    def oid(self) -> str:
        tree = [(path, file.blob_id) for path, file in sorted(self.files.items())]
        return hashlib.sha1(json.dumps([self.parent, self.message, tree]).encode()).hexdigest()


def _first_commits() -> list[Commit]:
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LFS_SUFFIXES)
    return [Commit("initial commit", {".gitattributes": StoredFile(attributes.encode())}, None)]


@dataclass
class Repository:
    private: bool
    commits: list[Commit] = field(default_factory=_first_commits)

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def find(self, revision: str) -> Commit | None:
        """Return the commit of a revision, main or a commit's id."""
        return self.head if revision == "main" else next((c for c in self.commits if c.oid == revision), None)


@dataclass
class Failure:
    """Requests whose method and path match `pattern` get `status`, 0 for no answer at all.

    It happens `times` times or, with None, for ever.
    """

    pattern: str
    status: int
    times: int | None


class HubServer:
    """The Hub. Use it as a context manager; `users` maps each token to (user name, organizations, may write).

    `repositories` holds what was pushed, `requests` what was asked, as "METHOD /path".
    """

    def __init__(self, users: dict[str, tuple[str, tuple[str, ...], bool]]) -> None:
        self.users = users
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failures: list[Failure] = []
        self.lock, self.closed = threading.Lock(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def storage(self) -> str:
        """The other host, for large files."""
        return f"http://localhost:{self.server.server_port}/storage"

    def fail(self, pattern: str = "", status: int = 503, times: int | None = None) -> None:
        self.failures.append(Failure(pattern, status, times))

    def failure_of(self, request: str) -> int | None:
        for failure in self.failures:
            if re.search(failure.pattern, request) and failure.times != 0:
                if failure.times is not None:
                    failure.times -= 1
                return failure.status
        return None

    def may_read(self, token: str | None, name: str) -> bool:
        return name in self.repositories and (not self.repositories[name].private or self._owns(token, name))

    def may_write(self, token: str | None, name: str) -> bool:
        return self._owns(token, name) and self.users[token or ""][2]

    def _owns(self, token: str | None, name: str) -> bool:
        user, organizations, _ = self.users.get(token or "", (None, (), False))
        return name.split("/")[0] in (user, *organizations)

    def __enter__(self) -> HubServer:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closed.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class _Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


_NO_REPOSITORY = _Refusal(404, "Repository not found", "RepoNotFound")
_NAME = r"(?P<name>[^/]+/[^/]+)"


class AnsweringHandler(BaseHTTPRequestHandler):
    """Sends a status, headers and bytes, or anything else as JSON; to HEAD without the content."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class _Handler(AnsweringHandler):
    hub: HubServer

    # ---- what the routes share ----

    def handle_request(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            failure = self.hub.failure_of(f"{self.command} {path}")
        if failure == 0:
            self.close_connection = self.hub.closed.wait()
            return None
        if failure is not None:
            return self.answer(failure, f"<html>{HTTPStatus(failure).phrase}</html>".encode())
        with self.hub.lock:
            try:
                for pattern, route in _ROUTES.items():
                    match = re.fullmatch(pattern, f"{self.command} {path}")
                    if match:
                        return route(self, **match.groupdict())
                raise _Refusal(404, f"The test's Hub has no {self.command} {path}")
            except _Refusal as refusal:
                headers = {"X-Error-Message": refusal.message}
                if refusal.code:
                    headers["X-Error-Code"] = refusal.code
                return self.answer(refusal.status, {"error": refusal.message}, **headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def log_message(self, *arguments: object) -> None:
        pass

    def require_user(self) -> str:
        if self.token is None:
            raise _Refusal(401, "Invalid username or password.")
        if self.token not in self.hub.users:
            raise _Refusal(401, "Invalid credentials in Authorization header")
        return self.token

    def readable(self, name: str) -> Repository:
        if self.token is not None:
            self.require_user()
        if not self.hub.may_read(self.token, name):
            if self.token is None:
                raise _Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise _NO_REPOSITORY
        return self.hub.repositories[name]

    def writable(self, name: str) -> Repository:
        repository = self.readable(name)
        if not self.hub.may_write(self.require_user(), name):
            raise _Refusal(403, "You don't have the required permissions to perform this operation")
        return repository

    # ---- accounts and repositories ----

    def who_am_i(self) -> None:
        user, organizations, may_write = self.hub.users[self.require_user()]
        access = {"displayName": "test", "role": "write" if may_write else "read"}
        orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in organizations]
        auth = {"type": "access_token", "accessToken": access}
        self.answer(200, {"type": "user", "id": "1", "name": user, "orgs": orgs, "auth": auth})

    def create(self) -> None:
        wish = json.loads(self.body)
        name = f"{wish.get('organization') or self.hub.users[self.require_user()][0]}/{wish['name']}"
        url = f"{self.hub.endpoint}/{name}"
        if not self.hub.may_write(self.require_user(), name):
            raise _Refusal(
                403, f'You don\'t have the rights to create a model under the namespace "{name.split("/")[0]}"'
            )
        if name in self.hub.repositories:
            self.answer(409, {"error": "You already created this model repo", "url": url})
            return
        self.hub.repositories[name] = Repository(private=wish.get("visibility") == "private")
        self.answer(200, {"url": url, "name": name, "id": "1"})

    def may_write_there(self, name: str) -> None:
        self.writable(name)
        self.answer(200, b"OK")

    def model_info(self, name: str, revision: str | None = None) -> None:
        repository = self.readable(name)
        commit = self.commit_of(repository, revision or "main")
        content = {"_id": "1", "id": name, "sha": commit.oid, "private": repository.private, "lastModified": _DATE}
        self.answer(200, content | {"tags": [], "siblings": [{"rfilename": path} for path in sorted(commit.files)]})

    def commit_of(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(revision)
        if commit is None:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def tree(self, name: str, revision: str, folder: str | None = None) -> None:
        files = self.commit_of(self.readable(name), revision).files
        prefix = f"{folder}/" if folder else ""
        entries = []
        for path, file in sorted(files.items()):
            if path.startswith(prefix):
                entry = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob_id}
                if file.lfs_oid:
                    entry["lfs"] = {"oid": file.lfs_oid, "size": len(file.content), "pointerSize": 134}
                entries.append(entry)
        if folder and not entries:
            raise _Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        self.answer(200, entries)

    # ---- pushing ----

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        if not re.match(r"---\n.*?\n---\n", content, re.DOTALL):
            self.answer(400, {"errors": [{"message": "no metadata"}], "warnings": []})
            return
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        files = self.commit_of(self.writable(name), revision).files
        answers = []
        for path in [wish["path"] for wish in json.loads(self.body)["files"]]:
            oid = (files[path].lfs_oid or files[path].blob_id) if path in files else None
            mode = "lfs" if path.endswith(_LFS_SUFFIXES) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": answers})

    def lfs_batch(self, name: str) -> None:
        self.writable(name)
        objects = []
        for wish in json.loads(self.body)["objects"]:
            entry = {"oid": wish["oid"], "size": wish["size"]}
            if wish["oid"] not in self.hub.stored:
                verify = {"href": f"{self.hub.endpoint}/{name}.git/info/lfs/objects/verify"}
                entry["actions"] = {"upload": {"href": f"{self.hub.storage}/{wish['oid']}"}, "verify": verify}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if self.token is not None:
            raise _Refusal(400, "a token was shown to the storage")
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400, "the content is not what its name says")
        self.hub.stored[oid] = self.body
        self.answer(200)

    def lfs_verify(self, name: str) -> None:
        self.writable(name)
        wish = json.loads(self.body)
        if len(self.hub.stored.get(wish["oid"], b"")) != wish["size"]:
            raise _Refusal(404, "the object was not uploaded whole")
        self.answer(200, {})

    def commit(self, name: str, revision: str) -> None:
        repository = self.writable(name)
        files = dict(self.commit_of(repository, revision).files)
        message = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    raise _Refusal(400, "an LFS file was not uploaded")
                files[value["path"]] = StoredFile(self.hub.stored[value["oid"]], value["oid"])
            else:
                raise _Refusal(400, f"the test's Hub knows no operation {item['key']}")
        commit = Commit(message, files, repository.head.oid)
        repository.commits.append(commit)
        url = f"{self.hub.endpoint}/{name}/commit/{commit.oid}"
        self.answer(200, {"success": True, "commitOid": commit.oid, "commitUrl": url})

    # ---- downloading ----

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self.commit_of(self.readable(name), revision)
        headers = {"X-Repo-Commit": commit.oid}
        file = commit.files.get(path)
        if file is None:
            self.answer(404, b"", X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", **headers)
        elif file.lfs_oid is None:
            self.answer(200, file.content, ETag=f'"{file.blob_id}"', **headers)
        else:
            headers |= {"X-Linked-Etag": f'"{file.lfs_oid}"', "X-Linked-Size": str(len(file.content))}
            self.answer(302, b"", Location=f"{self.hub.storage}/{file.lfs_oid}", **headers)

    def fetch(self, oid: str) -> None:
        if self.token is not None:
            raise _Refusal(400, "a token was shown to the storage")
        self.answer(200, self.hub.stored[oid], ETag=f'"{oid}"')


_ROUTES: dict[str, Callable[..., None]] = {
    r"GET /api/whoami-v2": _Handler.who_am_i,
    r"POST /api/repos/create": _Handler.create,
    r"POST /api/validate-yaml": _Handler.validate_yaml,
    rf"GET /api/models/{_NAME}": _Handler.model_info,
    rf"GET /api/models/{_NAME}/revision/(?P<revision>[^/]+)": _Handler.model_info,
    rf"GET /api/models/{_NAME}/auth-check/write": _Handler.may_write_there,
    rf"GET /api/models/{_NAME}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?": _Handler.tree,
    rf"POST /api/models/{_NAME}/preupload/(?P<revision>[^/]+)": _Handler.preupload,
    rf"POST /api/models/{_NAME}/commit/(?P<revision>[^/]+)": _Handler.commit,
    rf"POST /{_NAME}\.git/info/lfs/objects/batch": _Handler.lfs_batch,
    rf"POST /{_NAME}\.git/info/lfs/objects/verify": _Handler.lfs_verify,
    r"PUT /storage/(?P<oid>[0-9a-f]{64})": _Handler.store,
    r"(GET|HEAD) /storage/(?P<oid>[0-9a-f]{64})": _Handler.fetch,
    rf"(GET|HEAD) /{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": _Handler.resolve,
}
