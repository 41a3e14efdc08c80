"""The same image in two splits is reported, and left out of train on request."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value

from hf_finetune.config.data import DataArguments
from hf_finetune.data import duplicates
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.dataset import EarlierImages, ImageDataset
from hf_finetune.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=["pixels", "bytes"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the dataset counts as small, so that pixels are compared."""
    if request.param == "bytes":
        monkeypatch.setattr(duplicates, "_DECODED", 0)
    return request.param == "pixels"


def write(root: Path, images: dict[str, int]) -> Path:
    """Write an image of noise for each path; equal numbers are equal pixels."""
    for name, number in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(root / name)
    return root


IMAGES = {
    "train/cat/1.png": 1, "train/cat/2.png": 2, "train/dog/3.png": 3, "train/dog/4.png": 4,
    "validation/cat/a.png": 1, "validation/dog/b.png": 5, "test/cat/c.png": 6, "test/dog/d.png": 3,
}  # fmt: skip


def load(path: Path, earlier: EarlierImages | None = None, **arguments: object) -> ImageDataset:
    return load_image_dataset(DataArguments(dataset=str(path), **arguments), 42, earlier=earlier)


def notes_of(result: ImageDataset) -> list[str]:
    return [note for note in result.notes if "same image" in note]


def test_they_are_reported_in_one_line(tmp_path: Path, small: bool) -> None:
    result = load(write(tmp_path / "pets", IMAGES))
    assert notes_of(result) == [
        "The same image is in two splits: 1 image of train is also in validation, 1 image of train is also in test"
        " (train/cat/1.png = validation/cat/a.png; train/dog/3.png = test/dog/d.png), so the figures are too good;"
        " --drop_duplicates leaves those of train out of it."
    ]
    assert len(result.splits["train"]) == 4


def test_they_are_left_out_of_train_alone_and_again_when_the_run_resumes(tmp_path: Path, small: bool) -> None:
    path = write(tmp_path / "pets", IMAGES)
    result = load(path, drop_duplicates=True)
    assert result.splits["train"]["sample_index"][:] == [1, 3]
    assert {role: len(rows) for role, rows in result.splits.items()} == {"train": 2, "validation": 2, "test": 2}
    assert result.left_out["train"] == [0, 2]
    assert "; 2 of 4 images are left out of train." in notes_of(result)[0]
    assert result.split_names["train"] == "train (2 of 4)"
    # Even where the image of the other split has changed, the order of train must not.
    write(path, {"test/dog/d.png": 9})
    earlier = EarlierImages({role: len(source) for role, source in result.sources.items()}, result.left_out)
    again = load(path, earlier, drop_duplicates=True)
    assert again.splits["train"]["sample_index"][:] == [1, 3]


def test_nothing_is_said_where_all_images_differ(tmp_path: Path, small: bool) -> None:
    numbers = {name: number for number, name in enumerate(IMAGES)}
    result = load(write(tmp_path / "pets", numbers), drop_duplicates=True)
    assert not notes_of(result) and len(result.splits["train"]) == 4


def test_pixels_count_and_not_the_format(tmp_path: Path) -> None:
    images = {"train/cat/1.png": 1, "train/dog/2.png": 2, "test/cat/a.bmp": 1, "test/dog/b.tiff": 3}
    (note,) = notes_of(load(write(tmp_path / "pets", images), validation_fraction=0))
    assert "1 image of train is also in test (train/cat/1.png = test/cat/a.bmp)" in note


def test_images_inside_a_dataset_and_three_examples(tmp_path: Path, small: bool) -> None:
    write(tmp_path / "files", {f"{number}.png": number for number in range(12)})
    data = {number: (tmp_path / "files" / f"{number}.png").read_bytes() for number in range(12)}
    features = Features({"image": Image(), "label": Value("int64")})

    def split(numbers: list[int]) -> Dataset:
        rows = {"image": [{"bytes": data[n], "path": None} for n in numbers], "label": [n % 2 for n in numbers]}
        return Dataset.from_dict(rows, features=features)

    splits = {"train": split([*range(10)]), "validation": split([5, 6, 7, 8]), "test": split([10, 11])}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    (note,) = notes_of(load(tmp_path / "saved"))
    assert "4 images of train are also in validation (row 5 of train = row 0 of validation;" in note
    assert note.count(" = ") == 3
    kept = load(tmp_path / "saved", drop_duplicates=True)
    assert kept.splits["train"]["sample_index"][:] == [0, 1, 2, 3, 4, 9]


def test_a_copy_inside_train_that_is_held_out(tmp_path: Path) -> None:
    images = {f"{name}/{number}.png": number for name in ("cat", "dog") for number in range(10)}
    result = load(write(tmp_path / "pets", images), validation_fraction=0.3)
    assert "of train are also in validation" in notes_of(result)[0]


def test_many_files_are_compared_in_part_but_to_leave_them_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_DECODED", 0)
    monkeypatch.setattr(duplicates, "_FILES_READ", 4)
    images = {f"{split}/{name}/{n}.bmp": n for split in ("train", "test") for name in ("cat", "dog") for n in range(9)}
    path = write(tmp_path / "pets", images)
    opened: list[str] = []
    original = duplicates._hash_file

    def hash_file(value: dict[str, str], whole: bool) -> int:
        if not whole:
            opened.append(value["path"])
        return original(value, whole)

    monkeypatch.setattr(duplicates, "_hash_file", hash_file)
    load(path, validation_fraction=0)
    in_part = len(opened)
    assert in_part < len(images)
    with pytest.raises(UserError, match="all images of train are in other splits too .*leave --drop_duplicates out"):
        load(path, validation_fraction=0, drop_duplicates=True)
    assert len(opened) - in_part == len(images)


def test_files_of_other_sizes_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_DECODED", 0)
    path = write(tmp_path / "pets", IMAGES)
    for number, file in enumerate(sorted(path.rglob("*.png"))):
        file.write_bytes(file.read_bytes() + bytes(number))
    monkeypatch.setattr(duplicates, "_hash_file", lambda *_, **__: pytest.fail("a file was opened"))
    assert not notes_of(load(path))


def test_streams_refuse_to_leave_them_out() -> None:
    with pytest.raises(UserError, match="drop_duplicates.*leave --streaming out"):
        DataArguments(dataset="pets", streaming=True, drop_duplicates=True)
