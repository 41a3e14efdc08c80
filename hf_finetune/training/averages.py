"""Averages of weights over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hf_finetune.errors import UserError


@torch.no_grad()
def update_average(averages: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], decay: float) -> None:
    r"""Move each average towards its weight by one step, in place.

    .. math::
        a_{t} = d \cdot a_{t-1} + (1 - d) \cdot w_{t}

    This is the moving average of timm's `--model-ema` and of MMEngine's EMAHook.

    Args:
        averages: The averages :math:`a`, floating point.
        weights: The weights :math:`w` after the optimizer step, with the shapes and dtypes of the averages.
        decay: The decay :math:`d`, 0 to 1. With 0 the average is the last weight, with 1 it never changes.
    """
    torch._foreach_lerp_(list(averages), list(weights), 1 - decay)


def restore(averages: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor], advice: str) -> None:
    """Copy the averages of a checkpoint, by the names of their weights, over those that are kept.

    Args:
        averages: What is kept; its values are changed in place.
        saved: The checkpoint's.
        advice: What to say where the checkpoint has none, or those of other weights.

    Raises:
        UserError: It has none, or those of other weights.
    """
    if _shapes(saved) != _shapes(averages):
        raise UserError(advice)
    for name, average in averages.items():
        average.copy_(saved[name])


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
