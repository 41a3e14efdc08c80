"""One look at each image of a split, in worker processes: what its header says, and a few numbers of its pixels."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
import xxhash
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_finetune.checks.perceptual_hash import SIDE, perceptual_hashes, thumbnails
from hf_finetune.data.columns import RowsOf
from hf_finetune.data.images.decoding import Decoding, OpenImage, UnreadableImage, reduction_for
from hf_finetune.data.images.levels import ValueRange, is_wide
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import progress_bar
from hf_finetune.training.loader_errors import loader_errors_in_one_line

_PIECE = 256  # images that a worker looks at before it hands them over
_WORTH_WORKERS = 2_000  # images; processes start in the time in which one of them looks at as many
_ENOUGH = 256  # pixels of the short side: of larger JPEG files a half, a quarter or an eighth is decoded
_SECONDS_BEFORE_BAR = 2

LOOK = np.dtype(
    [
        ("readable", "?"),
        ("height", "<i4"),  # of the upright image
        ("width", "<i4"),
        ("mode", "<U6"),  # as Pillow calls it
        ("format", "<U8"),
        ("orientation", "u1"),  # of EXIF; 0 without
        ("unused", "u1"),  # a value of `decoding.Unused`
        ("constant", "?"),  # whether all pixels are equal
        ("colour", "<f4", (3,)),  # the mean of each channel, 0 to 255
        ("content", "<u8"),  # a hash of the decoded pixels
        ("hash", "<u8"),  # see `perceptual_hash`
        ("thumbnail", "u1", (16, 16)),
    ]
)
"""What is known of an image after the look at it, some 350 bytes."""


@dataclass
class Scan:
    """What the images of a split are.

    Attributes:
        looks: An array of `LOOK`, one for each image; of one that cannot be read, zeros.
        errors: The reason for each row that cannot be read.
    """

    looks: npt.NDArray[np.void]
    errors: dict[int, UnreadableImage] = field(default_factory=dict)


def scan_images(split: Dataset, workers: int, value_range: ValueRange | None, description: str) -> Scan:
    """Look at all images of a split.

    Args:
        split: It has the column `image`.
        workers: How many processes look at them; for few images, this process does it alone.
        value_range: The values that become 0 and 255 in images of more than 8 bits.
        description: What the progress bar says.

    Raises:
        LoadingError: A process has died.
    """
    pieces = _Pieces(split, value_range)
    # Registers the formats before processes are forked. The common ones come first: a file is tried in this order.
    PIL.Image.preinit()
    PIL.Image.init()
    loader = DataLoader(
        pieces,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=min(workers, len(pieces)) if len(split) >= _WORTH_WORKERS else 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # of its own, so that the process draws the same numbers afterwards
    )
    scan = Scan(np.zeros(len(split), LOOK))
    bar = progress_bar(total=len(split), desc=description, unit="image", delay=_SECONDS_BEFORE_BAR)
    with loader_errors_in_one_line(), bar:
        for start, (looks, errors) in zip(range(0, len(split), _PIECE), loader, strict=True):
            leave_if_interrupted()
            scan.looks[start : start + len(looks)] = looks
            scan.errors |= {start + row: error for row, error in errors.items()}
            bar.update(len(looks))
    return scan


class _Pieces(torch.utils.data.Dataset[Any]):
    """The looks at the images of a split, `_PIECE` at a time."""

    def __init__(self, split: Dataset, value_range: ValueRange | None) -> None:
        self._images = RowsOf(split, "image")
        self._how = Decoding(value_range=value_range)

    def __len__(self) -> int:
        return -(-len(self._images) // _PIECE)

    def __getitem__(self, number: int) -> tuple[npt.NDArray[np.void], dict[int, UnreadableImage]]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        rows = np.arange(number * _PIECE, min((number + 1) * _PIECE, len(self._images)))
        values = self._images.read(rows)
        looks, small = np.zeros(len(values), LOOK), np.zeros((len(values), SIDE, SIDE, 3), np.uint8)
        errors = {}
        for row, value in enumerate(values):
            try:
                small[row] = _look(value or {}, looks[row], self._how)
            except UnreadableImage as error:
                looks[row] = np.zeros((), LOOK)
                errors[row] = error
        looks["colour"] = small.mean(axis=(1, 2))
        looks["hash"], looks["thumbnail"] = perceptual_hashes(small), thumbnails(small)
        return looks, errors


def _look(value: Any, look: Any, how: Decoding) -> npt.NDArray[np.uint8]:
    """Fill in what is known of one image, and return it at `SIDE` x `SIDE` pixels, squashed."""
    with OpenImage(value) as opened:
        look["height"], look["width"], look["mode"] = opened.height, opened.width, opened.mode
        look["format"], look["orientation"], look["unused"] = opened.format, opened.orientation, opened.unused
        wide = opened.values() if is_wide(opened.mode) else None
        image = opened.decode(reduction_for(opened.height, opened.width, _ENOUGH, _ENOUGH), how)
    # Decoded, images of more than 8 bits that differ in dark parts would be the same.
    pixels = np.asarray(image) if wide is None else wide
    look["content"] = xxhash.xxh3_64_intdigest(np.ascontiguousarray(pixels).data, seed=image.width)
    look["constant"] = bool((pixels == pixels[0, 0]).all())
    look["readable"] = True
    return np.asarray(image.resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR))


def _as_it_is(piece: Any) -> Any:
    return piece


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, which ends the workers
