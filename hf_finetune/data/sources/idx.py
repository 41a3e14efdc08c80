"""Raw IDX files, gzipped or not: the format that MNIST, Fashion-MNIST and others are published in.

The format is described at the end of Yann LeCun's page "The MNIST database of handwritten digits": two zero bytes, a
type code, the number of dimensions, each dimension as a big-endian 32-bit integer, and the data.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image

from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import Location, folder_of, path_of
from hf_finetune.errors import UserError

_FILE_NAME = re.compile(r"(?P<split>train|t10k|test)-(?P<content>images|labels)[-.]idx[13]-ubyte(\.gz)?")
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
_UINT8 = 8  # the type code of unsigned bytes


def find_idx_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Return {split: {"images": file, "labels": file}} of a folder, or of a folder `raw` below it."""
    for place in (folder, *sorted(folder.glob("raw")), *sorted(folder.glob("*/raw"))):
        found: dict[str, dict[str, Path]] = {}
        for path in sorted(place.iterdir(), reverse=True):  # an unpacked file wins over its .gz
            match = _FILE_NAME.fullmatch(path.name)
            if match:
                found.setdefault(_SPLITS[match["split"]], {})[match["content"]] = path
        if found:
            return found
    return {}


def read_idx_folder(folder: Path, label_names: tuple[str, ...] | None) -> RawDataset:
    """Read IDX files of grayscale images and of labels that count from 0.

    Args:
        folder: The folder that `find_idx_files` looks in.
        label_names: The class names in the order of the labels; None to name each class by its number.

    Returns:
        The splits with the columns `image` (PGM files in memory) and `label`.

    Raises:
        UserError: A file is missing, truncated or not IDX, or the numbers of images and labels differ.
    """
    raw = RawDataset({}, source=str(folder), folder=folder)
    for split, files in sorted(find_idx_files(folder).items(), reverse=True):
        for content in ("images", "labels"):
            if content not in files:
                other = next(iter(files.values())).name
                raise UserError(f"{folder} has {other}, but not the {content} of {split} that belong with them.")
        images = _read_idx(files["images"], dimensions=3)
        labels = _read_idx(files["labels"], dimensions=1)
        if len(images) != len(labels):
            raise UserError(
                f"{files['images']} holds {len(images):,} images, but {files['labels'].name} {len(labels):,} labels;"
                " they do not belong together."
            )
        names = label_names or tuple(str(label) for label in range(int(labels.max(initial=0)) + 1))
        if labels.max(initial=0) >= len(names):
            raise UserError(f"{files['labels']} has a label {labels.max()}, outside the range 0 to {len(names) - 1}.")
        features = Features({"image": Image(decode=False), "label": ClassLabel(names=list(names))})
        columns = {"image": grayscale_images(images), "label": pa.array(labels.astype(np.int64))}
        raw.splits[split] = Dataset.from_dict(columns, features=features)
    return raw


def grayscale_images(images: np.ndarray) -> pa.Array:
    """Return images as an Arrow column of image files in memory.

    The files are PGM, Netpbm's grayscale format: one line of text before the pixels. So all images are written by a
    single NumPy copy.

    Args:
        images: uint8 of shape (images, height, width).

    Returns:
        A struct array of shape (images,) with the fields `bytes` and `path`, which is null.
    """
    count, height, width = images.shape
    header = np.frombuffer(f"P5 {width} {height} 255\n".encode(), dtype=np.uint8)
    contents = np.empty((count, len(header) + height * width), dtype=np.uint8)
    contents[:, : len(header)] = header
    contents[:, len(header) :] = images.reshape(count, -1)
    offsets = np.arange(count + 1, dtype=np.int32) * contents.shape[1]
    files = pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(contents)])
    return pa.StructArray.from_arrays([files, pa.nulls(count, pa.string())], ["bytes", "path"])


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    try:
        contents = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}; fetch it again.") from error
    start = 4 + 4 * dimensions
    if len(contents) < start or contents[:4] != bytes([0, 0, _UINT8, dimensions]):
        raise UserError(f"{path} is not an IDX file of {dimensions} dimension(s) of unsigned bytes; fetch it again.")
    shape = np.frombuffer(contents[4:start], dtype=">u4").astype(np.int64)
    if len(contents) - start != shape.prod():
        raise UserError(
            f"{path} is cut short or damaged: it should hold {shape.prod():,} bytes of data and has"
            f" {len(contents) - start:,}; fetch it again."
        )
    return np.frombuffer(contents, dtype=np.uint8, offset=start).reshape(shape)


def matches(location: Location) -> bool:
    """Return whether a dataset is of this kind."""
    folder = folder_of(location)
    return folder is not None and bool(find_idx_files(folder))


def read(location: Location) -> RawDataset:
    """Read the dataset at a location that matches."""
    return read_idx_folder(path_of(location), location.entry.label_names if location.entry else None)
