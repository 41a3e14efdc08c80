"""A student learns from a teacher's logits as well as from labels.

Hinton et al., "Distilling the knowledge in a neural network", arXiv:1503.02531: the loss of an image becomes
(1 - weight) times the loss of its label plus weight times T^2 KL(teacher / T, student / T), the divergence of the
softmaxes at the temperature T. The factor T^2 keeps its gradient at one size for every temperature. A student with a
distillation token (Touvron et al., arXiv:2012.12877) learns the label with its class token and the teacher with the
other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.loss_keys import distillation_settings
from hf_finetune.config.model import ModelArguments
from hf_finetune.data.batches import NOT_COUNTED, ROW_BITS, ImageBatches
from hf_finetune.data.labels import match_classes
from hf_finetune.errors import UserError
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import get_logger, progress_bar
from hf_finetune.models.head import class_names
from hf_finetune.models.load import load_trained, open_source
from hf_finetune.models.model_object import ModelObject
from hf_finetune.models.processor import Preprocessing, describe, load_image_processor
from hf_finetune.tasks import task_of
from hf_finetune.training.frozen.feature_cache import FeaturesNotKept, feature_file, read_features, write_features
from hf_finetune.training.frozen.features import random_transforms
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

_LOGITS = "teacher_logits"  # of a batch, float32 (batch, classes), where they are kept
_SECONDS_BEFORE_BAR = 2


class Teacher:
    """A trained network, and what it says of the training batch that is under way.

    Attributes:
        model: The network, in evaluation mode and without gradients.
        weight: The share of its part of the loss.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        class_ids: Sequence[int],
        sees: Preprocessing,
        student_sees: Preprocessing,
        temperature: float,
        weight: float,
    ) -> None:
        """Set the teacher up.

        Args:
            model: The network; it is frozen in place.
            class_ids: For each class of the student the teacher's id of that class.
            sees: Size and normalization of the teacher's images.
            student_sees: Normalization of the student's.
            temperature: The temperature T.
            weight: The share of its part of the loss, above 0 and at most 1.
        """
        self.model = model.eval().requires_grad_(False)
        self.weight, self._temperature, self.sides = weight, temperature, sees.sides
        self.class_ids = list(class_ids)
        ours, theirs = (
            [torch.tensor(values)[:, None, None] for values in (figures.mean, figures.std)]
            for figures in (student_sees, sees)
        )
        self._scale, self._offset = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
        self.current: torch.Tensor | None = None

    def logits_of(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return its logits of the student's classes, float32 (batch, classes).

        Args:
            pixel_values: The student's batch, normalized, float32 (batch, 3, height, width). It is normalized as the
                teacher's images are, and resized to their size.
        """
        device = pixel_values.device
        images = pixel_values * self._scale.to(device) + self._offset.to(device)
        if images.shape[-2:] != self.sides:
            images = functional.interpolate(images, size=self.sides, mode="bilinear", antialias=True)
        with torch.no_grad():
            logits: torch.Tensor = self.model(pixel_values=images).logits
        return logits.float()[:, self.class_ids]

    def losses(self, outputs: Any) -> torch.Tensor | None:
        """Return the divergence from the teacher of each image under way, float32 (batch,); None without a teacher.

        Args:
            outputs: The student's output, with its `logits`, or with `distillation_logits` of a token of its own.
        """
        if self.current is None:
            return None
        logits = getattr(outputs, "distillation_logits", outputs.logits).float()
        student, teacher = (functional.log_softmax(own / self._temperature, dim=1) for own in (logits, self.current))
        divergence = functional.kl_div(student, teacher, log_target=True, reduction="none").sum(dim=1)
        return divergence * self._temperature**2


class _KeptLogits:
    """A stage of training images that adds the teacher's logits to each batch."""

    def __init__(self, dataset: ImageBatches, logits: np.ndarray) -> None:
        self._stage, self._logits = dataset.stage, logits
        self._rows, self._order = dataset.sample_index, np.argsort(dataset.sample_index)

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        numbers = np.asarray(rows["sample_index"]) & ((1 << ROW_BITS) - 1)  # of repetitions their row
        places = self._order[np.searchsorted(self._rows, numbers, sorter=self._order)]
        return {**self._stage(rows), _LOGITS: torch.from_numpy(self._logits[places])}


def learn_from_teacher(
    trainer: ImageClassificationTrainer,
    taught_by: str | PreTrainedModel,
    label_names: Sequence[str],
    transforms: Sequence[Any] | Callable[..., Any],
    trust_remote_code: bool,
) -> None:
    """Let a trainer's student learn from a teacher.

    Where nothing of a training image is random, the teacher's logits are computed once and kept in the cache folder.
    Elsewhere it sees each batch as the student does, with all that was drawn and mixed, which Beyer et al. found to
    matter ("Knowledge distillation: a good teacher is patient and consistent", arXiv:2106.05237).

    Args:
        trainer: The trainer of the student; nothing is trained yet.
        taught_by: The teacher: a folder, a Hub id, or a network, which is frozen in place.
        label_names: The student's classes.
        transforms: The train_transforms.
        trust_remote_code: Whether code that comes with a checkpoint may run.

    Raises:
        UserError: The teacher cannot be had, or does not know the classes; or images have several labels.
    """
    args = trainer.args
    if trainer.compute_loss_func.several:
        raise UserError("teacher is for one class an image, and images have several labels here; leave teacher out.")
    with args.main_process_first(desc="teacher"):
        if isinstance(taught_by, str):
            source = open_source(ModelArguments(taught_by, trust_remote_code=trust_remote_code))
        else:
            source = ModelObject(taught_by)
        model, name = load_trained(source), source.name
    try:
        class_ids = match_classes(None, label_names, class_names(model.config))
    except UserError as error:
        fault, has_no_names, _ = str(error).partition("; if both")
        advice = "; name them in id2label of its configuration" if has_no_names else ""
        raise UserError(f"teacher {name}: {fault.rstrip('.')}{advice}.") from error
    if task_of(model.config).several:
        raise UserError(f"teacher {name}: it gives an image several labels; use one that gives an image one class.")
    sees = describe(load_image_processor(source, model.config))
    if not isinstance(taught_by, str):
        kind = "of the checkpoint that it was loaded from" if source.load_processor() else "of ImageNet: none are known"
        height, width = sees.sides
        logger.info(
            f"Note: the teacher is shown {width}x{height} pixels, normalized with the figures {kind}; if it was trained"
            " with others, save it with its image processor and give the folder's name."
        )
    temperature, weight = distillation_settings(args.distillation)
    student_sees = describe(trainer.processing_class)
    if sees.channels != student_sees.channels:
        raise UserError(f"teacher {name}: it takes images of other channels than the student; use another, or none.")
    torch.nn.Module.to(model, args.device)
    teacher = Teacher(model, class_ids, sees, student_sees, temperature, weight)
    logger.info(
        f"Teacher: {name}, {model.num_parameters():,} parameters, temperature {temperature:g}, weight {weight:g}."
    )

    attach(trainer, teacher)
    _keep_logits(trainer, teacher, transforms)


def attach(trainer: ImageClassificationTrainer, teacher: Teacher) -> None:
    """Show each training batch of a trainer to a teacher, and let the loss ask it."""

    def see(batch: dict[str, torch.Tensor], trains: bool) -> None:
        kept = batch.pop(_LOGITS, None)
        if kept is None and trains:
            with trainer.autocast_smart_context_manager():
                kept = teacher.logits_of(batch["pixel_values"])
        teacher.current = kept

    trainer.device_stage.observer = see
    trainer.compute_loss_func = trainer.compute_loss_func.with_teacher(teacher)


def _keep_logits(
    trainer: ImageClassificationTrainer, teacher: Teacher, transforms: Sequence[Any] | Callable[..., Any]
) -> None:
    """Compute the logits of all training images once, or read them, where they are the same in every epoch."""
    args, dataset = trainer.args, trainer.train_dataset
    if not isinstance(dataset, ImageBatches) or random_transforms(transforms) or args.image_size_schedule is not None:
        return
    settings = {
        "teacher": teacher.class_ids,
        "sides": teacher.sides,
        "student": cast(BaseImageProcessor, trainer.processing_class).to_json_string(),
        "transforms": transforms,
        "device": args.device.type,
        "precision": str(args.precision),
    }
    shape = (len(dataset), len(teacher.class_ids))
    try:
        with args.main_process_first(desc="teacher's logits"):
            path = feature_file(dataset.split, teacher.model, set(), settings)
            logits = read_features(path, shape)
            if logits is not None:
                logger.info(f"Logits of the teacher: read from {path.parent}.")
            else:
                began = time.perf_counter()
                write_features(path, shape, _logits(trainer, teacher, dataset))
                seconds = time.perf_counter() - began
                logger.info(
                    f"Logits of the teacher: {len(dataset):,} images in {seconds:.0f} s, kept in {path.parent}."
                )
                logits = read_features(path, shape)
    except FeaturesNotKept as reason:
        logger.warning(f"Note: the teacher's logits are computed in every epoch, because {reason}.")
        return
    if logits is not None:
        trainer.train_dataset = copy(dataset)
        trainer.train_dataset.stage = _KeptLogits(dataset, logits)


def _logits(trainer: ImageClassificationTrainer, teacher: Teacher, dataset: ImageBatches) -> Iterator[np.ndarray]:
    args = trainer.args
    loader = DataLoader(
        dataset,
        batch_size=args.per_device_eval_batch_size,
        collate_fn=trainer.data_collator,
        num_workers=args.dataloader_num_workers or 0,
        generator=torch.Generator(),  # of its own, so that training draws the same numbers afterwards
    )
    bar = progress_bar(
        total=len(dataset), desc="Logits of the teacher", unit="image", delay=_SECONDS_BEFORE_BAR,
        disable=args.disable_tqdm,
    )  # fmt: skip
    with bar, trainer.extensions.loading():
        for batch in loader:
            leave_if_interrupted()
            labels = batch["labels"]
            if (labels == NOT_COUNTED).any():
                raise FeaturesNotKept("there are images that cannot be read")
            trainer.prepare_batch(batch)
            assert teacher.current is not None
            yield teacher.current.cpu().numpy()
            bar.update(len(labels))
