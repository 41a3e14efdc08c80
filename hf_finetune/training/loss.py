"""The loss of a global batch, however it is divided over devices and accumulation steps."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch.nn import functional

from hf_finetune.errors import UserError, first_line
from hf_finetune.losses import LOSSES
from hf_finetune.tasks import counted as is_counted

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits, float (batch, classes), and labels to one loss for each image, float (batch,).

Labels are class ids, int64 (batch,). Where train_transforms mix images (MixUp, CutMix), they are shares of the classes
instead, float (batch, classes), whose rows sum to 1, as `torch.nn.functional.cross_entropy` takes them. Where images
have several labels, they are 1 for each class that an image has and 0 for the others, or what mixing makes of these.
"""


class SoftLabels(Protocol):
    """A teacher, whose answers are part of the loss (`training.distillation`)."""

    weight: float

    def losses(self, outputs: Any) -> torch.Tensor | None:
        """Return how far each image of the batch is from the teacher's answer, float32 (batch,); None without one."""


def classification_loss(
    label_smoothing: float, name: str = "cross_entropy", settings: Mapping[str, Any] | None = None
) -> BatchLoss:
    """Return the Trainer's `compute_loss_func` of a loss that a recipe names.

    Args:
        label_smoothing: The share of each label that is spread evenly over all classes, 0 to 1.
        name: One of `hf_finetune.losses.LOSSES`, or the dotted name of a function or class of the user's own.
        settings: The settings of the loss.

    Returns:
        The loss of a batch.

    Raises:
        UserError: There is no loss of a dotted name.
    """
    settings = settings or {}
    if name not in LOSSES:
        return BatchLoss(import_loss(name, settings))
    loss = LOSSES[name]
    return BatchLoss(lambda logits, labels: loss(logits, labels, label_smoothing, **settings))


def import_loss(name: str, settings: Mapping[str, Any]) -> Loss:
    """Return a loss of the user's own, from where Python finds its module: a function, or an object of a class.

    Args:
        name: The dotted name, such as `my_losses.poly`. The user has typed it (`training.plan`).
        settings: What the class is made with, or keyword arguments of the function.

    Raises:
        UserError: There is none of this name, or it cannot be made with these settings.
    """
    module, _, attribute = name.rpartition(".")
    try:
        loss = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module of somebody else stumbles over
        where = "it is looked for where Python finds modules; PYTHONPATH=. adds the current folder"
        raise UserError(f"loss: {name} cannot be imported: {first_line(error)}; {where}.") from error
    if not callable(loss):
        raise UserError(f"loss: {name} is {type(loss).__name__}; use a function of (logits, labels), or a class.")
    if not isinstance(loss, type):
        return partial(loss, **settings)
    try:
        made: Loss = loss(**settings)
    except Exception as error:
        raise UserError(f"loss: {name} cannot be made with these loss_args: {first_line(error)}.") from error
    return made


@dataclass(frozen=True, eq=False)
class BatchLoss:
    """The Trainer's `compute_loss_func`: a loss for each image, averaged over the whole global batch.

    The stock Trainer assumes that a model divides its loss by `num_items_in_batch`. ResNet and many other families do
    not, and their gradients come out multiplied by accumulation steps and ranks (transformers#47688). Here the division
    is in one place, for every model and every loss.

    Attributes:
        loss: Computes the loss of each image. Images that do not count are shown to it as class 0 or as uniform shares,
            and their losses are left out.
        class_weights: What the loss of an image is multiplied by, by its class, float32 (classes,), on the device of
            the labels; None for 1. An image that is mixed has the weight of each class for its share of that class. The
            mean still divides by the number of images. Where images have several labels, the loss is `bce`, and the
            part of each label that an image has is multiplied (`pos_weight` of torch's BCEWithLogitsLoss).
        offsets: What is added to the logits of each class, float32 (classes,), on their device; None for 0.
        several: Whether images have several labels, so that labels are 0 to 1 for each class.
        teacher: Whose answers take the share `weight` of the loss of each image; None for labels alone.
    """

    loss: Loss
    class_weights: torch.Tensor | None = None
    offsets: torch.Tensor | None = None
    several: bool = False
    teacher: SoftLabels | None = None

    def with_teacher(self, teacher: SoftLabels) -> BatchLoss:
        """Return this loss with a teacher."""
        return replace(self, teacher=teacher)

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> Any:
        """Return the loss of a batch, a scalar.

        Args:
            outputs: A model's output, with its `logits`, (batch, classes).
            labels: Class ids, int64 (batch,), of which -100 does not count, or the targets of mixed images, float32
                (batch, classes), whose rows count for as much as they sum to.
            num_items_in_batch: The number of labels of the global batch that count, over all ranks and accumulation
                steps, as the stock Trainer counts them: one for each image, or one for each of its classes where it has
                several. Where it is None, the mean over this batch is returned.
        """
        logits = outputs.logits
        with torch.autocast(logits.device.type, enabled=False):  # bf16 is too coarse for a sum
            soft = None if self.teacher is None else self.teacher.losses(outputs)
            if soft is not None:  # a student with a token for the teacher learns the labels with the other
                logits = getattr(outputs, "cls_logits", logits)
            return self._of_logits(logits.float(), labels, num_items_in_batch, soft)

    def _of_logits(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None,
        soft: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the loss of logits in float32 (batch, classes), with the teacher's part of each, float32 (batch,)."""
        if self.offsets is not None:
            logits = logits + self.offsets
        if self.several:
            counted = weights = is_counted(labels).to(logits.dtype)
            shown = labels.clamp(min=0)
        elif labels.is_floating_point():
            counted = labels.sum(dim=1)
            weighted = labels if self.class_weights is None else labels * self.class_weights
            weights = weighted.sum(dim=1)
            uniform = torch.full_like(labels, 1 / labels.shape[1])
            shares = weighted / weights.clamp(min=1e-6)[:, None]
            shown = torch.where(weights[:, None] > 0, shares, uniform)
        else:
            counted = (labels >= 0).to(logits.dtype)
            shown = labels.clamp(min=0)
            weights = counted if self.class_weights is None else counted * self.class_weights[shown]
        losses = self.loss(logits, shown)
        if self.several and self.class_weights is not None:
            losses = losses + ((self.class_weights - 1) * shown * functional.softplus(-logits)).sum(dim=1)
        if soft is not None and self.teacher is not None:
            losses = torch.lerp(losses, soft, self.teacher.weight)
        total = torch.where(weights > 0, losses * weights, torch.zeros_like(losses)).sum()
        if num_items_in_batch is None:
            return total / counted.sum().clamp(min=1e-6)
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.clamp(min=1)  # not one image of the batch could be read
        return total / (num_items_in_batch / labels.shape[1] if self.several else num_items_in_batch)
