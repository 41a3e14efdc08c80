"""A loss that a Python program gives, as the Trainer's `compute_loss_func`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hf_finetune.errors import UserError, first_line

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits, float (batch, classes), and labels to one loss for each image, float (batch,).

Labels are class ids, int64 (batch,). Where train_transforms mix images (MixUp, CutMix), they are shares of the classes
instead, float (batch, classes), whose rows sum to 1, as `torch.nn.functional.cross_entropy` takes them.
"""


def given_loss(loss: Loss) -> Callable[..., torch.Tensor]:
    """Return the Trainer's `compute_loss_func` of a loss for each image, averaged over the whole global batch.

    The sum is divided by `num_items_in_batch`, the images of all processes and accumulation steps, so the gradient
    does not depend on how a batch is divided. Images that do not count, with the label -100 or a row of zeros, are
    shown to the loss as class 0 or as uniform shares, and their losses are left out; a mixed row that counts in part
    counts for as much as it sums to.
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


def check_loss(loss: Loss, num_labels: int, mixes: bool, device: torch.device) -> None:
    """Call a loss once on made-up logits of two images.

    Args:
        loss: The loss.
        num_labels: The number of classes.
        mixes: Whether train_transforms mix images, so that labels are shares.
        device: Where the network is trained.

    Raises:
        UserError: Where it does not return a differentiable loss for each of the images.
    """
    for soft in (False, True) if mixes else (False,):
        logits = torch.zeros(2, num_labels, device=device, requires_grad=True)
        labels = torch.tensor([0, num_labels - 1], device=device)
        if soft:
            labels = torch.nn.functional.one_hot(labels, num_labels).float()
        kind = "shares of the classes, float (batch, classes), as MixUp and CutMix make them" if soft else "class ids"
        try:
            losses = loss(logits, labels)
        except Exception as error:  # whatever the function of somebody else stumbles over
            raise UserError(f"loss: it does not take labels that are {kind}: {first_line(error)}.") from error
        shape = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        if shape != (2,):
            advice = "such as torch.nn.CrossEntropyLoss(reduction='none')"
            raise UserError(f"loss: it returned {shape} for 2 images; return one loss for each image, {advice}.")
        if not losses.requires_grad:
            raise UserError("loss: what it returns does not depend on the logits; no gradient comes of it.")
