"""MixUp and CutMix, which mix each image of a batch with the one before it, and their labels in the same proportion.

MixUp is Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; CutMix is Yun et al., "CutMix: Regularization
Strategy to Train Strong Classifiers with Localizable Features", 2019. Partners, draws and boxes are those of
torchvision.transforms.v2. A batch uses the draws of its first image, so a resumed run and another number of workers mix
the same way; which images are mixed depends on the batch of each process. The CPU never waits for an accelerator here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torchvision.transforms import v2

from hf_finetune.data.transforms.randomness import uniform_draws
from hf_finetune.tasks import counted

MIXING_TRANSFORMS = ("CutMix", "MixUp")
_QUANTILES = 4096


@lru_cache
def beta_quantiles(alpha: float, device: torch.device) -> torch.Tensor:
    """Return the quantiles of Beta(alpha, alpha) at 0, 1/4096, ..., 1, float32 of shape (4097,), on the device."""
    from scipy.special import betaincinv  # imports for half a second, and only mixing needs it

    levels = torch.linspace(0, 1, _QUANTILES + 1, dtype=torch.float64)
    return torch.from_numpy(betaincinv(alpha, alpha, levels.numpy())).float().to(device)


def beta_draw(alpha: float, draw: torch.Tensor) -> torch.Tensor:
    """Return the draw from Beta(alpha, alpha), a float32 scalar, that a uniform draw in [0, 1) selects."""
    quantiles = beta_quantiles(alpha, draw.device)
    position = draw * _QUANTILES
    below = position.floor().long()
    # An index that is a tensor without dimensions would make the CPU wait for its value.
    lower, upper = quantiles.take(below), quantiles.take(below + 1)
    return torch.lerp(lower, upper, position - below)


class Mixing:
    """A random choice of one mixing transform per batch."""

    def __init__(self, transforms: Sequence[v2.Transform], probabilities: Sequence[float], stream: int) -> None:
        """Set the choice up.

        Args:
            transforms: torchvision's MixUp and CutMix, or Identity, which does not mix.
            probabilities: The probability of each; they add up to 1.
            stream: The position in the recipe's list, which makes the draws independent of other transforms'.
        """
        self.transforms = tuple(transforms)
        self.probabilities = tuple(probabilities)
        self.stream = stream

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, keys: torch.Tensor, num_labels: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch.

        Args:
            images: Floats of shape (batch, channels, height, width).
            labels: Class ids, int64 of shape (batch,). An image whose label is no class id adds nothing to targets.
                Where images have several labels, 1 for each of them, float32 of shape (batch, num_labels), and an image
                of negative numbers does not count: no other is mixed with it.
            keys: The examples' draw keys, int64 of shape (batch,).
            num_labels: The number of classes.

        Returns:
            The mixed images, of the same shape and dtype; and the share of each class in each image, float32 of shape
            (batch, num_labels).
        """
        own = self._share_of_own(images.shape[-2], images.shape[-1], uniform_draws(keys[:1], self.stream, 4)[0])
        if labels.is_floating_point():
            apart = ~(counted(labels) & counted(labels).roll(1))
            mixed = torch.lerp(images.roll(1, 0), images, own.to(images.dtype))
            targets = torch.lerp(labels.roll(1, 0), labels, own.mean())
            mixed = torch.where(apart[:, None, None, None], images, mixed)
            return mixed, torch.where(apart[:, None], labels, targets)
        targets = (labels[:, None] == torch.arange(num_labels, device=labels.device)).float()
        mixed = torch.lerp(images.roll(1, 0), images, own.to(images.dtype))
        return mixed, torch.lerp(targets.roll(1, 0), targets, own.mean())

    def _share_of_own(self, height: int, width: int, draws: torch.Tensor) -> torch.Tensor:
        """Return the share of each pixel that is the image's own, float32 (height, width); its partner has the rest."""
        choice, *rest = draws
        share = torch.ones(height, width, device=draws.device)
        passed = 0.0
        for transform, probability in zip(self.transforms, self.probabilities, strict=True):
            if isinstance(transform, (v2.MixUp, v2.CutMix)):
                its_share = torch.ones_like(share) * beta_draw(transform.alpha, rest[0])
                if isinstance(transform, v2.CutMix):
                    its_share = _outside_box(its_share, rest[1], rest[2])
                chosen = (choice >= passed) & (choice < passed + probability)
                share = torch.where(chosen, its_share, share)
            passed += probability
        return share


def _outside_box(share: torch.Tensor, draw_x: torch.Tensor, draw_y: torch.Tensor) -> torch.Tensor:
    """Return 1 outside and 0 inside a random box, float32 (height, width); `share` is about the area outside it."""
    height, width = share.shape
    half_side = 0.5 * (1 - share[0, 0]).sqrt()  # as a fraction of the image's sides
    x, y = (draw_x * width).floor(), (draw_y * height).floor()
    half_width, half_height = (half_side * width).floor(), (half_side * height).floor()
    columns, rows = torch.arange(width, device=share.device), torch.arange(height, device=share.device)
    in_columns = (columns >= x - half_width) & (columns < x + half_width)
    in_rows = (rows >= y - half_height) & (rows < y + half_height)
    return 1.0 - (in_rows[:, None] & in_columns[None, :]).float()
