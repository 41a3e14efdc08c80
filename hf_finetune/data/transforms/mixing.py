"""MixUp and CutMix, which lay each image of a batch over the next one and mix their labels alike.

MixUp is Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; CutMix is Yun et al., "CutMix: Regularization
Strategy to Train Strong Classifiers with Localizable Features", 2019. Partners, draws and boxes are those of
torchvision.transforms.v2. A batch's draws are its first image's, so a resume and the number of workers change
nothing; which images are mixed depends on the images of a process's batch. A host never waits for the device here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torchvision.transforms import v2

from hf_finetune.data.transforms.randomness import uniform_draws

MIXING_TRANSFORMS = ("CutMix", "MixUp")
_QUANTILES = 4096


@lru_cache
def beta_quantiles(alpha: float, device: torch.device) -> torch.Tensor:
    """Returns the quantiles of Beta(alpha, alpha) at 0, 1/4096, ..., 1, float32 of shape (4097,), on the device."""
    from scipy.special import betaincinv  # half a second that only recipes which mix should pay

    levels = torch.linspace(0, 1, _QUANTILES + 1, dtype=torch.float64)
    return torch.from_numpy(betaincinv(alpha, alpha, levels.numpy())).float().to(device)


def beta_draw(alpha: float, draw: torch.Tensor) -> torch.Tensor:
    """Returns the draw from Beta(alpha, alpha), a float32 scalar, that belongs to a uniform one in [0, 1)."""
    quantiles = beta_quantiles(alpha, draw.device)
    position = draw * _QUANTILES
    below = position.floor().long()
    return torch.lerp(quantiles[below], quantiles[below + 1], position - below)


class Mixing:
    """One of several mixing transforms a batch, by chance. `stream` keeps its draws its own.

    `transforms` are torchvision's MixUp and CutMix, and Identity, which mixes nothing; `probabilities` add up to 1.
    """

    def __init__(self, transforms: Sequence[v2.Transform], probabilities: Sequence[float], stream: int) -> None:
        self.transforms = tuple(transforms)
        self.probabilities = tuple(probabilities)
        self.stream = stream

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, keys: torch.Tensor, num_labels: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns images as they came, (batch, channels, height, width), and targets, float32 (batch, num_labels).

        `images` are floating-point, `labels` int64 (batch,). A row of targets adds up to 1; an image whose label is
        none of the classes, which does not count, adds nothing to it.
        """
        own = self._share_of_own(images.shape[-2], images.shape[-1], uniform_draws(keys[:1], self.stream, 4)[0])
        targets = (labels[:, None] == torch.arange(num_labels, device=labels.device)).float()
        mixed = torch.lerp(images.roll(1, 0), images, own.to(images.dtype))
        return mixed, torch.lerp(targets.roll(1, 0), targets, own.mean())

    def _share_of_own(self, height: int, width: int, draws: torch.Tensor) -> torch.Tensor:
        """Returns how much of each pixel is the image's own, float32 (height, width); the rest is its partner's."""
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
    """Returns 1 outside a box that leaves about `share`, one value (height, width), of the image, and 0 in it."""
    height, width = share.shape
    half_side = 0.5 * (1 - share[0, 0]).sqrt()  # in parts of the image's sides
    x, y = (draw_x * width).floor(), (draw_y * height).floor()
    half_width, half_height = (half_side * width).floor(), (half_side * height).floor()
    columns, rows = torch.arange(width, device=share.device), torch.arange(height, device=share.device)
    in_columns = (columns >= x - half_width) & (columns < x + half_width)
    in_rows = (rows >= y - half_height) & (rows < y + half_height)
    return 1.0 - (in_rows[:, None] & in_columns[None, :]).float()
