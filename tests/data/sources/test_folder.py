"""Folders of class folders: layouts, what is ignored, and what is refused."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from hf_finetune.data.sources.file_names import read_named_files
from hf_finetune.data.sources.folder import read_class_folders
from hf_finetune.errors import UserError
from tests.helpers.folders import touch


def contents(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Returns {split: [(path below root, class name)]}."""
    raw = read_class_folders(root)
    return {
        split: [
            (str(Path(image["path"]).relative_to(root)), dataset.features["label"].names[label])
            for image, label in zip(dataset["image"], dataset["label"], strict=True)
        ]
        for split, dataset in raw.splits.items()
    }


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "dogs/2.JPG", "dogs/1.jpeg", "cats/1.webp", "cats/deep/deeper/2.png", "cats/10.Tiff")
    assert contents(tmp_path) == {
        "train": [
            ("cats/1.webp", "cats"),
            ("cats/10.Tiff", "cats"),
            ("cats/deep/deeper/2.png", "cats"),
            ("dogs/1.jpeg", "dogs"),
            ("dogs/2.JPG", "dogs"),
        ]
    }
    assert read_class_folders(tmp_path).notes == []
    assert read_class_folders(tmp_path).splits["train"][0]["image"]["bytes"] is None


def test_fingerprint_is_stable(tmp_path: Path) -> None:
    touch(tmp_path, "dogs/1.jpg", "cats/1.jpg")
    first, again = (read_class_folders(tmp_path).splits["train"]._fingerprint for _ in range(2))
    assert first == again
    touch(tmp_path, "dogs/2.jpg")
    assert read_class_folders(tmp_path).splits["train"]._fingerprint != first


def test_split_folders_are_not_classes(tmp_path: Path) -> None:
    touch(tmp_path, "Train/cats/1.jpg", "Train/dogs/1.jpg", "val/dogs/2.jpg", "test/cats/3.jpg", "docs/a/b.png")
    assert contents(tmp_path) == {
        "Train": [("Train/cats/1.jpg", "cats"), ("Train/dogs/1.jpg", "dogs")],
        "val": [("val/dogs/2.jpg", "dogs")],
        "test": [("test/cats/3.jpg", "cats")],
    }
    assert read_class_folders(tmp_path).notes == ["Folders beside the splits are not used: docs."]


def test_class_called_train_is_a_class(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "bus/1.jpg", "car/1.jpg")
    assert [name for _, name in contents(tmp_path)["train"]] == ["bus", "car", "train"]


def test_ignored_files_are_counted(tmp_path: Path) -> None:
    touch(
        tmp_path, "cats/1.jpg", "dogs/1.jpg", "cats/.hidden.jpg", "dogs/Thumbs.db", "README.md", ".git/x.jpg", "a.jpg"
    )
    assert len(contents(tmp_path)["train"]) == 2
    assert read_class_folders(tmp_path).notes == [
        f"1 images beside the class folders of {tmp_path} are not used.",
        "2 files are not used, hidden or not images: README.md, cats/.hidden.jpg.",
    ]


def test_junk_of_systems_and_editors_is_left_out_without_noise(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "v1.0.cats/1.JPG",
        "v1.0.cats/sub.dir/2.Png",
        "dogs/1.jpg",
        "dogs/Thumbs.db",
        ".DS_Store",
        "dogs/._1.jpg",
    )
    touch(
        tmp_path,
        "__MACOSX/dogs/._1.jpg",
        "__MACOSX/dogs/2.jpg",
        ".ipynb_checkpoints/1.jpg",
        "dogs/.ipynb_checkpoints/1.jpg",
    )
    touch(tmp_path, "Desktop.ini", ".gitkeep", "dogs/@eaDir/1.jpg")
    assert contents(tmp_path)["train"] == [
        ("dogs/1.jpg", "dogs"),
        ("v1.0.cats/1.JPG", "v1.0.cats"),
        ("v1.0.cats/sub.dir/2.Png", "v1.0.cats"),
    ]
    assert read_class_folders(tmp_path).notes == []


def test_what_could_be_read_for_ever_is_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.jpg", "dogs/1.jpg")
    os.mkfifo(tmp_path / "cats" / "2.jpg")
    (tmp_path / "dogs" / "3.jpg").symlink_to("/dev/zero")
    (tmp_path / "dogs" / "4.jpg").symlink_to(tmp_path / "gone.jpg")  # the check of the headers names it
    assert [path for path, _ in contents(tmp_path)["train"]] == ["cats/1.jpg", "dogs/1.jpg", "dogs/4.jpg"]
    assert read_class_folders(tmp_path).notes == ["Pipes, sockets and devices are not read: cats/2.jpg, dogs/3.jpg."]


def test_symbolic_links(tmp_path: Path) -> None:
    store = touch(tmp_path / "store", "1.jpg", "2.jpg")
    root = touch(tmp_path / "root", "cats/1.jpg", "dogs/1.jpg")
    (root / "dogs" / "linked.jpg").symlink_to(store / "1.jpg")
    (root / "birds").symlink_to(store)
    (root / "cats" / "loop").symlink_to(root / "cats")
    assert [name for _, name in contents(root)["train"]] == ["birds", "birds", "cats", "dogs", "dogs"]
    assert read_class_folders(root).notes == ["Links to a folder that they are in are not followed: cats/loop."]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
def test_a_link_to_a_folder_above_it_adds_no_images(tmp_path: Path, target: str) -> None:
    root = touch(tmp_path / "root", "train/cats/1.jpg", "train/dogs/1.jpg")
    (root / "train" / "cats" / "up").symlink_to(target)
    assert [path for path, _ in contents(root)["train"]] == ["train/cats/1.jpg", "train/dogs/1.jpg"]
    assert read_class_folders(root).notes == ["Links to a folder that they are in are not followed: train/cats/up."]


def test_a_link_to_the_dataset_itself_is_neither_class_nor_images(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "cats/1.jpg", "dogs/1.jpg")
    (root / "all").symlink_to(root)
    (root / "cats" / "all").symlink_to("..")
    assert [name for _, name in contents(root)["train"]] == ["cats", "dogs"]
    assert read_class_folders(root).notes == ["Links to a folder that they are in are not followed: all, cats/all."]


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no images\. Use a folder of class folders: .*cats.1\.jpg"):
        read_class_folders(tmp_path)
    touch(tmp_path, "notes.txt", "cats/readme.txt")
    with pytest.raises(UserError, match=r"has no images: it holds cats, notes\.txt\."):
        read_class_folders(tmp_path)


def test_empty_class_folder(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.jpg", "dogs/1.jpg", "cows/notes.txt")
    (tmp_path / "ants").mkdir()
    with pytest.raises(UserError, match="has 2 class folders without images: ants, cows; put images there"):
        read_class_folders(tmp_path)


def test_empty_class_folder_below_a_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/cats/1.jpg", "train/dogs/1.jpg", "val/cats/1.jpg", "val/dogs/.keep")
    assert contents(tmp_path)["val"] == [("val/cats/1.jpg", "cats")]  # the loader notes the missing class
    touch(tmp_path, "train/cows/.keep")
    with pytest.raises(UserError, match=r"train has a class folder without images: cows;"):
        read_class_folders(tmp_path)


def test_only_one_class_folder(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.jpg", "cats/2.jpg")
    with pytest.raises(UserError, match="has only one class folder, cats; a classifier needs two at least"):
        read_class_folders(tmp_path)


def test_loose_images(tmp_path: Path) -> None:
    touch(tmp_path / "a", "1.jpg", "2.jpg")
    touch(tmp_path / "b", "train/1.jpg", "test/2.jpg")
    for folder, named in ((tmp_path / "a", tmp_path / "a"), (tmp_path / "b", tmp_path / "b" / "test")):
        with pytest.raises(UserError, match="has images outside class folders, and so no labels") as caught:
            read_class_folders(folder)
        assert str(caught.value).startswith(f"{named} has")


def test_loose_images_below_one_of_the_splits(tmp_path: Path) -> None:
    touch(tmp_path / "a", "train/cats/1.jpg", "train/dogs/1.jpg", "test/2.jpg")
    raw = read_class_folders(tmp_path / "a")
    assert list(raw.splits) == ["train"]
    assert raw.notes == ["test is not used: its images are not in class folders and so have no labels."]
    touch(tmp_path / "b", "train/1.jpg", "test/cats/1.jpg", "test/dogs/1.jpg")
    with pytest.raises(UserError, match="train has images outside class folders"):
        read_class_folders(tmp_path / "b")


def test_names_that_are_not_utf_8_are_refused_with_what_to_do(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "cats/1.jpg", "dogs/1.jpg")
    for latin in (b"cats/b\xe4d.jpg", b"dogs/gr\xfcn.jpg"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + latin)).touch()
    for read in (read_class_folders, partial(read_named_files, pattern=r"^(\w)")):
        with pytest.raises(UserError) as refused:
            read(root)
        assert str(refused.value) == (
            f"{root}: 2 names are not in UTF-8: cats/b\udce4d.jpg, dogs/gr\udcfcn.jpg; rename them, for instance by"
            f" convmv -f latin1 -t utf8 -r --notest {root}."
        )
    moved = root.rename(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe4d"))
    with pytest.raises(UserError, match="3 names are not in UTF-8"):
        read_class_folders(moved)


def test_a_link_to_itself_is_left_to_the_check_before_training(tmp_path: Path) -> None:
    root = touch(tmp_path, "cats/1.jpg", "dogs/1.jpg")
    (root / "cats" / "loop.jpg").symlink_to("loop.jpg")
    (root / "loop").symlink_to("loop")
    assert [path for path, _ in contents(root)["train"]] == ["cats/1.jpg", "cats/loop.jpg", "dogs/1.jpg"]
