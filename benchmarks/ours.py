"""Ours: the product itself, prepared from a recipe as `hf-finetune train` prepares it."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Session, quiet
from benchmarks.stock import Schedule
from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.recipe import Recipe
from hf_finetune.data.streaming.split import StreamedSplit
from hf_finetune.training.run import PreparedRun, prepare

# For questions about images, where the network only has to be there, and in place of any network in quick runs.
TINY_RESNET = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}


def unknown_keys(*keys: str) -> list[str]:
    """Returns those of `keys` that recipes of this version have not."""
    return [key for key in keys if key not in argument_fields()]


def prepare_ours(session: Session, schedule: Schedule, **settings: Any) -> PreparedRun:
    """Prepares a run by a recipe that inherits nothing: `settings` are its keys, with those of the schedule."""
    values = {
        "output_dir": str(session.folder / "ours"),
        "global_batch_size": schedule.batch,
        "momentum": schedule.momentum,
        "load_best_model_at_end": False,
        "overwrite_output_dir": True,
        "validation_fraction": 0,
        "crop_pct": 1.0,
        **schedule.common(session),
        **settings,
    }
    with quiet():
        return prepare(Recipe("benchmark", values, dict.fromkeys(values, "benchmarks")))


def fill_caches(prepared: PreparedRun) -> None:
    """Takes every training image through the loader once, so that what is cached in a first epoch is."""
    for _ in prepared.trainer.get_train_dataloader():
        pass


def source_rows(prepared: PreparedRun, role: str) -> list[int]:
    """Returns which rows of the source's split the run has for a role, so that stock can take the same."""
    split = prepared.images.data.splits[role]
    assert not isinstance(split, StreamedSplit)
    return split.with_format(None)["sample_index"][:]
