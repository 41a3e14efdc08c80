"""Columns of a dataset by which the images of an evaluation are divided into slices, such as the camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from hf_finetune.data.columns import arrow_column
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError, did_you_mean

_NOTHING = "(none)"  # stands for a missing value


def read_slices(
    raw: RawDataset, roles: Mapping[str, str], wanted: Sequence[str]
) -> dict[str, dict[str, pa.ChunkedArray]]:
    """Return the values of some columns as texts.

    Args:
        raw: The source's splits.
        roles: The split of each role.
        wanted: The columns. A split may lack them, but not all splits.

    Returns:
        By role and by column, a text for each row of the source's split.

    Raises:
        UserError: There is no such column, or it holds neither texts nor numbers.
    """
    found: dict[str, dict[str, pa.ChunkedArray]] = {role: {} for role in roles}
    for column in wanted:
        for role, split in roles.items():
            if column in raw.splits[split].column_names:
                found[role][column] = _texts(raw, split, column)
        if not any(column in columns for columns in found.values()):
            columns = sorted({name for split in roles.values() for name in raw.splits[split].column_names})
            raise UserError(
                f'slice_columns: {raw.source} has no column "{column}".{did_you_mean(column, columns)}'
                f" The columns are {', '.join(columns)}."
            )
    return found


def _texts(raw: RawDataset, split: str, column: str) -> pa.ChunkedArray:
    values, feature = arrow_column(raw.splits[split], column), raw.splits[split].features[column]
    if (names := getattr(feature, "names", None)) is not None:
        return pa.chunked_array(
            [pa.array([_NOTHING if row is None or row < 0 else names[row] for row in values.to_pylist()], pa.string())]
        )
    try:
        texts = pc.fill_null(values.cast(pa.string()), _NOTHING)
    except pa.ArrowException as error:
        raise UserError(
            f"slice_columns: {column} of {raw.source} is {values.type}; a slice is a text or a number."
        ) from error
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), _NOTHING, texts)
