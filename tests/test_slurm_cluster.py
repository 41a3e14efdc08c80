"""`scripts/slurm.sh` on a SLURM of two nodes: time limit, requeue, pre-emption, mistakes. Run by `make test-slurm`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_finetune.training.checkpoints.store import list_checkpoints
from tests.helpers.processes import REPOSITORY
from tests.helpers.slurm import Cluster, is_installed, slurm_cluster
from tests.helpers.tiny import write_recipe

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not is_installed(), reason="SLURM and munge are not installed, or the user is not root"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of two cores on this machine."""
    root = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    try:
        with slurm_cluster(root) as started:
            yield started
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Job:
    """A run of `scripts/slurm.sh` on both nodes, one process each."""

    def __init__(self, cluster: Cluster, folder: Path, images: Path, epochs: int, *options: str, **settings: object):
        self.cluster, self.output, self.log = cluster, folder / "output", folder / "log.txt"
        folder.mkdir(exist_ok=True)
        settings = {"eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "no", **settings}
        recipe = write_recipe(folder, num_train_epochs=epochs, validation_fraction=0, lr_milestones=None, **settings)
        self.words = ["--recipe", str(recipe), "--dataset", str(images), "--output_dir", str(self.output)]
        self.number = cluster.run(
            "sbatch", "--parsable", "--chdir", str(REPOSITORY), "--output", str(self.log), "--gpus-per-node", "0",
            "--cpus-per-task", "1", *options, str(REPOSITORY / "scripts" / "slurm.sh"), *self.words,
            GPUS_PER_NODE="0", PYTHON=sys.executable, PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1",
            PYTHONUNBUFFERED="1", HF_HUB_OFFLINE="1",
        )  # fmt: skip

    def wait_for_text(self, text: str) -> None:
        self.cluster.wait_until(lambda: self.log.exists() and text in self.log.read_text(), f"{text} is not said")

    def end(self) -> dict[str, str]:
        """Waits for the end, and returns what SLURM knows of the job."""
        ended = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")
        self.cluster.wait_until(lambda: self.cluster.job(self.number)["JobState"] in ended, f"{self.log} does not end")
        return self.cluster.job(self.number)

    def weights(self) -> bytes:
        assert self.end()["JobState"] == "COMPLETED", self.log.read_text()[-3000:]
        return (self.output / "model.safetensors").read_bytes()

    def release(self) -> None:
        """Lets a requeued job begin when its first start is cleared away; SLURM would wait for two minutes."""
        self.cluster.wait_until(lambda: self.cluster.job(self.number)["JobState"] == "PENDING", "it is not requeued")
        self.cluster.run("scontrol", "update", f"JobId={self.number}", "StartTime=now+5")


EPOCHS = 60


@pytest.fixture(scope="module")
def undisturbed(cluster, image_folder, tmp_path_factory) -> bytes:
    return Job(cluster, tmp_path_factory.mktemp("undisturbed") / "run", image_folder, EPOCHS).weights()


def check_resumed(job: Job, undisturbed: bytes) -> None:
    assert job.weights() == undisturbed
    assert int(job.end()["Restarts"]) == 1
    assert "An interrupted run is here; it resumes from checkpoint-" in job.log.read_text()


def test_the_time_limit_saves_and_requeues(cluster, image_folder, tmp_path, undisturbed):
    """USR1 is sent here when the run has begun, as SLURM sends it before the limit, which counts in minutes."""
    job = Job(cluster, tmp_path, image_folder, EPOCHS)
    job.wait_for_text("epoch   2.00")
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    job.release()
    assert list_checkpoints(job.output), job.log.read_text()[-3000:]
    check_resumed(job, undisturbed)


def test_a_requeue_in_mid_run_resumes(cluster, image_folder, tmp_path, undisturbed):
    job = Job(cluster, tmp_path, image_folder, EPOCHS)
    job.wait_for_text("epoch   2.00")
    cluster.run("scontrol", "requeue", job.number)
    job.release()
    check_resumed(job, undisturbed)


def test_preemption_resumes(cluster, image_folder, tmp_path, undisturbed):
    job = Job(cluster, tmp_path, image_folder, EPOCHS)
    job.wait_for_text("epoch   2.00")
    cluster.run(
        "sbatch", "--partition", "high", "--nodes", "2", "--exclusive", "--output", "/dev/null", "--wrap", "true"
    )
    job.release()
    check_resumed(job, undisturbed)


def test_a_mistake_is_not_requeued(cluster, image_folder, tmp_path):
    job = Job(cluster, tmp_path, image_folder, EPOCHS, image_size=-1)
    ended = job.end()
    assert ended["JobState"] == "FAILED" and ended["Restarts"] == "0"
    assert "hf-finetune: error: image_size" in job.log.read_text()


def test_two_lone_processes_of_srun_are_refused(cluster, image_folder, tmp_path):
    recipe = write_recipe(tmp_path)
    words = [sys.executable, "scripts/run_finetune.py", "--recipe", str(recipe), "--dataset", str(image_folder)]
    with pytest.raises(AssertionError, match="srun started 2 processes that do not train together"):
        cluster.run("srun", "-n", "2", *words, "--output_dir", str(tmp_path / "output"), PYTHONPATH=str(REPOSITORY))
    assert not (tmp_path / "output").exists()
