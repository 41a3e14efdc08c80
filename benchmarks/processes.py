"""Two processes on two cores against one process on one core, with one thread each and the same global batch."""

from __future__ import annotations

import statistics
import sys

from benchmarks.children import run_child, write_recipe
from benchmarks.harness import WARM_UP, Answer, Ratio, Row, Session, alternate, cores, milliseconds
from benchmarks.ours import fill_caches, prepare_ours
from benchmarks.pictures import CIFAR10_MEAN, CIFAR10_STD, hub_copy
from benchmarks.steps import CROP_AND_FLIP
from benchmarks.stock import Schedule
from benchmarks.train_small import SMALL_RESNET

_TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")


def measure(session: Session) -> Answer:
    if len(cores()) < 2:
        return Answer(notes=["Skipped: there are no two cores to pin processes to."])
    data = {
        "dataset": "cifar10",
        "dataset_path": str(hub_copy(session, "cifar10")),
        "validation_fraction": 0,
        "max_train_samples": session.size(12_800, 128),
        "model_type": "resnet",
        "model_config": SMALL_RESNET,
        "image_size": 32,
        "crop_pct": 1.0,
        "image_mean": CIFAR10_MEAN,
        "image_std": CIFAR10_STD,
        "train_transforms": CROP_AND_FLIP,
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "use_cpu": True,
    }
    batch, steps = session.size(128, 16), session.size(60, 2)
    fill_caches(prepare_ours(session, Schedule(batch), **data))
    words = write_recipe(
        session, "processes", {**data, "global_batch_size": batch, "max_steps": 1000, "overwrite_output_dir": True}
    )

    def run(*launcher: str) -> float:
        options = {"launcher": launcher} if launcher else {}
        report = run_child(session, WARM_UP + steps, words, one_core=True, OMP_NUM_THREADS="1", **options)
        return report.seconds_per_step

    samples = alternate({"two": lambda: run(*_TORCHRUN), "one": run}, session.pairs)
    ratio = Ratio([one / two for one, two in zip(samples["one"], samples["two"], strict=True)], 1.8)
    two, one = (f"{milliseconds(statistics.median(samples[name]))} a step" for name in ("two", "one"))
    return Answer([Row("two processes on two cores against one on one", two, f"{one} (ours, one process)", ratio)])
