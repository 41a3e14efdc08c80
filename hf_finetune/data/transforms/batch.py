"""The random transforms of torchvision.transforms.v2 that run on a whole batch at once, on any device.

Each takes images of shape (batch, channels, height, width) and the samples' draw keys, and gives to every image the
result that torchvision's transform of the same name gives for the same draws. Arguments and defaults are torchvision's.
A host never waits for the device here: the draws stay where the images are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torchvision.transforms import InterpolationMode, v2

from hf_finetune.data.transforms.randomness import split_keys, uniform_draws

_IMAGES_OF_NOISE = 32


class BatchTransform:
    """A transform of a batch. `stream` is its place in the recipe's list, which keeps its draws its own."""

    def __init__(self, transform: v2.Transform, stream: int) -> None:
        self.transform = transform
        self.stream = stream

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return self.transform(images)  # without draws a batch is handled by torchvision itself


def _random_offsets(draws: torch.Tensor, span: torch.Tensor | int) -> torch.Tensor:
    return (draws * (span + 1)).floor().long()  # an integer in 0..span


def _on_host(images: torch.Tensor) -> bool:
    return images.device.type == "cpu"


class RandomHorizontalFlip(BatchTransform):
    dimension = -1

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        flipped = uniform_draws(keys, self.stream, 1)[:, 0] < self.transform.p
        if not _on_host(images):  # picking the flipped ones would make the host wait for their number
            return torch.where(flipped[:, None, None, None], images.flip(self.dimension), images)
        images = images.clone()
        images[flipped] = images[flipped].flip(self.dimension)
        return images


class RandomVerticalFlip(RandomHorizontalFlip):
    dimension = -2


class RandomCrop(BatchTransform):
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
        top = _random_offsets(draws[:, 0], images.shape[-2] - height)
        left = _random_offsets(draws[:, 1], images.shape[-1] - width)
        # With the channels last whole pixels move, and the batch keeps the layout that convolutions want.
        pixels = images.permute(0, 2, 3, 1)
        if _on_host(images):
            return _windows_on_host(pixels, top, left, height, width).permute(0, 3, 1, 2)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.arange(width, device=images.device)
        numbers = torch.arange(len(images), device=images.device)[:, None, None]
        return pixels[numbers, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def _pad(self, images: torch.Tensor, left: int, top: int, right: int, bottom: int) -> torch.Tensor:
        if self.transform.padding_mode != "constant":
            return v2.functional.pad(
                images, [left, top, right, bottom], self.transform.fill, self.transform.padding_mode
            )
        # torchvision would leave the channels first, and copy pixel by pixel.
        batch, channels, height, width = images.shape
        fill = torch.as_tensor(self.transform.fill or 0, dtype=images.dtype, device=images.device)
        padded = fill.expand(batch, height + top + bottom, width + left + right, channels).contiguous()
        padded[:, top : top + height, left : left + width] = images.permute(0, 2, 3, 1)
        return padded.permute(0, 3, 1, 2)


def _windows_on_host(
    pixels: torch.Tensor, top: torch.Tensor, left: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Returns each image's window, (batch, height, width, channels), of pixels (batch, rows, columns, channels).

    NumPy copies a window row by row, where torch would fetch it value by value: 30 times faster for 32 x 32 pixels.
    """
    batch, rows, columns, channels = pixels.shape
    flat = pixels.contiguous().view(batch, rows, columns * channels).numpy()
    windows = sliding_window_view(flat, (height, width * channels), axis=(1, 2))
    chosen = windows[np.arange(batch), top.numpy(), left.numpy() * channels]
    return torch.from_numpy(chosen).view(batch, height, width, channels)


def _attempted_sizes(
    draws: torch.Tensor, area: torch.Tensor | int, scale: Sequence[float], ratio: Sequence[float]
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

    def boxes(self, height: torch.Tensor, width: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns (top, left, height, width) of each sample's crop, int64 of shape (batch,).

        `height` and `width` are those of the images in pixels, int64 of shape (batch,) or (1,) where all are alike.
        """
        crop = self.transform
        draws = uniform_draws(keys, self.stream, 2 * self.attempts + 2)
        pairs = draws[:, 2:].unflatten(1, (self.attempts, 2))
        widths, heights = _attempted_sizes(pairs, (height * width)[:, None], crop.scale, crop.ratio)
        fits = (widths > 0) & (widths <= width[:, None]) & (heights > 0) & (heights <= height[:, None])
        any_fits, crop_width, crop_height = _first_fitting(fits, widths, heights)
        # Where nothing fits, the largest box in the centre whose ratio is not outside the range.
        fallback_height = torch.where(
            width < min(crop.ratio) * height, (width / min(crop.ratio)).round().long(), height
        )
        fallback_width = torch.where(width > max(crop.ratio) * height, (height * max(crop.ratio)).round().long(), width)
        crop_width = torch.where(any_fits, crop_width, fallback_width)
        crop_height = torch.where(any_fits, crop_height, fallback_height)
        top = torch.where(any_fits, _random_offsets(draws[:, 0], height - crop_height), (height - crop_height) // 2)
        left = torch.where(any_fits, _random_offsets(draws[:, 1], width - crop_width), (width - crop_width) // 2)
        return top, left, crop_height, crop_width

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        sides = (torch.full((1,), side, device=images.device) for side in (height, width))
        top, left, crop_height, crop_width = self.boxes(*sides, keys)
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
        if erasing.value is None:
            return self._fill_with_noise(images, keys, mask, erased)
        value = torch.tensor(erasing.value, dtype=images.dtype, device=images.device)
        return torch.where(mask, value[None, :, None, None], images)

    def _fill_with_noise(
        self, images: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, erased: torch.Tensor
    ) -> torch.Tensor:
        """Returns normalized images with standard normal noise under the mask, a few at a time: noise is large."""
        keys, images = split_keys(keys, self.stream), images.clone()
        # Elsewhere than on the host, finding out which are erased would make it wait.
        numbers = erased.nonzero()[:, 0] if _on_host(images) else torch.arange(len(images), device=images.device)
        for some in numbers.split(_IMAGES_OF_NOISE):
            draws = uniform_draws(keys[some], 0, images[0].numel()).view(-1, *images.shape[1:])
            noise = torch.special.ndtri(draws + 2.0**-25).to(images.dtype)
            images[some] = torch.where(mask[some], noise, images[some])
        return images


BATCH_TRANSFORMS: dict[str, type[BatchTransform]] = {
    "CenterCrop": BatchTransform,
    "Resize": BatchTransform,
    "RandomCrop": RandomCrop,
    "RandomErasing": RandomErasing,
    "RandomHorizontalFlip": RandomHorizontalFlip,
    "RandomResizedCrop": RandomResizedCrop,
    "RandomVerticalFlip": RandomVerticalFlip,
}
