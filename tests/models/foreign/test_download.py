"""Fetching weights: once, whole, and with the right hash, or nothing is kept."""

from __future__ import annotations

import hashlib
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from hf_finetune.errors import UserError
from hf_finetune.models.foreign.download import check_hash, fetch, hash_of_name, is_url

CONTENT = b"weights " * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any path but /absent, and only half of it, with the whole one's length, below /half/."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.authorized: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.authorized.append(self.headers["Authorization"])
        if self.path.startswith("/absent"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path.startswith("/half/") else CONTENT)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def check(sha256: str | None = None):
    return lambda path, name: check_hash(path, name, sha256)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_fetched_once(server, cache):
    name = f"net-{DIGEST[:8]}.pth"
    for _ in range(2):
        assert fetch(f"{server.url}/{name}?download=1", check()) == cache / name  # where torchvision has its own
    assert (cache / name).read_bytes() == CONTENT and len(server.asked) == 1 and files(cache) == [cache / name]


def test_two_addresses_that_end_alike_are_two_files(server, cache):
    first, second = fetch(f"{server.url}/a/net.pth", check()), fetch(f"{server.url}/b/net.pth", check())
    assert first != second and first.name == second.name == "net.pth" and len(server.asked) == 2


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("net-0123abcd.pth", None, "the SHA-256 of net-0123abcd.pth begins with .* but by its name it is 0123abcd"),
        ("net.pth", "0" * 64, "but load_from_sha256 is 0000"),
        ("half/net.pth", None, r"broke off after 4,000 of 8,000 bytes; run the command again"),
        ("absent.pth", None, r"absent.pth answers 404 \(Not Found\); check the address"),
    ],
)
def test_nothing_is_kept_of_what_is_not_whole_and_right(server, cache, path, sha256, message):
    with pytest.raises(UserError, match=message):
        fetch(f"{server.url}/{path}", check(sha256))
    assert files(cache) == []


def test_a_damaged_file_of_the_cache_is_fetched_again(server, cache):
    name = f"net-{DIGEST[:8]}.pth"
    cache.mkdir()
    (cache / name).write_bytes(CONTENT[:100])
    assert fetch(f"{server.url}/{name}", check()).read_bytes() == CONTENT


def test_no_network_is_said_in_one_line(cache):
    with pytest.raises(
        UserError, match=r"cannot be fetched \(.*refused\); fetch it where there is a network"
    ) as caught:
        fetch("http://127.0.0.1:9/net.pth", check())
    assert "\n" not in str(caught.value) and files(cache) == []


@pytest.mark.parametrize("url", ["ftp://host/net.pth", "file:///etc/passwd", "https://host", "https://host/"])
def test_other_addresses_are_refused(cache, url):
    with pytest.raises(UserError, match="is not the address of a file"):
        fetch(url, check())


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("resnet50_8xb32_in1k_20210831-ea4938fc.pth", "ea4938fc"),
        (f"net-{DIGEST}.safetensors", DIGEST),
        ("checkpoint-0676ba61.pth.tar", "0676ba61"),
        ("resnet50.pth", None),
        ("resnet50-ImageNet.pth", None),
        ("run-20240131.pth", None),  # a date
        ("run-20249931.pth", "20249931"),
    ],
)
def test_the_hash_in_a_name(name, digits):
    assert hash_of_name(name) == digits


def test_an_address_is_no_path():
    assert (
        is_url("https://host/x.pth") and is_url("ftp://host/x") and not is_url("runs/x.pth") and not is_url("C:/x.pth")
    )


def test_user_and_password_are_sent_and_not_shown(server, cache):
    address = f"{server.url.replace('://', '://ann:p%40ss@')}/net.pth"
    assert fetch(address, check()).read_bytes() == CONTENT
    assert server.authorized == ["Basic " + b64encode(b"ann:p@ss").decode()]
    with pytest.raises(UserError, match=r"load_from: http://\*\*\*@") as caught:
        fetch(address.replace("net.pth", "absent.pth?sig=abc"), check())
    assert "p%40ss" not in str(caught.value) and "abc" not in str(caught.value)


def test_a_malformed_address_is_said_in_one_line(cache):
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch("http://127.0.0.1:port/net.pth", check())
