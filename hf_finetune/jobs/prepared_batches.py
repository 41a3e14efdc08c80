"""Batches of images as a model takes them, decoded in worker processes, with what was found out about each image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hf_finetune.cores import default_workers, usable_cores
from hf_finetune.data.collate import pass_on
from hf_finetune.data.image_list import ImageList, NamedImage
from hf_finetune.data.images.bands import read_band_header
from hf_finetune.data.images.decoding import OpenImage, Unused
from hf_finetune.data.images.levels import is_wide
from hf_finetune.data.images.pixels import ordinary_jpeg_size
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.errors import UserError
from hf_finetune.training.loader_errors import leave_a_lost_parent_to_itself, loader_errors_in_one_line

_PIXELS = 2**24  # of images that are decoded before they are resized together, unless one alone has more
_RGB = 3  # channels of the images that these pixels are counted for
_FEW_BATCHES = 2  # up to which workers would take longer to start than to help


@dataclass
class PreparedBatch:
    """A batch of the first stage.

    Attributes:
        names: What each image is called.
        errors: Why an image cannot be read, by its place in the batch.
        unused: What the file of each readable image holds beside it, by its place in the batch.
        wide: The first image with more than 8 bits, None without.
        pixel_values: The readable images (`EvaluationStage`); None without any.
    """

    names: list[Path | str | int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    unused: dict[int, Unused] = field(default_factory=dict)
    wide: object = None
    pixel_values: torch.Tensor | None = None


class PreparedBatches(Dataset[PreparedBatch]):
    """Prepares the batch of a range of rows."""

    def __init__(self, images: ImageList, stage: EvaluationStage) -> None:
        self._images = images
        self._stage = stage

    def __getitem__(self, rows: range) -> PreparedBatch:
        """Return the images of consecutive rows. None is left out; of one that cannot be read it says why."""
        batch, parts = PreparedBatch(), []
        waiting: dict[int, NamedImage] = {}
        pixels = 0
        for place, image in enumerate(self._images.read(rows)):
            batch.names.append(image.name)
            try:
                pixels += self._look(image, place, batch)
            except UserError as error:
                batch.errors[place] = str(error)
                continue
            waiting[place] = image
            if pixels >= _PIXELS:
                parts += self._prepare(waiting, batch)
                waiting, pixels = {}, 0
        parts += self._prepare(waiting, batch)
        if parts:
            batch.pixel_values = torch.cat(parts)
            pass_on({"pixel_values": batch.pixel_values})
        return batch

    def _look(self, image: NamedImage, place: int, batch: PreparedBatch) -> int:
        """Note what the header of an image shows, and return the number of values that stand for its pixels."""
        channels = self._stage.decoding.channels
        if channels is None:
            return _look_at_rgb(image, place, batch)
        header = read_band_header(image.value, channels)
        batch.unused[place] = Unused.NONE
        return -(-header.height * header.width * channels // _RGB)

    def _prepare(self, images: dict[int, NamedImage], batch: PreparedBatch) -> list[torch.Tensor]:
        """Return images as one tensor, or where one of them cannot be read, each as its own."""
        if not images:
            return []
        values = [image.value for image in images.values()]
        try:
            return [self._stage({"image": values, "label": [-1] * len(values)})["pixel_values"]]
        except UserError as error:
            if len(images) == 1:
                place = next(iter(images))
                batch.errors[place] = str(error)
                del batch.unused[place]
                return []
        return [part for place, image in images.items() for part in self._prepare({place: image}, batch)]


def _look_at_rgb(image: NamedImage, place: int, batch: PreparedBatch) -> int:
    """Note what the header of an image shows, and return the number of its pixels."""
    content = image.value.get("bytes") if isinstance(image.value, dict) else None
    size = ordinary_jpeg_size(content) if isinstance(content, bytes) else None
    if size is None:
        with OpenImage(image.value) as opened:
            size = opened.height, opened.width
            batch.unused[place] = opened.unused
            if batch.wide is None and is_wide(opened.mode):
                batch.wide = image.name
    else:
        batch.unused[place] = Unused.NONE
    return size[0] * size[1]


class _Given(Sampler[range]):
    """The ranges of rows that the batches are to be of, in their order."""

    def __init__(self, ranges: Iterable[range]) -> None:
        self._ranges = ranges

    def __iter__(self) -> Iterator[range]:
        return iter(self._ranges)


def workers_for(batches: int, wanted: int | None) -> int:
    """Return how many processes decode images: as many as are wanted, none for few batches, else by the cores."""
    if wanted is not None:
        return wanted
    return 0 if batches <= _FEW_BATCHES else default_workers(usable_cores(), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def unscaled_note(image: object) -> str:
    """Return what is said of an image of more than 8 bits, where the model was not trained on such images."""
    return (
        f"Note: {image} has more than 8 bits, and the model was not trained on such images; their values are taken as 0"
        ' to 65535, or 0 to 1 in floating point. For another range, add "value_range": [0, 4095], or what it is, to the'
        " config.json of the model."
    )


def prepared(batches: PreparedBatches, ranges: Iterable[range], workers: int) -> Iterator[PreparedBatch]:
    """Yield the batches of ranges of rows, in their order.

    Args:
        batches: Prepares them.
        ranges: The rows of each, asked for as they are due.
        workers: Processes that do it beside this one; 0 for none.

    Raises:
        UserError: A worker ended, or the memory that it shares is full.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=_Given(ranges),
        collate_fn=_as_it_is,
        num_workers=workers,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # of its own, so that a caller's random numbers stay what they are
    )
    with loader_errors_in_one_line():
        yield from loader


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    leave_a_lost_parent_to_itself()
