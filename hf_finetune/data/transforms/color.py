"""torchvision's transforms of colours, sharpness and blur on whole batches."""

from __future__ import annotations

import torch

from hf_finetune.data.transforms import color_arithmetic as color
from hf_finetune.data.transforms.batched import (
    BYTES_AT_A_TIME,
    PIXELS_AT_A_TIME,
    BatchTransform,
    between,
    by_kind,
    in_pieces,
)
from hf_finetune.data.transforms.randomness import uniform_draws


class ColorJitter(BatchTransform):
    """Change brightness, contrast, saturation and hue by random amounts, in a random order for each image."""

    def draw(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw what is done to each image.

        Args:
            keys: The examples' draw keys, int64 of shape (batch,).

        Returns:
            The order of the four changes, int64 of shape (batch, 4); and their strengths, float32 of the same shape:
            the factors of brightness, contrast and saturation, and the shift of the hue.
        """
        jitter = self.transform
        draws = uniform_draws(keys, self.stream, 8)
        # A change that the recipe leaves out has a strength that nothing reads.
        ranges = [given or (1.0, 1.0) for given in (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)]
        strengths = [between(draws[:, 4 + number], *ends) for number, ends in enumerate(ranges)]
        return draws[:, :4].argsort(dim=1), torch.stack(strengths, dim=1)

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return in_pieces(images, self._jitter, *self.draw(keys))

    def _jitter(self, images: torch.Tensor, order: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
        jitter = self.transform
        changes = (color.brighten, color.stretch_contrast, color.saturate, color.shift_hue)
        given = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        wanted = {number: changes[number] for number in range(4) if given[number] is not None}
        levels = color.to_levels(images)
        for kinds in order.unbind(1):
            levels = by_kind(levels, kinds, wanted, strengths.gather(1, kinds[:, None])[:, 0])
        return color.to_uint8(levels)


class _Sometimes(BatchTransform):
    """A change that some images undergo."""

    pixels = PIXELS_AT_A_TIME

    def change(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Return uint8 images after the change; `drawn`, of shape (batch,), is 1 for each of them."""
        raise NotImplementedError

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        drawn = (uniform_draws(keys, self.stream, 1)[:, 0] < self.transform.p).long()

        def changed(some: torch.Tensor, those: torch.Tensor) -> torch.Tensor:
            return by_kind(some, those, {1: self.change}, those)

        return in_pieces(images, changed, drawn, pixels=self.pixels)


class RandomGrayscale(_Sometimes):
    """Take the colours from some images."""

    def change(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return color.to_gray(images)


class RandomInvert(_Sometimes):
    """Turn some images into their negatives."""

    pixels = BYTES_AT_A_TIME

    def change(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return color.invert(images)


class RandomPosterize(_Sometimes):
    """Reduce the bits of the values of some images."""

    pixels = BYTES_AT_A_TIME

    def change(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return color.posterize(images, torch.full_like(drawn, self.transform.bits))


class RandomSolarize(_Sometimes):
    """Invert the bright values of some images."""

    pixels = BYTES_AT_A_TIME

    def change(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return color.solarize(images, torch.full_like(drawn, self.transform.threshold, dtype=torch.float32))


class RandomAutocontrast(_Sometimes):
    """Stretch each channel of some images to the full range."""

    def change(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return color.autocontrast(images)


class RandomEqualize(_Sometimes):
    """Give each channel of some images an even histogram."""

    def change(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return color.equalize(images)


class RandomAdjustSharpness(_Sometimes):
    """Sharpen or smooth some images."""

    def change(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        factor = self.transform.sharpness_factor
        return color.adjust_sharpness(images, torch.full_like(drawn, factor, dtype=torch.float32))


class GaussianBlur(BatchTransform):
    """Blur each image with a random width."""

    def draw(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the standard deviation of each image's kernel in pixels, float32 of shape (batch,)."""
        return between(uniform_draws(keys, self.stream, 1)[:, 0], *self.transform.sigma)

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        width, height = self.transform.kernel_size
        sigma = self.draw(keys)
        return in_pieces(images, color.blur, _kernels(width, sigma), _kernels(height, sigma))


def _kernels(size: int, sigma: torch.Tensor) -> torch.Tensor:
    """Return the weights of each image's kernel from the middle outwards, float32 of shape (batch, 1 + size // 2)."""
    places = torch.arange(size // 2 + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (places / sigma[:, None]) ** 2)
    return weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])
