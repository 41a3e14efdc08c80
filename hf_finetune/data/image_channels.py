"""How many channels the images of a dataset have: what the user states, or what their files show."""

from __future__ import annotations

import logging

from datasets import Dataset

from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.bands import (
    Stored,
    count_channels,
    find_other_channels,
    is_stored_as_bands,
    look,
    rows_to_look_at,
)
from hf_finetune.data.images.decoding import ImageValue, OpenImage, UnreadableImage, Unused, image_name, shown_name
from hf_finetune.errors import UserError

_LOOKED_AT = 8  # images of a split, of which the first that can be read shows what all are
_AXES = {"HWC": "height x width x channels", "CHW": "channels x height x width", "HW": "height x width"}


class OtherChannelsThroughout(UserError):
    """All images that were looked at have another number of channels than stated.

    Attributes:
        found: The dataset, and what its images have.
        stated: How many were stated.
    """

    def __init__(self, found: str, stated: int) -> None:
        super().__init__(f"{found}, and image_channels is {stated}; leave image_channels out, or use another dataset.")
        self.found, self.stated = found, stated


def describe_other_channels(data: ImageDataset, channels: int) -> str | None:
    """Return what images have where all that are looked at have another number of channels; None where one has not.

    Args:
        data: The dataset, of which streamed splits are not looked at.
        channels: How many images are to have.

    Returns:
        Such as "./photos: images have 3 channels (train/cat/1.png)".
    """
    splits = {role: split for role, split in data.splits.items() if isinstance(split, Dataset)}
    values = (split[row]["image"] for split in splits.values() for row in rows_to_look_at(len(split)))
    other = find_other_channels(values, channels)
    if other is None:
        return None
    role = next(iter(splits))
    name = shown_name(other.name, data.folder, role, splits[role][0]["sample_index"])
    return f"{data.source}: images have {count_channels(other.channels)} ({name})"


def find_channels(data: ImageDataset, stated: int | None) -> None:
    """Find out whether images are read as they are stored, and with how many channels; a note says so.

    They are where the user states another number than 3, where they are arrays, and where they are TIFF files that
    Pillow cannot open. All other images are RGB.

    Args:
        data: The dataset, of which no split is streamed.
        stated: The recipe's `image_channels`.

    Raises:
        UserError: All images have another number than stated, an array does not show which of its axes are the
            channels, or tifffile is missing.
    """
    split = next(iter(data.splits.values()))
    assert isinstance(split, Dataset)
    values = split[:_LOOKED_AT]["image"]
    first = next(((value, stored) for value in values if (stored := _look(value, stated)) is not None), None)
    if first is None:
        _note_pages(data, values[0], stated)
        data.channels = None if stated == 3 else stated
        if data.channels is not None and (found := describe_other_channels(data, data.channels)) is not None:
            raise OtherChannelsThroughout(found, data.channels)
        return  # where only some have, the check of headers names them
    value, stored = first
    name = shown_name(image_name(value), data.folder, next(iter(data.splits)), 0)
    if stored.channels is None:
        raise UserError(
            f"{data.source}: {name} has the shape {' x '.join(map(str, stored.shape))}, which does not show which axis"
            " is that of the channels; use --image_channels N."
        )
    data.channels = stored.channels if stated is None else stated
    layout = f", {_AXES[stored.layout]}" if stored.layout else ""
    data.notes.append(
        f"Images have {count_channels(data.channels)} of {stored.dtype}{layout} ({name}): they are read as they are"
        f" stored, which is image_channels {data.channels}."
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
