"""Data room: what a source hands over, and two helpers for sentences about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset


@dataclass
class RawDataset:
    """The splits of a source as they stand there: its own split names, columns and label types.

    `folder` is what relative picture paths are relative to, and what names in messages are shortened by. `revision` is
    the commit that the Hub gave, None where it was not asked.
    """

    splits: dict[str, Dataset]
    source: str
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    revision: str | None = None


def listing(names: Sequence[object], limit: int = 5) -> str:
    """Returns `a, b, c`, and from `limit` names on `a, b, c, d, e and 7 more`."""
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit:,} more" if len(names) > limit else shown


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's message, to stand inside a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
