"""What a source returns: splits with its own names, columns and kinds of labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

# Rows of a record batch in the cache that `datasets` makes of Parquet files. Each batch takes 2 kB of memory in every
# process that has the dataset open, which `datasets`' 100 rows for images make 22 MB for a million of them. Of other
# files it collects the images of a batch in memory.
ROWS_OF_BATCH = 1_000


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
