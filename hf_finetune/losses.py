"""The registry of losses. A new one costs a function and an entry in `LOSSES`.

Help and mistakes list the losses without torch, so the functions import it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {"cross_entropy": cross_entropy}
"""By the name that the key `loss` takes: a function of logits, labels and label smoothing to a loss for each image."""
