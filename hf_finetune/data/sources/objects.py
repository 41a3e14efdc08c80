"""Datasets that a Python program hands over: those of `datasets`, and torch datasets of (image, label)."""

from __future__ import annotations

import atexit
import hashlib
import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, IterableDatasetDict, Value
from datasets.arrow_writer import ArrowWriter

from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # what PNG keeps as it is; TIFF keeps the others


@dataclass(frozen=True)
class GivenDataset:
    """A dataset that was given as an object.

    Attributes:
        raw: Its splits as the other sources give them.
        name: What its runs are called, such as "my_images".
        fingerprint: A digest of its content, as far as it is cheap: equal for equal images and labels.
    """

    raw: RawDataset
    name: str
    fingerprint: str

    def describe(self) -> str:
        """Return one line: kind, numbers of images and fingerprint."""
        counts = ", ".join(f"{name} {len(split):,}" for name, split in self.raw.splits.items())
        return f"{self.raw.source}, an object of Python ({counts} images; fingerprint {self.fingerprint})"


def read_object(dataset: object) -> GivenDataset:
    """Return a dataset object as a source.

    Args:
        dataset: A `datasets.DatasetDict` or `Dataset`, a torch `Dataset` whose items are (image, label), or a mapping
            of split names to these. Images of a torch dataset are PIL images, uint8 or float arrays of 0 to 1 of the
            shape (height, width) or (height, width, channels), or such tensors of (channels, height, width). Labels
            are class ids or class names; `.classes`, where the dataset has it, names the ids.

    Returns:
        The dataset, its name and its fingerprint. One dataset without splits is "train".

    Raises:
        UserError: For anything else, and for images or labels of another kind.
    """
    if isinstance(dataset, Mapping):
        if not dataset:
            raise UserError("dataset: the mapping has no splits; use {'train': ..., 'test': ...}.")
        splits = {str(name): _read_split(split, str(name)) for name, split in dataset.items()}
        parts = list(dataset.values())
        kind = "DatasetDict" if isinstance(dataset, DatasetDict) else f"mapping of {type(parts[0]).__name__}"
    else:
        splits, parts, kind = {"train": _read_split(dataset, "train")}, [dataset], type(dataset).__name__
    digest = hashlib.sha256("".join(f"{name}:{split._fingerprint};" for name, split in splits.items()).encode())
    name = _name(parts[0])
    notes = [note for part in parts for note in _notes(part)]
    return GivenDataset(RawDataset(splits, source=f"{name} ({kind})", notes=notes[:1]), name, digest.hexdigest()[:16])


def _name(part: object) -> str:
    if isinstance(part, Dataset):
        name = part.info.dataset_name or part.builder_name or "dataset"
    elif hasattr(part, "samples") and hasattr(part, "root"):  # torchvision's ImageFolder: the folder says more
        name = Path(str(part.root)).name
    else:
        name = type(part).__name__.lower()
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "dataset"


def _notes(part: object) -> list[str]:
    if isinstance(part, Dataset) or (getattr(part, "transform", None) or getattr(part, "transforms", None)) is None:
        return []
    return [
        "The images of the torch dataset are read once, through its own transform: what is random there is drawn once;"
        " give random transforms as train_transforms instead."
    ]


def _read_split(split: object, name: str) -> Dataset:
    if isinstance(split, Dataset):
        return split
    if isinstance(split, (IterableDataset, IterableDatasetDict, torch.utils.data.IterableDataset)):
        raise UserError(
            f"dataset: {type(split).__name__} can only be read in its own order; use the dataset's name with"
            " streaming=True, or a dataset with a length."
        )
    if not (hasattr(split, "__len__") and hasattr(split, "__getitem__")) or isinstance(split, (str, bytes, list)):
        raise UserError(
            f"dataset: {name} is {type(split).__name__}; use a datasets.Dataset or a torch Dataset of (image, label)."
        )
    return _read_torch(split, name)


def _read_torch(dataset: Any, name: str) -> Dataset:
    """Return a torch dataset as Arrow: paths where its items are files that it does not change, else whole images."""
    count = len(dataset)
    if not count:
        return Dataset.from_dict({"image": [], "label": []})
    samples = getattr(dataset, "samples", None)
    transforms = (getattr(dataset, key, None) for key in ("transform", "transforms", "target_transform"))
    if samples is not None and len(samples) == count and not any(transforms) and hasattr(dataset, "classes"):
        label = ClassLabel(names=list(map(str, dataset.classes)))
        files, ids = zip(*samples, strict=True)
        features = Features({"image": Image(decode=False), "label": label})
        images = [{"bytes": None, "path": str(file)} for file in files]
        return Dataset.from_dict({"image": images, "label": list(ids)}, features=features)
    first = _label(_item(dataset, 0, name)[1], name)
    classes = getattr(dataset, "classes", None)
    kind: Any = Value("string") if isinstance(first, str) else Value("int64")
    if classes is not None and not isinstance(first, str):
        kind = ClassLabel(names=list(map(str, classes)))
    features = Features({"image": Image(decode=False), "label": kind})
    # On the disk, so that memory does not grow with the images; it goes with the process.
    folder = Path(tempfile.mkdtemp(prefix="hf_finetune_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    digest = hashlib.sha256()
    with ArrowWriter(path=str(folder / "images.arrow"), features=features) as writer:
        for row in _rows(dataset, count, name):
            digest.update(row["image"]["bytes"])
            digest.update(str(row["label"]).encode())
            writer.write(row)
        writer.finalize()
    read = Dataset.from_file(str(folder / "images.arrow"))
    read._fingerprint = digest.hexdigest()[:16]  # of the content: caches and a resumed run know it again
    return read


def _rows(dataset: Any, count: int, name: str) -> Iterator[dict[str, Any]]:
    for row in range(count):
        image, label = _item(dataset, row, name)
        yield {"image": {"bytes": _encode(image, row, name), "path": None}, "label": _label(label, name)}


def _item(dataset: Any, row: int, name: str) -> tuple[Any, Any]:
    item = dataset[row]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise UserError(f"dataset: row {row} of {name} is {type(item).__name__}; a torch Dataset gives (image, label).")
    return item[0], item[1]


def _label(label: Any, name: str) -> int | str:
    if isinstance(label, str):
        return label
    try:
        number = label.item() if hasattr(label, "item") else label
        if int(number) == number:
            return int(number)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise UserError(f"dataset: a label of {name} is {label!r}; use a class id or a class name for each image.")


def as_image(value: Any, place: str) -> PIL.Image.Image:
    """Return an image that a program hands over as a PIL image.

    Args:
        value: A PIL image; an array of (height, width) or (height, width, channels), or a tensor of (height, width) or
            (channels, height, width), uint8 or float of 0 to 1, of 1, 3 or 4 channels.
        place: What an error calls it.

    Raises:
        UserError: For anything else, such as a normalized tensor.
    """
    if isinstance(value, PIL.Image.Image):
        return value
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    elif isinstance(value, np.ndarray):
        array = value
    else:
        raise UserError(f"{place} is {type(value).__name__}; use a PIL image, a numpy array or a tensor.")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        raise UserError(
            f"{place} has the shape {tuple(value.shape)}; use (channels, height, width) for a tensor and (height,"
            " width, channels) for an array, with 1, 3 or 4 channels."
        )
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise UserError(
                f"{place} has values from {array.min():.3g} to {array.max():.3g}; use uint8, or floats of 0 to 1 that"
                " are not normalized: the image processor normalizes them."
            )
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(f"{place} is {array.dtype}; use uint8, or floats of 0 to 1.")
    return PIL.Image.fromarray(np.ascontiguousarray(array))


def _encode(value: Any, row: int, name: str) -> bytes:
    """Return an image as the bytes of a file that loses nothing of it."""
    image = as_image(value, f"dataset: image {row} of {name}")
    file = io.BytesIO()
    if image.mode in _PNG_MODES:
        image.save(file, "PNG", compress_level=1)
    else:
        image.save(file, "TIFF")
    return file.getvalue()
