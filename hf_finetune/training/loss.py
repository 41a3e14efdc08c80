"""The loss of a global batch, however it is divided over devices and accumulation steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn import functional


class HasLogits(Protocol):
    """A model's output: `logits` are float (batch, classes)."""

    logits: torch.Tensor


def classification_loss(label_smoothing: float) -> Callable[..., torch.Tensor]:
    """Return the Trainer's `compute_loss_func`: cross entropy, averaged over the whole global batch.

    The stock Trainer assumes that a model divides its loss by `num_items_in_batch`. ResNet and many other families do
    not, and their gradients come out multiplied by accumulation steps and ranks (transformers#47688). Here the division
    is in one place, for every model.

    Args:
        label_smoothing: The share of each target that is spread evenly over all classes, 0 to 1.

    Returns:
        A function of a model's output, the labels and `num_items_in_batch`, that returns a scalar in nats. Labels are
        class ids, int64 (batch,), of which -100 does not count, or the targets of mixed images, float32
        (batch, classes), whose rows count for as much as they sum to. `num_items_in_batch` is the number of images of
        the global batch that count, over all ranks and accumulation steps; where it is None, the mean over this batch
        is returned.
    """

    def compute_loss(
        outputs: HasLogits, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        logits = outputs.logits.float()  # a network whose weights are bf16 returns bf16, too coarse for a sum
        if num_items_in_batch is None:
            return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        if labels.is_floating_point():
            smoothed = torch.lerp(labels, labels.mean(dim=1, keepdim=True), label_smoothing)
            total = -(smoothed * functional.log_softmax(logits, dim=1)).sum()
        else:
            total = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum")
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.clamp(min=1)  # where not one image of the batch could be read
        return total / num_items_in_batch

    return compute_loss
