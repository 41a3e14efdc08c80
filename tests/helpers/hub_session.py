"""Fixtures of the Hub's tests: the server, the client of this process pointed to it, and fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.helpers.hub_server import HubServer

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN, READ_TOKEN, WRONG_TOKEN = (f"hf_{letter * 34}" for letter in "aBz")


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer({TOKEN: ("me", ("team",), True), READ_TOKEN: ("me", (), False)}) as server:
        yield server


@pytest.fixture
def logged_in(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The server, with the client of this process pointed to it."""
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


def fresh_process(server: HubServer, home: Path, *words: str, token: str | None) -> subprocess.CompletedProcess[str]:
    """Run Python in a process with a cache, a client and a token of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    environment |= {"PYTHONWARNINGS": "ignore"}
    if token is not None:
        environment["HF_TOKEN"] = token
    return subprocess.run(
        [sys.executable, *words], cwd=home, env=environment, capture_output=True, text=True, timeout=600
    )
