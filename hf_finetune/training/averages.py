"""Averages of weights over the steps of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch


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
