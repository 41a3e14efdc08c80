"""Two hosts: one of them ends in mid-epoch and comes back; the result is the undisturbed run's, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.faults.hosts import Host, accelerate_launch, torchrun, two_hosts
from tests.helpers.tiny import write_recipe

pytestmark = pytest.mark.faults
SECONDS = 150
SEPARATE_DISKS = "hf-finetune: error: output_dir: {} is not the same folder on all machines"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    """A run of 15 steps an epoch, which saves in the middle of each."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for label in ("first", "second", "third"):
        (folder / "train" / label).mkdir(parents=True)
        for number in range(80):
            pixels = generator.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / "train" / label / f"{number:02d}.png")
    steps = {"save_strategy": "steps", "save_steps": 10, "eval_strategy": "no", "load_best_model_at_end": False}
    recipe = write_recipe(folder, num_train_epochs=20, validation_fraction=0, logging_steps=10, **steps)
    return ["--recipe", str(recipe), "--dataset", str(folder)]


class Job:
    """One run on two hosts, whose output folder lies on a disk that both have."""

    def __init__(
        self,
        hosts: tuple[Host, Host],
        launch: Callable,
        words: list[str],
        folder: Path,
        caches: int,
        **environment: str,
    ) -> None:
        self.hosts, self.launch, self.output, self.environment = hosts, launch, folder / "output", environment
        self.words = [*words, "--output_dir", str(self.output)]
        self.logs = [folder / "first.log", folder / "second.log"]
        self.caches = [folder / "cache_0", folder / f"cache_{caches - 1}"]
        self.launchers = [self.start(0), self.start(1)]

    def start(self, number: int) -> subprocess.Popen[str]:
        environment = {"HF_DATASETS_CACHE": str(self.caches[number]), **self.environment}
        own = self.hosts[number]
        return own.start([*self.launch(self.hosts[0], own, 3), *self.words], self.logs[number], **environment)

    def wait_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, "".join(log.read_text()[-3000:] for log in self.logs)
            time.sleep(0.05)

    def weights(self) -> bytes:
        self.wait_until(lambda: None not in [launcher.poll() for launcher in self.launchers])
        codes = [launcher.returncode for launcher in self.launchers]
        assert codes == [0, 0], "".join(log.read_text()[-3000:] for log in self.logs)
        return (self.output / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(words, tmp_path_factory) -> bytes:
    """The weights of a run that nothing befell. One process speaks, and a cache on one disk is filled once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with two_hosts() as hosts:
        job = Job(hosts, torchrun, words, folder, caches=1)
        weights = job.weights()
    assert sum(log.read_text().count("The model is in") for log in job.logs) == 1
    cache = [path.name for path in (folder / "cache_0" / "hf_finetune").iterdir()]
    assert len([name for name in cache if name.startswith("decoded-")]) == 1
    assert all(name.startswith(("decoded-", "headers-")) and ".unfinished" not in name for name in cache), cache
    return weights


def kill_worker(job: Job) -> None:
    (worker,) = job.hosts[1].workers()
    os.kill(worker, signal.SIGKILL)


def replace_host(job: Job) -> None:
    job.hosts[1].stop()
    job.launchers[1] = job.start(1)


@pytest.mark.parametrize("launch", [torchrun, accelerate_launch])
@pytest.mark.parametrize("disturb", [kill_worker, replace_host])
def test_a_host_that_comes_back_changes_nothing(undisturbed, words, tmp_path, launch, disturb):
    # The launcher of a host that comes back learns where the others meet only so; docs/scaling.md says it.
    new_stores = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if disturb is replace_host else {}
    with two_hosts() as hosts:
        job = Job(hosts, launch, words, tmp_path, caches=2, **new_stores)
        job.wait_until(lambda: list(job.output.glob("checkpoint-*")))
        disturb(job)
        assert not (job.output / "metrics.json").exists()
        weights = job.weights()
    assert "An interrupted run is here; it resumes from" in job.logs[0].read_text()
    assert weights == undisturbed
    for cache in job.caches:  # each host has one of its own
        assert len(list((cache / "hf_finetune").glob("decoded-*.npy"))) == 1


def test_hosts_without_a_common_disk_are_refused(words, tmp_path):
    """The second host's output folder has the same path but lies on a disk of its own."""
    (tmp_path / "disk").mkdir()
    output = tmp_path / "disk" / "output"
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    with two_hosts() as hosts:
        for host, log in zip(hosts, logs, strict=True):
            command = [*torchrun(hosts[0], host, 0), *words, "--output_dir", str(output)]
            if host is hosts[1]:
                mount = f'mount -t tmpfs tmpfs {tmp_path / "disk"} && exec "$@"'
                command = ["sh", "-c", mount, "sh", *command]
            host.start(command, log, HF_DATASETS_CACHE=str(tmp_path / "cache"))
        codes = [host.started[0].wait(timeout=SECONDS) for host in hosts]
    said = [log.read_text() for log in logs]
    assert 0 not in codes
    assert all(text.count(SEPARATE_DISKS.format(output)) == 1 for text in said), said
    assert not any("hf_finetune/" in text for text in said)  # no traceback of ours
    assert not output.exists() and not list((tmp_path / "disk").iterdir())
