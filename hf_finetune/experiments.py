"""The functions for Python programs that train several models: kfold and tune."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback
from typing_extensions import Unpack

from hf_finetune.api import DatasetLike, in_python_words, read_call
from hf_finetune.config.settings import Settings
from hf_finetune.data.transforms.given import ImageFunction
from hf_finetune.evaluation.metrics import Metric, UserMetric
from hf_finetune.jobs.fold_result import KFoldResult
from hf_finetune.jobs.kfold import run_folds
from hf_finetune.jobs.tune import TuneResult, run_study
from hf_finetune.training.loss import Loss


def kfold(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    folds: int = 5,
    dataset: DatasetLike | None = None,
    model: str | os.PathLike[str] | PreTrainedModel | None = None,
    image_processor: str | os.PathLike[str] | BaseImageProcessor | None = None,
    train_transforms: Sequence[Any] | ImageFunction | None = None,
    loss: str | Loss | None = None,
    teacher: str | os.PathLike[str] | PreTrainedModel | None = None,
    metrics: Mapping[str, UserMetric | Metric] | Sequence[str] | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
    **settings: Unpack[Settings],
) -> KFoldResult:
    """Cross-validate: train on all folds of train but one, for each in turn.

    An interrupted call resumes with the same call: complete folds are read, the one that was interrupted resumes.

    Args:
        recipe: As in `finetune`, and so are all that follow but `folds`.
        folds: How many folds, 2 at least. Each has the same shares of the classes; `group_column` keeps the images of
            a group in one fold.
        dataset: See there. A validation split of its own is not used; a test split is given to all models.
        model: See there. Of an object, each fold trains a copy.
        image_processor: See there.
        train_transforms: See there.
        loss: See there.
        teacher: See there.
        metrics: See there.
        callbacks: See there. Objects are shared by all folds; a class is made anew for each.
        settings: See there. Absent an `output_dir`, it is runs/NAME_kfold.

    Returns:
        The figures of the folds and their mean, the answers for all images of train, each by the model that has not
        seen it, and the folder, which `predict` and `evaluate` take as an ensemble.

    Raises:
        UserError: For whatever the caller can fix.
        Interrupted: Where SIGTERM, SIGINT or SIGHUP ended a fold, which is saved: the same call resumes it.
    """
    with in_python_words():
        objects = (dataset, model, image_processor, train_transforms, loss, teacher, metrics, callbacks)
        resolved, given, command = read_call(recipe, *objects, settings, f"kfold --folds {folds}")
        return run_folds(resolved, folds, command, given)


def tune(
    space: str | Path | Mapping[str, Any],
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    trials: int = 20,
    dataset: DatasetLike | None = None,
    model: str | os.PathLike[str] | PreTrainedModel | None = None,
    image_processor: str | os.PathLike[str] | BaseImageProcessor | None = None,
    train_transforms: Sequence[Any] | ImageFunction | None = None,
    loss: str | Loss | None = None,
    teacher: str | os.PathLike[str] | PreTrainedModel | None = None,
    metrics: Mapping[str, UserMetric | Metric] | Sequence[str] | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
    **settings: Unpack[Settings],
) -> TuneResult:
    """Search for settings: many runs, each with values from a space. It needs the extra `hf-finetune[tune]`.

    The same call resumes an interrupted study. In several processes at once, it works on one study.

    Args:
        space: The path of a YAML file, or a mapping: for each key {"low": ..., "high": ..., "log": True}, or
            {"choices": [...]}. Two whole ends give whole numbers.
        recipe: As in `finetune`, and so are all that follow but `trials`.
        trials: How many trials the study has in the end.
        dataset: See there.
        model: See there. Of an object, each trial trains a copy.
        image_processor: See there.
        train_transforms: See there.
        loss: See there.
        teacher: See there.
        metrics: See there. `metric_for_best_model` names the one that is compared, on validation.
        callbacks: See there. Objects are shared by all trials; a class is made anew for each.
        settings: See there. Absent an `output_dir`, it is runs/NAME_tune.

    Returns:
        The best trial, its recipe, and what explains the differences.

    Raises:
        UserError: For whatever the caller can fix.
        Interrupted: Where SIGTERM, SIGINT or SIGHUP ended a trial, which is saved: the same call resumes it.
    """
    with in_python_words():
        objects = (dataset, model, image_processor, train_transforms, loss, teacher, metrics, callbacks)
        named = "space.yaml" if isinstance(space, Mapping) else os.fspath(space)
        resolved, given, command = read_call(recipe, *objects, settings, f"tune {named} --trials {trials}")
        return run_study(space, resolved, trials, command, given)
