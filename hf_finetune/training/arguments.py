"""The arguments of a Python call: objects on one side, keys of a recipe on the other."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback

from hf_finetune.config.data import PROCESSOR_KEYS
from hf_finetune.data.sources.objects import read_object
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.evaluation.metrics import METRICS, Metric, UserMetric
from hf_finetune.evaluation.multi_label import MULTI_LABEL_METRICS
from hf_finetune.models.model_object import check_given_model
from hf_finetune.training.given import Given

# Keys of a recipe that say which images, or which network: an argument takes the place of them all.
_DATASET_KEYS = ("dataset", "dataset_path", "dataset_config", "dataset_revision")
_MODEL_KEYS = ("model_name_or_path", "model_type", "model_config", "load_from", "load_from_sha256")
_FILES_OF_WEIGHTS = (".pth", ".pt", ".safetensors")


def plain(value: Any) -> Any:
    """Return a value as YAML has it: paths and enums as texts, tuples as lists, NumPy's numbers as Python's."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def sort_out(
    dataset: Any,
    model: Any,
    image_processor: Any,
    train_transforms: Any,
    loss: Any,
    teacher: Any,
    metrics: Any,
    callbacks: Any,
    settings: Mapping[str, Any],
) -> tuple[Given, dict[str, Any]]:
    """Return what was given as objects, and the recipe's keys for the rest and for what objects replace.

    Args:
        dataset: As in `hf_finetune.finetune`, and so are all that follow.
        model: See there.
        image_processor: See there.
        train_transforms: See there.
        loss: See there.
        teacher: See there.
        metrics: See there.
        callbacks: See there.
        settings: The other keys of the call.

    Raises:
        UserError: For an object of another kind, and for a key that says the same as an object.
    """
    objects: dict[str, Any] = {}
    values: dict[str, Any] = {}
    if isinstance(dataset, (str, os.PathLike)):
        values["dataset"] = os.fspath(dataset)
    elif dataset is not None:
        _refuse_beside("dataset", _DATASET_KEYS, settings)
        values |= dict.fromkeys(_DATASET_KEYS)
        objects["dataset"] = read_object(dataset)
    if model is not None:
        _refuse_beside("model", _MODEL_KEYS if not isinstance(model, (str, os.PathLike)) else _MODEL_KEYS[:1], settings)
        values |= {key: None for key in _MODEL_KEYS if key not in settings}
        if isinstance(model, (str, os.PathLike)):
            name = os.fspath(model)
            file = name.endswith(_FILES_OF_WEIGHTS) or "://" in name
            values["load_from" if file else "model_name_or_path"] = name
        else:
            objects["model"] = checked_model(model)
    if isinstance(image_processor, (str, os.PathLike)):
        objects["image_processor"] = os.fspath(image_processor)
    elif image_processor is not None:
        if not isinstance(image_processor, BaseImageProcessor):
            kind = type(image_processor).__name__
            raise UserError(
                f"image_processor is {kind}; use an image processor of Transformers, or a checkpoint's name."
            )
        _refuse_beside("image_processor", PROCESSOR_KEYS, settings)
        values |= dict.fromkeys(PROCESSOR_KEYS)
        objects["image_processor"] = image_processor
    if train_transforms is not None:
        _refuse_beside("train_transforms", ("augmentation",), settings)
        values["augmentation"] = None
    if callable(train_transforms):
        values["train_transforms"] = None
        objects["train_transforms"] = train_transforms
    elif train_transforms is not None:
        values["train_transforms"] = plain(train_transforms)
    if isinstance(loss, str):
        values["loss"] = loss
    elif loss is not None:
        if not callable(loss):
            raise UserError(f"loss is {type(loss).__name__}; use a name or a function of (logits, labels).")
        if settings.get("label_smoothing_factor"):
            raise UserError("label_smoothing_factor is not read with a loss of your own; smooth the labels there.")
        if settings.get("loss_args"):
            raise UserError("loss_args is for a loss that is given by its name; leave it out.")
        values |= {"loss": None, "loss_args": None, "label_smoothing_factor": None}
        objects["loss"] = loss
    if isinstance(teacher, (str, os.PathLike)):
        values["teacher"] = os.fspath(teacher)
    elif teacher is not None:
        values["teacher"] = None
        objects["teacher"] = copy.deepcopy(check_given_model(teacher, "teacher"))  # as it is before anything is trained
    return Given(**objects, metrics=own_metrics(metrics), callbacks=_callbacks(callbacks)), values


def checked_model(model: Any) -> str | PreTrainedModel:
    """Return a model object, or a path as text. Raises `UserError` for anything else."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    return check_given_model(model)


def _refuse_beside(argument: str, keys: Sequence[str], settings: Mapping[str, Any]) -> None:
    for key in keys:
        if settings.get(key) is not None:
            raise UserError(f"{argument} and {key} exclude each other; leave one of them out.")


def own_metrics(metrics: Any) -> dict[str, UserMetric | Metric]:
    """Return the functions of `metrics`. Raises `UserError` for a name that is no registered metric."""
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        for name, function in metrics.items():
            if not callable(function) and not isinstance(function, Metric):
                kind = type(function).__name__
                raise UserError(f"metrics: {name} is {kind}; use a function of (probabilities, labels).")
        return dict(metrics)
    for name in [metrics] if isinstance(metrics, str) else metrics:
        known = {**METRICS, **MULTI_LABEL_METRICS}
        if name not in known:
            raise UserError(
                f'metrics: there is no metric "{name}".{did_you_mean(str(name), known)} Use some of'
                f" {', '.join(known)}, or a mapping of names to functions."
            )
    return {}


def _callbacks(callbacks: Any) -> tuple[TrainerCallback | type[TrainerCallback], ...]:
    callbacks = callbacks if isinstance(callbacks, (list, tuple)) else (callbacks,)
    for callback in callbacks:
        is_class = isinstance(callback, type) and issubclass(callback, TrainerCallback)
        if not (is_class or isinstance(callback, TrainerCallback)):
            raise UserError(f"callbacks: {callback!r} is no transformers.TrainerCallback.")
    return tuple(callbacks)
