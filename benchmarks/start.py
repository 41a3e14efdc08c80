"""From the start of the process to its first optimizer step."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable

from benchmarks.children import run_child, write_recipe
from benchmarks.harness import Answer, Ratio, Row, Session, alternate, compare_seconds, datasets_cache, seconds
from benchmarks.images import hub_copy, photograph_folder
from hf_finetune.config.checkpoint_names import resolve_checkpoint

CHECKPOINT = "resnet_small_cifar10"


def measure(session: Session) -> Answer:
    path = hub_copy(session, "cifar10")
    batch = session.size(128, 16)
    recipe = {
        "model_name_or_path": CHECKPOINT,
        "dataset": "cifar10",
        "dataset_path": str(path),
        "validation_fraction": 0,
        "global_batch_size": batch,
        "max_steps": 1,
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "disable_tqdm": True,
        "use_cpu": session.cpu,
    }
    flags = {
        "dataset_name": path,
        "model_name_or_path": resolve_checkpoint(CHECKPOINT),
        "output_dir": session.folder / "output-stock",
        "per_device_train_batch_size": batch,
        "max_steps": 1,
        "remove_unused_columns": False,
        "save_strategy": "no",
        "optim": "sgd",
        "disable_tqdm": True,
        "use_cpu": session.cpu,
    }
    words = {
        "ours": write_recipe(session, "start", recipe),
        "stock": ["stock", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))],
    }
    later: dict[str, list[float]] = {"ours": [], "stock": []}

    def first_then_later(side: str) -> Callable[[], float]:
        def run() -> float:
            with datasets_cache(session):
                first = run_child(session, 1, words[side]).seconds_to_first_step
                later[side].append(run_child(session, 1, words[side]).seconds_to_first_step)
            return first

        return run

    first = alternate({side: first_then_later(side) for side in words}, session.pairs)
    row, note = _against_torchvision(session)
    return Answer(
        [
            compare_seconds("process start to first step, first run on CIFAR-10", first, seconds, 1),
            compare_seconds("process start to first step, later runs", later, seconds, 1),
            row,
        ],
        [
            "A first run finds an empty datasets cache and converts the Parquet files; later runs find what it left.",
            note,
        ],
    )


def _against_torchvision(session: Session) -> tuple[Row, str]:
    """Compare with a script in the manner of torchvision's reference for classification, on a folder of images."""
    folder, batch = photograph_folder(session, "imagenet", session.size(400, 16)), session.size(32, 4)
    if not (folder / "val").exists():
        shutil.copytree(folder / "train", folder / "val")
    recipe = {
        "model_type": "resnet",
        "model_config": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
        "dataset": str(folder),
        "image_size": 224,
        "train_transforms": [{"RandomResizedCrop": {"size": 224}}, "RandomHorizontalFlip"],
        "global_batch_size": batch,
        "learning_rate": 0.1,
        "num_train_epochs": 90,
        "precision": "auto",  # as a user has it
        "overwrite_output_dir": True,
        "use_cpu": session.cpu,
    }
    words = {
        "ours": write_recipe(session, "start-folder", recipe),
        "stock": ["torchvision", "--data_path", str(folder), "--batch_size", str(batch)],
    }
    processor: dict[str, list[float]] = {"ours": [], "stock": []}

    def first_step(side: str) -> Callable[[], float]:
        def run() -> float:
            report = run_child(session, 1, words[side])
            processor[side].append(report.processor)
            return report.seconds_to_first_step

        return run

    sides = {side: first_step(side) for side in words}
    with datasets_cache(session):
        for run in sides.values():  # files into the page cache, and images into ours
            run()
        taken = alternate(sides, session.pairs)
    shown = {side: seconds(statistics.median(values)) for side, values in taken.items()}
    used = {side: statistics.median(values[1:]) for side, values in processor.items()}
    ratio = Ratio([ours / theirs for ours, theirs in zip(taken["ours"], taken["stock"], strict=True)], 1.15, False)
    question = "process start to first step, ResNet-18 at 224 px, a folder of images"
    note = (
        "Stock of the last row is a script in the manner of torchvision's reference for classification, without"
        f" workers, as ours. Processor time: ours {used['ours']:.2f} s, stock {used['stock']:.2f} s, as much as"
        f" {used['ours'] / used['stock']:.2f} times."
    )
    return Row(question, shown["ours"], shown["stock"], ratio), note
