"""The loss of a global batch, however it is divided over devices and accumulation steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hf_finetune.losses import LOSSES

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits, float (batch, classes), and labels to one loss for each image, float (batch,).

Labels are class ids, int64 (batch,). Where train_transforms mix images (MixUp, CutMix), they are shares of the classes
instead, float (batch, classes), whose rows sum to 1, as `torch.nn.functional.cross_entropy` takes them.
"""


def classification_loss(label_smoothing: float, name: str = "cross_entropy") -> Callable[..., torch.Tensor]:
    """Return the Trainer's `compute_loss_func` of a registered loss.

    Args:
        label_smoothing: The share of each label that is spread evenly over all classes, 0 to 1.
        name: One of `hf_finetune.losses.LOSSES`.

    Returns:
        See `batch_loss`.
    """
    loss = LOSSES[name]
    return batch_loss(lambda logits, labels: loss(logits, labels, label_smoothing))


def batch_loss(loss: Loss) -> Callable[..., torch.Tensor]:
    """Return the Trainer's `compute_loss_func` of a loss for each image, averaged over the whole global batch.

    The stock Trainer assumes that a model divides its loss by `num_items_in_batch`. ResNet and many other families do
    not, and their gradients come out multiplied by accumulation steps and ranks (transformers#47688). Here the division
    is in one place, for every model and every loss.

    Args:
        loss: Computes the loss of each image. Images that do not count are shown to it as class 0 or as uniform shares,
            and their losses are left out.

    Returns:
        A function of a model's output, the labels and `num_items_in_batch`, that returns a scalar. Labels are class
        ids, int64 (batch,), of which -100 does not count, or the targets of mixed images, float32 (batch, classes),
        whose rows count for as much as they sum to. `num_items_in_batch` is the number of images of the global batch
        that count, over all ranks and accumulation steps; where it is None, the mean over this batch is returned.
    """

    def compute_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> Any:
        logits = outputs.logits.float()  # a network whose weights are bf16 returns bf16, too coarse for a sum
        if labels.is_floating_point():
            weights = labels.sum(dim=1)
            uniform = torch.full_like(labels, 1 / labels.shape[1])
            shares = labels / weights.clamp(min=1e-6)[:, None]
            shown = torch.where(weights[:, None] > 0, shares, uniform)
        else:
            weights = (labels >= 0).to(logits.dtype)
            shown = labels.clamp(min=0)
        losses = loss(logits, shown)
        total = torch.where(weights > 0, losses * weights, torch.zeros_like(losses)).sum()
        if num_items_in_batch is None:
            return total / weights.sum().clamp(min=1e-6)
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.clamp(min=1)  # not one image of the batch could be read
        return total / num_items_in_batch

    return compute_loss
