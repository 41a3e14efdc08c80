"""Two processes on two cores against one process on one core, with one thread each and the same global batch."""

from __future__ import annotations

import statistics
import sys
from typing import Any

from benchmarks.children import run_child, write_recipe
from benchmarks.harness import WARM_UP, Answer, Ratio, Row, Session, alternate, cores, milliseconds
from benchmarks.images import CIFAR10_MEAN, CIFAR10_STD, hub_copy
from benchmarks.ours import fill_caches, prepare_ours
from benchmarks.steps import CROP_AND_FLIP
from benchmarks.stock import Schedule
from benchmarks.train_small import SMALL_RESNET

_TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")


def _compare(session: Session, network: str, settings: dict[str, Any], steps: int) -> tuple[str, str, Ratio]:
    """Return the time of a step of two processes and of one, and how many times as fast two are."""
    batch = session.size(128, 16)
    data = {
        "dataset": "cifar10",
        "dataset_path": str(hub_copy(session, "cifar10")),
        "validation_fraction": 0,
        "max_train_samples": session.size(12_800, 128),
        "decode_cache": "always",
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "use_cpu": True,
        **settings,
    }
    fill_caches(prepare_ours(session, Schedule(batch), **data))
    recipe = {**data, "global_batch_size": batch, "max_steps": 1000, "overwrite_output_dir": True}
    words = write_recipe(session, f"processes-{network}", recipe)

    def run(*launcher: str) -> float:
        options: dict[str, Any] = {"launcher": launcher} if launcher else {}
        report = run_child(session, WARM_UP + steps, words, one_core=True, OMP_NUM_THREADS="1", **options)
        return report.seconds_per_step

    samples = alternate({"two": lambda: run(*_TORCHRUN), "one": run}, session.pairs)
    ratio = Ratio([one / two for one, two in zip(samples["one"], samples["two"], strict=True)], 1.8)
    two, one = (f"{milliseconds(statistics.median(samples[name]))} a step" for name in ("two", "one"))
    return two, one, ratio


def measure(session: Session) -> Answer:
    if len(cores()) < 2:
        return Answer(notes=["Skipped: there are not two cores to pin processes to."])
    images = {"image_mean": CIFAR10_MEAN, "image_std": CIFAR10_STD, "crop_pct": 1.0}
    packaged = {
        "model_type": "resnet",
        "model_config": {
            "embedding_size": 48,
            "hidden_sizes": [48, 96, 192],
            "depths": [2, 2, 1],
            "layer_type": "basic",
        },
        "image_size": 64,
        "train_transforms": [*CROP_AND_FLIP, {"Resize": {"size": 64}}],
        **images,
    }
    small = {"model_type": "resnet", "model_config": SMALL_RESNET, "image_size": 32, "train_transforms": CROP_AND_FLIP}
    two, one, ratio = _compare(session, "packaged", packaged, session.size(20, 2))
    small_two, small_one, small_ratio = _compare(session, "small", {**small, **images}, session.size(60, 2))
    return Answer(
        [Row("two processes on two cores against one on one, resnet_small at 64 px", two, f"{one} (ours)", ratio)],
        [
            f"The small ResNet at 32 px: {small_one} with one process, {small_two} with two, {small_ratio}: half of its"
            " batch costs 0.6 of the whole, and its gradients are reduced over the loopback interface in the meantime."
        ],
    )
