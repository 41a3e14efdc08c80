"""Datasets that are passed as objects: every kind gives the same splits, pixel for pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import build_dataset
from hf_finetune.data.columns import image_dataset
from hf_finetune.data.images.pixels import decode_pixels
from hf_finetune.data.sources.in_memory import read_objects
from hf_finetune.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
LABELS = [row % 2 for row in range(20)]


class Pairs(torch.utils.data.Dataset):
    """A torch dataset of (image, label), without class names."""

    def __init__(self, images: Any, labels: Any = LABELS) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return self.images[row], self.labels[row]


class Pets(Pairs):
    classes = ("cat", "dog")


def arrow() -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    return Dataset.from_dict({"image": list(map(PIL.Image.fromarray, PIXELS)), "label": LABELS}, features=features)


def first_pixels(dataset: Any, split: str = "train") -> np.ndarray:
    column = image_dataset(read_objects(dataset), split, "image")
    return np.stack([decode_pixels(row["image"]).permute(1, 2, 0).numpy() for row in column])


CHANNELS_FIRST = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "dataset",
    [
        arrow(),
        Pairs([PIL.Image.fromarray(pixels) for pixels in PIXELS]),
        Pairs(PIXELS),
        Pairs(CHANNELS_FIRST),
        Pairs(CHANNELS_FIRST / 255),
        torch.utils.data.TensorDataset(CHANNELS_FIRST, torch.tensor(LABELS)),
        [(pixels, label) for pixels, label in zip(PIXELS, LABELS, strict=True)],
    ],
    ids=["datasets", "PIL", "arrays", "uint8 tensors", "float tensors", "TensorDataset", "list of pairs"],
)
def test_each_kind_gives_the_same_pixels_and_labels(dataset: Any) -> None:
    assert np.array_equal(first_pixels(dataset), PIXELS)
    data = build_dataset(DataArguments(validation_fraction=0), seed=0, dataset=dataset)
    assert data.splits["train"]["label"][:] == LABELS
    assert data.splits["train"]["sample_index"][:] == list(range(20))
    assert not data.streamed and data.entry is None


def test_files_and_their_bytes(tmp_path) -> None:
    PIL.Image.fromarray(PIXELS[0]).save(tmp_path / "0.png")
    content = (tmp_path / "0.png").read_bytes()
    dataset = Pairs([str(tmp_path / "0.png"), tmp_path / "0.png", content], ["cat", "dog", "cat"])
    assert np.array_equal(first_pixels(dataset), PIXELS[[0, 0, 0]])
    assert build_dataset(DataArguments(validation_fraction=0), 0, dataset=dataset).label_names == ["cat", "dog"]


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1)])
def test_grayscale_arrays_and_tensors(shape: tuple[int, ...]) -> None:
    gray = PIXELS[..., 0].reshape(20, *shape)
    for images in (gray, torch.from_numpy(gray if len(shape) == 2 else gray.transpose(0, 3, 1, 2))):
        assert np.array_equal(first_pixels(Pairs(images)), PIXELS[..., :1].repeat(3, axis=3))


def test_class_names_are_the_dataset_s_and_those_of_what_it_is_a_part_of() -> None:
    part = torch.utils.data.Subset(torch.utils.data.Subset(Pets(PIXELS), range(18)), [0, 1, 2, 3])
    for dataset, rows in ((Pets(PIXELS), 20), (part, 4)):
        data = build_dataset(DataArguments(validation_fraction=0), 0, dataset=dataset)
        assert data.label_names == ["cat", "dog"] and len(data.splits["train"]) == rows
    assert build_dataset(DataArguments(validation_fraction=0), 0, dataset=Pairs(PIXELS)).label_names == ["0", "1"]


@pytest.mark.parametrize("label", [np.int64(1), torch.tensor(1), True, np.array(1)])
def test_labels_of_other_integer_types(label: Any) -> None:
    dataset = Pairs(PIXELS[:2], [0, label])
    assert read_objects(dataset).splits["train"]["label"][:] == [0, 1]


def test_mapping_of_splits_of_different_kinds() -> None:
    splits = {"train": Pets(PIXELS), "val": arrow().select([0, 1]), "test": Pets(PIXELS[:4])}
    data = build_dataset(DataArguments(), seed=0, dataset=splits)
    assert {role: len(split) for role, split in data.splits.items()} == {"train": 20, "validation": 2, "test": 4}
    assert data.split_names == {"train": "train", "validation": "val", "test": "test"}
    assert data.source == "in-memory Pets"


def test_dataset_dict_and_held_out_validation() -> None:
    data = build_dataset(DataArguments(), seed=0, dataset=DatasetDict(train=arrow(), test=arrow().select([3, 2])))
    assert {role: len(split) for role, split in data.splits.items()} == {"train": 18, "validation": 2, "test": 2}
    assert data.splits["test"]["label"][:] == [1, 0]
    assert data.label_names == ["cat", "dog"]


def test_a_transform_that_is_not_applied_is_noted() -> None:
    dataset = arrow().with_transform(lambda rows: rows)
    assert read_objects(dataset).notes == [
        "The transform that split train was given (set_transform) is not applied; train_transforms are."
    ]
    assert read_objects(arrow()).notes == []


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({}, r"^dataset: the mapping of splits is empty; pass at least the split train\.$"),
        (7, r"^dataset: split train is a int; pass a datasets\.Dataset or DatasetDict, a torch Dataset"),
        (arrow().to_iterable_dataset(), r"^dataset: split train is a IterableDataset, whose rows .*--streaming"),
        ([1, 2], r"^dataset: item 0 of split train is a int; pass a dataset whose items are pairs"),
        (Pairs(PIXELS, [0] * 19 + [1.5]), r"^dataset: item 19 of split train: its label is a float"),
        (Pairs([None]), r"^dataset: item 0 of split train: its image is a NoneType"),
        (Pairs(PIXELS.astype(np.float32)), r"item 0 of split train: its image is an array of float32; pass uint8"),
        (
            Pairs(CHANNELS_FIRST / 127.5 - 1),
            r"its image has values outside 0 to 1; pass images that are not normalized",
        ),
        (Pairs(PIXELS.transpose(0, 3, 1, 2)), r"its image has the shape \(3, 6, 5\); pass \(height, width\)"),
        (Pairs(PIXELS, [0, "cat"] * 10), r"^dataset: the labels of split train are numbers and names; pass one"),
        (Pets(PIXELS[:2], ["cat", 1]), r"the labels of split train are numbers and names"),
        (Pets(PIXELS, [0, 2] * 10), r"labels of split train (cannot be used|are outside)"),
    ],
)
def test_mistakes(dataset: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_dataset(DataArguments(), seed=0, dataset=dataset)
    assert "\n" not in str(caught.value)


def test_an_object_and_a_name_or_a_stream_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"^dataset is both an object and digits; pass one of them\."):
        build_dataset(DataArguments(dataset="digits"), 0, dataset=arrow())
    with pytest.raises(UserError, match=r"^streaming: a dataset that is in memory is not streamed"):
        build_dataset(DataArguments(streaming=True), 0, dataset=arrow())
