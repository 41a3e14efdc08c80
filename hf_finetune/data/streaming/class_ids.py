"""Labels of a stream become class ids as they are read, by the classes that the first split has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel

from hf_finetune.data.labels import UNLABELLED
from hf_finetune.data.streaming.shards import ParquetShards
from hf_finetune.data.streaming.tars import LabelSurvey, TarShards
from hf_finetune.errors import UserError, listing


def read_classes(
    source: str, split: str, feature: Any, shards: ParquetShards | TarShards, num_labels: int | None
) -> tuple[list[str], pa.Array]:
    """Returns the names of the classes, and the values of the labels (names or integers) in the order of class ids.

    They are those of a ClassLabel, in its order; else the different labels of `shards`, sorted, of which nothing but
    the labels is fetched. Where they lie in tars that are not on this machine, `num_labels` must say that they are the
    numbers from 0 on. Raises `UserError`.
    """
    if isinstance(feature, ClassLabel):
        return list(feature.names), pa.array(feature.names, pa.string())
    if isinstance(shards, TarShards) and not all(file.is_local for file in shards.files):
        if num_labels is None:
            raise UserError(
                f"{source}: which classes its tars have is not known before they are read; use --num_labels N for"
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
    if len({type(value) for value in different}) > 1:
        different = {str(value) for value in different}
    if len(different) < 2:
        only = f" ({', '.join(map(str, different))})" if different else ""
        raise UserError(f"{source}: split {split} has {len(different)} class{only}; a classifier needs two at least.")
    ordered = sorted(different)
    return [str(value) for value in ordered], pa.array(ordered)


def _surveys(source: str, split: str, shards: ParquetShards | TarShards) -> Iterator[LabelSurvey]:
    """Yields what the labels of each file are."""
    if isinstance(shards, TarShards):
        yield from shards.surveys
        return
    for labels in shards.labels():
        values = plain_values(source, split, labels)
        blank = pc.equal(values, "" if pa.types.is_string(values.type) else UNLABELLED)
        row = pc.index(pc.fill_null(blank, True), True).as_py()
        yield LabelSurvey(len(values), pc.unique(values).to_pylist(), None if row < 0 else row)


def plain_values(source: str, split: str, labels: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns labels of any kind as strings or 64-bit integers."""
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
    """Maps the labels of a split to class ids.

    `feature` is that of the column of labels. `known` are the classes of the split `reference`, in the order of their
    ids: other splits are mapped by the values, so the order of their own classes does not matter.
    """

    source: str
    split: str
    feature: Any
    known: pa.Array
    reference: str

    def __call__(self, labels: pa.Array, rows: Sequence[int]) -> list[int]:
        """Returns the ids of `labels`, which are those of the split's `rows`.

        Raises `UserError` for a missing label, and for one that is none of the classes.
        """
        known, keys = self.known, plain_values(self.source, self.split, labels)
        if isinstance(self.feature, ClassLabel):
            names = pa.array(self.feature.names, pa.string())
            outside = pc.or_(pc.less(keys, 0), pc.greater_equal(keys, len(names)))
            keys = names.take(pc.if_else(outside, None, keys))
        if keys.type != known.type:
            known, keys = known.cast(pa.string()), keys.cast(pa.string())
        ids = pc.index_in(keys, value_set=known)
        if ids.null_count:
            first = ids.to_pylist().index(None)
            raise UserError(
                f"{self.source}: row {rows[first]} of split {self.split} (counted from 0) has the label"
                f" {labels[first].as_py()!r}, which is none of the {len(self.known):,} classes of {self.reference}:"
                f" {listing(self.known.to_pylist())}; fix it or take the image out."
            )
        return ids.to_pylist()
