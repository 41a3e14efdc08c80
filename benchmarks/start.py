"""From the start of the process to its first optimizer step."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.children import run_child, write_recipe
from benchmarks.harness import Answer, Session, alternate, compare_seconds, datasets_cache, seconds
from benchmarks.images import hub_copy
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
    return Answer(
        [
            compare_seconds("process start to first step, first run on CIFAR-10", first, seconds, 1),
            compare_seconds("process start to first step, later runs", later, seconds, 1),
        ],
        ["A first run finds an empty datasets cache and converts the Parquet files; later runs find what it left."],
    )
