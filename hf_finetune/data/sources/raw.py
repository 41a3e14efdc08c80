"""What a source returns: splits with its own names, columns and kinds of labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset


@dataclass
class RawDataset:
    """The splits of a source before anything is chosen, renamed or mapped.

    Attributes:
        splits: The source's splits by its own names.
        source: What messages call the dataset: a Hub id or a path.
        folder: The folder that relative image paths start at. Messages name images relative to it.
        notes: Sentences that the user should read.
        revision: The commit of a dataset that the Hub gave, None where the Hub was not asked.
    """

    splits: dict[str, Dataset]
    source: str
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    revision: str | None = None
