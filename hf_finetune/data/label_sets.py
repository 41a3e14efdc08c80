"""Several labels an image: from lists, from texts with a separator and from columns of 0 and 1 to arrays of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features

from hf_finetune.data.columns import arrow_column, holds_classes, list_item
from hf_finetune.data.labels import Labels, map_labels
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError


def are_label_sets(raw: RawDataset, split: str, columns: Sequence[str], separator: str | None) -> bool:
    """Return whether the labels of a split say several classes for each image."""
    return len(columns) > 1 or separator is not None or list_item(raw.splits[split].features[columns[0]]) is not None


def map_label_sets(
    raw: RawDataset,
    columns: Mapping[str, Sequence[str] | None],
    reference: str,
    separator: str | None = None,
    label_strip: bool = False,
) -> Labels:
    """Map labels that name several classes for each image.

    Args:
        raw: The source's splits.
        columns: By split, its column of lists or of texts, or its columns of 0 and 1; None where it has none.
        reference: The split that defines the classes; see `map_labels`.
        separator: What separates the names in a text; blanks around them do not count.
        label_strip: See `map_labels`.

    Returns:
        The class names, and by split which classes each row has, bool (rows, classes).

    Raises:
        UserError: A label is missing, impossible or unknown to the reference, or there are fewer than two classes.
    """
    unlabelled = {split: "has no label column" for split, names in columns.items() if names is None}
    flat = {split: _flatten(raw, split, names, separator) for split, names in columns.items() if names is not None}
    for split, own in flat.items():
        if own is None or not len(own.labels):
            unlabelled[split] = "has no labels (no image has one)"
    if reference in unlabelled:
        raise UserError(f"{raw.source}: split {reference} {unlabelled[reference]}; nothing can be learned from it.")
    known = {split: own for split, own in flat.items() if own is not None and split not in unlabelled}
    single = RawDataset({split: own.labels for split, own in known.items()}, raw.source)
    result = map_labels(
        single, {split: own.labels.column_names[0] for split, own in known.items()}, reference, label_strip
    )
    result.unlabelled = {**unlabelled, **result.unlabelled}
    for split, ids in result.ids.items():
        several = np.zeros((known[split].count, len(result.names)), dtype=bool)
        several[known[split].rows, ids] = True
        result.ids[split] = several
    result.notes.append(_describe(result.ids[reference], reference))
    return result


def _describe(labels: npt.NDArray[np.bool_], split: str) -> str:
    numbers = labels.sum(axis=1)
    without = int((numbers == 0).sum())
    none = f"; {without:,} have none" if without else ""
    return f"Images of {split} have {numbers.min()} to {numbers.max()} labels, {numbers.mean():.2f} on average{none}."


@dataclass(frozen=True)
class _Flat:
    """The labels of a split one after the other.

    Attributes:
        labels: Its one column, a row for each label.
        rows: The row of the split that each label is of, int64 (labels,).
        count: The number of rows of the split.
    """

    labels: Dataset
    rows: npt.NDArray[np.int64]
    count: int


def _flatten(raw: RawDataset, split: str, columns: Sequence[str], separator: str | None) -> _Flat | None:
    """Return the labels of a split, None where every image lacks them."""
    dataset, first = raw.splits[split], columns[0]
    if len(columns) > 1:
        return _of_classes(np.stack([_zero_or_one(raw, split, column) for column in columns], axis=1), columns)
    values, item = arrow_column(dataset, first), list_item(dataset.features[first])
    if values.null_count == len(values):
        return None
    if values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        raise UserError(
            f"{raw.source}: {values.null_count:,} of {len(values):,} rows of split {split} have nothing in column"
            f" {first}, the first is row {row} (counted from 0); use an empty {'text' if item is None else 'list'} for"
            " an image without a label, or remove these images."
        )
    if item is None:
        values = _split_texts(raw, split, first, values, separator)
    elif separator is not None:
        raise UserError(
            f"label_separator divides texts, and column {first} of split {split} holds lists; leave it out."
        )
    elif not isinstance(item, ClassLabel) and (several := _as_vectors(values)) is not None:
        return _of_classes(several, [str(number) for number in range(several.shape[1])])
    parts = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    rows = pc.list_parent_indices(parts).to_numpy().astype(np.int64)
    labels = pc.list_flatten(parts)
    if labels.null_count:
        row = int(rows[pc.index(pc.is_null(labels), True).as_py()])
        raise UserError(
            f"{raw.source}: a list in column {first} of split {split} holds nothing (null) as a label, in row {row}"
            " (counted from 0); remove it from the list."
        )
    features = Features({first: item}) if isinstance(item, ClassLabel) else None
    return _Flat(Dataset.from_dict({first: labels}, features=features), rows, len(dataset))


def _zero_or_one(raw: RawDataset, split: str, column: str) -> npt.NDArray[np.bool_]:
    if not holds_classes(raw.splits[split], column):
        raise UserError(
            f"{raw.source}: column {column} of split {split} is one of several label columns, and holds other values"
            " than 0 and 1; fix them, or use --label_column with the columns that are classes."
        )
    return arrow_column(raw.splits[split], column).to_numpy().astype(bool)


def _of_classes(several: npt.NDArray[np.bool_], names: Sequence[str]) -> _Flat:
    rows, ids = np.nonzero(several)
    name = "label"
    labels = Dataset.from_dict({name: ids}, features=Features({name: ClassLabel(names=list(names))}))
    return _Flat(labels, rows, len(several))


def _split_texts(
    raw: RawDataset, split: str, column: str, values: pa.ChunkedArray, separator: str | None
) -> pa.ChunkedArray:
    """Return the parts of texts as lists, without blanks around them and without empty ones."""
    if separator is None:
        raise UserError(
            f"{raw.source}: column {column} holds lists in another split, and {values.type} in split {split}; use one"
            " kind for both."
        )
    try:
        texts = values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{raw.source}: label_separator divides texts, and column {column} of split {split} holds {values.type};"
            " leave it out, or use --label_column NAME for another column."
        ) from error
    parts = [[part for part in map(str.strip, text.split(separator)) if part] for text in texts.to_pylist()]
    return pa.array(parts, pa.list_(pa.string()))


def _as_vectors(values: pa.ChunkedArray) -> npt.NDArray[np.bool_] | None:
    """Return lists of 0 and 1 that have one length, two at least, as an array (rows, length); None for others.

    They are no class ids: two images of the same two classes would be all that there is.
    """
    lengths = pc.unique(pc.list_value_length(values)).to_pylist()
    if len(lengths) != 1 or lengths[0] < 2:
        return None
    flat = pc.list_flatten(values)
    flat = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    if flat.null_count or pa.types.is_string(flat.type) or pa.types.is_large_string(flat.type):
        return None
    if not pa.types.is_boolean(flat.type) and not pc.all(pc.or_(pc.equal(flat, 0), pc.equal(flat, 1))).as_py():
        return None
    return flat.to_numpy(zero_copy_only=False).astype(bool).reshape(-1, lengths[0])
