"""Data room: the random transforms of torchvision.transforms.v2 that run on a whole batch at once, on any device.

Each takes images of shape (batch, channels, height, width) and the samples' draw keys, and gives to every picture the
result that torchvision's transform of the same name gives for the same draws. Arguments and defaults are torchvision's.
A host never waits for the device here: the draws stay where the pictures are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torchvision.transforms import InterpolationMode, v2

from hf_finetune.data.randomness import uniform_draws


class BatchTransform:
    """A transform of a batch. `stream` is its place in the recipe's list, which keeps its draws its own."""

    def __init__(self, transform: v2.Transform, stream: int) -> None:
        self.transform = transform
        self.stream = stream

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return self.transform(images)  # without draws a batch is handled by torchvision itself


def _random_offsets(draws: torch.Tensor, room: torch.Tensor | int) -> torch.Tensor:
    return (draws * (room + 1)).floor().long()  # an integer in 0..room


class RandomHorizontalFlip(BatchTransform):
    dimension = -1

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        flipped = uniform_draws(keys, self.stream, 1)[:, 0] < self.transform.p
        return torch.where(flipped[:, None, None, None], images.flip(self.dimension), images)


class RandomVerticalFlip(RandomHorizontalFlip):
    dimension = -2


class RandomCrop(BatchTransform):
    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        crop = self.transform
        height, width = crop.size
        if crop.padding is not None:
            left, right, top, bottom = crop.padding
            images = v2.functional.pad(images, [left, top, right, bottom], crop.fill, crop.padding_mode)
        if crop.pad_if_needed:
            missing = [max(0, width - images.shape[-1]), max(0, height - images.shape[-2])]
            images = v2.functional.pad(images, missing, crop.fill, crop.padding_mode)
        if images.shape[-2] < height or images.shape[-1] < width:
            raise ValueError(f"RandomCrop of {height} x {width} from {images.shape[-2]} x {images.shape[-1]} pixels")
        draws = uniform_draws(keys, self.stream, 2)
        top = _random_offsets(draws[:, 0], images.shape[-2] - height)
        left = _random_offsets(draws[:, 1], images.shape[-1] - width)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.arange(width, device=images.device)
        pictures = torch.arange(len(images), device=images.device)[:, None, None]
        # Indexing with the channels last moves whole pixels, and leaves the batch in the layout convolutions want.
        return images.permute(0, 2, 3, 1)[pictures, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _attempted_sizes(
    draws: torch.Tensor, area: int, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (sqrt(area · ratio), sqrt(area / ratio)), rounded, int64 of shape (batch, attempts)."""
    target_area = area * (scale[0] + draws[..., 0] * (scale[1] - scale[0]))
    log_ratio = [math.log(value) for value in ratio]
    aspect_ratio = torch.exp(log_ratio[0] + draws[..., 1] * (log_ratio[1] - log_ratio[0]))
    return (target_area * aspect_ratio).sqrt().round().long(), (target_area / aspect_ratio).sqrt().round().long()


def _first_fitting(fits: torch.Tensor, *attempts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns whether any attempt fits, and each tensor's value at the first one that does; shapes (batch,)."""
    first = fits.int().argmax(dim=1, keepdim=True)
    return fits.any(dim=1), *(values.gather(1, first)[:, 0] for values in attempts)


class RandomResizedCrop(BatchTransform):
    attempts = 10  # torchvision's, after which it takes the centre

    def boxes(self, height: int, width: int, keys: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns (top, left, height, width) of each sample's crop, int64 of shape (batch,)."""
        crop = self.transform
        draws = uniform_draws(keys, self.stream, 2 * self.attempts + 2)
        pairs = draws[:, 2:].unflatten(1, (self.attempts, 2))
        widths, heights = _attempted_sizes(pairs, height * width, crop.scale, crop.ratio)
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        any_fits, crop_width, crop_height = _first_fitting(fits, widths, heights)
        fallback_width, fallback_height = width, height
        if width / height < min(crop.ratio):
            fallback_height = round(width / min(crop.ratio))
        elif width / height > max(crop.ratio):
            fallback_width = round(height * max(crop.ratio))
        crop_width = torch.where(any_fits, crop_width, fallback_width)
        crop_height = torch.where(any_fits, crop_height, fallback_height)
        top = _random_offsets(draws[:, 0], height - crop_height)
        left = _random_offsets(draws[:, 1], width - crop_width)
        top = torch.where(any_fits, top, (height - fallback_height) // 2)
        left = torch.where(any_fits, left, (width - fallback_width) // 2)
        return top, left, crop_height, crop_width

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        top, left, crop_height, crop_width = self.boxes(height, width, keys)
        support = 2 if self.transform.interpolation == InterpolationMode.BICUBIC else 1
        rows = _resampling_matrices(top, crop_height, height, self.transform.size[0], support)
        columns = _resampling_matrices(left, crop_width, width, self.transform.size[1], support)
        # Resampling is separable, so crop and resize of a whole batch are two batched matrix products.
        resized = rows[:, None] @ images.float() @ columns[:, None].transpose(-1, -2)
        return resized.round_().clamp_(0, 255).to(images.dtype) if images.dtype == torch.uint8 else resized


def _resampling_matrices(
    start: torch.Tensor, length: torch.Tensor, source: int, target: int, support: int
) -> torch.Tensor:
    """Returns the antialiased interpolation of pixels start..start+length to `target` pixels, one matrix a sample.

    Float32 of shape (batch, target, source). The weights are those of torchvision's antialiased resize (as Pillow's):
    a triangle (support 1) or a cubic with a = -0.5 (support 2), stretched by the scale where it shrinks.
    """
    scale = (length / target)[:, None, None]
    stretch = scale.clamp(min=1.0)
    centers = (torch.arange(target, device=start.device)[None, :, None] + 0.5) * scale
    positions = torch.arange(source, device=start.device)[None, None, :] - start[:, None, None]
    # Pillow rounds the window's ends to whole pixels, which leaves out pixels that the exact window would touch.
    first = (centers - support * stretch + 0.5).floor().clamp(min=0)
    last = torch.minimum((centers + support * stretch + 0.5).floor(), length[:, None, None].float())
    inside = (positions >= first) & (positions < last)
    distance = ((positions + 0.5 - centers) / stretch).abs()
    if support == 1:
        weights = (1 - distance).clamp(min=0)
    else:
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights * inside
    return weights / weights.sum(dim=-1, keepdim=True)


class RandomErasing(BatchTransform):
    attempts = 10

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        erasing = self.transform
        height, width = images.shape[-2:]
        draws = uniform_draws(keys, self.stream, 2 * self.attempts + 3)
        pairs = draws[:, 3:].unflatten(1, (self.attempts, 2))
        heights, widths = _attempted_sizes(pairs, height * width, erasing.scale, erasing.ratio)
        any_fits, box_height, box_width = _first_fitting((heights < height) & (widths < width), heights, widths)
        erased = any_fits & (draws[:, 0] < erasing.p)
        top = _random_offsets(draws[:, 1], height - box_height)[:, None]
        left = _random_offsets(draws[:, 2], width - box_width)[:, None]
        rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        in_rows = (rows >= top) & (rows < top + box_height[:, None])
        in_columns = (columns >= left) & (columns < left + box_width[:, None])
        mask = (erased[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :])[:, None]
        value = torch.tensor(erasing.value, dtype=images.dtype, device=images.device)
        return torch.where(mask, value[None, :, None, None], images)


BATCH_TRANSFORMS: dict[str, type[BatchTransform]] = {
    "CenterCrop": BatchTransform,
    "Resize": BatchTransform,
    "RandomCrop": RandomCrop,
    "RandomErasing": RandomErasing,
    "RandomHorizontalFlip": RandomHorizontalFlip,
    "RandomResizedCrop": RandomResizedCrop,
    "RandomVerticalFlip": RandomVerticalFlip,
}
