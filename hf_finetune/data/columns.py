"""Finding the columns of images and labels, and images of any storage as one kind of column."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_finetune.data.images.decoding import ARRAY_EXTENSION, IMAGE_EXTENSIONS
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError, did_you_mean

SPLIT_COLUMN = "split"  # a table's column of this name assigns each row to a split

_NAMES = (*IMAGE_EXTENSIONS, ARRAY_EXTENSION)
_IMAGE_NAME = rf"(?i)({'|'.join(extension.replace('.', '[.]') for extension in _NAMES)})$"
_ABSOLUTE_PATH = r"^(/|\\\\|[A-Za-z]:[\\/])"
_URL = r"^(?i)([a-z][a-z0-9+.-]+://|data:)"
_IMAGE_STORAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def find_image_column(raw: RawDataset, split: str, wanted: str | None, expected: str | None = None) -> str:
    """Find the column of images of a split.

    Args:
        raw: The source's splits.
        split: The split to look in.
        wanted: The user's choice, which must exist; None without.
        expected: The catalog's column, which may be missing.

    Returns:
        The wanted or expected column; else the one column of type Image, or of bytes, or of strings that all end like
        the names of image files.

    Raises:
        UserError: The wanted column does not exist or cannot hold images, or not exactly one column qualifies.
    """
    dataset = raw.splits[split]
    features = dataset.features
    if wanted is None and expected in features:
        wanted = expected
    if wanted is not None:
        _check_column(raw, split, "image_column", wanted)
        if not (_is_image(features[wanted]) or _is_bytes(features[wanted]) or _is_string(features[wanted])):
            raise UserError(
                f'image_column: "{wanted}" of {raw.source} is {_type_name(features[wanted])}; images are files: a'
                " column of type Image, of their bytes, or of their paths."
            )
        return wanted
    kinds: tuple[Callable[[str], bool], ...] = (
        lambda name: _is_image(features[name]),
        lambda name: _is_bytes(features[name]),
        lambda name: _is_string(features[name]) and _all_image_names(dataset, name),
    )
    for kind in kinds:
        candidates = [name for name in features if kind(name)]
        if candidates:
            return _the_one(raw, split, "image", candidates)
    for name in filter(lambda name: _is_string(features[name]), features):
        _refuse_urls(raw, split, name, arrow_column(dataset, name))
    raise UserError(
        f"{raw.source}: no column of split {split} holds images; the columns are {_describe(features)}."
        " Use --image_column NAME if one of them does."
    )


def find_label_column(
    raw: RawDataset,
    split: str,
    image_column: str,
    wanted: str | None,
    expected: str | None = None,
    not_labels: Collection[str] = (),
) -> str:
    """Find the column of labels of a split, which is none of groups or slices, `not_labels`; see `find_image_column`.

    Returns:
        The wanted or expected column; else the one ClassLabel, or the one column of names or integers that is not the
        image column. Integers that a tool stored as floats, beside missing values, count if the column is called
        `label` or there is no other. Lists count if their column is called `label` or `labels` or there is no other.

    Raises:
        UserError: The wanted column does not exist, or not exactly one column qualifies.
    """
    features = raw.splits[split].features
    if wanted is None and expected in features:
        wanted = expected
    if wanted is not None:
        _check_column(raw, split, "label_column", wanted)
        return wanted
    others = [name for name in features if name not in (image_column, SPLIT_COLUMN, *not_labels)]
    lists = [name for name in others if list_item(features[name]) is not None]
    candidates = _with_class_labels(features, others)
    if not candidates:
        candidates = [name for name in others if _is_string(features[name]) or _is_integer(features[name])]
        candidates = (candidates + [name for name in ("label", "labels") if name in lists]) or lists
    if "label" not in candidates:
        whole = [name for name in others if _holds_whole_floats(raw.splits[split], name)]
        candidates = ["label"] if "label" in whole else candidates or whole
    if not candidates:
        raise UserError(
            f"{raw.source}: no column of split {split} holds labels; the columns are {_describe(features)}."
            " Use --label_column NAME if one of them does."
        )
    return _the_one(raw, split, "label", candidates)


def refuse_labels(raw: RawDataset, split: str, key: str, columns: Collection[str | None], expected: str | None) -> None:
    """Check that columns with another use are not that of the labels: expected, so called, or the only ClassLabel.

    Args:
        raw: The source.
        split: The split whose columns are looked at.
        key: What the columns are used for, a key of the recipe.
        columns: Their names.
        expected: The column that a named dataset has the labels in.

    Raises:
        UserError: One of them is.
    """
    features = raw.splits[split].features
    class_labels = _with_class_labels(features, features)
    labels = _called_labels(features, expected) | set(class_labels if len(class_labels) == 1 else ())
    for name in labels.intersection(columns):
        has_figures = ", and each class has figures of its own" if key == "slice_columns" else ""
        raise UserError(
            f"{key}: {name} is the column of labels of {raw.source}{has_figures}; use another column, or also"
            " --label_column NAME if the labels are in that one."
        )


def find_columns_of_classes(
    raw: RawDataset, split: str, image_column: str, expected: str | None = None, not_labels: Collection[str] = ()
) -> list[str]:
    """Find columns of 0 and 1 that are one class each, where no other column could be that of the labels.

    Returns:
        Their names, two at least; an empty list where `find_label_column` has to find the labels.
    """
    dataset = raw.splits[split]
    if _called_labels(dataset.features, expected):
        return []
    not_classes = (image_column, SPLIT_COLUMN, *not_labels)
    others = {name: kind for name, kind in dataset.features.items() if name not in not_classes}
    classes = [name for name in others if holds_classes(dataset, name)]
    rivals = [
        name
        for name, kind in others.items()
        if isinstance(kind, ClassLabel) or _is_string(kind) or _is_integer(kind) or list_item(kind) is not None
    ]
    return classes if len(classes) > 1 and set(rivals) <= set(classes) else []


def _called_labels(features: Features, expected: str | None) -> set[str]:
    """Return the columns that are those of labels by their names."""
    return {name for name in features if name in ("label", "labels", expected)}


def _with_class_labels(features: Features, names: Iterable[str]) -> list[str]:
    """Return those of some columns whose values are classes by their type, one or a list of them."""
    return [name for name in names if isinstance(list_item(features[name]) or features[name], ClassLabel)]


def holds_classes(dataset: Dataset, column: str) -> bool:
    """Return whether a column holds nothing but 0 and 1, or false and true."""
    feature, values = dataset.features[column], arrow_column(dataset, column)
    if not isinstance(feature, Value) or not (_is_integer(feature) or feature.dtype.startswith("float")):
        return False
    known = len(values) > 0 and values.null_count == 0
    if known and not pa.types.is_boolean(values.type):
        known = bool(pc.all(pc.or_(pc.equal(values, 0), pc.equal(values, 1))).as_py())
    return known


def image_dataset(raw: RawDataset, split: str, column: str) -> Dataset:
    """Return a split's images as the one column `image` of type Image(decode=False); none is decoded.

    Relative paths are resolved against the source's folder.

    Raises:
        UserError: An image is a URL.
    """
    images = raw.splits[split].with_format(None).select_columns([column])
    if column != "image":
        images = images.rename_column(column, "image")
    images = images.cast_column("image", Image(decode=False))
    paths, is_file = image_paths(images), pc.is_null(image_lengths(images))
    _refuse_urls(raw, split, column, pc.if_else(is_file, paths, None))
    relative = pc.and_(is_file, pc.invert(pc.match_substring_regex(paths, _ABSOLUTE_PATH)))
    if raw.folder is None or not pc.any(relative).as_py():
        return images
    folder = str(raw.folder.absolute())
    paths = pc.if_else(relative, pc.binary_join_element_wise(folder, paths, "/"), paths)
    contents = pc.struct_field(arrow_column(images, "image"), "bytes")
    storage = pa.StructArray.from_arrays([_one_chunk(contents), _one_chunk(paths)], fields=list(_IMAGE_STORAGE))
    return Dataset.from_dict({"image": storage}, features=Features({"image": Image(decode=False)}))


def arrow_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """Return a column as Arrow stores it: not decoded, and not copied unless rows were selected.

    Where they were, the copy of a column of images would take as much memory as they do: see `RowsOf`.
    """
    return _selected(dataset, dataset.data.column(column))


def image_paths(images: Dataset) -> pa.ChunkedArray:
    """Return the paths in the column `image`, strings; no image is copied."""
    return _selected(images, pc.struct_field(images.data.column("image"), "path"))


def image_lengths(images: Dataset) -> pa.ChunkedArray:
    """Return the numbers of bytes in the column `image`, integers, null for files; no image is copied."""
    return _selected(images, pc.binary_length(pc.struct_field(images.data.column("image"), "bytes")))


def _selected(dataset: Dataset, values: pa.ChunkedArray) -> pa.ChunkedArray:
    # `datasets` would make a Python object of each selected row.
    return values if dataset._indices is None else values.take(dataset._indices.column(0))


def label_array(dataset: Dataset) -> npt.NDArray[Any]:
    """Return the column `label` of a split: class ids, int32 (rows,), or which classes each row has, bool (rows, n)."""
    column = arrow_column(dataset, "label")
    if not pa.types.is_fixed_size_list(column.type):
        ids: npt.NDArray[Any] = column.to_numpy()
        return ids
    flat = _one_chunk(column).flatten().to_numpy(zero_copy_only=False)
    several: npt.NDArray[Any] = flat.reshape(-1, column.type.list_size)
    return several


def index_array(dataset: Dataset) -> npt.NDArray[np.int32]:
    """Return the column `sample_index` of a split: the rows in the source's split, int32 of shape (rows,)."""
    rows: npt.NDArray[np.int32] = arrow_column(dataset, "sample_index").to_numpy()
    return rows


class RowsOf:
    """Reads a few rows of a column at a time. Arrow's `take` of a chunked array would copy all of its chunks first."""

    def __init__(self, dataset: Dataset, column: str) -> None:
        """Find out where the chunks of the column begin."""
        self._column = dataset.data.column(column)
        self._ends = np.cumsum([len(chunk) for chunk in self._column.chunks], dtype=np.int64)
        indices = dataset._indices
        self._stored_rows = None if indices is None else indices.column(0).to_numpy()
        self._count = len(dataset)

    def __len__(self) -> int:
        return self._count

    def read(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """Return the values of some rows, (rows,), as Python objects in their order."""
        stored = rows if self._stored_rows is None else self._stored_rows[rows].astype(np.int64)
        chunk_of = np.searchsorted(self._ends, stored, side="right")
        values = [None] * len(rows)
        for number in np.unique(chunk_of).tolist():
            chunk, places = self._column.chunk(number), np.flatnonzero(chunk_of == number)
            within = stored[places] - (self._ends[number] - len(chunk))
            for place, value in zip(places.tolist(), chunk.take(pa.array(within)).to_pylist(), strict=True):
                values[place] = value
        return values


def are_files(images: Dataset) -> bool:
    """Whether all images are separate files and none is bytes in the dataset; rows outside a selection count too."""
    return bool(pc.all(pc.is_null(pc.struct_field(images.data.column("image"), "bytes"))).as_py())


def _one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _refuse_urls(raw: RawDataset, split: str, column: str, paths: pa.ChunkedArray) -> None:
    """Raise `UserError` where a path is a URL. Only its beginning is shown, because the rest may hold a password."""
    row = pc.index(pc.match_substring_regex(paths, _URL), True).as_py()
    if row >= 0:
        kind = paths[row].as_py().partition(":")[0].lower()
        raise UserError(
            f"{raw.source}: column {column} of split {split} holds URLs ({kind}: in row {row}, counted from 0);"
            " download the images and use their paths."
        )


def _check_column(raw: RawDataset, split: str, argument: str, name: str) -> None:
    features = raw.splits[split].features
    if name not in features:
        raise UserError(
            f'{argument}: {raw.source} has no column "{name}" in split {split}.{did_you_mean(name, features)}'
            f" The columns are {_describe(features)}."
        )


def _the_one(raw: RawDataset, split: str, name: str, candidates: list[str]) -> str:
    """Return the only candidate, or among several the one with the conventional `name`, or its plural."""
    conventional = next((wanted for wanted in (name, f"{name}s") if wanted in candidates), None)
    if len(candidates) > 1 and conventional is None:
        features = raw.splits[split].features
        raise UserError(
            f"{raw.source}: {len(candidates)} columns could hold the {name}s:"
            f" {_describe({candidate: features[candidate] for candidate in candidates})}."
            f" Use --{name}_column {candidates[0]} or another."
        )
    return conventional or candidates[0]


def list_item(feature: object) -> object | None:
    """Return the type of the items of a column of lists of names, numbers or classes; None for any other column."""
    item = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if isinstance(item, ClassLabel) or _is_string(item) or _is_integer(item):
        return item
    # Lists that are all empty are of the type null.
    return item if isinstance(item, Value) and (item.dtype.startswith("float") or item.dtype == "null") else None


def _describe(features: Mapping[str, object]) -> str:
    return ", ".join(f"{name} ({_type_name(feature)})" for name, feature in features.items())


def _type_name(feature: object) -> str:
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def _is_image(feature: object) -> bool:
    return isinstance(feature, Image)


def _is_bytes(feature: object) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature and set(feature) <= {"bytes", "path"}
    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")


def _is_string(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def _is_integer(feature: object) -> bool:
    return isinstance(feature, Value) and (feature.dtype.lstrip("u").startswith("int") or feature.dtype == "bool")


def _holds_whole_floats(dataset: Dataset, column: str) -> bool:
    feature = dataset.features[column]
    if not (isinstance(feature, Value) and feature.dtype.startswith("float")):
        return False
    values = pc.fill_null(arrow_column(dataset, column), 0)
    return bool(pc.all(pc.or_(pc.is_nan(values), pc.equal(pc.round(values), values))).as_py())


def _all_image_names(dataset: Dataset, column: str) -> bool:
    names = arrow_column(dataset, column)
    return len(names) > 0 and bool(pc.all(pc.match_substring_regex(names, _IMAGE_NAME)).as_py())
