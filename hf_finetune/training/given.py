"""What a Python program gives a run as objects, which a recipe cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback

from hf_finetune.config.run_files import RECIPE_FILE
from hf_finetune.data.sources.objects import GivenDataset
from hf_finetune.data.transforms.given import ImageFunction
from hf_finetune.errors import UserError, first_line
from hf_finetune.evaluation.metrics import Metric, UserMetric
from hf_finetune.training.frozen.feature_cache import digest_of_weights
from hf_finetune.training.loss import Loss

_HEADING = "# Given to finetune() as objects of Python, which a recipe cannot hold:"


@dataclass(frozen=True)
class Given:
    """The objects of one run; None or empty where the recipe alone says it.

    Attributes:
        dataset: The images, in the place of the recipe's dataset.
        model: The network, in the place of the recipe's.
        image_processor: What prepares images in evaluation, or the name of a checkpoint that has one.
        train_transforms: A function of one training image, in the place of the recipe's list.
        loss: Logits and labels to one loss for each image.
        teacher: What the network learns from beside the labels, in the place of the recipe's.
        metrics: Figures by name, beside the registered ones.
        callbacks: Of Transformers, added to the Trainer's own.
    """

    dataset: GivenDataset | None = None
    model: PreTrainedModel | None = None
    image_processor: BaseImageProcessor | str | None = None
    train_transforms: ImageFunction | None = None
    loss: Loss | None = None
    teacher: PreTrainedModel | None = None
    metrics: Mapping[str, UserMetric | Metric] = field(default_factory=dict)
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = ()

    def check_metrics(self, num_classes: int, several: bool = False) -> None:
        """Compute the figures once, on made-up probabilities of one image of each class, before the first step.

        Args:
            num_classes: The number of classes.
            several: Whether images have several labels.

        Raises:
            UserError: Where a function fails or returns no number.
        """
        functions = {name: value for name, value in self.metrics.items() if not isinstance(value, Metric)}
        if not functions:
            return  # the probabilities of 21,841 classes would take 1.9 GB
        probabilities = np.full((num_classes, num_classes), 1 / num_classes, dtype=np.float32)
        labels = np.eye(num_classes, dtype=np.int64) if several else np.arange(num_classes)
        shape = "(images, classes)" if several else "(images,)"
        for name, function in functions.items():
            try:
                float(function(probabilities, labels))
            except Exception as error:  # whatever the function of somebody else stumbles over
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise UserError(
                    f"metrics: {name} failed on {num_classes} images of {num_classes} classes ({reason}); it is given"
                    f" probabilities (images, classes) and labels {shape}, and returns a number."
                ) from error

    def remarks(self) -> list[str]:
        """Return one line for each object: "loss: my_script.focal_loss"."""
        lines = []
        if self.dataset is not None:
            lines.append(f"dataset: {self.dataset.describe()}")
        if self.model is not None:
            lines.append(f"model: {type(self.model).__name__}, {self.model.num_parameters():,} parameters")
        if self.image_processor is not None:
            named = isinstance(self.image_processor, str)
            lines.append(f"image_processor: {self.image_processor if named else type(self.image_processor).__name__}")
        for name, value in (("train_transforms", self.train_transforms), ("loss", self.loss)):
            if value is not None:
                lines.append(f"{name}: {_called(value)}")
        if self.teacher is not None:
            size = f"{self.teacher.num_parameters():,} parameters"
            lines.append(f"teacher: {type(self.teacher).__name__}, {size}, weights {self._weights_of_teacher}")
        lines += [f"metric {name}: {_called(function)}" for name, function in self.metrics.items()]
        lines += [f"callback: {_called(callback)}" for callback in self.callbacks]
        return [" ".join(line.split()) for line in lines]

    @cached_property
    def _weights_of_teacher(self) -> str:
        """Return the first digits of the SHA-256 of the teacher's weights, which no checkpoint of the run has."""
        assert self.teacher is not None
        return f"SHA-256 {digest_of_weights(self.teacher, set()).hex()[:12]}"

    def notes_on_resume(self) -> list[str]:
        """Return what must be known of a run that resumes with these objects."""
        functions = [name for name in ("train_transforms", "loss") if getattr(self, name) is not None]
        if not functions:
            return []
        copula = "are" if len(functions) > 1 else "is"
        return [
            f"Note: {' and '.join(functions)} {copula} compared by name alone; the run ends as it would have without"
            " the interruption only if the code is the same."
        ]

    def as_comments(self) -> str:
        """Return the remarks as the last lines of a recipe, or nothing."""
        remarks = self.remarks()
        return "".join(f"{line}\n" for line in [_HEADING, *(f"# {remark}" for remark in remarks)]) if remarks else ""


def check_same_objects(folder: Path, given: Given) -> None:
    """Compare the objects with those that the unfinished run in a folder was begun with.

    A dataset is compared by its fingerprint, a model by its class and size, because its weights are in the checkpoint,
    a teacher by its weights too; a function is compared by its name alone. Metrics and callbacks may change.

    Raises:
        UserError: Where the run in `folder` was begun with other objects.
    """
    _, _, written = (folder / RECIPE_FILE).read_text(encoding="utf-8").partition(_HEADING)
    earlier = [line.removeprefix("# ") for line in written.splitlines() if line.startswith("# ")]
    now = given.remarks()
    for line in sorted({*_binding(earlier)} ^ {*_binding(now)}):
        kind = line.partition(":")[0]
        begun = next((other for other in earlier if other.startswith(f"{kind}: ")), f"no object as {kind}")
        raise UserError(
            f"output_dir: {folder} holds an unfinished run that was begun with {begun}; give the same, use another"
            " --output_dir, or --overwrite_output_dir to start anew."
        )


def _binding(remarks: Sequence[str]) -> list[str]:
    return [line for line in remarks if not line.startswith(("metric ", "callback: "))]


def _called(value: Any) -> str:
    """Return the name of a function, or of an object's class, with its module."""
    named: Callable[..., Any] | type = value if hasattr(value, "__qualname__") else type(value)
    if isinstance(value, torch.nn.Module):
        return repr(value)  # its settings too, such as those of v2.Compose
    return f"{named.__module__}.{named.__qualname__}"
