"""Serving: 200 clients at once, against a bare loop that decodes and classifies the same images in batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Answer, Ratio, Row, Session, alternate, compare_seconds, per_second, stopwatch
from benchmarks.images import photograph_folder
from benchmarks.ours import TINY_RESNET
from benchmarks.predict import make_model, make_processor
from benchmarks.train_resnet50 import RESNET50
from hf_finetune.jobs.classifier import Classifier, open_classifier
from hf_finetune.models.processor import IMAGENET_MEAN, IMAGENET_STD
from hf_finetune.serving.limits import Limits

_REPOSITORY = Path(__file__).resolve().parents[1]
_TOLERANCE = 1e-4  # of a probability: batches of other sizes are added in another order


def _bare(classifier: Classifier, files: list[Path], batch: int) -> torch.Tensor:
    """Return the probabilities of files, a batch at a time."""
    rows = []
    for start in range(0, len(files), batch):
        values = [{"bytes": path.read_bytes(), "path": None} for path in files[start : start + batch]]
        pixels = classifier.stage({"image": values, "label": [-1] * len(values)})["pixel_values"]
        rows.append(classifier.probabilities(classifier.prepared(pixels)))
    return torch.cat(rows)


def _is_wrong(answer: Any, own: torch.Tensor, names: dict[int, str]) -> bool:
    expected = {names[number]: score for number, score in enumerate(own.tolist())}
    given = answer["images"][0]["predictions"]
    return any(abs(expected[str(item["label"])] - item["score"]) > _TOLERANCE for item in given)


def measure(session: Session) -> Answer:
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        return Answer([], ["Skipped: the extra hf-finetune[serve] is not installed."])
    import uvicorn

    from hf_finetune.serving.app import create_app

    side, clients = session.size(224, 64), session.size(200, 4)
    count, batch = session.size(400, 8), session.size(32, 4)
    folder = photograph_folder(session, "imagenet", session.size(48, 8))
    files = sorted(path for path in folder.rglob("*.*") if path.is_file())
    asked = [files[number % len(files)] for number in range(count)]
    processor = make_processor(side, int(side / 0.875), IMAGENET_MEAN, IMAGENET_STD)
    classifier = open_classifier(make_model(TINY_RESNET if session.quick else RESNET50), processor)
    expected = _bare(classifier, files, batch)

    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    app = create_app(classifier, Limits(batch_size=batch, timeout=600), ["127.0.0.1"])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    wrong = lost = 0

    def ours() -> float:
        nonlocal wrong, lost
        words = [str(value) for value in (listener.getsockname()[1], clients, count, folder)]
        completed = subprocess.run(
            [sys.executable, "-m", "benchmarks.serve_clients", *words],
            cwd=_REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        told = json.loads(completed.stdout)
        for number, answer in enumerate(told["answers"]):
            if answer is None or "images" not in answer:
                lost += 1
            else:
                wrong += _is_wrong(answer, expected[number % len(files)], classifier.names)
        return float(told["seconds"])

    try:
        bare = partial(stopwatch, partial(_bare, classifier, asked, batch))
        samples = alternate({"ours": ours, "stock": bare}, session.pairs)
    finally:
        server.should_exit = True
        thread.join()
    speed = compare_seconds(
        f"serve ResNet-50 at {side} px to {clients} clients at once, batch {batch}", samples, per_second(count), 0.85
    )
    answers = f"wrong or lost answers of {count * session.pairs:,}"
    return Answer(
        [speed, Row(answers, f"{wrong + lost}", "0", Ratio([wrong + lost], 0, at_least=False))],
        ["Stock is a bare loop in one process; the clients take their time from the same cores."],
    )
