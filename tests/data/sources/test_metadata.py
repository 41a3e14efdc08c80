"""Folders with ImageFolder's metadata files: where they lie, which column is what, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.sources.metadata import read_metadata_folder
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError
from tests.helpers.folders import touch, write_images


def write(file: Path, rows: list[dict]) -> Path:
    """Writes rows as the extension says, and returns the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
        file.write_text("\n".join(lines) + "\n")
    return file.parent


def rows(*pairs: tuple[str, object], label: str = "label") -> list[dict]:
    return [{"file_name": name, label: value} for name, value in pairs]


def contents(raw: RawDataset) -> dict[str, list[tuple[str, object]]]:
    return {
        split: [(row["image"]["path"], row["label"]) for row in dataset.cast_column("image", Image(decode=False))]
        for split, dataset in raw.splits.items()
    }


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_a_file_beside_the_images_of_each_split(tmp_path: Path, datasets_cache: Path, extension: str) -> None:
    root = tmp_path / "root"
    touch(root, "train/1.png", "train/2.png", "train/deep/3.png", "test/1.png", "extra/1.png", "train/unnamed.png")
    write(root / f"train/metadata.{extension}", rows(("1.png", "cat"), ("2.png", "dog"), ("deep/3.png", "dog")))
    write(root / f"test/metadata.{extension}", rows(("1.png", "dog")))
    raw = read_metadata_folder(root)
    assert contents(raw) == {
        "train": [("train/1.png", "cat"), ("train/2.png", "dog"), ("train/deep/3.png", "dog")],
        "test": [("test/1.png", "dog")],
    }
    assert raw.notes == [
        f"1 image is not used, because {root}/train/metadata.{extension} does not name it: unnamed.png.",
        "Folders without a metadata file are not used: extra.",
    ]


def test_a_file_above_the_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "train/2.png", "val/1.png")
    folder = write(
        tmp_path / "metadata.csv", rows(("train/1.png", "cat"), ("./train/2.png", "dog"), ("val\\1.png", "cat"))
    )
    assert contents(read_metadata_folder(folder)) == {
        "train": [("train/1.png", "cat"), ("train/2.png", "dog")],
        "val": [("val/1.png", "cat")],
    }
    folder = write(tmp_path / "flat" / "metadata.jsonl", rows(("1.png", 3), ("pngs/2.png", 40)))
    assert contents(read_metadata_folder(folder)) == {"train": [("1.png", 3), ("pngs/2.png", 40)]}


def test_it_is_trained_on_whatever_the_label_is_called(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{number}.png" for number in range(6)))
    named = rows(*((f"{number}.png", ["cat", "dog"][number % 2]) for number in range(6)), label="species")
    write(tmp_path / "metadata.jsonl", named)
    data = load_image_dataset(DataArguments(dataset=str(tmp_path), validation_fraction=0), seed=0)
    assert (data.label_names, len(data.splits["train"])) == (["cat", "dog"], 6)
    write(
        tmp_path / "metadata.jsonl",
        [{**row, "labels": row["species"], "text": f"no. {n}"} for n, row in enumerate(named)],
    )
    assert load_image_dataset(DataArguments(dataset=str(tmp_path)), seed=0).label_names == ["cat", "dog"]
    (tmp_path / "4.png").unlink()
    with pytest.raises(UserError, match=r"1 image cannot be read: 4\.png \(no such file, row 4 of validation\)"):
        load_image_dataset(DataArguments(dataset=str(tmp_path)), seed=0)


def test_several_columns_of_images(tmp_path: Path) -> None:
    folder = write(tmp_path / "metadata.jsonl", [{"front_file_name": "a.png", "back_file_name": "b.png", "label": 1}])
    features = read_metadata_folder(folder).splits["train"].features
    assert {name for name, feature in features.items() if isinstance(feature, Image)} == {"front", "back"}


def test_class_folders_are_the_classes_where_no_column_is_called_label(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.png", "dogs/1.png")
    folder = write(tmp_path / "metadata.csv", rows(("cats/1.png", "sleeps"), ("dogs/1.png", "barks"), label="caption"))
    raw = read_metadata_folder(folder)
    assert raw.splits["train"].features["label"].names == ["cats", "dogs"]
    assert raw.notes[-1].startswith("metadata.csv has no column label, so the classes are the folders;")
    chosen = read_metadata_folder(folder, ["caption"]).splits["train"]
    assert chosen["caption"][:] == ["sleeps", "barks"]
    write(tmp_path / "metadata.csv", rows(("cats/1.png", "b"), ("dogs/1.png", "a")))
    assert read_metadata_folder(folder).splits["train"]["label"][:] == ["b", "a"]


def test_a_file_of_that_name_with_other_content_does_not_disturb_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.png", "dogs/1.png")
    (tmp_path / "metadata.csv").write_text("license,year\nmit,2020\n")
    raw = read_metadata_folder(tmp_path)
    assert len(raw.splits["train"]) == 2 and raw.notes[-1] == "metadata.csv is not used: it has no column file_name."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"name": "1.png", "label": "cat"}],
            r"metadata\.jsonl has no column file_name, which names the image of each",
        ),
        ([{"file_name": ["1.png"], "label": 1}], r"column file_name is list<.*>; it names one file in each row"),
        ([{"file_name": "1.png", "label": 1}, {"file_name": None, "label": 2}], r"row 1 .* names no file in column"),
        ([{"file_name": "../1.png", "label": 1}], r"row 0 \(counted from 0\) names a file outside .*; fix or remove"),
        ([{"file_name": "/etc/1.png", "label": 1}], r"row 0 \(counted from 0\) names a file outside"),
        (
            [{"file_name": "1.png", "split": "a"}, {"file_name": "2.png", "split": "b"}],
            "has a column split; use --dataset",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, content: list[dict], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_metadata_folder(write(tmp_path / "metadata.jsonl", content))


def test_two_files_are_one_too_many(tmp_path: Path) -> None:
    for name in ("metadata.csv", "metadata.jsonl"):
        write(tmp_path / "train" / name, rows(("1.png", "cat")))
    with pytest.raises(UserError, match=r"train has metadata\.csv and metadata\.jsonl; keep one of them"):
        read_metadata_folder(tmp_path)
