"""The check of a loss that a Python program gives."""

from __future__ import annotations

import torch

from hf_finetune.errors import UserError, first_line
from hf_finetune.training.loss import Loss


def check_loss(loss: Loss, num_labels: int, mixes: bool, device: torch.device, several: bool = False) -> None:
    """Call a loss once on made-up logits of two images.

    Args:
        loss: The loss.
        num_labels: The number of classes.
        mixes: Whether train_transforms mix images, so that labels are shares.
        device: Where the network is trained.
        several: Whether images have several labels.

    Raises:
        UserError: Where it does not return a differentiable loss for each of the images.
    """
    for soft in (True,) if several else (False, True) if mixes else (False,):
        logits = torch.zeros(2, num_labels, device=device, requires_grad=True)
        labels = torch.tensor([0, num_labels - 1], device=device)
        if soft:
            labels = torch.nn.functional.one_hot(labels, num_labels).float()
        kind = "shares of the classes, float (batch, classes), as MixUp and CutMix make them" if soft else "class ids"
        kind = "0 or 1 for each class, float (batch, classes)" if several else kind
        try:
            losses = loss(logits, labels)
        except Exception as error:  # whatever the function of somebody else stumbles over
            raise UserError(f"loss: it does not take labels that are {kind}: {first_line(error)}.") from error
        shape = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        if shape != (2,):
            advice = "such as torch.nn.CrossEntropyLoss(reduction='none')"
            advice = "such as the sum of its classes" if several else advice
            raise UserError(f"loss: it returned {shape} for 2 images; return one loss for each image, {advice}.")
        if not losses.requires_grad:
            raise UserError("loss: what it returns does not depend on the logits; no gradient comes of it.")
