"""Datasets in shards that several tests stream: coloured images in Parquet files and in WebDataset tars."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_finetune.config.data import DataArguments
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.streaming.build import load_streamed_dataset
from hf_finetune.data.streaming.shards import DataFile
from hf_finetune.data.streaming.split import StreamedSplit

CLASSES = {"blue": (30, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}


def images(count: int, seed: int = 0) -> tuple[list[bytes], list[int]]:
    """Return PNGs of 16 x 16 pixels and their class ids, which the colour tells."""
    generator = np.random.default_rng(seed)
    labels, encoded = [number % len(CLASSES) for number in range(count)], []
    for label in labels:
        colour = np.array(list(CLASSES.values())[label])
        pixels = np.clip(colour + generator.normal(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    return encoded, labels


def write_parquet(
    folder: Path,
    split: str,
    count: int,
    files: int = 1,
    row_group: int = 100,
    labels: Sequence[Any] | None = None,
    feature: Any = None,
) -> Path:
    """Write a split as Parquet files of row groups of `row_group` rows; `labels` stand in place of the colours."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded, colours = images(count)
    features = Features(
        {"image": Image(decode=False), "label": feature or ClassLabel(names=list(CLASSES)), "number": Value("int64")}
    )
    rows = {
        "image": [{"bytes": content, "path": None} for content in encoded],
        "label": colours if labels is None else list(labels),
        "number": list(range(count)),
    }
    dataset = Dataset.from_dict(rows, features=features).cast_column("image", Image())
    for number in range(files):
        part = dataset.shard(files, number, contiguous=True)
        part.to_parquet(str(folder / f"{split}-{number:05d}-of-{files:05d}.parquet"), batch_size=row_group)
    return folder


def write_tars(
    folder: Path, split: str, count: int, files: int, label: Callable[[int], dict[str, bytes]] | None = None
) -> Path:
    """Write a split as WebDataset tars; `label` makes the members beside an image from its class id."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded, labels = images(count)
    label = label or (lambda class_id: {"cls": str(class_id).encode()})
    for number, rows in enumerate(np.array_split(np.arange(count), files)):
        with tarfile.open(folder / f"{split}-{number:04d}.tar", "w") as tar:
            for row in rows.tolist():
                for extension, content in {"png": encoded[row], **label(labels[row])}.items():
                    member = tarfile.TarInfo(f"{row:06d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def write_lengths(folder: Path, **lengths: Sequence[int]) -> None:
    """Write what timm's tools write beside tars: how many samples each has."""
    splits = {
        split: {
            "filenames": sorted(path.name for path in folder.glob(f"{split}-*.tar")),
            "shard_lengths": list(counts),
        }
        for split, counts in lengths.items()
    }
    (folder / "_info.json").write_text(json.dumps({"splits": splits}))


class FakeShards:
    """Shards without files, whose images are their own row numbers. `read_rows` lists the rows that were read.

    `fail` is called before each piece and may raise.
    """

    files: Sequence[DataFile]

    def __init__(self, rows: Sequence[int], piece: int = 7, fail: Callable[[], None] = lambda: None) -> None:
        self.files = []
        self.rows = np.array(rows, np.int64)
        self.piece, self.fail = piece, fail
        self.read_rows: list[int] = []

    def read(self, shard: int, first: int) -> Iterator[tuple[list[dict[str, Any]], pa.Array]]:
        origin = int(self.rows[:shard].sum())
        for start in range(first, int(self.rows[shard]), self.piece):
            self.fail()
            numbers = [origin + row for row in range(start, min(start + self.piece, int(self.rows[shard])))]
            self.read_rows += numbers
            yield [{"bytes": b"%d" % number, "path": None} for number in numbers], pa.array(numbers)


def fake_split(rows: Sequence[int], buffer_size: int = 20, **settings: Any) -> StreamedSplit:
    """A split of `FakeShards`, whose class ids are row numbers modulo ten."""
    shards = FakeShards(rows, **settings)
    return StreamedSplit(shards, lambda labels, _: [label % 10 for label in labels.to_pylist()], "fake", buffer_size)


def load(folder: Path, num_labels: int | None = None, seed: int = 1, **settings: Any) -> ImageDataset:
    """Return a folder of shards as a streamed dataset."""
    return load_streamed_dataset(DataArguments(dataset=str(folder), streaming=True, **settings), seed, num_labels)


def rows_of(split: StreamedSplit) -> list[Any]:
    """Return all rows of a split, in the order of its shards."""
    return [row for shard in range(len(split.counts)) for row in split.read(shard)]


def labels_of(split: StreamedSplit) -> list[int]:
    """Return the labels of all rows of a split."""
    return [row.label for row in rows_of(split)]
