"""The same image in two splits, which makes the figures of evaluation too good.

In a small dataset images are the same if their upright RGB pixels are; in a larger one, whose images would take long to
decode, if all bytes of their files are. Of more than 20,000 files that may be the same by their size, a part is
compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset

from hf_finetune.data.columns import RowsOf, image_lengths, image_paths
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.fingerprint import name_of_row
from hf_finetune.data.images.decoding import OpenImage, UnreadableImage
from hf_finetune.data.images.levels import is_wide
from hf_finetune.errors import UserError
from hf_finetune.pieces import in_pieces

_DECODED = 5_000  # images of a dataset that is compared by pixels
_DECODED_BYTES = 2**24  # of their files together; a core decodes these in about a second
_FILES_READ = 20_000  # of larger datasets, unless the same images are to be left out
_PART = 4096  # bytes at the beginning and the end of a file, which differ where files of one size do
_COMPARED = 65_536  # hashes at a time
_EXAMPLES = 3
_UNKNOWN = 0  # the hash of what cannot be read, which is the same as nothing

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class SharedImages:
    """The images that are in two splits.

    Attributes:
        sentence: How many, in which splits, and the first of them; without a full stop.
        examples: The first of them.
        of_train: Which images of train they are, bool of shape (rows,).
    """

    sentence: str
    examples: str
    of_train: npt.NDArray[np.bool_]


def find_left_out(data: ImageDataset, drop: bool) -> npt.NDArray[np.bool_]:
    """Find images that are in two splits, and add a note of them.

    Args:
        data: The splits as they are used, of which none is streamed.
        drop: Whether those of train are to be left out (`drop_duplicates`). Then all images are compared.

    Returns:
        Which images of train are to be left out, bool of shape (rows,); none of them unless `drop`.

    Raises:
        UserError: None of train would stay.
    """
    none = np.zeros(len(data.splits.get("train", ())), bool)
    roles = different_splits(data)
    if len(roles) < 2:
        return none
    splits = [split for role in roles if isinstance(split := data.splits[role], Dataset)]
    hashes, part = _hash(splits, drop, decoded=data.channels is None)
    shared = find_shared(data, dict(zip(roles, hashes, strict=True)))
    if shared is None:
        return none
    what, dropped = shared.sentence, shared.of_train
    if part:
        what += f", found in a part of the files (about {_FILES_READ:,} of the same size)"
    if drop and dropped.all():
        raise UserError(
            f"{data.source}: all images of train are in other splits too ({shared.examples}); leave --drop_duplicates"
            " out."
        )
    if drop:
        data.notes.append(f"{what}; {np.count_nonzero(dropped):,} of {len(dropped):,} images are left out of train.")
    else:
        hint = "; --drop_duplicates leaves those of train out of it" if dropped.any() else ""
        data.notes.append(f"{what}, so the figures are too good{hint}.")
    return dropped if drop else none


def find_shared(data: ImageDataset, by_role: Mapping[str, Hashes]) -> SharedImages | None:
    """Return the images of a role that another role has too, None where there are none.

    Args:
        data: The dataset.
        by_role: A hash for each image of the roles, of which none share a split; 0 is that of an unreadable one.
    """
    counts, examples = [], []
    of_train = np.zeros(len(by_role.get("train", ())), bool)
    for first, second in combinations(by_role, 2):
        same = _rows_with(by_role[first], _in_two_splits([by_role[first], by_role[second]]))
        number = len(same)
        if not number:
            continue
        if first == "train":
            of_train[same] = True
        counts.append(
            f"{number:,} image{'s' * (number > 1)} of {first} {'are' if number > 1 else 'is'} also in {second}"
        )
        for row in same[:_EXAMPLES].tolist():
            other = int(np.argmax(by_role[second] == by_role[first][row]))
            examples.append(f"{_name(data, first, row)} = {_name(data, second, other)}")
    if not counts:
        return None
    shown = "; ".join(examples[:_EXAMPLES])
    return SharedImages(f"The same image is in two splits: {', '.join(counts)} ({shown})", shown, of_train)


def different_splits(data: ImageDataset) -> list[str]:
    """Return the roles of a dataset; of those that share a split, the first."""
    # Two roles that share a split have all images in common, which another note says.
    return list({name: role for role, name in reversed(data.split_names.items())}.values())[::-1]


def _name(data: ImageDataset, role: str, row: int) -> str:
    split = data.splits[role]
    assert isinstance(split, Dataset)
    return name_of_row(data, role, split[row]["sample_index"])


def _hash(splits: Sequence[Dataset], every: bool, decoded: bool) -> tuple[list[Hashes], bool]:
    """Return a hash for each image of each split, and whether images were passed over because they are many.

    Where they are not to be `decoded`, because they are no images in RGB, their files are compared.
    """
    ends = np.cumsum([len(split) for split in splits])
    hashes = np.empty(ends[-1], np.uint64)
    by_split = np.split(hashes, ends[:-1])  # they show what is written there
    for split, its_hashes in zip(splits, by_split, strict=True):
        its_hashes[:] = _sizes(split)
    images = [RowsOf(split, "image") for split in splits]
    if decoded and len(hashes) <= _DECODED and hashes.sum() <= _DECODED_BYTES:
        hashes[:] = _hash_rows(images, np.arange(len(hashes)), _hash_pixels)
        return by_split, False
    shared = _in_two_splits(by_split)
    candidates = _rows_with(hashes, shared)
    step = 1 if every else -(-len(candidates) // _FILES_READ)
    if step > 1:  # whole groups of one size, so that what is compared is compared with all that can be the same
        candidates = _rows_with(hashes, shared[shared % np.uint64(step) == 0])
    for whole in (False, True):  # few are left to be read in full
        hashes.fill(_UNKNOWN)
        hashes[candidates] = _hash_rows(images, candidates, partial(_hash_file, whole=whole))
        candidates = _rows_with(hashes, _in_two_splits(by_split))
    return by_split, step > 1


def _sizes(split: Dataset) -> npt.NDArray[np.integer[Any]]:
    """Return the lengths of the images' files in bytes, 0 for what cannot be read."""
    lengths = pc.fill_null(image_lengths(split), 0).to_numpy()
    files = np.flatnonzero(lengths == 0)
    if len(files):
        lengths = lengths.astype(np.uint64)  # files of more than 2 GB
        for row, path in zip(files, image_paths(split).take(pa.array(files)).to_pylist(), strict=True):
            try:
                lengths[row] = os.stat(path).st_size if path else 0
            except OSError:  # the check of headers reports it
                lengths[row] = 0
    return lengths


def _in_two_splits(hashes: Sequence[Hashes]) -> Hashes:
    """Return the different hashes that two splits or more have, in ascending order."""
    values, splits = np.unique(np.concatenate([np.unique(split) for split in hashes]), return_counts=True)
    return values[(splits > 1) & (values != _UNKNOWN)]


def _rows_with(hashes: Hashes, wanted: Hashes) -> npt.NDArray[np.int64]:
    """Return the rows, int64 in ascending order, whose hash is one of some in ascending order."""
    if not len(wanted):
        return np.zeros(0, np.int64)
    found = np.zeros(len(hashes), bool)
    for start in range(0, len(hashes), _COMPARED):  # numpy.isin would take several times the memory of the hashes
        part = hashes[start : start + _COMPARED]
        nearest = np.minimum(np.searchsorted(wanted, part), len(wanted) - 1)
        found[start : start + _COMPARED] = wanted[nearest] == part
    return np.flatnonzero(found)


def _hash_rows(splits: Sequence[RowsOf], rows: npt.NDArray[np.int64], hash_value: Callable[[Any], int]) -> Hashes:
    """Return the hashes of some rows of the splits one after the other, in ascending order."""
    ends = np.cumsum([len(split) for split in splits])
    parts = []
    for images, end in zip(splits, ends, strict=True):
        own = rows[(rows >= end - len(images)) & (rows < end)] - (end - len(images))
        parts += [part for _, part in in_pieces(partial(_hash_some, images, hash_value), own)]
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def _hash_some(images: RowsOf, hash_value: Callable[[Any], int], rows: npt.NDArray[np.int64]) -> Hashes:
    # They are read a piece at a time, so that only a few pieces are in memory.
    return np.array([hash_value(value or {}) for value in images.read(rows)], np.uint64)


def _hash_pixels(value: Any) -> int:
    try:
        with OpenImage(value) as image:
            # Decoded, images of more than 8 bits that differ in dark parts would be the same.
            pixels = image.values() if is_wide(image.mode) else np.asarray(image.decode())
    except UnreadableImage:  # stops the run, or is left out, when its turn comes
        return _UNKNOWN
    return xxhash.xxh3_64_intdigest(pixels.tobytes(), seed=image.width)


def _hash_file(value: Any, whole: bool) -> int:
    if value.get("bytes") is not None:
        return xxhash.xxh3_64_intdigest(value["bytes"])
    try:
        with open(value["path"], "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if whole or size <= 2 * _PART:
                return xxhash.xxh3_64_intdigest(file.readall())
            digest = xxhash.xxh3_64(file.read(_PART))
            file.seek(size - _PART)
            digest.update(file.read(_PART))
            return digest.intdigest()
    except (OSError, KeyError, TypeError):
        return _UNKNOWN
