"""What the transforms of whole batches share: their form, and ways to change each image of a batch on its own terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torchvision.transforms import v2

# How many pixels are worked on at a time on a CPU: a few float copies of them fit in a core's cache.
PIXELS_AT_A_TIME = 32_768
# The same for changes that compute in uint8 without copies.
BYTES_AT_A_TIME = 1_048_576


class BatchTransform:
    """A transform of a batch. This class is for torchvision's transforms that draw nothing and take batches."""

    def __init__(self, transform: v2.Transform, stream: int) -> None:
        """Wrap a transform.

        Args:
            transform: torchvision's transform, which holds the arguments.
            stream: The transform's position in the recipe's list, which makes its draws independent of the others'.
        """
        self.transform = transform
        self.stream = stream

    @classmethod
    def supports(cls, transform: v2.Transform) -> bool:
        """Return whether this class can replace a transform with these arguments."""
        return True

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Transform a batch.

        Args:
            images: uint8 or floats of shape (batch, channels, height, width).
            keys: The examples' draw keys, int64 of shape (batch,).

        Returns:
            Images of the same dtype.
        """
        transformed: torch.Tensor = self.transform(images)
        return transformed


# Takes images and one value for each; returns images of the same shape.
Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def on_cpu(images: torch.Tensor) -> bool:
    """Return whether the images are in the host's memory."""
    return images.device.type == "cpu"


def random_offsets(draws: torch.Tensor, largest: torch.Tensor | int) -> torch.Tensor:
    """Return integers from 0 to `largest`, int64, that uniform draws in [0, 1) select."""
    return (draws * (largest + 1)).floor().long()


def channel_values(values: Sequence[float], images: torch.Tensor) -> torch.Tensor:
    """Return a value for each channel, of the dtype of the images, without a copy from the host to their device."""
    return torch.stack([images.new_full((), value) for value in values])


def between(draws: torch.Tensor, lowest: float, highest: float) -> torch.Tensor:
    """Return uniform draws in [0, 1) moved to [lowest, highest)."""
    return lowest + draws * (highest - lowest)


def for_each(values: torch.Tensor) -> torch.Tensor:
    """Return one value an image, of shape (batch,), in the shape (batch, 1, 1, 1)."""
    return values[:, None, None, None]


def in_pieces(
    images: torch.Tensor, change: Callable[..., torch.Tensor], *values: torch.Tensor, pixels: int = PIXELS_AT_A_TIME
) -> torch.Tensor:
    """Change a batch; on a CPU a few images at a time, so that what is computed between stays in the core's cache.

    Args:
        images: A batch of shape (batch, channels, height, width).
        change: Takes images and their values, and returns images of one shape.
        values: Tensors whose first dimension is the batch.
        pixels: How many pixels of images are changed at a time.
    """
    size = max(1, pixels // (images.shape[-2] * images.shape[-1]))
    if not on_cpu(images) or size >= len(images):
        return change(images, *values)
    parts = zip(images.split(size), *(value.split(size) for value in values), strict=True)
    return torch.cat([change(*part) for part in parts])


def by_kind(
    images: torch.Tensor, kinds: torch.Tensor, changes: Mapping[int, Change], values: torch.Tensor
) -> torch.Tensor:
    """Change each image in the way of its kind.

    Args:
        images: A batch of shape (batch, channels, height, width).
        kinds: The kind of each image, int64 of shape (batch,).
        changes: What is done to the images of a kind; those of other kinds stay as they are.
        values: One value or row for each image, for the change; the first dimension is the batch.

    Returns:
        The images, in the order in which they came.
    """
    if not on_cpu(images):  # selecting the images of a kind would make the CPU wait for their number
        for kind, change in changes.items():
            images = torch.where(for_each(kinds == kind), change(images, values), images)
        return images
    present = sorted(set(kinds.tolist()) & set(changes))
    if len(present) == 1 and bool((kinds == present[0]).all()):
        return changes[present[0]](images, values)
    result = images.clone()
    for kind in present:
        members = (kinds == kind).nonzero()[:, 0]
        result[members] = changes[kind](images[members], values[members])
    return result
