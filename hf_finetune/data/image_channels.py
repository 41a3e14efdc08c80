"""How many channels the images of a dataset have: what the user states, or what their files show."""

from __future__ import annotations

import logging

from datasets import Dataset

from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.bands import Stored, is_stored_as_bands, look
from hf_finetune.data.images.decoding import ImageValue, OpenImage, UnreadableImage, Unused, image_name, shown_name
from hf_finetune.errors import UserError

_LOOKED_AT = 8  # images of a split, of which the first that can be read shows what all are
_AXES = {"HWC": "height x width x channels", "CHW": "channels x height x width", "HW": "height x width"}


def find_channels(data: ImageDataset, stated: int | None) -> None:
    """Find out whether images are read as they are stored, and with how many channels; a note says so.

    They are where the user states another number than 3, where they are arrays, and where they are TIFF files that
    Pillow cannot open. All other images are RGB.

    Args:
        data: The dataset, of which no split is streamed.
        stated: The recipe's `image_channels`.

    Raises:
        UserError: An array does not show which of its axes are the channels, or tifffile is missing.
    """
    split = next(iter(data.splits.values()))
    assert isinstance(split, Dataset)
    values = split[:_LOOKED_AT]["image"]
    first = next(((value, stored) for value in values if (stored := _look(value, stated)) is not None), None)
    if first is None:
        _note_pages(data, values[0], stated)
        # Where another number is stated, the check of headers says what is wrong with each image.
        data.channels = None if stated == 3 else stated
        return
    value, stored = first
    name = shown_name(image_name(value), data.folder, next(iter(data.splits)), 0)
    if stored.channels is None:
        raise UserError(
            f"{data.source}: {name} has the shape {' x '.join(map(str, stored.shape))}, which does not show which axis"
            " is that of the channels; use --image_channels N."
        )
    data.channels = stored.channels if stated is None else stated
    count = "1 channel" if data.channels == 1 else f"{data.channels} channels"
    layout = f", {_AXES[stored.layout]}" if stored.layout else ""
    data.notes.append(
        f"Images have {count} of {stored.dtype}{layout} ({name}): they are read as they are stored, which is"
        f" image_channels {data.channels}."
    )


def _look(value: ImageValue, stated: int | None) -> Stored | None:
    """Return what the header of an image says, None where it is one in RGB or cannot be read."""
    of_bands = is_stored_as_bands(value)
    if not of_bands and stated in (None, 3):
        return None
    try:
        if stated is None and _opens(value):
            return None
        return look(value, stated)
    except UnreadableImage:
        return None


def _note_pages(data: ImageDataset, value: ImageValue, stated: int | None) -> None:
    """Add a note where the first image is a TIFF file of several pages, which may be channels."""
    if stated is not None or not is_stored_as_bands(value):
        return
    try:
        with OpenImage(value) as opened:
            more = opened.unused & Unused.MORE
    except UnreadableImage:
        return
    if more:
        data.notes.append("If the pages of a TIFF file are channels, --image_channels N reads all of them.")


def _opens(value: ImageValue) -> bool:
    """Return whether Pillow opens an image; what it logs of one that it does not is no error here."""
    pillow = logging.getLogger("PIL.TiffImagePlugin")
    disabled, pillow.disabled = pillow.disabled, True
    try:
        OpenImage(value).close()
    except UnreadableImage:
        return False
    finally:
        pillow.disabled = disabled
    return True
