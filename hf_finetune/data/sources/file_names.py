"""Folders of images whose names say the class: beagle_12.jpg and, with splits above, test/pug_3.jpg."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

from hf_finetune.data.images.files import LeftOut, check_names, image_files
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import Location, folder_of, path_of
from hf_finetune.data.splits import split_role
from hf_finetune.errors import UserError, listing


def read_named_files(folder: Path, pattern: str, lost_files: Sequence[str] = ()) -> RawDataset:
    r"""Read the paths of all images below a folder, and their classes from their names; no image is opened.

    Where all images are in folders that are named like splits, these are the splits.

    Args:
        folder: The folder.
        pattern: A regular expression that is searched for in the name of each file. Its one group is the class:
            ``^(\w+?)_\d+``.
        lost_files: Images, relative to the folder, that are read as if they were still there.

    Returns:
        The splits, `train` alone where there are none, with the columns `image` (paths) and `label`.

    Raises:
        UserError: There are no images, or names in which the expression finds no class.
    """
    left_out = LeftOut()
    paths = list(image_files(str(folder), "", left_out))
    if not paths:
        left_out = LeftOut(arrays=True)
        paths = list(image_files(str(folder), "", left_out))
    lost = set(lost_files) - set(paths)
    if lost:
        paths = sorted([*paths, *lost], key=lambda path: path.split("/"))
    if not paths:
        raise UserError(f"{folder} has no images; label_from_name is for a folder of images that are named by class.")
    check_names(folder, paths)
    classes = _classes(folder, paths, pattern)
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=sorted(set(classes)))})
    tops = [path.split("/")[0] if "/" in path else "" for path in paths]
    splits = dict.fromkeys(tops) if all(map(split_role, tops)) else ["train"]
    raw = RawDataset({}, source=str(folder), folder=folder, notes=left_out.notes())
    for split in splits:
        rows = [row for row, top in enumerate(tops) if len(splits) == 1 or top == split]
        columns = {
            "image": [f"{folder.absolute()}/{paths[row]}" for row in rows],
            "label": [classes[row] for row in rows],
        }
        raw.splits[split] = Dataset.from_dict(columns, features=features)
    return raw


def _classes(folder: Path, paths: Sequence[str], pattern: str) -> list[str]:
    """Return the class of each path, or raise for the names that do not have one."""
    expression = re.compile(pattern)
    found = [expression.search(path.rsplit("/", 1)[-1]) for path in paths]
    classes = [match[1] if match else "" for match in found]
    without = [path for path, name in zip(paths, classes, strict=True) if not name]
    if without:
        raise UserError(
            f"{folder}: label_from_name {pattern!r} finds no class in {len(without):,} of {len(paths):,} file names:"
            f" {listing(without)}; change the expression, or move these files elsewhere."
        )
    return classes


def read(location: Location) -> RawDataset:
    """Read the dataset at a location that matches."""
    return read_named_files(path_of(location), location.label_from_name or "", location.lost_files)


def matches(location: Location) -> bool:
    """Return whether a dataset is such a folder: `label_from_name` alone says so."""
    return location.label_from_name is not None and folder_of(location) is not None
