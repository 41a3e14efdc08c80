"""Labels of any kind become class ids 0 to n-1, with one list of class names for all splits.

Whole Arrow columns are converted at once; no row becomes a Python object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from hf_finetune.data.class_names import hint_at_strip, note_similar_names, note_stripped, tidy_name
from hf_finetune.data.columns import arrow_column, label_array
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError, listing
from hf_finetune.tasks import ONE_LABEL, SEVERAL_LABELS, Task

_EXACT = 2.0**53  # from here on a 64-bit float does not hold every integer
_NO_NAME = re.compile(r"(LABEL_)?[0-9]+|None")  # what Transformers calls a class that nobody named
UNLABELLED = -1  # the Hub's convention for hidden labels


@dataclass
class Labels:
    """The class names and the class ids of each split.

    Attributes:
        names: The n class names.
        ids: By split, int32 of shape (rows,), 0 to n-1; or which classes each row has, bool (rows, n).
        unlabelled: The splits without labels, with the reason in words. They have no ids.
        notes: Sentences that the user should read.
    """

    names: list[str]
    ids: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    unlabelled: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """What a label says of an image."""
        return SEVERAL_LABELS if any(ids.ndim == 2 for ids in self.ids.values()) else ONE_LABEL


def map_labels(raw: RawDataset, columns: Mapping[str, str | None], reference: str, label_strip: bool = False) -> Labels:
    """Map the labels of splits to class ids.

    Args:
        raw: The source's splits.
        columns: The label column of each split, None where it has none.
        reference: The split that defines the classes (train). The names of a ClassLabel keep their order; strings are
            sorted, and integers are sorted as numbers. Other splits are mapped by name, so the order of their own
            classes does not matter.
        label_strip: Whether names are tidied (`class_names.tidy_name`) before they are compared.

    Returns:
        The class names, and the ids of each split that has labels.

    Raises:
        UserError: A label is missing, impossible or unknown to the reference, or there are fewer than two classes.
    """
    values = {split: _read_labels(raw, split, column) for split, column in columns.items() if column is not None}
    unlabelled = {split: "has no label column" for split, column in columns.items() if column is None}
    for split, labels in values.items():
        missing = _missing(labels.values)
        if len(missing) and pc.all(missing).as_py():
            unlabelled[split] = f"has no labels (all are {labels.values[0].as_py()})"
    if reference in unlabelled:
        raise UserError(f"{raw.source}: split {reference} {unlabelled[reference]}; nothing can be learned from it.")

    notes = []
    if label_strip:
        written = _names_of(values[reference])
        values = {split: _tidied(labels) for split, labels in values.items()}
        notes = note_stripped(written, _names_of(values[reference]))
    known, names, more = _classes(raw, reference, values[reference])
    notes += more + note_similar_names(names)
    result = Labels(names, unlabelled=unlabelled, notes=notes)
    for split, labels in values.items():
        if split not in unlabelled:
            result.ids[split] = _to_ids(raw, split, labels, known, reference)
    return result


def missing_classes(ids: npt.NDArray[Any], names: list[str]) -> list[str]:
    """Return the names of the classes that no row has; `ids` are labels as `Labels` has them."""
    counts = np.bincount(ids, minlength=len(names)) if ids.ndim == 1 else ids.sum(axis=0)
    return [name for name, count in zip(names, counts, strict=True) if not count]


@dataclass
class _LabelValues:
    """The labels of one split as int64 or string, and the class names where the column is a ClassLabel."""

    values: pa.ChunkedArray
    names: list[str] | None


def _names_of(labels: _LabelValues) -> list[str]:
    """Return the different names of a split's labels; none for integers."""
    if labels.names is not None:
        return list(dict.fromkeys(labels.names))
    return pc.unique(labels.values).drop_null().to_pylist() if pa.types.is_string(labels.values.type) else []


def _tidied(labels: _LabelValues) -> _LabelValues:
    if labels.names is not None:
        return replace(labels, names=[tidy_name(name) for name in labels.names])
    if not pa.types.is_string(labels.values.type):
        return labels
    return replace(labels, values=tidied_texts(labels.values))


def tidied_texts(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts as `tidy_name` has them; each different text is tidied once."""
    pieces = []
    for chunk in texts.chunks:
        encoded = chunk.dictionary_encode()
        tidy = pa.array(
            [None if name is None else tidy_name(name) for name in encoded.dictionary.to_pylist()], pa.string()
        )
        pieces.append(tidy.take(encoded.indices))
    return pa.chunked_array(pieces, pa.string())


def _read_labels(raw: RawDataset, split: str, column: str) -> _LabelValues:
    feature = raw.splits[split].features[column]
    values = arrow_column(raw.splits[split], column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    type_ = values.type
    if pa.types.is_boolean(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        values = values.cast(pa.string())
    elif pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_null(type_):
        if pa.types.is_floating(type_):  # integers with a missing value among them are often stored as floats
            values = pc.if_else(pc.is_nan(values), None, values)
            if pc.any(pc.greater_equal(pc.abs(values), _EXACT)).as_py():
                raise UserError(
                    f"{raw.source}: the labels of split {split} (column {column}) are floats too large to tell one"
                    " integer from the next; save them as text."
                )
        try:
            values = values.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{raw.source}: the labels of split {split} (column {column}) are not whole numbers;"
                " a label is a class, written as a name or an integer."
            ) from error
    elif not pa.types.is_string(type_):
        raise UserError(
            f"{raw.source}: column {column} of split {split} holds {type_}; a label is one class per image, written as"
            " a ClassLabel, a name or an integer. Use --label_column NAME for another column."
        )
    return _LabelValues(values, list(feature.names) if isinstance(feature, ClassLabel) else None)


def _missing(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(values.type):
        blank = pc.equal(pc.utf8_trim_whitespace(values), "")
    else:
        blank = pc.equal(values, UNLABELLED)
    return pc.or_kleene(pc.is_null(values), blank)


def _keys(raw: RawDataset, split: str, labels: _LabelValues) -> tuple[pa.Array, pa.Array]:
    """Return the different values of a split's labels, none of which is missing, and the key that each is mapped by.

    Keys are names where there are any, else integers. Of a ClassLabel, only the names of different values are looked
    up: the name of each row would take several times the memory of its class id.
    """
    values = labels.values
    _refuse(
        raw,
        split,
        _missing(values),
        "are missing (empty" + (f" or {UNLABELLED})" if pa.types.is_integer(values.type) else ")"),
        "label these images or remove them",
    )
    different = pc.unique(values)
    if labels.names is None:
        return different, different
    last = len(labels.names) - 1
    outside = pc.or_(pc.less(values, 0), pc.greater(values, last))
    _refuse(raw, split, outside, f"are outside the range 0 to {last} of its {last + 1} classes", "fix them")
    return different, pa.array(labels.names, pa.string()).take(different)


def _refuse(raw: RawDataset, split: str, faulty: pa.ChunkedArray, what: str, remedy: str) -> None:
    count = pc.sum(faulty).as_py() or 0
    if count:
        row = pc.index(faulty, True).as_py()
        raise UserError(
            f"{raw.source}: {count:,} of {len(faulty):,} labels of split {split} {what}, the first in row {row}"
            f" (counted from 0); {remedy}."
        )


def _classes(raw: RawDataset, reference: str, labels: _LabelValues) -> tuple[pa.Array, list[str], list[str]]:
    present = pc.unique(_keys(raw, reference, labels)[1])
    present = present.take(pc.sort_indices(present))
    if len(present) < 2:
        raise UserError(
            f"{raw.source}: split {reference} has {len(present)} class"
            f"{'' if not len(present) else f' ({present[0].as_py()})'}; a classifier needs two at least."
        )
    if labels.names is None:
        return present, [str(key) for key in present.to_pylist()], []
    found = set(present.to_pylist())
    absent = [name for name in dict.fromkeys(labels.names) if name not in found]
    notes = []
    if absent:
        notes.append(
            f"{len(absent):,} of {len(labels.names):,} classes have no image in {reference}: {listing(absent)}."
        )
    names = list(dict.fromkeys(labels.names))
    return pa.array(names, pa.string()), names, notes


def _to_ids(
    raw: RawDataset, split: str, labels: _LabelValues, known: pa.Array, reference: str
) -> npt.NDArray[np.int32]:
    different, keys = _keys(raw, split, labels)
    kinds = {pa.string(): "names", pa.int64(): "integers"}
    types = known.type, keys.type
    if types[0] != types[1]:  # 1 and 2 are integers in one file, and text beside 03 in another
        known, keys = known.cast(pa.string()), keys.cast(pa.string())
    ids = pc.index_in(keys, value_set=known)
    if types[0] != types[1] and ids.null_count == len(ids):
        raise UserError(
            f"{raw.source}: the labels are {kinds[types[0]]} in split {reference}, but {kinds[types[1]]} in split"
            f" {split}; use one kind for both."
        )
    unknown = pc.unique(keys.filter(pc.is_null(ids))).to_pylist()
    if unknown:
        raise UserError(
            f"{raw.source}: split {split} has {'a label' if len(unknown) == 1 else f'{len(unknown)} labels'} that"
            f" split {reference} does not have: {listing(sorted(unknown))}; remove these images or add the class to"
            f" {reference}.{hint_at_strip(map(str, unknown), map(str, known.to_pylist()))}"
        )
    table: npt.NDArray[np.int32] = ids.to_numpy()
    return table[pc.index_in(labels.values, value_set=different).to_numpy()]


def match_classes(dataset: Dataset | None, label_names: Sequence[str], model_names: list[str]) -> list[int]:
    """Match the classes of a dataset with those of a model by name.

    Args:
        dataset: The split that is evaluated, with the column `label`. A class without images in it may be unknown to
            the model. None where the images are not known beforehand, so that every class must be known.
        label_names: The dataset's class names by class id.
        model_names: The model's class names by class id.

    Returns:
        For each class id of the dataset the model's id of that class; `UNLABELLED` for one that the model lacks.

    Raises:
        UserError: The model lacks a class that has images, or several of its classes have the name of one.
    """
    position = {name: number for number, name in enumerate(model_names)}
    absent = [] if dataset is None else missing_classes(label_array(dataset), list(label_names))
    wanted = [name for name in label_names if name not in absent]
    repeated = [name for name in wanted if model_names.count(name) > 1]
    if repeated:
        ids = [number for number, name in enumerate(model_names) if name == repeated[0]]
        raise UserError(
            f"The model has {len(ids)} classes of the name {repeated[0]} ({listing(ids)}), which cannot be matched by"
            " name; correct id2label in its config.json, or use --labels_by_index if the dataset has the classes in the"
            " model's order."
        )
    unknown = [name for name in wanted if name not in position]
    if unknown and all(map(_NO_NAME.fullmatch, model_names)):
        raise UserError(
            f"The model's classes have no names ({listing(model_names, 3)}) that could be matched with the dataset's"
            f" ({listing(label_names, 3)}); if both have the same order, use --labels_by_index."
        )
    if unknown:
        raise UserError(
            f"The model does not know {len(unknown)} of the dataset's classes: {listing(unknown)}."
            f" It knows {listing(model_names)}.{hint_at_strip(unknown, model_names)}"
        )
    return [position.get(name, UNLABELLED) for name in label_names]


def match_by_index(label_names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    """Match the classes of a dataset with those of a model by their order (`labels_by_index`).

    Args:
        label_names: The dataset's class names by class id. Names that are all class ids of the model are taken for
            these, so integer labels keep their value where one of them has no images.
        model_names: The model's class names by class id.

    Returns:
        For each class id of the dataset the model's.

    Raises:
        UserError: The dataset has more classes.
    """
    if len(label_names) > len(model_names):
        raise UserError(
            f"labels_by_index: the dataset has {len(label_names):,} classes and the model {len(model_names):,}; use a"
            " model that was trained on these classes."
        )
    numbers = {str(number): number for number in range(len(model_names))}
    if all(name in numbers for name in label_names):
        return [numbers[name] for name in label_names]
    return list(range(len(label_names)))
