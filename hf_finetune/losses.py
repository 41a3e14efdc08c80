"""The registry of losses. A new one costs a function and an entry in `LOSSES`.

Help and mistakes list the losses without torch, so the functions import it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

COSINE_SCALE = 30.0  # what cosines are multiplied by (CosFace and ArcFace take 64 for tens of thousands of people)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the cross entropy of each image, in nats.

    Args:
        logits: Float (batch, classes).
        labels: Class ids, int64 (batch,), or shares of the classes, float (batch, classes), whose rows sum to 1.
        label_smoothing: The share of each label that is spread evenly over all classes, 0 to 1.

    Returns:
        Float (batch,).
    """
    from torch.nn import functional

    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")


def bce(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the binary cross entropy of each class, summed over the classes, in nats.

    Each class is a yes or no of its own: Beyer et al., "Are we done with ImageNet?", arXiv:2006.07159, and Wightman et
    al., "ResNet strikes back", arXiv:2110.00476. The sum keeps the learning rate that cross entropy has; the mean over
    the classes, timm's default, is this divided by their number.

    Args:
        logits: As in `cross_entropy`, and so are all that follow.
        labels: See there.
        label_smoothing: See there.

    Returns:
        Float (batch,).
    """
    from torch.nn import functional

    targets = _shares(logits, labels, label_smoothing)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)


def focal(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float, *, gamma: float = 2.0, alpha: float = 0.25
) -> torch.Tensor:
    """Return the focal loss, `bce` that counts what is learned already for less, with `gamma` and `alpha`.

    Lin et al., "Focal loss for dense object detection", ICCV 2017, arXiv:1708.02002, equation 5: with p the probability
    of the right answer, yes or no, each class has the loss -alpha (1 - p)^gamma log p, with 1 - alpha for a no. Summed
    over the classes.

    Args:
        logits: As in `cross_entropy`.
        labels: See there.
        label_smoothing: See there.
        gamma: How much less easy images count; 0 for all alike.
        alpha: The weight of the image's class, 0 to 1; the other classes have 1 - alpha.

    Returns:
        Float (batch,).
    """
    from torch.nn import functional

    targets = _shares(logits, labels, label_smoothing)
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    scores = logits.sigmoid()
    wrong = scores + targets - 2 * scores * targets
    weights = alpha * targets + (1 - alpha) * (1 - targets)
    return (weights * _power(wrong, gamma) * losses).sum(dim=1)


def asymmetric(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float,
    *,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    clip: float = 0.05,
) -> torch.Tensor:
    """Return the asymmetric loss, a focal loss with `gamma_positive`, `gamma_negative` and `clip`.

    Ridnik et al., "Asymmetric loss for multi-label classification", ICCV 2021, arXiv:2009.14119, equations 4 to 7, with
    the defaults of its authors' code. Summed over the classes.

    Args:
        logits: As in `cross_entropy`.
        labels: See there.
        label_smoothing: See there.
        gamma_positive: How much less the image's class counts where it is learned already.
        gamma_negative: The same of the other classes.
        clip: The probability, 0 to 1, up to which another class is taken to have none.

    Returns:
        Float (batch,).
    """
    from torch.nn import functional

    targets = _shares(logits, labels, label_smoothing)
    absent = (logits.neg().sigmoid() + clip).clamp(max=1)
    log_absent = absent.log() if clip else functional.logsigmoid(-logits)
    losses = targets * functional.logsigmoid(logits) + (1 - targets) * log_absent
    wrong = 1 - logits.sigmoid() * targets - absent * (1 - targets)
    gammas = gamma_positive * targets + gamma_negative * (1 - targets)
    return -(_power(wrong, gammas) * losses).sum(dim=1)


def arcface(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float, *, margin: float = 0.5) -> torch.Tensor:
    """Return the cross entropy of cosines, with a `margin` that an image's own class has to be nearer by.

    Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR 2019, arXiv:1801.07698,
    equation 3: the angle between features and their class is taken to be larger by the margin, and so by a share of it
    for a share of a class. Where the sum would go beyond pi, the cosine falls in a straight line, as in their code.

    Args:
        logits: `COSINE_SCALE` times cosines, float (batch, classes), of the head "cosine".
        labels: As in `cross_entropy`.
        label_smoothing: See there.
        margin: The angle, in radians, 0 to 1.

    Returns:
        Float (batch,).
    """
    import torch

    cosines = logits / COSINE_SCALE
    sines = (1 - cosines.square()).clamp(min=torch.finfo(cosines.dtype).eps).sqrt()
    farther = cosines * math.cos(margin) - sines * math.sin(margin)
    farther = torch.where(cosines > -math.cos(margin), farther, cosines - math.sin(margin) * margin)
    shares = _shares(logits, labels, label_smoothing)
    return cross_entropy(COSINE_SCALE * torch.lerp(cosines, farther, shares), shares, 0.0)


def _shares(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return labels as shares of the classes, smoothed, of the shape and dtype of the logits."""
    import torch

    classes = torch.arange(logits.shape[1], device=labels.device)
    shares = labels if labels.is_floating_point() else labels[:, None] == classes
    return shares.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / len(classes)


def _power(base: torch.Tensor, exponent: torch.Tensor | float) -> torch.Tensor:
    """Return `base ** exponent` of a base from 0 to 1, whose gradient is finite at 0 for an exponent below 1 too."""
    import torch

    return base.clamp(min=torch.finfo(base.dtype).eps).pow(exponent)


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "focal": focal,
    "asymmetric": asymmetric,
    "arcface": arcface,
}
"""By the name that the key `loss` takes: a function of logits, labels and label smoothing to a loss for each image.

What else a function takes, by keyword, are the settings that the key `loss_args` may hold.
"""


def loss_settings(name: str) -> list[str]:
    """Return the names of the settings of a registered loss."""
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
