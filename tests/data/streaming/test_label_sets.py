"""Lists of labels in streamed Parquet files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Sequence

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import build_dataset
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.decoding import UnreadableImage
from hf_finetune.data.stages import TrainingStage
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.errors import UserError
from hf_finetune.tasks import SEVERAL_LABELS

SETS = [["cat"], ["dog"], ["cat", "dog"], [], ["cow", "cat"], ["cow"]]


def png() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (9, 99, 200)).save(file, format="PNG")
    return file.getvalue()


def stream(path: Path, labels: Any, images: list[bytes] | None = None) -> ImageDataset:
    pq.write_table(pa.table({"image": images or [png()] * len(labels), "labels": labels}), path)
    return build_dataset(DataArguments(dataset=str(path), streaming=True, validation_fraction=0), seed=0)


def batches(data: ImageDataset) -> StreamedBatches:
    return StreamedBatches(data.splits["train"], TrainingStage(build_train_transforms([], True), 0, shared=False))


def test_lists_of_names(tmp_path: Path) -> None:
    data = stream(tmp_path / "train.parquet", SETS)
    assert data.task is SEVERAL_LABELS and data.label_names == ["cat", "cow", "dog"]
    labels = batches(data).first(6)["labels"]
    assert labels.tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_class_ids_of_the_hub(tmp_path: Path) -> None:
    features = Features({"image": Image(), "labels": Sequence(ClassLabel(names=["cow", "cat"]))})
    rows = {"image": [{"bytes": png(), "path": None}] * 2, "labels": [[1], [0, 1]]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    arguments = DataArguments(dataset=str(tmp_path / "train.parquet"), streaming=True, validation_fraction=0)
    data = build_dataset(arguments, seed=0)
    assert data.label_names == ["cow", "cat"]
    assert batches(data).first(2)["labels"].tolist() == [[0, 1], [1, 1]]


def tar(path: Path, *contents: object) -> Path:
    """Write a tar of images, each with a .json."""
    with tarfile.open(path, "w") as file:
        for number, content in enumerate(contents):
            for extension, data in (("png", png()), ("json", json.dumps(content).encode())):
                member = tarfile.TarInfo(f"{number}.{extension}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("column", ["labels", "kinds"])
def test_lists_in_the_json_of_tars(tmp_path: Path, datasets_cache: Path, column: str) -> None:
    path = tar(tmp_path / "train.tar", *({column: labels} for labels in SETS))
    stated = {"label_column": f"json.{column}"} if column != "labels" else {}
    for _ in range(2):  # the second time, the survey comes from the cache
        arguments = DataArguments(dataset=str(path), streaming=True, validation_fraction=0, **stated)
        data = build_dataset(arguments, seed=0)
        assert data.task is SEVERAL_LABELS and data.label_names == ["cat", "cow", "dog"]
        labels = batches(data).first(6)["labels"]
        assert labels.tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a"], ["b"], None], r"the label in row 2 of split train \(counted from 0\) is missing"),
        ([["a"], ["b", 1], ["b"]], "the label in row 1 of split train"),
        ([["a"], "b", ["b"]], "the label in row 1 of split train"),
        ([[0, 1], [1, 0], [1, 1]], "the lists of labels are of 0 and 1, a place for each class"),
    ],
)
def test_mistakes_in_the_json_of_tars(tmp_path: Path, datasets_cache: Path, labels: list[object], message: str) -> None:
    path = tar(tmp_path / "train.tar", *({"labels": each} for each in labels))
    with pytest.raises(UserError, match=message):
        build_dataset(DataArguments(dataset=str(path), streaming=True, validation_fraction=0), seed=0)


def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    data = stream(tmp_path / "train.parquet", SETS)
    read = batches(data)
    read.on_unreadable = lambda error, row: None
    damaged = read.rows([0, 1])
    damaged[0] = damaged[0]._replace(image={"bytes": b"damaged", "path": None})
    assert read._prepare(damaged)["labels"].tolist() == [[-100, -100, -100], [0, 0, 1]]
    read.on_unreadable = None
    with pytest.raises(UnreadableImage):
        read._prepare(damaged)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1], [1, 0], [1, 1]], "the lists of labels are of 0 and 1, a place for each class, which a stream does"),
        ([["a"], ["a"]], "has 1 class"),
    ],
)
def test_mistakes(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stream(tmp_path / "train.parquet", labels)


def test_a_row_without_a_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 1 of split train \(counted from 0\) has no list of labels"):
        stream(tmp_path / "train.parquet", [["a"], None, ["b"]])
