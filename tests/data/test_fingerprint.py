"""Changed data are noticed by name, label and content, wherever the folder is; unchanged ones are not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_finetune.config.data import DataArguments
from hf_finetune.data import fingerprint
from hf_finetune.data.build import build_dataset
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.fingerprint import FINGERPRINT_FILE, Fingerprint, check_same_data, fingerprint_of
from hf_finetune.errors import UserError
from tests.helpers.streamed import write_parquet


def load(dataset: Path, **settings: object) -> ImageDataset:
    return build_dataset(DataArguments(dataset=str(dataset), validation_fraction=0.25, **settings), seed=0)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Uncompressed images, all of one size in bytes, that differ in their middle alone."""
    for number, name in enumerate(("cat", "dog", "owl")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for row in range(8):
            pixels = np.zeros((40, 40, 3), np.uint8)
            pixels[20, 20] = number + 1, row, 7
            PIL.Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{row}.bmp")
    return tmp_path / "pets"


@pytest.fixture
def table(pets: Path) -> Path:
    rows = [f"{path.relative_to(pets)},{path.parent.name}" for path in sorted(pets.rglob("*.bmp"))]
    (pets / "pets.csv").write_text("\n".join(["image,label", *rows]))
    return pets / "pets.csv"


def swap(first: Path, second: Path) -> None:
    aside = first.rename(first.with_name("aside"))
    second.rename(first)
    aside.rename(second)


def refuse(folder: Path, data: ImageDataset, change: str) -> None:
    with pytest.raises(UserError, match="the data have changed since the unfinished run") as caught:
        check_same_data(folder, data, ())
    assert change in str(caught.value) and "\n" not in str(caught.value)


def test_the_same_data_are_the_same_elsewhere(pets: Path, tmp_path: Path) -> None:
    fingerprint_of(load(pets)).save(tmp_path)
    check_same_data(tmp_path, load(pets), ())
    check_same_data(tmp_path, load(Path(shutil.copytree(pets, tmp_path / "elsewhere" / "deep"))), ())
    pets.rename(tmp_path / "moved")
    check_same_data(tmp_path, load(tmp_path / "moved"), ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda pets: swap(pets / "cat/1.bmp", pets / "dog/2.bmp"),
            "2 images of train have other contents, the first is",
        ),
        (lambda pets: shutil.copy(pets / "owl/7.bmp", pets / "dog/0.bmp"), "other contents, the first is dog/0.bmp;"),
        (lambda pets: (pets / "dog").rename(pets / "hound"), "the class dog is called hound;"),
        (lambda pets: (pets / "cat/7.bmp").rename(pets / "cat/9.bmp"), "1 image of train has other names or another"),
        (lambda pets: (pets / "cat/7.bmp").unlink(), "train has 23 images and had 24;"),
        (lambda pets: shutil.copy(pets / "cat/7.bmp", pets / "cat/8.bmp"), "train has 25 images and had 24;"),
    ],
)
def test_a_changed_folder(pets: Path, tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    fingerprint_of(load(pets)).save(tmp_path)
    change(pets)
    refuse(tmp_path, load(pets), words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("t/3.bmp,cat", "t/3.bmp,dog", "1 image of train has other labels, the first, cat/3.bmp, is dog and was cat;"),
        (",owl", ",eule", "the class owl is called eule;"),
        ("t/3.bmp,cat", "t/3.bmp,ant", "the dataset has the new ant among its classes;"),
        ("cat/3.bmp,cat\ncat/4.bmp,cat", "cat/4.bmp,cat\ncat/3.bmp,cat", "2 images of train have other names or"),
    ],
)
def test_a_changed_table(table: Path, tmp_path: Path, old: str, new: str, words: str) -> None:
    fingerprint_of(load(table)).save(tmp_path)
    table.write_text(table.read_text().replace(old, new))
    refuse(tmp_path, load(table), words)


def test_images_inside_a_dataset(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    def save(folder: Path) -> ImageDataset:
        paths = sorted(pets.rglob("*.bmp"))
        images = [{"bytes": path.read_bytes(), "path": None} for path in paths]
        Dataset.from_dict({"image": images, "label": [path.parent.name for path in paths]}).save_to_disk(folder)
        return load(folder)

    fingerprint_of(save(tmp_path / "one")).save(tmp_path)
    check_same_data(tmp_path, save(tmp_path / "two"), ())
    swap(pets / "cat/1.bmp", pets / "dog/2.bmp")
    changed = save(tmp_path / "three")
    refuse(tmp_path, changed, "2 images of train have other contents, the first is row 1 of train")
    monkeypatch.setattr(fingerprint, "_BYTES_READ", 0)  # then only some are read, and the lengths of the others
    fingerprint_of(changed).save(tmp_path)
    (pets / "owl/1.bmp").write_bytes((pets / "owl/1.bmp").read_bytes() + b"\0")
    refuse(tmp_path, save(tmp_path / "four"), "row 17 of train")


def test_of_many_files_a_part_is_read(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_FILES_READ", 12)
    fingerprint_of(load(pets)).save(tmp_path)
    check_same_data(tmp_path, load(pets), ())
    swap(pets / "cat/1.bmp", pets / "dog/1.bmp")  # rows 1 and 9 are not read, and of one size
    check_same_data(tmp_path, load(pets), ())
    (pets / "cat/1.bmp").write_bytes((pets / "cat/1.bmp").read_bytes() + b"\0")
    refuse(tmp_path, load(pets), "cat/1.bmp")


def test_what_the_run_could_not_read_may_have_changed(pets: Path, tmp_path: Path) -> None:
    fingerprint_of(load(pets)).save(tmp_path)
    (pets / "cat/1.bmp").write_bytes((pets / "cat/2.bmp").read_bytes())
    check_same_data(tmp_path, load(pets), ["cat/1.bmp (truncated file)"])


def test_a_run_without_a_fingerprint_is_not_compared(
    pets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_same_data(tmp_path, load(pets), ())
    assert not caplog.records
    (tmp_path / FINGERPRINT_FILE).write_bytes(b"damaged")
    check_same_data(tmp_path, load(pets), ())
    assert "the data are not compared with it" in caplog.text


def test_it_is_read_as_it_was_written(pets: Path, tmp_path: Path) -> None:
    written = fingerprint_of(load(pets))
    written.save(tmp_path)
    read = Fingerprint.load(tmp_path)
    assert read is not None and read.label_names == ["cat", "dog", "owl"] and list(read.splits) == ["train"]
    split = vars(written.splits["train"])
    assert all(np.array_equal(array, getattr(read.splits["train"], name)) for name, array in split.items())
    # twelve bytes a row; without a weight_column no weights
    assert {name: array.itemsize for name, array in split.items() if len(array)} == dict(names=4, labels=4, contents=4)


def test_the_files_of_a_stream(tmp_path: Path, datasets_cache: Path) -> None:
    folder = write_parquet(tmp_path / "data", "train", 40, files=2)
    data = load(folder, streaming=True)
    fingerprint_of(data).save(tmp_path)
    check_same_data(tmp_path, load(folder.rename(tmp_path / "moved"), streaming=True), ())
    file = sorted((tmp_path / "moved").rglob("*.parquet"))[-1]
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    refuse(tmp_path, load(tmp_path / "moved", streaming=True), f"other contents, the first is {file.name};")
