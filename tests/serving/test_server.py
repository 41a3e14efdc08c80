"""`hf-finetune serve`: where it listens, how it stops, and mistakes."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import time

import pytest

pytest.importorskip("uvicorn")

from hf_finetune.cli.main import main
from tests.helpers import launched
from tests.helpers.processes import REPOSITORY
from tests.helpers.served import Served


@pytest.mark.slow
def test_sigterm_lets_what_was_asked_be_answered(tmp_path):
    said = tmp_path / "said"
    command = [REPOSITORY / "hf_finetune" / "__main__.py", "serve", "resnet_small_cifar10", "--port", "0"]
    process = launched.start([said, tmp_path / "errors"], *command)
    try:
        while not said.exists() or "\n" not in said.read_text():
            assert process.exitcode is None, (tmp_path / "errors").read_text()
            time.sleep(0.02)
        line = r"Serving resnet_small_cifar10 at http://127\.0\.0\.1:(\d+); Ctrl-C stops\.\n"
        port = int(re.fullmatch(line, said.read_text())[1])
        assert Served(port).ask("GET", "/healthz").status == 200
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n")
            half.sendall(b"Content-Type: application/json\r\n\r\n[")
            assert Served(port).ask("GET", "/healthz").status == 200  # so that the request before it has arrived
            os.kill(process.pid, signal.SIGTERM)
            half.sendall(b"]")
            answer = half.recv(4096)
        assert b" 422 " in answer.split(b"\r\n")[0] or b" 503 " in answer.split(b"\r\n")[0]
        process.join(60)
        assert process.exitcode == 0 and said.read_text().endswith("\nStopped.\n")
    finally:
        process.kill()


def test_an_address_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["serve", "resnet_small_cifar10", "--port", str(other.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert "Address already in use" in error and "use another --port" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port is 70000"),
        (["--max_images", "0"], "--max_images is 0; use 1 or more."),
        (["--host", "no such host"], "check --host"),
    ],
)
def test_mistakes(words, message, capsys):
    assert main(["serve", "resnet_small_cifar10", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr("hf_finetune.serving.server.find_spec", lambda name: None if name == "fastapi" else found(name))
    assert main(["serve", "resnet_small_cifar10"]) == 2
    assert 'fastapi is needed; install it with `pip install "hf-finetune[serve]"`' in capsys.readouterr().err
