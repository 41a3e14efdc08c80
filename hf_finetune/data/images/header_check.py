"""A quick look at the images' headers before training, so that no epoch dies of a broken file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset

from hf_finetune.data.images.decoding import NO_SUCH_FILE, UnreadableImage, read_image_size
from hf_finetune.logs import progress_bar

_SAMPLE = 64  # embedded images looked at per split: a dataset of one make is broken, or mixed, throughout or not at all
_CHUNK = 256  # images a thread takes at a time
_SECONDS_BEFORE_BAR = 2


@dataclass
class HeaderCheck:
    """What the headers say: the sizes met, (height, width) in pixels, and why each unreadable row is so.

    `complete` says that every image was looked at.
    """

    complete: bool = False

    sizes: set[tuple[int, int]] = field(default_factory=set)
    bad_rows: dict[int, UnreadableImage] = field(default_factory=dict)


def check_headers(dataset: Dataset, every: bool) -> HeaderCheck:
    """Reads the headers in a column `image`: all, or `_SAMPLE` spread evenly. Rows are numbered within `dataset`."""
    rows = np.arange(len(dataset)) if every else np.linspace(0, len(dataset) - 1, min(_SAMPLE, len(dataset)))
    chunks = np.split(rows.astype(np.int64), range(_CHUNK, len(rows), _CHUNK))
    images = dataset.with_format("arrow").select_columns(["image"])
    # Registers the formats, which threads should not do at once; the common ones first, since a file is tried in order.
    PIL.Image.preinit()
    PIL.Image.init()
    result = HeaderCheck(complete=len(rows) == len(dataset))

    def check_chunk(chunk: np.ndarray) -> HeaderCheck:
        found = HeaderCheck()
        # The images are fetched here, so that only a few chunks are in memory at a time.
        for row, value in zip(chunk.tolist(), images[chunk.tolist()]["image"].to_pylist(), strict=True):
            try:
                found.sizes.add(read_image_size(value or {}))
            except UnreadableImage as error:
                found.bad_rows[row] = error
        return found

    bar = progress_bar(total=len(rows), desc="Checking images", unit="image", delay=_SECONDS_BEFORE_BAR)
    with bar, ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for chunk, found in zip(chunks, pool.map(check_chunk, chunks), strict=True):
            result.sizes |= found.sizes
            result.bad_rows |= found.bad_rows
            bar.update(len(chunk))
    return result


def describe_bad_image(error: UnreadableImage, folder: Path | None, split: str, row: int) -> str:
    """Returns `cats/3.jpg (not an image)`: the path below `folder`, or the row of an image without a file."""
    path = Path(error.name)
    if not path.is_absolute():
        return f"row {row} of {split} ({error.reason})"
    if folder is not None and path.is_relative_to(folder.absolute()):
        path = path.relative_to(folder.absolute())
    # Only a row of a table can name a file that is not there.
    return f"{path} ({error.reason}{f', row {row} of {split}' if error.reason == NO_SUCH_FILE else ''})"
