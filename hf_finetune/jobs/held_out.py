"""What a trained model answers for the images that were held out of its training, kept beside the model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.special import expit, logit
from transformers import EvalPrediction

from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.data import PROCESSOR_KEYS, DataArguments
from hf_finetune.config.recipe import Recipe
from hf_finetune.config.run_files import apply_umask
from hf_finetune.data.images.cache import finish
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import first_line
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metrics import Metric, reduce_logits
from hf_finetune.evaluation.multi_label import metrics_of
from hf_finetune.logs import get_logger
from hf_finetune.models.load import load_trained, open_source
from hf_finetune.models.processor import load_image_processor
from hf_finetune.tasks import DEFAULT_THRESHOLD, ONE_LABEL, SEVERAL_LABELS, Task, counted
from hf_finetune.training.thresholds import saved_thresholds
from hf_finetune.training.wiring import build_evaluator, load_data, prepare_images

logger = get_logger(__name__)

HELD_OUT_FILE = "held_out.safetensors"
_LEAST = 2.0**-53  # a probability whose complement is not yet 1
# Lets the evaluation keep the probabilities; its own figure is not read.
_KEPT = Metric(lambda predictions: 0.0, "", "", "", needs_probabilities=True, in_log=False)
# The keys of a recipe that say which images are predicted, and how: the model's folder says how they are prepared.
_NOT_READ = {*PROCESSOR_KEYS, "train_transforms", "augmentation", "max_train_samples", "drop_duplicates"}
_KEYS = {
    *({item.name for item in fields(DataArguments)} - _NOT_READ),
    *("seed", "per_device_eval_batch_size", "dataloader_num_workers", "disable_tqdm", "use_cpu", "trust_remote_code"),
}


@dataclass(frozen=True)
class HeldOut:
    """What one or several models answered for the images of a split.

    Attributes:
        rows: Their rows in the source's split, int64 (images,).
        labels: Their class ids, int64 (images,), or 1 for each class that an image has, float32 (images, classes);
            negative for an image that could not be read.
        probabilities: float32 (images, classes), or float64 where images have several labels.
    """

    rows: NDArray[np.int64]
    labels: NDArray[Any]
    probabilities: NDArray[Any]

    @property
    def task(self) -> Task:
        """What a label says of an image."""
        return SEVERAL_LABELS if self.labels.ndim == 2 else ONE_LABEL

    @property
    def logits(self) -> NDArray[np.float32]:
        """The logits of images that have several labels, float32 (images, classes)."""
        inside = np.clip(self.probabilities, _LEAST, 1 - _LEAST)  # of none is the logit infinite
        logits: NDArray[np.float32] = logit(inside).astype(np.float32)
        return logits

    def thresholds(self) -> list[float]:
        """Return the threshold of each class that gives these answers its highest F1."""
        known = counted(self.labels)
        thresholds, _ = saved_thresholds(self.logits[known], self.labels[known] > 0)
        return thresholds.tolist()

    def figures(
        self, label_names: list[str], metrics: Mapping[str, Metric], thresholds: ArrayLike = DEFAULT_THRESHOLD
    ) -> tuple[dict[str, float], dict[str, Interval]]:
        """Return the figures of these images by name, and the 95 % intervals of those that have one.

        Args:
            label_names: The classes by class id.
            metrics: The metrics by name.
            thresholds: The probability from which on each class is given, where images have several labels.
        """
        labels, computed = torch.from_numpy(self.labels), metrics_of(self.task, label_names, metrics, thresholds)
        if self.task.several:
            reduced = computed.reduce_logits(torch.from_numpy(self.logits), labels)
        else:
            with np.errstate(divide="ignore"):
                logits = torch.from_numpy(np.log(self.probabilities))
            reduced = reduce_logits(logits, labels, keep_probabilities=True)
        prediction = EvalPrediction(cast(Any, tuple(tensor.numpy() for tensor in reduced)), self.labels)
        return computed(prediction), computed.intervals(computed.predictions(prediction))


def mean_of(answers: list[HeldOut]) -> HeldOut:
    """Return the mean of the probabilities that several models gave the same images."""
    first = answers[0]
    return HeldOut(first.rows, first.labels, np.mean([answer.probabilities for answer in answers], axis=0))


def joined(answers: list[HeldOut]) -> HeldOut:
    """Return the answers for different images of one split as one, in the order of their rows."""
    arrays = [np.concatenate([getattr(answer, item.name) for answer in answers]) for item in fields(HeldOut)]
    order = np.argsort(arrays[0], kind="stable")
    return HeldOut(*(array[order] for array in arrays))


def held_out(folder: Path, recipe: Recipe, given: RawDataset | None) -> dict[str, HeldOut]:
    """Return what the model in the folder of a run answers for its validation and test images.

    They are computed once and then read from the folder. All processes of a launched job come here.

    Args:
        folder: The folder of a finished run.
        recipe: Its recipe.
        given: The dataset, where it is an object.

    Returns:
        By role, those that the dataset has.
    """
    values = {key: value for key, value in recipe.values.items() if key in _KEYS}
    values |= {"model_name_or_path": str(folder)}
    model, arguments, args = build_arguments(Recipe(recipe.name, values, dict.fromkeys(values, recipe.name)))
    with args.main_process_first(desc="held-out images"):
        kept = _load(folder / HELD_OUT_FILE)
    if kept is not None:
        return kept
    data = load_data(arguments, args, given=given)
    args.prepare_for_run(has_validation=False)
    source = open_source(model)
    network = load_trained(source)
    images = prepare_images(data, load_image_processor(source, network.config), arguments, args)
    with tempfile.TemporaryDirectory() as unused:
        args.output_dir = unused  # the Trainer creates its folder even if nothing is ever written there
        computed = metrics_of(data.task, data.label_names, {"probabilities": _KEPT})
        trainer = build_evaluator(network, args, images, computed)
        answers: dict[str, HeldOut] = {}
        for role in ("validation", "test"):
            if role in data.splits:
                predicted = trainer.predict(images.batches[role])
                rows = data.source_rows(role)
                arrays: Any = predicted.predictions
                several = data.task.several
                probabilities = expit(np.asarray(arrays[0], np.float64)) if several else np.asarray(arrays[4])
                answers[role] = HeldOut(rows, np.asarray(predicted.label_ids), probabilities)
        trainer.end()
    if args.local_process_index == 0:
        finish(images.decoded.values())
    if args.process_index == 0:
        _save(folder / HELD_OUT_FILE, answers)
    return answers


def _save(file: Path, answers: Mapping[str, HeldOut]) -> None:
    arrays = {
        f"{role}/{name}": np.ascontiguousarray(array)
        for role, answer in answers.items()
        for name, array in vars(answer).items()
    }
    unfinished = file.with_name(f".{file.name}.unfinished")
    save_file(arrays, unfinished)
    apply_umask(unfinished)
    unfinished.replace(file)


def _load(file: Path) -> dict[str, HeldOut] | None:
    """Return the answers of a file, None where there is none that can be read."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "numpy") as opened:
            names = list(opened.keys())
            arrays = {name: opened.get_tensor(name) for name in names}
        roles = {name.partition("/")[0] for name in arrays}
        return {
            role: HeldOut(**{item.name: arrays[f"{role}/{item.name}"] for item in fields(HeldOut)}) for role in roles
        }
    except (OSError, KeyError, SafetensorError) as error:
        logger.warning(f"Note: {file} cannot be read ({first_line(error)}); it is computed again.")
        return None
