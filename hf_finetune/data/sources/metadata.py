"""Folders of images with a metadata file that names them, as ImageFolder of `datasets` has them.

metadata.csv, .jsonl or .parquet is beside the images of each split or above all of them. Its column `file_name`, or
several that end in `_file_name`, are paths below its own folder. See https://huggingface.co/docs/datasets/image_load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image

from hf_finetune.data.columns import arrow_column
from hf_finetune.data.images.files import LeftOut, image_files, is_junk_folder, sorted_entries
from hf_finetune.data.sources.folder import read_class_folders
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import Location, folder_of, path_of
from hf_finetune.data.sources.table import read_table
from hf_finetune.data.splits import split_role
from hf_finetune.errors import UserError, listing

_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"
_LABELS = ("label", "labels")
_OUTSIDE = r"^(/|[A-Za-z]:)|(^|/)\.\.(/|$)"


def find_metadata(folder: Path) -> dict[str, Path]:
    """Return the metadata file of each split's folder, by the folder's name; else that of the folder itself, as "".

    Raises:
        UserError: One folder has two of them.
    """
    subfolders = [entry.name for entry in sorted_entries(folder) if entry.is_dir() and split_role(entry.name)]
    found: dict[str, Path] = {}
    for name in (*subfolders, ""):
        files = [folder / name / file for file in _NAMES if (folder / name / file).is_file()]
        if len(files) > 1:
            raise UserError(f"{folder / name} has {' and '.join(file.name for file in files)}; keep one of them.")
        if files and (name or not found):
            found[name] = files[0]
    return found


def read_metadata_folder(folder: Path, label_columns: Sequence[str] = ()) -> RawDataset:
    """Read the images and labels that metadata files name; no image is opened.

    Where the images are in class folders, these are the classes, unless there is a column `label` or `labels`.

    Args:
        folder: The folder of the images.
        label_columns: The columns of labels that the user chose, or none.

    Returns:
        The splits, `train` alone where there are none, with the columns of the metadata; `image` takes the place of
        `file_name`.

    Raises:
        UserError: A metadata file cannot be read, or names no files.
    """
    files = find_metadata(folder)
    tables = {name: _read_rows(file) for name, file in files.items()}
    without = next((files[name] for name, rows in tables.items() if not _file_columns(rows)), None)
    labelled = all(any(name in rows.column_names for name in (*label_columns, *_LABELS)) for rows in tables.values())
    if without is not None or (not labelled and _in_class_folders(tables)):
        return _class_folders_instead(folder, next(iter(files.values())), without)
    raw = RawDataset({}, source=str(folder), folder=folder)
    for name, rows in tables.items():
        prepared = _with_images(files[name], rows, name)
        raw.splits |= {name: prepared} if name else dict(_by_split(prepared))
        raw.notes += _unnamed(folder / name, files[name], rows)
    if "" not in files:
        left = [
            entry.name
            for entry in sorted_entries(folder)
            if entry.is_dir() and entry.name not in files and not is_junk_folder(entry.name)
        ]
        if left:
            raw.notes.append(f"Folders without a metadata file are not used: {listing(left)}.")
    return raw


def _read_rows(file: Path) -> Dataset:
    """Return all rows of a metadata file, whose column `split` means nothing: the folders are the splits."""
    splits = read_table(file).splits
    if len(splits) > 1:
        raise UserError(
            f"{file} has a column split; use --dataset {file} --image_column {_FILE_NAME} to divide the images by it."
        )
    return next(iter(splits.values()))


def _file_columns(rows: Dataset) -> list[str]:
    return [name for name in rows.column_names if name == _FILE_NAME or name.endswith(f"_{_FILE_NAME}")]


def _in_class_folders(tables: dict[str, Dataset]) -> bool:
    """Whether all images are in folders of their own below their split, two at least."""
    classes: set[str] = set()
    for name, rows in tables.items():
        for path in arrow_column(rows, _file_columns(rows)[0]).to_pylist():
            parts = str(path).split("/")
            if not name and split_role(parts[0]):
                parts = parts[1:]
            if len(parts) < 2:
                return False
            classes.add(parts[0])
    return len(classes) > 1


def _class_folders_instead(folder: Path, file: Path, without: Path | None) -> RawDataset:
    try:
        raw = read_class_folders(folder)
    except UserError as error:
        if without is None:
            raise
        raise UserError(
            f"{without} has no column {_FILE_NAME}, which names the image of each row below {without.parent}; rename"
            " the column that does."
        ) from error
    if without is not None:
        raw.notes.append(f"{without.name} is not used: it has no column {_FILE_NAME}.")
    else:
        raw.notes.append(
            f"{file.name} has no column label, so the classes are the folders; for a column of it use --label_column."
        )
    return raw


def _with_images(file: Path, rows: Dataset, prefix: str) -> Dataset:
    """Return rows whose names of files are images, with paths below the dataset's folder."""
    for column in _file_columns(rows):
        names = arrow_column(rows, column)
        if not pa.types.is_string(names.type):
            raise UserError(f"{file}: column {column} is {names.type}; it names one file in each row, as text.")
        names = pc.replace_substring(names, "\\", "/")  # written on Windows
        _refuse_rows(file, pc.or_kleene(pc.is_null(names), pc.equal(names, "")), f"names no file in column {column}")
        _refuse_rows(file, pc.match_substring_regex(names, _OUTSIDE), f"names a file outside {file.parent}")
        names = pc.replace_substring_regex(names, r"^(\./)*", f"{prefix}/" if prefix else "", max_replacements=1)
        image = column.removesuffix(f"_{_FILE_NAME}")
        if column == _FILE_NAME:
            image = "image" if "image" not in rows.column_names else column
        rows = rows.remove_columns(column).add_column(image, names.combine_chunks()).cast_column(image, Image(False))
    return rows


def _refuse_rows(file: Path, faulty: pa.ChunkedArray, what: str) -> None:
    row = pc.index(faulty, True).as_py()
    if row >= 0:
        raise UserError(f"{file}: row {row} (counted from 0) {what}; fix or remove it.")


def _by_split(rows: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Yield the rows of each split, where the folders that the files are in are named like splits."""
    image = next(name for name, feature in rows.features.items() if isinstance(feature, Image))
    folders = pc.replace_substring_regex(pc.struct_field(arrow_column(rows, image), "path"), "/.*", "")
    names = pc.unique(folders).to_pylist()
    if not all(split_role(name) for name in names):
        yield "train", rows
        return
    table = rows.with_format("arrow")[:]
    for name in names:
        part = table.filter(pc.equal(folders, name))
        columns = {column: part[column].combine_chunks() for column in part.column_names}
        yield name, Dataset.from_dict(columns, features=rows.features)


def _unnamed(folder: Path, file: Path, rows: Dataset) -> list[str]:
    """Return a note of the images in a folder that its metadata does not name, or nothing."""
    named = {
        str(name).replace("\\", "/").removeprefix("./")
        for column in _file_columns(rows)
        for name in arrow_column(rows, column).to_pylist()
    }
    left = [name for name in image_files(str(folder), "", LeftOut()) if name not in named]
    if not left:
        return []
    images, them = ("1 image is", "it") if len(left) == 1 else (f"{len(left):,} images are", "them")
    return [f"{images} not used, because {file} does not name {them}: {listing(left, 3)}."]


def matches(location: Location) -> bool:
    """Return whether a dataset is of this kind."""
    folder = folder_of(location)
    return folder is not None and bool(find_metadata(folder))


def read(location: Location) -> RawDataset:
    """Read the dataset at a location that matches."""
    return read_metadata_folder(path_of(location), location.label_columns)
