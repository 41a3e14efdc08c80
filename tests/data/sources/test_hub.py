"""Hub datasets where the Hub refuses, has not, or cannot be reached. All within this machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest

from hf_finetune.data.catalog import CATALOG
from hf_finetune.data.sources.hub import load_from_hub
from hf_finetune.data.sources.source import is_hub_id
from hf_finetune.errors import UserError

_ANSWERS = {
    "none": (404, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "norevision": (404, "RevisionNotFound"),
    "pets": (200, ""),
}


class _Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does, by the dataset's name: status and the error code in a header."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/datasets/").split("/")[1]
        status, code = _ANSWERS[name]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        contents = b'{"id": "org/pets", "sha": "0b2714987fa478483af9968de7c934580d0bb9a2"}'
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        self.wfile.write(contents)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield endpoint
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    with socket.socket() as unused:  # a port that was free a moment ago, and where nobody listens
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return endpoint


def test_is_hub_id() -> None:
    assert is_hub_id("uoft-cs/cifar10")
    assert not any(is_hub_id(name) for name in ("cifar10", "a/b/c", "./pets", "/data/pets", "a/", "~/pets"))


def test_unreachable_hub_is_reported_at_once(no_hub: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_from_hub("cifar10", CATALOG["cifar10"], "plain_text", None)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert message.startswith(f"uoft-cs/cifar10 cannot be fetched: the Hub at {no_hub} cannot be reached")
    assert message.endswith("use a local copy: --dataset cifar10 --dataset_path DIR.")
    assert "\n" not in message


def test_unreachable_hub_and_a_misspelled_name(no_hub: str) -> None:
    with pytest.raises(UserError) as caught:
        load_from_hub("uoft-cs/cifar-10", None, None, None)
    assert str(caught.value).startswith("there is no folder uoft-cs/cifar-10, and uoft-cs/cifar-10 cannot be fetched")
    assert str(caught.value).endswith('Did you mean "uoft-cs/cifar10"?')


def test_offline_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be reached \(.*offline.*\); use a local copy: --dataset mnist"):
        load_from_hub("mnist", CATALOG["mnist"], "mnist", None)


def test_settings_are_set_back(no_hub: str) -> None:
    offline, parquet_export = datasets.config.HF_HUB_OFFLINE, datasets.config.USE_PARQUET_EXPORT
    with pytest.raises(UserError):
        load_from_hub("someone/pets", None, None, None)
    assert offline == datasets.config.HF_HUB_OFFLINE
    assert parquet_export == datasets.config.USE_PARQUET_EXPORT


@pytest.mark.parametrize(
    ("dataset", "revision", "message"),
    [
        ("org/none", None, r"^dataset: the Hub has no dataset org/none that you may read, .* hf auth login\.$"),
        ("org/gated", None, r"^org/gated is gated: ask for access at .*/datasets/org/gated .* --dataset_path DIR\.$"),
        ("org/norevision", "v9", r'^dataset_revision: org/norevision has no branch, tag or commit "v9" on the Hub\.$'),
    ],
)
def test_hub_refuses(hub: str, dataset: str, revision: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_from_hub(dataset, None, None, revision)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            "large",
            ValueError("BuilderConfig 'large' not found. Available: ['small', 'tiny']"),
            r"""^dataset_config: org/pets has no configuration "large"; use one of 'small', 'tiny'\.$""",
        ),
        (
            None,
            ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['small', 'tiny']\nExample"
            ),
            r"^dataset_config: org/pets has several configurations; use one of 'small', 'tiny'\.$",
        ),
        (
            None,
            OSError("No space left on device\n"),
            r"^org/pets cannot be fetched: No space left on device; or use a local",
        ),
    ],
)
def test_download_fails(
    hub: str, monkeypatch: pytest.MonkeyPatch, config: str | None, error: Exception, message: str
) -> None:
    def load_dataset(*arguments: object, **keywords: object) -> None:
        assert not datasets.config.USE_PARQUET_EXPORT, "it would ask another host"
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=message):
        load_from_hub("org/pets", None, config, None)


def test_unreachable_hub_leaves_the_cache(no_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(hub_id: str, **keywords: object) -> dict[str, str]:
        assert datasets.config.HF_HUB_OFFLINE, "it would try the Hub again, for 23 seconds"
        assert (hub_id, keywords) == ("ylecun/mnist", {"name": "mnist", "revision": None})
        return {"train": "from the cache"}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    raw = load_from_hub("mnist", CATALOG["mnist"], "mnist", None)
    assert (raw.splits, raw.source) == ({"train": "from the cache"}, "ylecun/mnist")


def test_the_commit_of_a_dataset_is_kept(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = datasets.DatasetDict(train=datasets.Dataset.from_dict({"label": [0]}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **settings: splits)
    assert load_from_hub("org/pets", None, None, "main").revision == "0b2714987fa478483af9968de7c934580d0bb9a2"
