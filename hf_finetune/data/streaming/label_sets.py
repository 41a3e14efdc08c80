"""Several labels an image in a stream: a column of lists in Parquet files, or lists in the JSON of tars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hf_finetune.data.columns import list_item
from hf_finetune.data.streaming.class_ids import ClassIds, read_classes
from hf_finetune.data.streaming.shards import ParquetShards
from hf_finetune.data.streaming.tars import TarShards
from hf_finetune.errors import UserError


@dataclass(frozen=True)
class _FlatShards:
    """Shards whose labels are the items of lists, one after the other: what `read_classes` asks of them."""

    shards: ParquetShards
    source: str

    def labels(self) -> Any:
        """Yield the labels of each file.

        Raises:
            UserError: All lists are of 0 and 1 and of one length, which are no labels but a place for each class.
        """
        lengths: set[int | None] = set()
        values: set[Any] = set()
        for lists in self.shards.labels():
            lengths.update(pc.unique(pc.list_value_length(lists)).to_pylist())
            flat = pc.list_flatten(lists)
            if len(values) <= 2:
                values.update(pc.unique(flat).to_pylist())
            yield flat
        if len(lengths) == 1 and min(lengths, key=str) not in (None, 0, 1) and values <= {0, 1}:
            raise _places(self.source)


def read_set_classes(
    source: str,
    split: str,
    feature: Any,
    shards: ParquetShards | TarShards,
    num_labels: int | None,
    label_strip: bool = False,
) -> tuple[list[str], pa.Array]:
    """Find out which classes there are in lists of labels; see `read_classes`."""
    flat: Any = shards if isinstance(shards, TarShards) else _FlatShards(shards, source)
    names, known = read_classes(source, split, list_item(feature), flat, num_labels, label_strip)
    if isinstance(shards, TarShards) and known.equals(pa.array([0, 1])):
        raise _places(source)
    return names, known


def _places(source: str) -> UserError:
    return UserError(
        f"{source}: the lists of labels are of 0 and 1, a place for each class, which a stream does not read; use lists"
        " of names or class ids, or leave --streaming out."
    )


@dataclass(frozen=True)
class LabelSets:
    """Maps lists of labels to which classes each row has.

    Attributes:
        ids: Maps the items of the lists.
    """

    ids: ClassIds

    def __call__(self, labels: pa.Array, rows: Sequence[int]) -> list[npt.NDArray[np.bool_]]:
        """Return which classes each row has, bool (classes,) each.

        Args:
            labels: The lists as they are stored.
            rows: Their row numbers in the split, for messages.

        Raises:
            UserError: A list is missing, or a label is none of the classes.
        """
        if labels.null_count:
            row = rows[pc.index(pc.is_null(labels), True).as_py()]
            raise UserError(
                f"{self.ids.source}: row {row} of split {self.ids.split} (counted from 0) has no list of labels; use an"
                " empty list for an image without a label, or remove it."
            )
        several = np.zeros((len(labels), len(self.ids.known)), dtype=bool)
        parents = pc.list_parent_indices(labels).to_pylist()
        if parents:
            several[parents, self.ids(pc.list_flatten(labels), [rows[parent] for parent in parents])] = True
        return list(several)
