"""Datasets that a Python caller passes as objects: of the library `datasets`, of torch, or a mapping of splits."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Sequence, Value

from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError, first_line
from hf_finetune.logs import progress_bar

OneSplit: TypeAlias = "Dataset | torch.utils.data.Dataset[tuple[Any, Any]]"
InMemoryDataset: TypeAlias = "OneSplit | Mapping[str, OneSplit]"

_SECONDS_BEFORE_BAR = 2
_COMPRESSION = 1  # zlib's fastest: level 6 takes three times as long for a tenth of the size
_KINDS = "a datasets.Dataset or DatasetDict, a torch Dataset of (image, label), or a mapping of split names to these"


def read_objects(dataset: InMemoryDataset) -> RawDataset:
    """Read a dataset that is passed as an object.

    A `datasets.Dataset` is used as it is. The items of a torch dataset are read once, and each image is kept as PNG in
    memory, which loses nothing; so its transforms must leave the pixels unnormalized, and random ones are drawn once.

    Args:
        dataset: A `datasets.DatasetDict`; a `datasets.Dataset`, which becomes the split `train`; a torch dataset with a
            length, whose items are pairs (image, label); or a mapping of split names to the last two. An image is a
            PIL image, a uint8 array (height, width) or (height, width, channels), a tensor (channels, height, width)
            of uint8 or of floats from 0 to 1, the bytes of an image file, or its path. A label is a class number or a
            name; a torch dataset's `classes` names the numbers. A list of them, or a vector of 0 and 1 with a place for
            each class, says several classes.

    Returns:
        The splits. Those of torch datasets have the columns `image` and `label`.

    Raises:
        UserError: The object is none of these, or an item of a torch dataset cannot be used.
    """
    if not isinstance(dataset, Mapping):
        dataset = {"train": dataset}
    if not dataset:
        raise UserError("dataset: the mapping of splits is empty; pass at least the split train.")
    raw = RawDataset({}, f"in-memory {_name(next(iter(dataset.values())))}")
    for split, content in dataset.items():
        raw.splits[str(split)] = _read_split(str(split), content, raw.notes)
    return raw


def _name(dataset: OneSplit) -> str:
    """Return what messages call a dataset: the name that `datasets` loaded it by, or its class."""
    return (isinstance(dataset, Dataset) and dataset.info.dataset_name) or type(dataset).__name__


def _read_split(split: str, content: OneSplit, notes: list[str]) -> Dataset:
    if isinstance(content, Dataset):
        if content.format["type"] == "custom":
            notes.append(
                f"The transform that split {split} was given (set_transform) is not applied; train_transforms are."
            )
        return content
    if isinstance(content, (IterableDataset, torch.utils.data.IterableDataset)):
        raise UserError(
            f"dataset: split {split} is a {type(content).__name__}, whose rows have no numbers; pass a dataset with a"
            " length, or use --streaming with files in Parquet or WebDataset shards."
        )
    if not (hasattr(content, "__getitem__") and hasattr(content, "__len__")):
        raise UserError(f"dataset: split {split} is a {type(content).__name__}; pass {_KINDS}.")
    return _from_torch(split, content)


def _from_torch(split: str, content: Any) -> Dataset:
    """Return the items of a torch dataset as columns: images in files in memory, and labels."""
    images: list[dict[str, bytes | str | None]] = []
    labels: list[int | str | list[int] | list[str]] = []
    rows = progress_bar(_items(split, content), total=len(content), desc="Reading images", delay=_SECONDS_BEFORE_BAR)
    for row, (image, label) in enumerate(rows):
        try:
            images.append(_encode(image))
            labels.append(_plain_label(label))
        except (TypeError, ValueError, OSError) as error:
            raise UserError(f"dataset: item {row} of split {split}: {first_line(error)}.") from error
    several = {isinstance(label, list) for label in labels}
    kinds = {type(label) for own in labels for label in (own if isinstance(own, list) else [own])}
    if len(kinds) > 1 or len(several) > 1:
        differ = "numbers and names" if len(kinds) > 1 else "lists and single ones"
        raise UserError(f"dataset: the labels of split {split} are {differ}; pass one or the other.")
    names = _class_names(content)
    kind: Any = Value("string" if kinds == {str} else "int64")
    if several == {True} and names is not None and kinds == {int}:
        labels = _ids_of_vectors(labels, len(names))
    try:
        if names is not None and kind.dtype == "int64":
            kind = ClassLabel(names=names)
        kind = Sequence(kind) if several == {True} else kind
        features = Features({"image": Image(decode=False), "label": kind})
        return Dataset.from_dict({"image": images, "label": labels}, features=features)
    except (TypeError, ValueError) as error:  # such as a name that two classes have
        raise UserError(f"dataset: the labels of split {split} cannot be used: {first_line(error)}.") from error


def _items(split: str, content: Any) -> Iterator[tuple[Any, Any]]:
    for row in range(len(content)):
        item = content[row]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UserError(
                f"dataset: item {row} of split {split} is a {type(item).__name__}; pass a dataset whose items are pairs"
                " (image, label)."
            )
        yield item[0], item[1]


def _class_names(content: Any) -> list[str] | None:
    """Return the `classes` of a dataset, or of the one that a torch `Subset` is a part of; None without."""
    while isinstance(content, torch.utils.data.Subset):
        content = content.dataset
    classes = getattr(content, "classes", None)
    return None if classes is None else [str(name) for name in classes]


def _ids_of_vectors(labels: list[Any], classes: int) -> list[Any]:
    """Return vectors of 0 and 1 with a place for each class as the ids of the classes; other lists are ids already."""
    if classes < 2 or not all(len(own) == classes and set(own) <= {0, 1} for own in labels):
        return labels
    return [[class_id for class_id, has in enumerate(own) if has] for own in labels]


def _plain_label(label: Any) -> Any:
    if isinstance(label, str):
        return label
    if isinstance(label, (list, tuple, set)) or getattr(label, "ndim", 0) == 1:
        values = label.tolist() if hasattr(label, "tolist") else list(label)
        return [_plain_label(int(value) if value in (0.0, 1.0) else value) for value in values]
    value = label.item() if isinstance(label, (torch.Tensor, np.ndarray, np.generic)) else label
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"its label is a {type(label).__name__}; a label is the number or the name of one class")


def _encode(image: Any) -> dict[str, bytes | str | None]:
    """Return an image as {"bytes", "path"}: a file as it is, pixels as PNG."""
    if isinstance(image, (str, Path)):
        return {"bytes": None, "path": str(Path(image).absolute())}
    if isinstance(image, bytes):
        return {"bytes": image, "path": None}
    if isinstance(image, torch.Tensor):
        image = _pixels_of_tensor(image)
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if not isinstance(image, PIL.Image.Image):
        raise TypeError(f"its image is a {type(image).__name__}; an image is a PIL image, an array or a tensor")
    image = PIL.ImageOps.exif_transpose(image)  # Pillow writes a PNG without the orientation
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):  # the others have no PNG
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_COMPRESSION)
    return {"bytes": buffer.getvalue(), "path": None}


def _pixels_of_tensor(image: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor (channels, height, width) or (height, width) as a uint8 array with the channels last."""
    if image.is_floating_point():
        if not image.numel() or image.min() < 0 or image.max() > 1:
            raise ValueError(
                "its image has values outside 0 to 1; pass images that are not normalized, since the image processor"
                " normalizes them"
            )
        image = (image * 255).round().to(torch.uint8)
    return np.asarray((image.permute(1, 2, 0) if image.ndim == 3 else image).cpu())


def _from_array(image: np.ndarray[Any, Any]) -> PIL.Image.Image:
    if image.dtype != np.uint8:
        raise ValueError(f"its image is an array of {image.dtype}; pass uint8, 0 to 255")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)) or not image.size:
        raise ValueError(
            f"its image has the shape {tuple(image.shape)}; pass (height, width) or (height, width, 1, 3 or 4), and"
            " tensors with the channels first"
        )
    return PIL.Image.fromarray(np.ascontiguousarray(image))
