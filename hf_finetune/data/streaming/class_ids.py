"""Labels of a stream become class ids while they are read, by the classes of the reference split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel

from hf_finetune.data.class_names import tidy_name
from hf_finetune.data.labels import UNLABELLED, tidied_texts
from hf_finetune.data.streaming.shards import ParquetShards
from hf_finetune.data.streaming.tars import LabelSurvey, TarShards
from hf_finetune.errors import UserError, listing


def read_classes(
    source: str,
    split: str,
    feature: Any,
    shards: ParquetShards | TarShards,
    num_labels: int | None,
    label_strip: bool = False,
) -> tuple[list[str], pa.Array]:
    """Find out which classes there are.

    They are those of a ClassLabel, in its order; else the distinct labels of `shards`, sorted, for which only the
    labels are fetched.

    Args:
        source: What messages call the dataset.
        split: The split that defines the classes.
        feature: The type of the label column, of `datasets`.
        shards: The split's shards.
        num_labels: The number of classes that the user stated. Needed where labels are in tars on another machine: then
            they are the integers 0 to num_labels - 1.
        label_strip: Whether names are tidied (`class_names.tidy_name`) before they are compared.

    Returns:
        The class names, and the values of the labels (names or integers), both in the order of class ids.

    Raises:
        UserError: A label is missing, there are fewer than two classes, or the classes cannot be known.
    """
    tidied = tidy_name if label_strip else str
    if isinstance(feature, ClassLabel):
        names = list(dict.fromkeys(map(tidied, feature.names)))
        return names, pa.array(names, pa.string())
    if isinstance(shards, TarShards) and not all(file.is_local for file in shards.files):
        if num_labels is None:
            raise UserError(
                f"{source}: the classes of its tars are not known before they are read; use --num_labels N for"
                " labels from 0 to N-1, or put their names into README.md as the feature of the column"
                f" {shards.label_field} in dataset_info."
            )
        return [str(number) for number in range(num_labels)], pa.array(range(num_labels), pa.int64())
    different: set[Any] = set()
    first_row = 0
    for survey in _surveys(source, split, shards):
        if survey.first_without is not None:
            raise UserError(
                f"{source}: the label in row {first_row + survey.first_without} of split {split} (counted from 0) is"
                " missing; label this image or remove it."
            )
        different.update(survey.labels)
        first_row += survey.samples
    if label_strip or len({type(value) for value in different}) > 1:
        different = {tidied(str(value)) for value in different}
    if len(different) < 2:
        only = f" ({', '.join(map(str, different))})" if different else ""
        raise UserError(f"{source}: split {split} has {len(different)} class{only}; a classifier needs two at least.")
    ordered = sorted(different)
    return [str(value) for value in ordered], pa.array(ordered)


def _surveys(source: str, split: str, shards: ParquetShards | TarShards) -> Iterator[LabelSurvey]:
    """Yield the survey of the labels of each file."""
    if isinstance(shards, TarShards):
        yield from shards.surveys
        return
    for labels in shards.labels():
        values = plain_values(source, split, labels)
        blank = pc.equal(values, "" if pa.types.is_string(values.type) else UNLABELLED)
        row = pc.index(pc.fill_null(blank, True), True).as_py()
        yield LabelSurvey(len(values), pc.unique(values).to_pylist(), None if row < 0 else row)


def plain_values(source: str, split: str, labels: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return labels of any kind as strings or 64-bit integers. Raises `UserError` where they are neither."""
    values = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type):
        return values
    try:
        if pa.types.is_boolean(values.type) or pa.types.is_large_string(values.type):
            return values.cast(pa.string())
        return values.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{source}: the labels of split {split} are {values.type}; a label is one class per image, written as a"
            " ClassLabel, a name or a whole number. Use --label_column NAME for another column."
        ) from error


@dataclass(frozen=True)
class ClassIds:
    """Maps the labels of a split to class ids. Other splits than the reference are mapped by the labels' values.

    Attributes:
        source: What messages call the dataset.
        split: The split.
        feature: The type of its label column, of `datasets`.
        known: The labels' values in the order of class ids, from the split `reference`.
        reference: The split that defines the classes.
        label_strip: Whether names are tidied before they are compared.
    """

    source: str
    split: str
    feature: Any
    known: pa.Array
    reference: str
    label_strip: bool = False

    def __call__(self, labels: pa.Array, rows: Sequence[int]) -> list[int]:
        """Return the ids of labels.

        Args:
            labels: The labels as they are stored.
            rows: Their row numbers in the split, for messages.

        Raises:
            UserError: A label is missing or is none of the classes.
        """
        known, keys = self.known, plain_values(self.source, self.split, labels)
        if isinstance(self.feature, ClassLabel):
            names = pa.array(self.feature.names, pa.string())
            outside = pc.or_(pc.less(keys, 0), pc.greater_equal(keys, len(names)))
            keys = names.take(pc.if_else(outside, None, keys))
        if self.label_strip and pa.types.is_string(keys.type):
            keys = tidied_texts(pa.chunked_array([keys])).combine_chunks()
        if keys.type != known.type:
            known, keys = known.cast(pa.string()), keys.cast(pa.string())
        ids = pc.index_in(keys, value_set=known)
        if ids.null_count:
            first = ids.to_pylist().index(None)
            raise UserError(
                f"{self.source}: row {rows[first]} of split {self.split} (counted from 0) has the label"
                f" {labels[first].as_py()!r}, which is none of the {len(self.known):,} classes of {self.reference}:"
                f" {listing(self.known.to_pylist())}; fix it or remove the image."
            )
        class_ids: list[int] = ids.to_pylist()
        return class_ids
