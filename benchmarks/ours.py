"""Ours: this package, prepared from a recipe as by `hf-finetune train`."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from benchmarks.harness import Session, quiet
from benchmarks.stock import Schedule
from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.recipe import Recipe
from hf_finetune.training.given import Given
from hf_finetune.training.plan import plan_run
from hf_finetune.training.run import PreparedRun, prepare

# For benchmarks of the data path, where the network does not matter, and instead of any network in quick runs.
TINY_RESNET = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}


def unknown_keys(*keys: str) -> list[str]:
    """Return those of `keys` that this version's recipes do not have."""
    return [key for key in keys if key not in argument_fields()]


def prepare_ours(session: Session, schedule: Schedule, **settings: Any) -> PreparedRun:
    """Prepare a run from a recipe without bases: `settings` are its keys, in addition to those of the schedule."""
    values = {
        "output_dir": str(session.folder / "ours"),
        "global_batch_size": schedule.batch,
        "momentum": schedule.momentum,
        "load_best_model_at_end": False,
        "overwrite_output_dir": True,
        "precision": "float32",  # as the other sides
        "validation_fraction": 0,
        "crop_pct": 1.0,
        **schedule.common(session),
        **settings,
    }
    with quiet():
        return prepare(plan_run(Recipe("benchmark", values, dict.fromkeys(values, "benchmarks")), Given()))


def fill_caches(prepared: PreparedRun) -> None:
    """Load every training image once, so that everything that a first epoch caches is cached."""
    for _ in prepared.trainer.get_train_dataloader():
        pass


def source_rows(prepared: PreparedRun, role: str) -> list[int]:
    """Return the rows of the source's split that the run has for a role, so that stock can use the same."""
    split = prepared.images.data.splits[role]
    assert isinstance(split, Dataset)
    rows: list[int] = split.with_format(None)["sample_index"][:]
    return rows
