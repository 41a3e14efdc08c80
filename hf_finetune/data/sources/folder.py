"""A folder of class folders, with or without train, validation and test above them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image

from hf_finetune.data.images.files import (
    LeftOut,
    check_names,
    image_files,
    is_folder,
    is_followed,
    is_image_file,
    sorted_entries,
)
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import TABLE_EXTENSIONS, Location, archive_advice, folder_of, path_of
from hf_finetune.data.splits import split_role
from hf_finetune.errors import UserError, listing

_CLASS_FOLDERS = f"{{0}}{os.sep}cats{os.sep}1.jpg, {{0}}{os.sep}dogs{os.sep}1.jpg"


@dataclass
class _Tree:
    """The image paths below a folder, relative to it and sorted.

    Attributes:
        loose: Images directly in the folder.
        subfolders: Images of each subfolder, at any depth.
    """

    loose: list[str] = field(default_factory=list)
    subfolders: dict[str, list[str]] = field(default_factory=dict)


def read_class_folders(folder: Path, lost_files: Sequence[str] = ()) -> RawDataset:
    """Read the paths and labels of a folder of class folders; no image is opened.

    A class is a subfolder with all images below it, at any depth. Subfolders that are named like splits and hold
    class folders are the splits. What is not an image is left out; see `images.files`.

    Args:
        folder: The folder.
        lost_files: Images, relative to the folder, that are read as if they were still there.

    Returns:
        The splits, `train` alone where the folder has none, with the columns `image` (paths) and `label`.

    Raises:
        UserError: The folder is laid out otherwise, or has fewer than two classes.
    """
    left_out = LeftOut()
    tree = _read_tree(folder, left_out)
    if not tree.loose and not any(tree.subfolders.values()):
        left_out = LeftOut(arrays=True)
        tree = _read_tree(folder, left_out)
    raw = RawDataset({}, source=str(folder), folder=folder)
    split_names = [name for name, paths in tree.subfolders.items() if split_role(name) and _is_split(paths)]
    if split_names:
        others = [name for name, paths in tree.subfolders.items() if paths and name not in split_names]
        for name in filter(split_role, others):
            if split_role(name) == "train":
                raise UserError(_loose_message(folder / name))
            raw.notes.append(f"{name} is not used: its images are not in class folders and so have no labels.")
        unrelated = [name for name in others if not split_role(name)]
        if unrelated:
            raw.notes.append(f"Folders beside the splits are not used: {listing(unrelated)}.")
        for name in split_names:
            # The split is walked again, because its paths alone would not show its empty class folders.
            raw.splits[name] = _class_dataset(
                folder, name, _read_tree(folder / name, LeftOut(arrays=left_out.arrays)), raw.notes, lost_files
            )
    elif not any(tree.subfolders.values()) and not tree.loose:
        names = sorted(os.listdir(folder))
        found = f": it holds {listing(names)}" if names else ""
        archives = archive_advice(names)
        advice = f"; {archives}" if archives else f". Use a folder of class folders: {_example(folder)}."
        raise UserError(f"{folder} has no images{found}{advice}")
    elif tree.subfolders and all(split_role(name) for name in tree.subfolders):
        name = next(name for name, paths in tree.subfolders.items() if paths)
        raise UserError(_loose_message(folder / name))
    else:
        raw.splits["train"] = _class_dataset(folder, "", tree, raw.notes, lost_files)
    raw.notes += left_out.notes()
    return raw


def _read_tree(folder: Path, left_out: LeftOut) -> _Tree:
    tree, above = _Tree(), frozenset({os.path.realpath(folder)})
    for entry in sorted_entries(folder):
        if is_folder(entry):
            if is_followed(entry, entry.name, left_out, above):
                tree.subfolders[entry.name] = list(image_files(entry.path, entry.name, left_out, above))
        elif is_image_file(entry, entry.name, left_out):
            tree.loose.append(entry.name)
    return tree


def _is_split(paths: list[str]) -> bool:
    """Whether a subfolder's images are all in further subfolders; a class that is called "train" has its own images."""
    return bool(paths) and all(path.count("/") > 1 for path in paths)


def _class_dataset(folder: Path, split: str, tree: _Tree, notes: list[str], lost_files: Sequence[str]) -> Dataset:
    root = folder / split
    for path in lost_files:
        path = path.removeprefix(f"{split}/") if split else path
        name = path.split("/")[0]
        if name in tree.subfolders and path not in tree.subfolders[name] and not (folder / split / path).exists():
            tree.subfolders[name] = sorted([*tree.subfolders[name], path], key=lambda path: path.split("/"))
    if tree.loose and not tree.subfolders:
        raise UserError(_loose_message(root))
    if tree.loose:
        notes.append(f"{len(tree.loose):,} images beside the class folders of {root} are not used.")
    classes = [name for name, paths in tree.subfolders.items() if paths]
    empty = [name for name, paths in tree.subfolders.items() if not paths]
    for_training = split_role(split or "train") == "train"
    if empty and for_training:
        raise UserError(
            f"{root} has {'a class folder' if len(empty) == 1 else f'{len(empty)} class folders'} without images:"
            f" {listing(empty)}; put images there or remove the folder."
        )
    if len(classes) < 2 and for_training:
        raise UserError(
            f"{root} has only one class folder, {classes[0]}; a classifier needs two at least: {_example(root)}."
        )
    check_names(root, [path for paths in tree.subfolders.values() for path in paths])
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=classes)})
    absolute = root.absolute()
    columns = {
        # An Arrow array, because `datasets` would look at each string of a list.
        "image": pa.array([f"{absolute}/{path}" for name in classes for path in tree.subfolders[name]], pa.string()),
        "label": [label for label, name in enumerate(classes) for _ in tree.subfolders[name]],
    }
    return Dataset.from_dict(columns, features=features)


def _loose_message(folder: Path) -> str:
    return (
        f"{folder} has images outside class folders, and so no labels; put them into class folders, such as"
        f" {_example(folder)}, use a table of paths and labels, or, if the names of the files begin with the class,"
        r" such as cat_01.jpg: --label_from_name '^(\w+?)_\d+'."
    )


def _example(folder: Path) -> str:
    return _CLASS_FOLDERS.format(folder.name or folder)


def read(location: Location) -> RawDataset:
    """Read the dataset at a location that matches."""
    path = path_of(location)
    try:
        return read_class_folders(path, location.lost_files)
    except UserError as error:
        tables = [file.name for file in sorted(path.iterdir()) if file.suffix.lower() in TABLE_EXTENSIONS]
        if not tables:
            raise
        raise UserError(
            f"{path} holds tables, but none is named like a split ({listing(tables)}); use --dataset"
            f" {path / tables[0]}, or name it train{Path(tables[0]).suffix}."
        ) from error


def matches(location: Location) -> bool:
    """Return whether a dataset is a folder."""
    return folder_of(location) is not None
