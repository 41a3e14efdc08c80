"""Transforms of torchvision.transforms.v2 that run on a whole batch at once, on any device.

Each takes images of shape (batch, channels, height, width) and the examples' draw keys. For the same draws each image
gets the result of torchvision's transform of the same name. Arguments and defaults are torchvision's. The draws stay on
the images' device, so the CPU never waits for an accelerator here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torchvision.transforms import InterpolationMode, v2

from hf_finetune.data.transforms import color, geometry, policies
from hf_finetune.data.transforms.batched import BatchTransform, channel_values, on_cpu, random_offsets
from hf_finetune.data.transforms.grid_mask import BatchGridMask
from hf_finetune.data.transforms.randomness import split_keys, uniform_draws

_IMAGES_OF_NOISE = 32  # whose noise is in memory at a time
SMOOTH = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)  # the interpolations of batches and reduced decoding


class RandomHorizontalFlip(BatchTransform):
    """Flip some images left to right."""

    dimension = -1

    def flipped(self, keys: torch.Tensor) -> torch.Tensor:
        """Return which images are flipped, bool of shape (batch,)."""
        return uniform_draws(keys, self.stream, 1)[:, 0] < self.transform.p

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        flipped = self.flipped(keys)
        if not on_cpu(images):  # selecting the flipped images would make the CPU wait for their number
            return torch.where(flipped[:, None, None, None], images.flip(self.dimension), images)
        images = images.clone()
        images[flipped] = images[flipped].flip(self.dimension)
        return images


class RandomVerticalFlip(RandomHorizontalFlip):
    """Flip some images upside down."""

    dimension = -2


class AlternatingHorizontalFlip(RandomHorizontalFlip):
    """Flip each image left to right in every second epoch."""

    def flipped(self, keys: torch.Tensor) -> torch.Tensor:
        return (keys & 1).bool()


class RandomCrop(BatchTransform):
    """Pad, and cut out a window at a random position."""

    @classmethod
    def supports(cls, transform: v2.Transform) -> bool:
        return not isinstance(transform.fill, dict)

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        crop = self.transform
        height, width = crop.size
        if crop.padding is not None:
            left, right, top, bottom = crop.padding
            images = self._pad(images, left, top, right, bottom)
        if crop.pad_if_needed:
            missing_width, missing_height = max(0, width - images.shape[-1]), max(0, height - images.shape[-2])
            images = self._pad(images, missing_width, missing_height, missing_width, missing_height)
        if images.shape[-2] < height or images.shape[-1] < width:
            raise ValueError(f"RandomCrop of {height} x {width} from {images.shape[-2]} x {images.shape[-1]} pixels")
        draws = uniform_draws(keys, self.stream, 2)
        top = random_offsets(draws[:, 0], images.shape[-2] - height)
        left = random_offsets(draws[:, 1], images.shape[-1] - width)
        # With the channels last, whole pixels are copied, and the batch keeps the layout that convolutions prefer.
        pixels = images.permute(0, 2, 3, 1)
        if on_cpu(images):
            return _windows_on_cpu(pixels, top, left, height, width).permute(0, 3, 1, 2)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.arange(width, device=images.device)
        numbers = torch.arange(len(images), device=images.device)[:, None, None]
        return pixels[numbers, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def _pad(self, images: torch.Tensor, left: int, top: int, right: int, bottom: int) -> torch.Tensor:
        if self.transform.padding_mode != "constant":
            other: torch.Tensor = v2.functional.pad(
                images, [left, top, right, bottom], self.transform.fill, self.transform.padding_mode
            )
            return other
        # torchvision's pad returns channels first, and copies value by value.
        batch, channels, height, width = images.shape
        fill = self.transform.fill or 0
        values = channel_values(fill if isinstance(fill, Sequence) else [fill], images)
        padded = values.expand(batch, height + top + bottom, width + left + right, channels).contiguous()
        padded[:, top : top + height, left : left + width] = images.permute(0, 2, 3, 1)
        return padded.permute(0, 3, 1, 2)


def _windows_on_cpu(
    pixels: torch.Tensor, top: torch.Tensor, left: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Cut one window out of each image.

    NumPy copies a window row by row, torch's indexing value by value: 30 times slower for 32 x 32 pixels.

    Args:
        pixels: Images of shape (batch, rows, columns, channels).
        top: The first row of each window, int64 of shape (batch,).
        left: The first column of each window, int64 of shape (batch,).
        height: The height of the windows.
        width: The width of the windows.

    Returns:
        The windows, of shape (batch, height, width, channels).
    """
    batch, rows, columns, channels = pixels.shape
    flat = pixels.contiguous().view(batch, rows, columns * channels).numpy()
    windows = sliding_window_view(flat, (height, width * channels), axis=(1, 2))
    chosen = windows[np.arange(batch), top.numpy(), left.numpy() * channels]
    return torch.from_numpy(chosen).view(batch, height, width, channels)


def _attempted_sizes(
    draws: torch.Tensor, area: torch.Tensor | int, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sqrt(area * ratio) and sqrt(area / ratio) of random areas and aspect ratios, as torchvision draws them.

    Args:
        draws: Uniform draws of shape (batch, attempts, 2), for the area and the ratio.
        area: The area of the images in pixels.
        scale: The range of the drawn area, as a fraction of `area`.
        ratio: The range of the aspect ratio, whose logarithm is uniform.

    Returns:
        Two tensors of pixels, rounded, int64 of shape (batch, attempts).
    """
    target_area = area * (scale[0] + draws[..., 0] * (scale[1] - scale[0]))
    log_ratio = [math.log(value) for value in ratio]
    aspect_ratio = torch.exp(log_ratio[0] + draws[..., 1] * (log_ratio[1] - log_ratio[0]))
    return (target_area * aspect_ratio).sqrt().round().long(), (target_area / aspect_ratio).sqrt().round().long()


def _first_fitting(fits: torch.Tensor, *attempts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return whether any attempt fits, and each tensor's value at the first one that does; all of shape (batch,)."""
    first = fits.int().argmax(dim=1, keepdim=True)
    return fits.any(dim=1), *(values.gather(1, first)[:, 0] for values in attempts)


class RandomResizedCrop(BatchTransform):
    """Cut out a box of random area and aspect ratio, and resize it."""

    attempts = 10  # torchvision's number, after which it takes a centre crop

    @classmethod
    def supports(cls, transform: v2.Transform) -> bool:
        return transform.antialias is not False and transform.interpolation in SMOOTH

    def boxes(
        self, height: torch.Tensor, width: torch.Tensor, keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw the box of each example.

        Args:
            height: The heights of the images in pixels, int64 of shape (batch,), or (1,) where all are equal.
            width: Their widths.
            keys: The examples' draw keys, int64 of shape (batch,).

        Returns:
            Top, left, height and width in pixels, each int64 of shape (batch,).
        """
        crop = self.transform
        draws = uniform_draws(keys, self.stream, 2 * self.attempts + 2)
        pairs = draws[:, 2:].unflatten(1, (self.attempts, 2))
        widths, heights = _attempted_sizes(pairs, (height * width)[:, None], crop.scale, crop.ratio)
        fits = (widths > 0) & (widths <= width[:, None]) & (heights > 0) & (heights <= height[:, None])
        any_fits, crop_width, crop_height = _first_fitting(fits, widths, heights)
        # Where no attempt fits: the largest centred box whose aspect ratio is in the range.
        fallback_height = torch.where(
            width < min(crop.ratio) * height, (width / min(crop.ratio)).round().long(), height
        )
        fallback_width = torch.where(width > max(crop.ratio) * height, (height * max(crop.ratio)).round().long(), width)
        crop_width = torch.where(any_fits, crop_width, fallback_width)
        crop_height = torch.where(any_fits, crop_height, fallback_height)
        top = torch.where(any_fits, random_offsets(draws[:, 0], height - crop_height), (height - crop_height) // 2)
        left = torch.where(any_fits, random_offsets(draws[:, 1], width - crop_width), (width - crop_width) // 2)
        return top, left, crop_height, crop_width

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        heights, widths = (torch.full((1,), side, device=images.device) for side in (height, width))
        top, left, crop_height, crop_width = self.boxes(heights, widths, keys)
        support = 2 if self.transform.interpolation == InterpolationMode.BICUBIC else 1
        rows = _resampling_matrices(top, crop_height, height, self.transform.size[0], support)
        columns = _resampling_matrices(left, crop_width, width, self.transform.size[1], support)
        # Resampling is separable, so a whole batch is cropped and resized by two batched matrix products.
        resized = rows[:, None] @ images.float() @ columns[:, None].transpose(-1, -2)
        return resized.round_().clamp_(0, 255).to(images.dtype) if images.dtype == torch.uint8 else resized


def _resampling_matrices(
    start: torch.Tensor, length: torch.Tensor, source: int, target: int, support: int
) -> torch.Tensor:
    """Return one matrix per example that resizes a part of a row of pixels with antialiasing.

    The weights are those of torchvision's antialiased resize, which are Pillow's: a triangle, or a cubic with a = -0.5,
    stretched by the scale where the part shrinks.

    Args:
        start: The first pixel of each part, int64 of shape (batch,).
        length: The number of pixels of each part, int64 of shape (batch,).
        source: The number of pixels of a whole row.
        target: The number of pixels after resizing.
        support: The half width of the kernel in pixels: 1 for the triangle (bilinear), 2 for the cubic.

    Returns:
        float32 of shape (batch, target, source); each row of weights adds up to 1.
    """
    scale = (length / target)[:, None, None]
    stretch = scale.clamp(min=1.0)
    centers = (torch.arange(target, device=start.device)[None, :, None] + 0.5) * scale
    positions = torch.arange(source, device=start.device)[None, None, :] - start[:, None, None]
    # Pillow rounds the ends of the window to whole pixels, which excludes pixels that the exact window would touch.
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
    """Fill a box of random area and aspect ratio with a value, or with noise in normalized images."""

    attempts = 10  # torchvision's number, after which it erases nothing

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        erasing = self.transform
        height, width = images.shape[-2:]
        draws = uniform_draws(keys, self.stream, 2 * self.attempts + 3)
        pairs = draws[:, 3:].unflatten(1, (self.attempts, 2))
        heights, widths = _attempted_sizes(pairs, height * width, erasing.scale, erasing.ratio)
        any_fits, box_height, box_width = _first_fitting((heights < height) & (widths < width), heights, widths)
        erased = any_fits & (draws[:, 0] < erasing.p)
        top = random_offsets(draws[:, 1], height - box_height)[:, None]
        left = random_offsets(draws[:, 2], width - box_width)[:, None]
        rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        in_rows = (rows >= top) & (rows < top + box_height[:, None])
        in_columns = (columns >= left) & (columns < left + box_width[:, None])
        mask = (erased[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :])[:, None]
        if erasing.value is None:
            return self._fill_with_noise(images, keys, mask, erased)
        return torch.where(mask, channel_values(erasing.value, images)[None, :, None, None], images)

    def _fill_with_noise(
        self, images: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, erased: torch.Tensor
    ) -> torch.Tensor:
        """Return normalized images with standard normal noise under the mask, a few at a time to save memory."""
        keys, images = split_keys(keys, self.stream), images.clone()
        # On an accelerator all images get noise: the CPU would have to wait to learn which are erased.
        numbers = erased.nonzero()[:, 0] if on_cpu(images) else torch.arange(len(images), device=images.device)
        for some in torch.split(numbers, _IMAGES_OF_NOISE):
            draws = uniform_draws(keys[some], 0, images[0].numel()).view(-1, *images.shape[1:])
            noise = torch.special.ndtri(draws + 2.0**-25).to(images.dtype)
            images[some] = torch.where(mask[some], noise, images[some])
        return images


BATCH_TRANSFORMS: dict[str, type[BatchTransform]] = {
    "AlternatingHorizontalFlip": AlternatingHorizontalFlip,
    "AutoAugment": policies.AutoAugment,
    "CenterCrop": BatchTransform,
    "ColorJitter": color.ColorJitter,
    "GaussianBlur": color.GaussianBlur,
    "GridMask": BatchGridMask,
    "IncreasingRandAugment": policies.IncreasingRandAugment,
    "Letterbox": BatchTransform,
    "RandAugment": policies.RandAugment,
    "RandomAdjustSharpness": color.RandomAdjustSharpness,
    "RandomAffine": geometry.RandomAffine,
    "RandomAutocontrast": color.RandomAutocontrast,
    "RandomCrop": RandomCrop,
    "RandomEqualize": color.RandomEqualize,
    "RandomErasing": RandomErasing,
    "RandomGrayscale": color.RandomGrayscale,
    "RandomHorizontalFlip": RandomHorizontalFlip,
    "RandomInvert": color.RandomInvert,
    "RandomPerspective": geometry.RandomPerspective,
    "RandomPosterize": color.RandomPosterize,
    "RandomResizedCrop": RandomResizedCrop,
    "RandomRotation": geometry.RandomRotation,
    "RandomSolarize": color.RandomSolarize,
    "RandomVerticalFlip": RandomVerticalFlip,
    "Resize": BatchTransform,
    "TrivialAugmentWide": policies.TrivialAugmentWide,
}
