"""A run outside the main thread, as in a notebook's executor or a server: the same result."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from hf_finetune import FinetuneResult, finetune
from tests.helpers.tiny import write_recipe

_NOTE = "Note: the run is not in the main thread, so signals do not save it"


def in_thread(run: Callable[[], FinetuneResult]) -> FinetuneResult:
    results: list[FinetuneResult] = []
    thread = threading.Thread(target=lambda: results.append(run()))
    thread.start()
    thread.join()
    return results[0]


def in_executor(run: Callable[[], FinetuneResult]) -> FinetuneResult:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def test_a_run_in_another_thread_has_the_same_result(image_folder: Path, tmp_path: Path, logged: list[str]):
    recipe = str(write_recipe(tmp_path, num_train_epochs=1))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def run(name: str) -> FinetuneResult:
        return finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / name))

    results = [run("main")]
    assert not any(line.startswith(_NOTE) for line in logged)
    results += [in_thread(lambda: run("thread")), in_executor(lambda: run("executor"))]
    assert sum(line.startswith(_NOTE) for line in logged) == 2
    first, *others = [result.model.state_dict() for result in results]
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
    assert len({result.metrics["test_loss"] for result in results}) == 1
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
