"""Dataset objects with what a run needs to know of them: a name for its folder, and a fingerprint to resume by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import ClassLabel, Dataset, Features, Image

from hf_finetune.data.sources.in_memory import InMemoryDataset, read_objects
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError


@dataclass(frozen=True)
class GivenDataset:
    """A dataset that was given as an object.

    Attributes:
        raw: Its splits as the other sources give them.
        name: What its runs are called, such as "my_images".
        fingerprint: Of its content, equal for equal images and labels.
    """

    raw: RawDataset
    name: str
    fingerprint: str

    def describe(self) -> str:
        """Return one line: kind, numbers of images and fingerprint."""
        counts = ", ".join(f"{name} {len(split):,}" for name, split in self.raw.splits.items())
        return f"{self.raw.source} ({counts} images; fingerprint {self.fingerprint})"


def read_object(dataset: InMemoryDataset) -> GivenDataset:
    """Return a dataset object as a source; see `read_objects`.

    Of a folder dataset of torchvision that changes its images by no transform of its own, the files are read when
    their batch is due; of other torch datasets each image is read now.

    Raises:
        UserError: For an object that is no dataset, and for images or labels that cannot be used.
    """
    if isinstance(dataset, Mapping):
        parts: list[Any] = list(dataset.values())
        content: InMemoryDataset = {str(name): _files_or_object(part) for name, part in dataset.items()}
    else:
        parts, content = [dataset], _files_or_object(dataset)
    raw = read_objects(content)
    if any(_changes_images(part) for part in parts):
        raw.notes.append(
            "The images of a torch dataset are read once, through its own transform: what is random there is drawn"
            " once; give random transforms as train_transforms instead."
        )
    fingerprints = "".join(f"{name}:{split._fingerprint};" for name, split in raw.splits.items())
    return GivenDataset(raw, _name(parts[0]), hashlib.sha256(fingerprints.encode()).hexdigest()[:16])


def _name(part: Any) -> str:
    if isinstance(part, Dataset):
        name = part.info.dataset_name or "dataset"
    elif hasattr(part, "samples") and hasattr(part, "root"):  # a folder of torchvision's: its name says more
        name = Path(str(part.root)).name
    else:
        name = type(part).__name__.lower()
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "dataset"


def _changes_images(part: Any) -> bool:
    own = (getattr(part, key, None) for key in ("transform", "transforms", "target_transform"))
    return not isinstance(part, Dataset) and any(transform is not None for transform in own)


def _files_or_object(part: Any) -> Any:
    """Return a folder dataset of torchvision as paths and labels, anything else as it is."""
    samples, classes = getattr(part, "samples", None), getattr(part, "classes", None)
    if isinstance(part, Dataset) or not samples or classes is None or len(samples) != len(part):
        return part
    if _changes_images(part):
        return part
    files, ids = zip(*samples, strict=True)
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=list(map(str, classes)))})
    images = [{"bytes": None, "path": str(Path(file).absolute())} for file in files]
    return Dataset.from_dict({"image": images, "label": list(ids)}, features=features)


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
        raise UserError(f"{place} is {type(value).__name__}; use a path, a PIL image, a numpy array or a tensor.")
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
                f"{place} has values outside 0 to 1; use uint8, or floats that are not normalized: the image processor"
                " normalizes them."
            )
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(f"{place} is {array.dtype}; use uint8, or floats of 0 to 1.")
    return PIL.Image.fromarray(np.ascontiguousarray(array))
