"""A small model behind a real server in a thread, and requests to it over sockets."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BitImageProcessor, ResNetConfig, ResNetForImageClassification

from hf_finetune.jobs.classifier import Classifier, open_classifier
from hf_finetune.serving.limits import Limits

NAMES = ("cat", "dog", "=SUM(A1)", "<b>bird</b>", "fish", "frog")


def small_classifier() -> Classifier:
    """Return a classifier of 16 x 16 pixels with random weights."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(id2label=dict(enumerate(NAMES)), **settings))
    return open_classifier(model, BitImageProcessor(size={"shortest_edge": 16}, do_center_crop=True, crop_size=16))


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    port: int

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            own = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, own, encode_chunked="Transfer-Encoding" in own)
            answer = connection.getresponse()
            return Response(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def send(self, *files: tuple[str, bytes], path: str = "/v1/classify", **fields: str) -> Response:
        """Send files as a browser sends a form."""
        boundary = uuid.uuid4().hex
        parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
                 for name, value in fields.items()]  # fmt: skip
        for name, content in files:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
            parts.append(head.encode() + content + b"\r\n")
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        return self.ask("POST", path, body, Content_Type=f"multipart/form-data; boundary={boundary}")


@contextmanager
def served(classifier: Classifier, limits: Limits) -> Iterator[Served]:
    """Serve a model at a free port of this machine."""
    import uvicorn

    from hf_finetune.serving.app import create_app

    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(uvicorn.Config(create_app(classifier, limits, ["127.0.0.1"]), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield Served(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
