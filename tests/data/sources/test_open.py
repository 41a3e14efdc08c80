"""What `dataset` and `dataset_path` may mean, and the layouts of a folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.catalog import CATALOG
from hf_finetune.data.sources import open as sources
from hf_finetune.data.sources.idx import grayscale_images
from hf_finetune.data.sources.open import open_source
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import Location, Source
from hf_finetune.errors import UserError
from tests.helpers.folders import write_images


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def embedded(root: Path) -> DatasetDict:
    """Returns splits train (2 rows) and test (1 row) with the images' bytes in them."""
    path = write_images(root, "x.png") / "x.png"
    features = Features({"img": Image(), "label": ClassLabel(names=["cat", "dog"])})
    columns = {"img": [{"bytes": path.read_bytes(), "path": None}] * 2, "label": [0, 1]}
    train = Dataset.from_dict(columns, features=features)
    return DatasetDict(train=train, test=train.select([0]))


def hub_copy(root: Path, configs: tuple[str, ...] = ("plain_text",)) -> Path:
    """Writes a folder as `hf download --repo-type dataset` does: a card, and Parquet files by configuration."""
    card = ["---", "configs:"]
    for config in configs:
        card += [f"- config_name: {config}", "  data_files:"]
        for split, dataset in embedded(root.parent / "made").items():
            (root / config).mkdir(parents=True, exist_ok=True)
            dataset.to_parquet(root / config / f"{split}-00000-of-00001.parquet")
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (root / "README.md").write_text("\n".join([*card, "---", "# A card"]))
    return root


def sizes(**arguments: object) -> dict[str, int]:
    raw, _ = open_source(DataArguments(**arguments))
    return {split: len(dataset) for split, dataset in raw.splits.items()}


def test_named_dataset_from_a_local_copy_of_the_hub(tmp_path: Path) -> None:
    raw, entry = open_source(DataArguments(dataset="cifar10", dataset_path=str(hub_copy(tmp_path / "copy"))))
    assert entry is CATALOG["cifar10"]
    assert raw.source == "uoft-cs/cifar10, local copy"
    assert {split: len(dataset) for split, dataset in raw.splits.items()} == {"train": 2, "test": 1}


def test_configurations_of_a_local_copy(tmp_path: Path) -> None:
    copy = str(hub_copy(tmp_path / "copy", ("small", "plain_text")))
    assert sizes(dataset="cifar10", dataset_path=copy) == {"train": 2, "test": 1}
    assert sizes(dataset=copy, dataset_config="small") == {"train": 2, "test": 1}
    with pytest.raises(UserError, match=r"several configurations; use --dataset_config and one of small, plain_text"):
        sizes(dataset=copy)
    with pytest.raises(UserError, match=r'dataset_config: .* has no configuration "smal"\. Did you mean "small"\?'):
        sizes(dataset=copy, dataset_config="smal")


def test_layouts_of_a_folder(tmp_path: Path) -> None:
    cards = hub_copy(tmp_path / "cards")
    without_card = shutil.copytree(cards, tmp_path / "without_card")
    (without_card / "README.md").unlink()
    embedded(tmp_path / "made").save_to_disk(tmp_path / "saved")
    embedded(tmp_path / "made")["train"].save_to_disk(tmp_path / "saved_train")
    classes = write_images(tmp_path / "classes", "cats/1.png", "dogs/1.png")
    (classes / "README.md").write_text("These are pets. configs: none")
    idx = tmp_path / "idx"
    idx.mkdir()
    (idx / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 50, 60]))
    (idx / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 1]))
    (tmp_path / "tables").mkdir()
    for split in ("train", "val"):
        (tmp_path / "tables" / f"{split}.csv").write_text("image,label\na.png,cat\n")
    expected = {
        "cards": {"train": 2, "test": 1},
        "without_card": {"train": 2, "test": 1},
        "saved": {"train": 2, "test": 1},
        "saved_train": {"train": 2},
        "classes": {"train": 2},
        "idx": {"train": 2},
        "tables": {"train": 1, "val": 1},
        "tables/train.csv": {"train": 1},
    }
    for name, splits in expected.items():
        assert sizes(dataset=str(tmp_path / name)) == splits, name
        assert sizes(dataset="mnist", dataset_path=str(tmp_path / name)) == splits, name
    named, _ = open_source(DataArguments(dataset="fashion_mnist", dataset_path=str(idx)))
    assert named.splits["train"].features["label"].int2str([7, 1]) == ["Sneaker", "Trouser"]


@pytest.mark.parametrize("name", ["json", "parquet", "text", "csv", "imagefolder", "webdataset"])
def test_a_folder_is_read_whatever_module_of_datasets_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "classes" / name, "cats/1.png", "dogs/1.png")
    hub_copy(tmp_path / name)
    assert sizes(dataset=name) == {"train": 2, "test": 1}
    monkeypatch.chdir(tmp_path / "classes")
    assert sizes(dataset=name) == {"train": 2}


def test_hub_id_of_the_catalog_has_its_entry(tmp_path: Path) -> None:
    copy = str(hub_copy(tmp_path / "copy"))
    assert open_source(DataArguments(dataset="uoft-cs/cifar10", dataset_path=copy))[1] is CATALOG["cifar10"]
    raw, entry = open_source(DataArguments(dataset="someone/pets", dataset_path=copy))
    assert (raw.source, entry) == ("someone/pets, local copy", None)


def test_path_goes_before_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data" / "pets", "cats/1.png", "dogs/1.png")
    write_images(tmp_path / "digits", "cats/1.png", "dogs/1.png")
    monkeypatch.chdir(tmp_path)
    assert sizes(dataset="data/pets") == sizes(dataset="./digits") == {"train": 2}
    assert sizes(dataset="digits") == CATALOG["digits"].split_sizes


def test_file_that_no_source_reads(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_text("x")
    with pytest.raises(UserError, match=r"t\.xlsx is neither a folder nor a table; tables end in \.csv, \.tsv"):
        sizes(dataset=str(tmp_path / "t.xlsx"))


def test_a_source_costs_a_line_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(location: Location) -> RawDataset:
        arrays = np.load(location.path)
        features = Features({"image": Image(decode=False), "label": ClassLabel(names=["dark", "light"])})
        columns = {"image": grayscale_images(arrays["images"]), "label": arrays["labels"]}
        return RawDataset({"train": Dataset.from_dict(columns, features=features)}, source=str(location.path))

    toy = Source(
        "an archive of NumPy arrays",
        lambda location: location.path is not None and location.path.suffix == ".npz",
        read,
        extensions=(".npz",),
    )
    monkeypatch.setattr(sources, "SOURCES", [*sources.SOURCES, toy])
    pixels = np.repeat(np.array([0, 255], np.uint8), 64 * 10).reshape(20, 8, 8)
    np.savez(tmp_path / "toy.npz", images=pixels, labels=np.repeat([0, 1], 10))

    data = load_image_dataset(DataArguments(dataset=str(tmp_path / "toy.npz")), seed=0)
    assert {role: len(split) for role, split in data.splits.items()} == {"train": 18, "validation": 2}
    assert data.label_names == ["dark", "light"]
    with pytest.raises(
        UserError, match=r"no dataset; use --dataset with a name .*, an archive of NumPy arrays, .* or "
    ):
        sizes()
    with pytest.raises(UserError, match=r"there is no file or folder other\.npz\. Use an archive of NumPy arrays, "):
        sizes(dataset="other.npz")
    (tmp_path / "t.xlsx").write_text("x")
    with pytest.raises(UserError, match=r"tables end in .*\.parquet, \.npz\."):
        sizes(dataset=str(tmp_path / "t.xlsx"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {},
            r"^no dataset; use --dataset with a name \(cifar10, .*digits\), a Hub id, a folder of class folders.* or a",
        ),
        (
            {"dataset_path": "copy"},
            r"^dataset_path is set, but not the dataset that it is a copy of; .* --dataset copy",
        ),
        (
            {"dataset": "cifer10"},
            r'^dataset: "cifer10" is no named dataset.* Did you mean "cifar10"\? The names are cifar10,',
        ),
        ({"dataset": "./nowhere"}, r"^dataset: there is no file or folder \./nowhere\. Use a folder"),
        ({"dataset": "labels.csv"}, r"^dataset: there is no file or folder labels\.csv\."),
        (
            {"dataset": "mnist", "dataset_path": "nowhere"},
            r"^dataset_path: there is no folder nowhere; use the one that holds mnist",
        ),
        (
            {"dataset": "digits", "dataset_path": "."},
            r"^dataset_path: digits is built in and has no copies; leave it out",
        ),
        (
            {"dataset": ".", "dataset_path": "x"},
            r"^dataset_path is for a copy of a named dataset, but \. is a path itself",
        ),
    ],
)
def test_mistakes(arguments: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        sizes(**arguments)
    assert "\n" not in str(caught.value)


def test_tables_that_are_not_named_like_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", "images/1.png")
    (tmp_path / "pets" / "labels.csv").write_text("image,label\nimages/1.png,cat\n")
    with pytest.raises(
        UserError, match=r"none is named like a split \(labels\.csv\); use --dataset .*labels\.csv, or name"
    ):
        sizes(dataset=str(tmp_path / "pets"))


def test_damaged_folders(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as a dataset of save_to_disk"):
        sizes(dataset=str(tmp_path / "saved"))
    copy = hub_copy(tmp_path / "copy")
    for file in copy.glob("*/*.parquet"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read as a copy of a Hub dataset") as caught:
        sizes(dataset=str(copy))
    assert "\n" not in str(caught.value)


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    write_images(tmp_path, "cats/1.png", "dogs/1.png")
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read: \[Errno 13\] Permission denied"):
        sizes(dataset=str(tmp_path))


@pytest.mark.parametrize("name", ["flowers.zip", "flowers.TAR.GZ", "flowers.tar"])
def test_an_archive_is_to_be_unpacked(tmp_path, name) -> None:
    (tmp_path / name).write_bytes(b"archive")
    for dataset in (tmp_path / name, tmp_path):
        with pytest.raises(UserError, match=rf"archives are not read: unpack .*{re.escape(name)}, and use") as caught:
            open_source(DataArguments(dataset=str(dataset)))
        assert ("--streaming" in str(caught.value)) == name.endswith(".tar")


@pytest.mark.parametrize("name", ["json", "parquet", "text", "csv", "imagefolder", "webdataset"])
def test_a_folder_may_be_called_like_a_module_of_datasets(image_folder, tmp_path, monkeypatch, name) -> None:
    shutil.copytree(image_folder, tmp_path / "here" / name)
    monkeypatch.chdir(tmp_path / "here")
    raw, _ = open_source(DataArguments(dataset=name))
    assert raw.splits and raw.folder == Path(name)
