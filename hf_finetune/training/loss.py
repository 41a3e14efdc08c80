"""The loss of a global batch, however it is divided over devices and accumulation steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def classification_loss(label_smoothing: float) -> Callable[..., torch.Tensor]:
    """Returns the Trainer's `compute_loss_func`: cross entropy, averaged over the whole global batch.

    The stock Trainer believes that a model divides its loss by `num_items_in_batch`; ResNet and many other families do
    not, and their gradients come out multiplied by accumulation steps and processes (transformers#47688). Here the
    division is in one place, for every model. Labels are class ids, int64 (batch,), or of mixed images targets,
    float32 (batch, classes), whose rows count for as much as they add up to.
    """

    def compute_loss(
        outputs: object, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if num_items_in_batch is None:
            return functional.cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing)
        if labels.is_floating_point():
            smoothed = torch.lerp(labels, labels.mean(dim=1, keepdim=True), label_smoothing)
            total = -(smoothed * functional.log_softmax(outputs.logits, dim=1)).sum()
        else:
            total = functional.cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing, reduction="sum")
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.clamp(min=1)  # not one image of the batch could be read
        return total / num_items_in_batch

    return compute_loss
