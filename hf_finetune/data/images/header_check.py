"""A check of the images' headers before training, so that no broken file stops an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset

from hf_finetune.data.columns import RowsOf
from hf_finetune.data.images.bands import read_band_header, rows_to_look_at
from hf_finetune.data.images.decoding import (
    NO_SUCH_FILE,
    Header,
    ImageValue,
    UnreadableImage,
    Unused,
    read_header,
    shown_name,
)
from hf_finetune.data.images.dicom import NEEDS_DICOM
from hf_finetune.data.images.header_cache import HeaderCache, file_keys
from hf_finetune.data.images.heif import NEEDS_AVIF, NEEDS_HEIF
from hf_finetune.errors import listing
from hf_finetune.logs import progress_bar
from hf_finetune.pieces import in_pieces

_SECONDS_BEFORE_BAR = 2


@dataclass
class HeaderCheck:
    """What the headers show.

    Attributes:
        complete: Whether every image was checked.
        headers: How many images have each header.
        wide_rows: The rows whose pixels have more than 8 bits.
        bad_rows: The error of each unreadable row.
    """

    complete: bool = False
    headers: Counter[Header] = field(default_factory=Counter)
    wide_rows: list[int] = field(default_factory=list)
    bad_rows: dict[int, UnreadableImage] = field(default_factory=dict)

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """The sizes found, (height, width) in pixels."""
        return {header.size for header in self.headers}

    def add(self, rows: np.ndarray, headers: Sequence[Header | None]) -> None:
        """Add the headers of rows; None stands for an unreadable one."""
        self.headers.update(header for header in headers if header is not None)
        self.wide_rows += [int(rows[number]) for number, header in enumerate(headers) if header and header.wide]


def check_headers(
    dataset: Dataset, every: bool, cache: HeaderCache | None = None, channels: int | None = None
) -> HeaderCheck:
    """Read the headers of the images in the column `image`.

    Args:
        dataset: A split.
        every: Whether to check every image, instead of those of `rows_to_look_at`.
        cache: What earlier runs found; files that it knows are not opened, and what is found is added to it. Only for a
            split whose images are all files in RGB.
        channels: How many channels every image is to have; None for RGB.

    Returns:
        The headers, and the unreadable rows, numbered within `dataset`.
    """
    # One program wrote all embedded images, so what is wrong is wrong in many.
    rows = np.arange(len(dataset)) if every else np.array(rows_to_look_at(len(dataset)), np.int64)
    images = RowsOf(dataset, "image")
    # Registers the formats here, because threads must not do it at the same time. The common formats come first: a file
    # is tried in this order.
    PIL.Image.preinit()
    PIL.Image.init()
    result = HeaderCheck(complete=len(rows) == len(dataset))
    read = read_header if channels is None else partial(read_band_header, channels=channels)

    def check_chunk(chunk: np.ndarray) -> HeaderCheck:
        # The images are read here, so that only a few chunks are in memory at a time.
        values = images.read(chunk)
        return _check(chunk, values, read) if cache is None else _check_files(chunk, values, cache)

    bar = progress_bar(total=len(rows), desc="Checking images", unit="image", delay=_SECONDS_BEFORE_BAR)
    with bar:
        for chunk, found in in_pieces(check_chunk, rows):
            result.headers.update(found.headers)
            result.wide_rows += found.wide_rows
            result.bad_rows |= found.bad_rows
            bar.update(len(chunk))
    return result


def _check(rows: np.ndarray, values: Sequence[ImageValue], read: Callable[[ImageValue], Header]) -> HeaderCheck:
    found = HeaderCheck()
    headers: list[Header | None] = [None] * len(rows)
    for number, value in enumerate(values):
        try:
            headers[number] = read(value or {})
        except UnreadableImage as error:
            found.bad_rows[int(rows[number])] = error
    found.add(rows, headers)
    return found


def _check_files(rows: np.ndarray, values: Sequence[Any], cache: HeaderCache) -> HeaderCheck:
    found = HeaderCheck()
    paths = [value["path"] or "" for value in values]
    keys = file_keys(paths)
    headers = cache.find(keys)
    unknown = [number for number, header in enumerate(headers) if header is None]
    for number in unknown:
        try:
            headers[number] = read_header({"bytes": None, "path": paths[number] or None})
        except UnreadableImage as error:
            found.bad_rows[int(rows[number])] = error
    if unknown:
        cache.add(keys[unknown], [headers[number] for number in unknown])
    found.add(rows, headers)
    return found


def count_unused(headers: Counter[Header]) -> Counter[Unused]:
    """Return how many files hold what that is not used."""
    unused: Counter[Unused] = Counter()
    for header, count in headers.items():
        unused[header.unused] += count
    return unused


def list_bad_images(described: Sequence[str]) -> str:
    """Return the unreadable images of a message, of which a few are named.

    Those that only need a library are counted together, with what installs it.

    Args:
        described: What `describe_bad_image` returned.
    """
    parts = []
    rest = list(described)
    for reason in (NEEDS_HEIF, NEEDS_AVIF, NEEDS_DICOM):
        count = sum(f"({reason}" in image for image in rest)
        rest = [image for image in rest if f"({reason}" not in image]
        if count:
            parts.append(f"{'1 image is' if count == 1 else f'{count:,} images are'} {reason}")
    if rest:
        parts.append(listing(rest))
    return "; ".join(parts)


def describe_unreadable(described: Sequence[str], left_out: bool = False) -> str:
    """Return how many images cannot be read, with the first of them, without a full stop.

    Args:
        described: What `describe_bad_image` returned, once at least.
        left_out: Whether to say that they are left out.
    """
    images, are = ("1 image", "is") if len(described) == 1 else (f"{len(described):,} images", "are")
    return f"{images} cannot be read{f' and {are} left out' * left_out}: {list_bad_images(described)}"


def describe_bad_image(error: UnreadableImage, folder: Path | None, split: str, row: int) -> str:
    """Return `cats/3.jpg (not an image)`: the path below `folder`, or the row of an image without a file."""
    name = shown_name(error.name, folder, split, row)
    # Only a row of a table can name a file that does not exist.
    gone = error.reason == NO_SUCH_FILE and Path(error.name).is_absolute()
    return f"{name} ({error.reason}{f', row {row} of {split}' * gone})"
