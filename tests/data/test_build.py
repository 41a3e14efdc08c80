"""The whole way from arguments to splits of one shape."""

from __future__ import annotations

import hashlib
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hf_finetune.config.data import DataArguments
from hf_finetune.data import fingerprint
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.decoding import decode_image
from hf_finetune.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "hub" / "datasets"
FEATURES = Features({"image": Image(decode=False), "label": Value("int32"), "sample_index": Value("int32")})


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_images(root: Path, classes: dict[str, int], size: tuple[int, int] = (2, 3)) -> Path:
    """Writes so many images a class, `{class}/{number}.png`, each of its own color."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            color = np.full((*size, 3), (number, len(name), 7), dtype=np.uint8)
            color[-1, -1] = list(hashlib.sha256(f"{root.name}/{name}".encode()).digest()[:3])  # in no other split
            PIL.Image.fromarray(color).save(root / name / f"{number}.png")
    return root


def load(path: Path | str, seed: int = 42, **arguments: object) -> ImageDataset:
    return load_image_dataset(DataArguments(dataset=str(path), **arguments), seed)


def class_counts(dataset: Dataset) -> list[int]:
    return np.bincount(dataset["label"]).tolist()


@pytest.mark.parametrize(("count", "known"), [(64, (2, 3)), (200, None)])
def test_a_sample_of_embedded_images_does_not_prove_one_size(tmp_path: Path, count: int, known: tuple | None) -> None:
    write_images(tmp_path / "source", {"cats": 1})
    image = next((tmp_path / "source").rglob("*.*")).read_bytes()
    rows = {"image": [{"bytes": image, "path": None}] * count, "label": [0, 1] * (count // 2)}
    Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("int64")})).to_parquet(
        tmp_path / "train.parquet"
    )
    assert load(tmp_path / "train.parquet", validation_fraction=0).image_sizes == known


def test_images_of_selected_rows_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "source", {"cats": 1})
    image, rows = next((tmp_path / "source").rglob("*.*")).read_bytes(), range(1_500)
    images = [{"bytes": image + bytes(20_000 + row), "path": None} for row in rows]  # a reader stops at the PNG's end
    table = {"image": images, "label": [row % 2 for row in rows]}
    features = Features({"image": Image(), "label": Value("int64")})
    Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    load(tmp_path / "train.parquet")  # converts it
    monkeypatch.setattr(fingerprint, "_BYTES_READ", 1)
    monkeypatch.setattr(fingerprint, "_ROWS_READ", 50)
    usual, watched = pa.default_memory_pool(), pa.system_memory_pool()  # which nothing else uses
    pa.set_memory_pool(watched)
    try:
        data = load(tmp_path / "train.parquet")
        fingerprint.fingerprint_of(data)
    finally:
        pa.set_memory_pool(usual)
    assert {role: len(split) for role, split in data.splits.items()} == {"train": 1_350, "validation": 150}
    # 64 images were looked at, in a buffer that doubles as it fills; all of them together take 30 MB.
    assert 0 < watched.max_memory() < 15_000_000


def test_class_folders_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        write_images(tmp_path / split, {"cats": count, "dogs": count})
    result = load(tmp_path)
    assert {role: dataset.features for role, dataset in result.splits.items()} == dict.fromkeys(
        ("train", "validation", "test"), FEATURES
    )
    assert result.splits["train"]["label"][:] == [0, 0, 0, 1, 1, 1]
    assert result.splits["train"]["sample_index"][:] == [0, 1, 2, 3, 4, 5]
    assert np.asarray(decode_image(result.splits["train"][2]["image"]))[0, 0].tolist() == [2, 4, 7]
    assert result.label_names == ["cats", "dogs"]
    assert result.split_names == {"train": "train", "validation": "val", "test": "test"}
    assert (result.source, result.entry, result.notes, result.bad_images) == (str(tmp_path), None, [], [])
    assert result.image_sizes == (2, 3)


def test_held_out_validation_is_noted(tmp_path: Path) -> None:
    write_images(tmp_path, {"ants": 40, "bees": 20, "cows": 1})
    result = load(tmp_path)
    assert result.split_names == {
        "train": "train (55 of 61)",
        "validation": "10 % of train, stratified, seed 42",
    }
    assert class_counts(result.splits["validation"]) == [4, 2]
    train, validation = (set(result.splits[role]["sample_index"]) for role in ("train", "validation"))
    assert train | validation == set(range(61))
    assert not train & validation
    assert result.notes == [
        "There is no validation split: 6 of 61 images are held out for it (10 % of train, stratified, seed 42).",
        "There is no test split: the final figure is reported on validation, which also chose the checkpoint.",
        "validation has no image of 1 of 3 classes: cows.",
    ]


def test_held_out_validation_follows_the_seed(tmp_path: Path) -> None:
    write_images(tmp_path, {"ants": 30, "bees": 30})
    held_out = [load(tmp_path, seed).splits["validation"]["sample_index"][:] for seed in (1, 1, 2)]
    assert held_out[0] == held_out[1] != held_out[2]
    # A limit on train leaves alone what is held out.
    assert load(tmp_path, 1, max_train_samples=5).splits["validation"]["sample_index"][:] == held_out[0]


def test_nothing_held_out(tmp_path: Path) -> None:
    write_images(tmp_path, {"ants": 1, "bees": 1})
    result = load(tmp_path, validation_fraction=0)
    assert list(result.splits) == ["train"]
    assert result.notes == ["There is no validation split and validation_fraction is 0: no figure can be reported."]
    with pytest.raises(UserError, match="no class has two images, so none can be held out"):
        load(tmp_path)


def test_limits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_images(tmp_path / split, {"ants": 10, "bees": 10})
    result = load(tmp_path, max_train_samples=8, max_eval_samples=5)
    assert {role: len(dataset) for role, dataset in result.splits.items()} == {"train": 8, "validation": 5, "test": 5}
    assert result.split_names["train"] == "train (8 of 20)"
    assert result.split_names["validation"] == "val (5 of 20)"
    rows = result.splits["train"]["sample_index"][:]
    assert rows == sorted(rows) != list(range(8))
    unlimited = load(tmp_path, max_train_samples=20)
    assert unlimited.split_names["train"] == "train"
    with pytest.raises(UserError, match="max_train_samples is 0; use a number"):
        load(tmp_path, max_train_samples=0)


def test_splits_of_one_name_are_never_silent(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / split, {"ants": 2, "bees": 2})
    result = load(tmp_path, validation_split="test")
    assert result.split_names == {"train": "train", "validation": "test", "test": "test"}
    assert result.notes == ["validation and test are the same images: both are split test."]


def test_no_train_split(tmp_path: Path) -> None:
    write_images(tmp_path / "test", {"ants": 2, "bees": 2})
    with pytest.raises(UserError, match=r"has no split to train on: it has test; use --train_split NAME"):
        load(tmp_path)
    result = load_image_dataset(DataArguments(dataset=str(tmp_path)), seed=0, require_train=False)
    assert (result.split_names, result.label_names, result.notes) == ({"test": "test"}, ["ants", "bees"], [])


def test_classes_that_differ_between_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"ants": 2, "bees": 2, "cows": 2})
    write_images(tmp_path / "val", {"bees": 1, "cows": 2})
    result = load(tmp_path)
    assert result.splits["validation"]["label"][:] == [1, 2, 2], "mapped by name, not by place"
    assert "validation has no image of 1 of 3 classes: ants." in result.notes
    write_images(tmp_path / "val", {"dogs": 1})
    with pytest.raises(UserError, match=r"split val has a label that split train does not have: dogs"):
        load(tmp_path)


def test_missing_classes_are_those_without_a_readable_image(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split, {"ants": 2, "bees": 2, "cows": 2})
    (tmp_path / "val" / "ants" / "0.png").write_text("no image")
    result = load(tmp_path, on_bad_image="skip")
    assert not any("has no image of" in note for note in result.notes)
    (tmp_path / "val" / "ants" / "1.png").write_text("no image")
    assert load(tmp_path, on_bad_image="skip").notes[-1] == "validation has no image of 1 of 3 classes: ants."
    for number in range(2):
        (tmp_path / "train" / "bees" / f"{number}.png").write_text("no image")
    assert load(tmp_path, on_bad_image="skip").notes[-2:] == [
        "train has no image of 1 of 3 classes: bees.",
        "validation has no image of 1 of 3 classes: ants.",
    ]


def table(folder: Path, lines: list[str]) -> Path:
    (folder / "labels.csv").write_text("\n".join(["file,kind", *lines]))
    return folder / "labels.csv"


def test_table_of_paths(tmp_path: Path) -> None:
    write_images(tmp_path, {"cats": 2, "dogs": 1})
    absolute = tmp_path / "dogs" / "0.png"
    result = load(table(tmp_path, ["cats/0.png,12", f"{absolute},3", "cats/1.png,12"]), validation_fraction=0)
    assert result.label_names == ["3", "12"]
    assert result.splits["train"]["label"][:] == [1, 0, 1]
    assert [Path(image["path"]) for image in result.splits["train"]["image"]] == [
        tmp_path / "cats" / "0.png",
        absolute,
        tmp_path / "cats" / "1.png",
    ]


def test_table_mistakes(tmp_path: Path) -> None:
    write_images(tmp_path, {"cats": 2, "dogs": 1})
    path = table(tmp_path, ["cats/0.png,cat", "gone.png,cat", "dogs/0.png,dog", "dogs/1.png,dog"])
    with pytest.raises(UserError) as caught:
        load(path, validation_fraction=0)
    assert str(caught.value) == (
        f"{path}: 2 images cannot be read: gone.png (no such file, row 1 of train), dogs/1.png (no such file, row 3"
        f" of train); fix or remove them, or use --on_bad_image skip. Relative paths start at the folder"
        f' "{tmp_path}".'
    )
    with pytest.raises(
        UserError, match=r'label_column: .* has no column "kinds" .* Did you mean "kind"\? The columns are file'
    ):
        load(path, label_column="kinds")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    write_images(tmp_path, {"cats": 4, "dogs": 4})
    (tmp_path / "cats" / "3.jpg").write_text("a text")
    (tmp_path / "dogs" / "2.png").write_bytes(b"")
    return tmp_path


def test_bad_images_stop(broken: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(broken, validation_fraction=0)
    assert str(caught.value) == (
        f"{broken}: 2 images cannot be read: cats/3.jpg (not an image), dogs/2.png (empty file); fix or remove"
        " them, or use --on_bad_image skip."
    )


def test_bad_images_are_skipped_and_counted(broken: Path) -> None:
    result = load(broken, validation_fraction=0, on_bad_image="skip")
    assert result.bad_images == ["cats/3.jpg (not an image)", "dogs/2.png (empty file)"]
    assert result.notes[-1] == (
        "2 images cannot be read and are left out: cats/3.jpg (not an image), dogs/2.png (empty file)."
    )
    assert result.splits["train"]["sample_index"][:] == [0, 1, 2, 4, 5, 6, 8]
    assert result.split_names["train"] == "train (7 of 9)"
    assert result.image_sizes == (2, 3)


def test_nothing_left_to_read(tmp_path: Path) -> None:
    path = table(tmp_path, ["a.png,cat", "b.png,dog"])
    with pytest.raises(UserError, match=r"no image of train can be read: a\.png \(no such file"):
        load(path, on_bad_image="skip", validation_fraction=0)


def test_mixed_sizes(tmp_path: Path) -> None:
    write_images(tmp_path, {"cats": 2, "dogs": 2})
    write_images(tmp_path, {"cats": 1}, size=(3, 2))
    assert load(tmp_path).image_sizes is None


def saved(root: Path, splits: dict[str, list[int]]) -> Path:
    """Saves splits of embedded images, whose row n has n as its first value, with the given labels."""
    features = Features({"image": Image(), "fine": ClassLabel(names=["ant", "bee"]), "coarse": ClassLabel(names=["x"])})
    saved_splits = {}
    for split, labels in splits.items():
        folder = write_images(root / "made" / split, {"all": len(labels)}) / "all"
        images = [{"bytes": (folder / f"{row}.png").read_bytes(), "path": None} for row in range(len(labels))]
        columns = {"image": images, "fine": labels, "coarse": [0] * len(labels)}
        saved_splits[split] = Dataset.from_dict(columns, features=features)
    DatasetDict(saved_splits).save_to_disk(root / "saved")
    return root / "saved"


def test_embedded_images_and_a_read_only_folder(tmp_path: Path) -> None:
    path = saved(tmp_path, {"train": [0, 1, 1, 0], "test": [1, 0], "extra": [0]})
    before = sorted(path.rglob("*"))
    result = load(path, label_column="fine", validation_fraction=0.5, max_eval_samples=1)
    assert sorted(path.rglob("*")) == before, "nothing is written beside the data"
    assert {role: dataset.features for role, dataset in result.splits.items()} == dict.fromkeys(
        ("train", "validation", "test"), FEATURES
    )
    for dataset in result.splits.values():
        for row in dataset:
            assert np.asarray(decode_image(row["image"]))[0, 0, 0] == row["sample_index"]
    assert "Splits not used: extra." in result.notes
    with pytest.raises(UserError, match=r"2 columns could hold the labels: fine \(ClassLabel\), coarse \(ClassLabel\)"):
        load(path)


def test_hidden_test_labels(tmp_path: Path) -> None:
    path = saved(tmp_path, {"train": [0, 1, 1, 0], "validation": [1, 0], "test": [-1, -1]})
    result = load(path, label_column="fine")
    assert list(result.splits) == ["train", "validation"]
    assert result.notes == [
        "Split test is not used as test: it has no labels (all are -1).",
        "There is no test split: the final figure is reported on validation, which also chose the checkpoint.",
    ]


def test_embedded_images_that_are_broken(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": Value("int64")})
    good = (write_images(tmp_path, {"x": 1}) / "x" / "0.png").read_bytes()
    images = [{"bytes": good, "path": None}] * 200
    images[150] = {"bytes": good[:20], "path": None}
    Dataset.from_dict({"image": images, "label": [0, 1] * 100}, features=features).save_to_disk(tmp_path / "saved")
    result = load(tmp_path / "saved", on_bad_image="skip", validation_fraction=0)
    assert len(result.splits["train"]) == 199
    assert result.bad_images[0].startswith("row 150 of train (")


def test_fingerprints_are_stable(tmp_path: Path) -> None:
    write_images(tmp_path, {"ants": 10, "bees": 10})
    first, again = ({role: split._fingerprint for role, split in load(tmp_path).splits.items()} for _ in range(2))
    assert first == again
    assert load(tmp_path, seed=1).splits["train"]._fingerprint != first["train"]


def test_digits() -> None:
    result = load("digits")
    assert {role: len(dataset) for role, dataset in result.splits.items()} == {
        "train": 1294,
        "validation": 144,
        "test": 359,
    }
    assert (result.entry.name, result.label_names, result.image_sizes) == ("digits", list("0123456789"), (8, 8))
    # The test split does not follow the run's seed.
    other = load("digits", seed=7)
    assert other.splits["test"]["image"][:] == result.splits["test"]["image"][:]
    assert other.splits["validation"]["sample_index"][:] != result.splits["validation"]["sample_index"][:]


def test_copy_of_another_dataset_is_noted(tmp_path: Path) -> None:
    write_images(tmp_path, {"ants": 4, "bees": 4})
    result = load("cifar10", dataset_path=str(tmp_path))
    assert "cifar10 has 10 classes, but this copy 2." in result.notes


@pytest.mark.skipif(not (SHARED / "uoft-cs" / "cifar10").exists(), reason="needs a local copy of CIFAR-10")
def test_cifar10() -> None:
    result = load("cifar10", dataset_path=str(SHARED / "uoft-cs" / "cifar10"))
    assert result.split_names == {
        "train": "train (45,000 of 50,000)",
        "validation": "10 % of train, stratified, seed 42",
        "test": "test",
    }
    assert class_counts(result.splits["train"]) == [4500] * 10
    assert class_counts(result.splits["validation"]) == [500] * 10
    assert result.label_names[:3] == ["airplane", "automobile", "bird"]
    assert result.image_sizes == (32, 32)


@pytest.mark.skipif(not (SHARED / "ylecun" / "mnist").exists(), reason="needs a local copy of MNIST")
def test_mnist() -> None:
    result = load("mnist", dataset_path=str(SHARED / "ylecun" / "mnist"), max_train_samples=1000)
    assert {role: len(dataset) for role, dataset in result.splits.items()} == {
        "train": 1000,
        "validation": 6000,
        "test": 10000,
    }
    assert result.image_sizes == (28, 28)
    assert result.label_names == list("0123456789")
