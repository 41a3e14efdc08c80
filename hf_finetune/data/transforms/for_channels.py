"""Which transforms suit images of any number of channels, whose values are floats in the units of their files."""

from __future__ import annotations

from collections.abc import Iterable

from torchvision.transforms import v2

from hf_finetune.errors import UserError

# Those of whole batches (`BATCH_TRANSFORMS`) that take floats; the others return uint8, so torchvision's own run on
# single images in their place.
BATCHED_FOR_CHANNELS = frozenset({
    "AlternatingHorizontalFlip", "CenterCrop", "Letterbox", "RandomCrop", "RandomErasing", "RandomHorizontalFlip",
    "RandomResizedCrop", "RandomVerticalFlip", "Resize",
})  # fmt: skip
# They move, cut, erase or mix pixels, or weigh neighbours, channel by channel. All others are of colours in RGB, or of
# the 256 levels that 8 bits have.
_FOR_CHANNELS = BATCHED_FOR_CHANNELS | {
    "CutMix", "ElasticTransform", "GaussianBlur", "Identity", "MixUp", "Pad", "RandomAffine", "RandomApply",
    "RandomChoice", "RandomOrder", "RandomPerspective", "RandomResize", "RandomRotation", "RandomShortestSize",
    "RandomZoomOut", "ScaleJitter",
}  # fmt: skip


def check_for_channels(transforms: Iterable[v2.Transform], channels: int) -> None:
    """Check that transforms suit images that are read as they are stored.

    Args:
        transforms: The transforms, in any order.
        channels: How many channels the images have.

    Raises:
        UserError: One does not.
    """
    for transform in transforms:
        name = getattr(transform, "name", type(transform).__name__)  # of albumentations what a recipe calls it
        if name not in _FOR_CHANNELS:
            raise UserError(
                f"train_transforms: {name} is for RGB of 8 bits, and these images have {channels} channels as they are"
                " stored; leave it out, or use --augmentation light. Crops, flips, RandomRotation, RandomErasing, MixUp"
                " and CutMix suit them."
            )
        check_for_channels(getattr(transform, "transforms", None) or (), channels)
