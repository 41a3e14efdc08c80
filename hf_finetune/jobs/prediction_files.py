"""Predictions as text for the screen and for files, and as tables that many programs read."""

from __future__ import annotations

import csv
import io
import json
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hf_finetune.jobs.prediction import Prediction
from hf_finetune.shown_text import csv_cell, one_line
from hf_finetune.training.checkpoints.store import flush

if TYPE_CHECKING:
    import pyarrow as pa

UNFINISHED = ".unfinished-"  # how the name of a table begins that is being written
_ROW_GROUP = 1024  # rows


def in_format(output_format: str, predictions: Iterable[Prediction], tta: str | None) -> Iterator[str]:
    """Yield the text of the predictions of readable images, whole lines at a time.

    Args:
        output_format: "text", "json" or "csv".
        predictions: The predictions. Unreadable images are left out.
        tta: The kind of test-time augmentation, which the JSON names.
    """
    readable = (prediction for prediction in predictions if prediction.error is None)
    if output_format == "json":
        yield from _json(readable, tta)
    elif output_format == "csv":
        yield _csv_line(["file", "rank", "label", "score"])
        for prediction in readable:
            yield "".join(_csv_line(cells) for cells in _csv_rows(prediction))
    else:
        for prediction in readable:
            classes = ", ".join(f"{name} {score:.1%}" for name, score in prediction.classes) or "no class"
            yield one_line(f"{prediction.image}: {classes}") + "\n"


def _json(predictions: Iterable[Prediction], tta: str | None) -> Iterator[str]:
    """Yield a list in JSON, item by item, as `json.dumps` would write it with an indent of 2."""
    item = None
    for prediction in predictions:
        yield "[\n" if item is None else f"{item},\n"
        answer = {"file": str(prediction.image), "predictions": _pairs(prediction)}
        text = json.dumps(answer if tta is None else {**answer, "tta": tta}, indent=2, ensure_ascii=False)
        item = "\n".join(f"  {line}" for line in text.split("\n"))
    yield "[]\n" if item is None else f"{item}\n]\n"


def _pairs(prediction: Prediction) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in prediction.classes]


def _csv_rows(prediction: Prediction) -> list[list[Any]]:
    file = str(prediction.image)
    ranked = enumerate(prediction.classes, 1)
    return [[file, rank, label, f"{score:.6f}"] for rank, (label, score) in ranked] or [[file, "", "", ""]]


def _csv_line(cells: Sequence[Any]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(map(csv_cell, cells))
    return file.getvalue()


class Table(ABC):
    """A table that is being written, a row for each image, or in CSV for each class of an image.

    Args:
        path: Where it is written.
        embeddings: Whether it has a column of features.
    """

    def __init__(self, path: Path, embeddings: bool) -> None:
        self.path = path
        self.embeddings = embeddings

    @abstractmethod
    def write(self, predictions: Sequence[Prediction]) -> None:
        """Add predictions, unreadable images included."""

    @abstractmethod
    def close(self) -> None:
        """Complete the file."""


class _Lines(Table):
    def __init__(self, path: Path, embeddings: bool) -> None:
        super().__init__(path, embeddings)
        self.file: TextIO = open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115

    def close(self) -> None:
        self.file.close()


class JsonLinesTable(_Lines):
    """A line of JSON for each image."""

    def write(self, predictions: Sequence[Prediction]) -> None:
        """See `Table.write`."""
        for prediction in predictions:
            row: dict[str, Any] = {"file": str(prediction.image), "predictions": _pairs(prediction)}
            if self.embeddings:
                row["embedding"] = None if prediction.embedding is None else prediction.embedding.tolist()
            self.file.write(json.dumps({**row, "error": prediction.error}, ensure_ascii=False) + "\n")


class CsvTable(_Lines):
    """The columns of `predict --csv`, and one of errors."""

    def __init__(self, path: Path, embeddings: bool) -> None:
        super().__init__(path, embeddings)
        self.file.write(_csv_line(["file", "rank", "label", "score", "error"]))

    def write(self, predictions: Sequence[Prediction]) -> None:
        """See `Table.write`."""
        for prediction in predictions:
            for cells in _csv_rows(prediction):
                self.file.write(_csv_line([*cells, prediction.error or ""]))


class ParquetTable(Table):
    """Columns of names, labels, scores, features and errors; labels and scores are lists, the likeliest first."""

    def __init__(self, path: Path, embeddings: bool) -> None:
        import pyarrow as pa  # which text does not need
        import pyarrow.parquet as pq

        super().__init__(path, embeddings)
        fields = [pa.field("file", pa.string()), pa.field("labels", pa.list_(pa.string()))]
        fields += [pa.field("scores", pa.list_(pa.float32()))]
        fields += [pa.field("embedding", pa.list_(pa.float32()))] if embeddings else []
        self._schema = pa.schema([*fields, pa.field("error", pa.string())])
        self._writer = pq.ParquetWriter(path, self._schema)
        self._waiting: list[pa.RecordBatch] = []

    def write(self, predictions: Sequence[Prediction]) -> None:
        """See `Table.write`."""
        import pyarrow as pa

        columns: dict[str, list[Any]] = {
            "file": [_valid(str(prediction.image)) for prediction in predictions],
            "labels": [[_valid(label) for label, _ in prediction.classes] for prediction in predictions],
            "scores": [[score for _, score in prediction.classes] for prediction in predictions],
            "embedding": [prediction.embedding for prediction in predictions],
            "error": [None if prediction.error is None else _valid(prediction.error) for prediction in predictions],
        }
        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        if sum(map(len, self._waiting)) >= _ROW_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema).combine_chunks())
        self._waiting.clear()

    def close(self) -> None:
        """See `Table.close`."""
        if self._waiting:
            self._write_group()
        self._writer.close()


def _valid(text: str) -> str:
    r"""Return a text that is valid UTF-8: a name of other bytes is escaped, as `\udce4`."""
    return text.encode("utf-8", "backslashreplace").decode()


TABLES: dict[str, type[Table]] = {"parquet": ParquetTable, "csv": CsvTable, "jsonl": JsonLinesTable}


@contextmanager
def open_table(path: Path, kind: type[Table], embeddings: bool) -> Iterator[Table]:
    """Write a table under another name in the same folder; it gets its own when it is whole and on the disk.

    Args:
        path: Its place.
        kind: One of `TABLES`.
        embeddings: Whether it has a column of features.
    """
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex}-{path.name}")
    table = kind(unfinished, embeddings)
    try:
        try:
            yield table
        finally:
            table.close()
        flush(unfinished)
        os.replace(unfinished, path)
        flush(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
