"""Arithmetic on colours of whole batches, with a value of its own for each image.

Images are uint8 of shape (batch, 3, height, width), and so are results. Each function gives what the function of
`torchvision.transforms.v2.functional` gives an image, but that a value may be one level of 255 away where the exact
result is next to a whole number. A result's channels come first in memory.

Colours are computed as "levels": float32 whole numbers from 0 to 255. They become uint8 by way of int16, because the
direct conversion on a CPU takes as long as ten additions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from hf_finetune.data.transforms.batched import for_each, on_cpu

_WHITE = 255.0
# ITU-R 601 luma, with the digits that torchvision uses.
_RED, _GREEN, _BLUE = 0.2989, 0.587, 0.114


def to_levels(images: torch.Tensor) -> torch.Tensor:
    """Return a float32 copy of images, with the channels first in memory."""
    return images.to(torch.float32, memory_format=torch.contiguous_format)


def to_uint8(levels: torch.Tensor) -> torch.Tensor:
    """Return numbers from 0 to 255 as uint8, without their fractions."""
    return levels.to(torch.int16).to(torch.uint8)


def gray_levels(levels: torch.Tensor) -> torch.Tensor:
    """Return the luma of images, whole numbers of shape (batch, 1, height, width)."""
    red, green, blue = levels.unbind(1)
    return red.mul(_RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE).floor_()[:, None]


def brighten(levels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply levels by a factor of at least 0."""
    return (levels * for_each(factor)).clamp_(max=_WHITE).floor_()


def stretch_contrast(levels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move levels away from the image's mean luma by a factor."""
    rest = gray_levels(levels).mean(dim=(1, 2, 3), keepdim=True) * for_each(1 - factor)
    return (levels * for_each(factor)).add_(rest).clamp_(0, _WHITE).floor_()


def saturate(levels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move levels away from each pixel's luma by a factor."""
    return torch.lerp(gray_levels(levels), levels, for_each(factor)).clamp_(0, _WHITE).floor_()


def shift_hue(levels: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Turn the hue of levels.

    Let R, G, B be a pixel's (value - min) / (max - min), and h its hue in sixths of a turn, -3 to 3, with red at 0. In
    each of the six sectors |h| = 1 + G + B - R, and h has the sign of G - B. Backwards, a channel whose own hue is c
    has max(0, min(1, 2 - d)), where d is the distance of h and c the short way around, and 2 - d is ||h - c| - 3| - 1.
    This is HSV without its case distinctions, which a CPU computes slowly.

    Args:
        levels: Levels of images.
        turn: The shift as a fraction of a turn, -0.5 to 0.5, of shape (batch,).
    """
    red, green, blue = levels.unbind(1)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    spread = torch.maximum(torch.maximum(red, green), blue).sub_(lowest)
    scale = spread.clamp(min=1).reciprocal_()  # where the spread is 0, all hues give gray
    hue = (green + blue).sub_(red).sub_(lowest).mul_(scale).add_(1)
    hue = torch.copysign(hue, green - blue, out=hue).add_(6 * turn[:, None, None])
    hue.add_(hue.mul(1 / 6).round_(), alpha=-6)
    # torchvision computes in 0 to 1, and cuts x * 255.999 to a whole number.
    spread.mul_(255.999 / _WHITE)
    lowest.mul_(255.999 / _WHITE)
    shifted = torch.empty_like(levels)
    for channel, own_hue in enumerate((0, 2, -2)):
        share = (hue - own_hue).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(lowest, share, spread, out=shifted[:, channel])
    return shifted.floor_()


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return images with their colours multiplied by a factor of at least 0."""
    return to_uint8(brighten(to_levels(images), factor))


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return images with their contrast multiplied by a factor of at least 0."""
    return to_uint8(stretch_contrast(to_levels(images), factor))


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return images with their saturation multiplied by a factor of at least 0."""
    return to_uint8(saturate(to_levels(images), factor))


def to_gray(images: torch.Tensor) -> torch.Tensor:
    """Return images whose three channels are their luma."""
    return to_uint8(gray_levels(to_levels(images))).expand(images.shape)


def posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Return images of which each value keeps its highest bits, 0 to 8 of them."""
    return images & for_each(256 - 2 ** (8 - bits.int())).to(torch.uint8)


def invert(images: torch.Tensor) -> torch.Tensor:
    """Return images with 255 - x for each value x."""
    return images ^ 255


def solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Return images with 255 - x for each value x of at least the threshold.

    Comparisons of uint8 are slow on a CPU, so the mask is min(x - min(x, t), 1) * 255, where t is one below the
    threshold, in wrapping arithmetic.
    """
    below = threshold.ceil().clamp(0, 256).int() - 1
    mask = images - torch.minimum(images, for_each(below.clamp(min=0)).to(torch.uint8))
    mask = mask.clamp_(max=1).mul_(255)
    all_of_them = for_each(below < 0).to(torch.uint8) * 255
    return images ^ (mask | all_of_them)


def add_to_dark(images: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Return images with a whole number, 0 to 127, added to each value below 128."""
    return images + (images >> 7 ^ 1) * for_each(amount).to(torch.uint8)


def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Return images of which each channel is stretched to 0 to 255; a channel of one value stays as it is."""
    levels = to_levels(images)
    lowest, highest = levels.amin((2, 3), keepdim=True), levels.amax((2, 3), keepdim=True)
    flat = lowest == highest
    lowest = torch.where(flat, 0.0, lowest)
    scale = torch.where(flat, 1.0, (highest - lowest) * (1 / _WHITE))
    return to_uint8(levels.sub_(lowest).div_(scale))


def equalize(images: torch.Tensor) -> torch.Tensor:
    """Return images of which each channel has an even histogram, in Pillow's integers."""
    planes = images.contiguous().flatten(0, 1).flatten(1)
    histogram = _histograms(planes)
    below = histogram.cumsum(1) - histogram  # the number of darker pixels
    values = torch.arange(256, device=images.device)
    brightest = torch.where(histogram > 0, values, 0).amax(1, keepdim=True)
    step = (planes.shape[1] - histogram.gather(1, brightest)) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    return _looked_up(torch.where(step > 0, table, values).to(torch.uint8), planes).view(images.shape)


def _histograms(planes: torch.Tensor) -> torch.Tensor:
    """Return how often each value is in each row of uint8, int64 of shape (rows, 256)."""
    if on_cpu(planes):
        return torch.stack([torch.bincount(plane, minlength=256) for plane in planes])
    index = planes.long()  # on an accelerator bincount makes the CPU wait for the largest value
    return index.new_zeros(len(planes), 256).scatter_add_(1, index, torch.ones_like(index))


def _looked_up(tables: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """Return uint8 of the shape of `planes`, (rows, pixels): the value of the row's table for each value."""
    if not on_cpu(planes):
        return tables.gather(1, planes.long())
    result = np.empty(planes.shape, np.uint8)
    # Python's translation of bytes is the fastest lookup: an index of torch or NumPy takes eight bytes a value.
    for row, plane, table in zip(result, planes.numpy(), tables.numpy(), strict=True):
        row[:] = np.frombuffer(plane.tobytes().translate(table.tobytes()), np.uint8)
    return torch.from_numpy(result)


def adjust_sharpness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return images moved away from a smoothed copy by a factor of at least 0; the pixels of the border stay.

    The smoothing weights are 5/13 for a pixel and 1/13 for each of its eight neighbours.
    """
    if min(images.shape[-2:]) <= 2:
        return images
    levels = to_levels(images)
    rows = (levels[..., :-2, :] + levels[..., 1:-1, :]).add_(levels[..., 2:, :])
    inner = levels[..., 1:-1, 1:-1]
    smooth = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(inner, alpha=4).mul_(1 / 13).round_()
    inner.copy_(torch.lerp(smooth, inner, for_each(factor)))
    return to_uint8(levels.clamp_(0, _WHITE))


def blur(images: torch.Tensor, kernels: torch.Tensor, kernels_y: torch.Tensor) -> torch.Tensor:
    """Return images blurred along rows, then along columns, with reflected borders.

    Args:
        images: uint8 images.
        kernels: Each image's weights along a row, from the middle outwards, float32 of shape (batch, 1 + reach).
        kernels_y: The same along a column.
    """
    reach, reach_y = kernels.shape[1] - 1, kernels_y.shape[1] - 1
    levels = functional.pad(to_levels(images), [reach, reach, reach_y, reach_y], mode="reflect")
    levels = _weighted(levels, kernels_y, dimension=2)
    return to_uint8(_weighted(levels, kernels, dimension=3).round_())


def _weighted(levels: torch.Tensor, kernels: torch.Tensor, dimension: int) -> torch.Tensor:
    """Return the weighted sums of neighbours along a dimension, which becomes shorter by the reach on both sides."""
    reach = kernels.shape[1] - 1
    length = levels.shape[dimension] - 2 * reach
    total = levels.narrow(dimension, reach, length) * for_each(kernels[:, 0])
    for step in range(1, reach + 1):
        pair = levels.narrow(dimension, reach - step, length) + levels.narrow(dimension, reach + step, length)
        total.addcmul_(pair, for_each(kernels[:, step]))
    return total
