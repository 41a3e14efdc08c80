"""Images in, class names and probabilities out."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from hf_finetune.config.data import DataArguments
from hf_finetune.config.test_time import TTA_KINDS
from hf_finetune.data.image_list import ImageList, ListedImages, write_list
from hf_finetune.data.images.bands import count_channels, find_other_channels, rows_to_look_at
from hf_finetune.data.images.decoding import Unused
from hf_finetune.data.images.unused import describe_unused
from hf_finetune.errors import UserError
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.jobs.classifier import Classes, Classifier, open_classifier
from hf_finetune.jobs.prediction import Prediction
from hf_finetune.jobs.prediction_files import TABLES, in_format, open_table
from hf_finetune.jobs.prediction_settings import PredictionSettings
from hf_finetune.jobs.prepared_batches import PreparedBatch, PreparedBatches, prepared, unscaled_note, workers_for
from hf_finetune.logs import get_logger, progress_bar, tell, write_line

logger = get_logger(__name__)


@dataclass
class Classification:
    """Classifies images, batch by batch.

    Attributes:
        classifier: The model.
        settings: What is asked of it.
        unused: How many images had what beside them in their files, of those that were read so far.
    """

    classifier: Classifier
    settings: PredictionSettings
    unused: Counter[Unused] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Raise `UserError` for settings that do not suit the model."""
        self._choose: Callable[[torch.Tensor], list[Classes]] = self.classifier.choice(
            self.settings.top_k, self.settings.threshold
        )
        if self.settings.embeddings:
            self.classifier.head()
        self._unscaled = self.classifier.stage.decoding.value_range is None

    def batches(self, images: ImageList, ranges: Iterable[range], workers: int) -> Iterator[list[Prediction]]:
        """Yield the predictions of ranges of rows, each a batch, in their order.

        Args:
            images: The images.
            ranges: The rows of each batch.
            workers: Processes that decode images.
        """
        for batch in prepared(PreparedBatches(images, self.classifier.stage), ranges, workers):
            leave_if_interrupted()
            yield self._answer(batch)

    def all_of(self, images: ImageList, show_bar: bool = False) -> Iterator[Prediction]:
        """Yield the prediction of each image, in order; `show_bar` shows a progress bar on standard error."""
        ranges = split_rows(range(len(images)), self.settings.batch_size)
        workers = workers_for(len(ranges), self.settings.num_workers)
        batches = self.batches(images, ranges, workers)
        bar = progress_bar(batches, total=len(ranges), desc="images", unit="batch", delay=2, disable=not show_bar)
        for predictions in bar:
            yield from predictions

    def _answer(self, batch: PreparedBatch) -> list[Prediction]:
        if batch.wide is not None and self._unscaled:
            self._unscaled = False
            # As an error, because standard output may be read by a program.
            logger.error(unscaled_note(batch.wide))
        self.unused.update(batch.unused.values())
        answers = iter(() if batch.pixel_values is None else self.classify(batch.pixel_values))
        return [
            replace(next(answers), image=name) if error is None else Prediction(name, error=error)
            for name, error in ((name, batch.errors.get(place)) for place, name in enumerate(batch.names))
        ]

    def classify(self, pixel_values: torch.Tensor) -> list[Prediction]:
        """Return the predictions of images that the first stage has prepared, numbered from 0."""
        inputs = self.classifier.prepared(pixel_values)
        features: Sequence[np.ndarray | None] = [None] * len(inputs)
        if self.settings.embeddings:
            probabilities, pooled = self.classifier.with_features(inputs)
            features = list(pooled.numpy())
        else:
            probabilities = self.classifier.probabilities(inputs, self.settings.tta)
        chosen = self._choose(probabilities)
        return [Prediction(row, classes, embedding=features[row]) for row, classes in enumerate(chosen)]


def split_rows(rows: range, size: int) -> Sequence[range]:
    """Return consecutive rows in parts of `size`, the last of which may be smaller."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@contextmanager
def listed(paths: Sequence[str | Path], data: DataArguments | None, split: str | None) -> Iterator[ImageList]:
    """Open the images that paths name, or those of a dataset, and say what of folders is left out.

    Args:
        paths: Files, folders, tars and Parquet files.
        data: A dataset, in place of paths.
        split: Its split; see `dataset_rows`.

    Raises:
        UserError: For what cannot be had.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield list_into(Path(folder, "images.jsonl"), paths, data, split)


def check_channels(images: ImageList, channels: int | None) -> None:
    """Check that not all images that are looked at have other channels than a model takes.

    Args:
        images: The images.
        channels: How many it takes as they are stored; None for RGB, which all images become.

    Raises:
        UserError: They have.
    """
    if channels is None:
        return
    values = (image.value for row in rows_to_look_at(len(images)) for image in images.read(range(row, row + 1)))
    if (other := find_other_channels(values, channels)) is not None:
        raise UserError(
            f"Images have {count_channels(other.channels)} ({other.name}), and the model takes {channels}; use another"
            " model, or other images."
        )


def list_into(file: Path, paths: Sequence[str | Path], data: DataArguments | None, split: str | None) -> ImageList:
    """Do as `listed`, with the list of the images of paths in a file of the caller's."""
    if data is not None and data.dataset is not None:
        if paths:
            raise UserError(f"--dataset {data.dataset} and {paths[0]} both name images; leave one out.")
        from hf_finetune.data.dataset_rows import dataset_rows  # files need no datasets

        return dataset_rows(data, split)
    if not paths:
        raise UserError("There are no images; use files or folders after MODEL, or --dataset.")
    if split is not None:
        raise UserError("--split is of a dataset; use it with --dataset.")
    for note in write_list(paths, file, None if data is None else data.image_column):
        tell(f"hf-finetune: {note}", sys.stderr)  # standard output may be read by a program
    return ListedImages(file)


def predict_files(
    model: str,
    paths: Sequence[str | Path],
    settings: PredictionSettings,
    output_format: str = "text",
    output: str | Path | None = None,
    data: DataArguments | None = None,
    split: str | None = None,
) -> int:
    """Write the likeliest classes of each image; what is unreadable goes to the log as an error.

    Args:
        model: A folder, a Hub id, an embedded name or an ONNX file.
        paths: Files, folders, tars and Parquet files.
        settings: What is asked of each image. A note and the JSON say what `tta` is.
        output_format: "text", "json" or "csv". An `output` that ends in .json, .csv, .jsonl or .parquet says it too.
        output: The file to write; absent, standard output.
        data: A dataset, in place of paths.
        split: Its split.

    Returns:
        The number of unreadable images.

    Raises:
        UserError: For a model or a path that cannot be had.
    """
    suffix = "" if output is None else Path(output).suffix.lower().removeprefix(".")
    if output_format == "text" and suffix in ("json", "csv", "jsonl", "parquet"):
        output_format = suffix
    if settings.embeddings and output_format not in ("jsonl", "parquet"):
        raise UserError("--embeddings need --output FILE.parquet or FILE.jsonl, or --output FOLDER and --format.")
    with listed(paths, data, split) as images:
        classification = Classification(open_classifier(model), settings)
        check_channels(images, classification.classifier.stage.decoding.channels)
        if settings.tta is not None:
            tell(
                f"hf-finetune: probabilities are means over {TTA_KINDS[settings.tta]} (--tta {settings.tta}).",
                sys.stderr,
            )
        unreadable = Unreadable()
        predictions = unreadable.noting(classification.all_of(images, show_bar=True))
        if output_format in ("jsonl", "parquet"):
            _write_table(Path(str(output)).expanduser(), output_format, predictions, settings.embeddings)
        else:
            _write_text(output, in_format(output_format, predictions, settings.tta))
    if output is not None:
        logger.info(f"Written: {output}.")
    for line in [*describe_unused(classification.unused), *unreadable.lines()]:
        tell(f"hf-finetune: {line}", sys.stderr)
    return unreadable.count


_NAMED = 1000  # unreadable images that are named; there may be a million


@dataclass
class Unreadable:
    """Counts the images that cannot be read, and keeps the reasons of the first thousand."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def noting(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Yield predictions as they come."""
        for prediction in predictions:
            if prediction.error is not None:
                self.count += 1
                if self.count <= _NAMED:
                    self.reasons.append(prediction.error)
            yield prediction

    def lines(self) -> list[str]:
        """Return a line for each, or for the first thousand and how many more there are."""
        more = self.count - len(self.reasons)
        return [*self.reasons, f"{more:,} more images cannot be read."] if more else self.reasons


def _write_text(output: str | Path | None, texts: Iterator[str]) -> None:
    with _writing(output) as file:
        for text in texts:
            if file is sys.stdout:
                write_line(text.removesuffix("\n"))  # above the bar
            else:
                file.write(text)


def _write_table(path: Path, table_format: str, predictions: Iterator[Prediction], embeddings: bool) -> None:
    """Write a table beside its place, and put it there when it is whole."""
    if path.exists():
        raise UserError(f"--output: {path} exists; use another name, or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_table(path, TABLES[table_format], embeddings) as table:
        for prediction in predictions:
            table.write([prediction])


@contextmanager
def _writing(output: str | Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    path = Path(output).expanduser()
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; use the name of a file, or --format for a folder of tables.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file
