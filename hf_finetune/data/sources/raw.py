"""What a source hands over, and two helpers for sentences about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset


@dataclass
class RawDataset:
    """The splits of a source as they stand there: its own split names, columns and label types.

    `folder` is what relative image paths are relative to, and what names in messages are shortened by. `revision` is
    the commit that the Hub gave, None where it was not asked.
    """

    splits: dict[str, Dataset]
    source: str
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    revision: str | None = None
