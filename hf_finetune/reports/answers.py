"""What a model answered for each image of a split, and the file that holds it, `predictions.csv`.

A cell that a spreadsheet would take for a formula begins with an apostrophe. The file is read back for a report: names
of classes are found again as they were written.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray
from transformers.trainer_utils import PredictionOutput

from hf_finetune.data.batches import NOT_COUNTED
from hf_finetune.errors import UserError, first_line
from hf_finetune.evaluation.likeliest import LIKELIEST, MOST_WHOLE
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.evaluation.multi_label import MultiLabelMetrics, given_classes
from hf_finetune.shown_text import csv_cell
from hf_finetune.tasks import counted

_MOST_PROBABILITIES = 2_000_000  # numbers in the file, of nine bytes each
_SLICE = "slice: "  # precedes the name of a column of slices
_SEPARATORS = ("|", ";", "\n", "\t")  # between several labels: the first that is in no name of a class


@dataclass(frozen=True)
class Answers:
    """What a model answered for each image of a split, in the order of the split.

    Attributes:
        names: What the images are called: paths below the folder of the dataset, or their rows.
        rows: Their rows in the split of the source, int64 (images,).
        labels: Class ids, int64 (images,), negative where an image has no label or could not be read; or 1 for each
            class that it has, else 0, int64 (images, classes), a row of negative numbers likewise.
        predictions: Class ids, int64 (images,); or which classes are given, bool (images, classes).
        losses: In nats, float32 (images,).
        classes: The likeliest classes, the likeliest first, int32 (images, k): all of them, or 5.
        probabilities: Theirs, float32 (images, k).
        label_names: Class names by class id.
        slices: By column of the dataset, the values of the images.
    """

    names: Sequence[str]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: NDArray[Any]
    losses: NDArray[np.float32]
    classes: NDArray[np.int32]
    probabilities: NDArray[np.float32]
    label_names: Sequence[str]
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def several(self) -> bool:
        """Whether an image has any number of classes."""
        return self.labels.ndim == 2

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which images count: those with a label that could be read, bool (images,)."""
        known: NDArray[np.bool_] = counted(self.labels)
        return known

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which images were given their class, or all their classes and no other, bool (images,)."""
        if not self.several:
            return np.asarray(self.labels == self.predictions)
        return np.all((self.labels > 0) == self.predictions, axis=1)

    @property
    def confidences(self) -> NDArray[np.float32]:
        """The probability of the likeliest class, float32 (images,)."""
        return self.probabilities[:, 0]

    def whole(self) -> NDArray[np.float32]:
        """Return the probability of each class by class id, float32 (images, classes); NaN where it is not known."""
        dense = np.full((len(self), len(self.label_names)), np.nan, np.float32)
        np.put_along_axis(dense, self.classes.astype(np.int64), self.probabilities, axis=1)
        return dense


def answers_of(
    computed: ClassificationMetrics,
    output: PredictionOutput,
    label_names: Sequence[str],
    order: NDArray[np.int64],
    names: Sequence[str],
    rows: NDArray[np.int64],
    slices: Mapping[str, Sequence[str]],
) -> Answers:
    """Return the answers of an evaluation.

    Args:
        computed: What computed its figures.
        output: The Trainer's, whose predictions are those of `computed.reduce_logits`.
        label_names: Class names by class id.
        order: Where the images of the split, in its order, are among the predictions, int64 (images,).
        names: See `Answers`, as for the rest.
        rows: Likewise.
        slices: Likewise.
    """
    arrays = [np.asarray(array)[order] for array in output.predictions]
    labels = np.asarray(output.label_ids)[order].astype(np.int64)
    if isinstance(computed, MultiLabelMetrics):
        logits, losses = arrays[:2]
        predictions = given_classes(logits, computed.thresholds)
        classes, probabilities = _largest(1 / (1 + np.exp(-logits)), len(label_names))
    else:
        predictions, _, losses, _ = arrays[:4]
        classes, probabilities = arrays[4:] if len(arrays) == 6 else _largest(arrays[4], len(label_names))
    return Answers(names, rows, labels, predictions, losses, classes, probabilities, label_names, slices)


def _largest(probabilities: NDArray[np.float32], classes: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the likeliest classes of each image and their probabilities, (images, k) each; all of few classes."""
    count = classes if classes <= MOST_WHOLE else LIKELIEST
    if count < classes:
        some = np.argpartition(-probabilities, count, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(probabilities, some, axis=1), axis=1, kind="stable")
        found = np.take_along_axis(some, order, axis=1)
    else:
        found = np.argsort(-probabilities, axis=1, kind="stable")
    return found.astype(np.int32), np.take_along_axis(probabilities, found, axis=1)


def write_answers(answers: Answers, path: Path) -> None:
    """Write a line for each image: its name, row, slices, label, prediction, loss and probabilities.

    There is a column of probabilities for each class; of more than 100 classes, or two million probabilities, the five
    likeliest classes with theirs. An image that could not be read has a name and a row only.
    """
    separator = separator_of(answers.label_names)
    names = [csv_cell(name) for name in answers.label_names]
    whole = answers.classes.shape[1] == len(names) and answers.probabilities.size <= _MOST_PROBABILITIES
    table = answers.whole() if whole else None
    known, heading = answers.known.tolist(), _heading(answers, whole)
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        for place, name in enumerate(answers.names):
            cells: list[Any] = [csv_cell(name), int(answers.rows[place])]
            cells += [csv_cell(values[place]) for values in answers.slices.values()]
            if not known[place]:
                writer.writerow(cells + [""] * (len(heading) - len(cells)))
                continue
            cells += [
                written(answers.labels[place], names, separator),
                written(answers.predictions[place], names, separator),
                f"{answers.losses[place]:.6g}",
            ]
            if table is not None:
                cells += [f"{probability:.6f}" for probability in table[place].tolist()]
            else:
                for class_id, probability in zip(
                    answers.classes[place, :LIKELIEST].tolist(),
                    answers.probabilities[place, :LIKELIEST].tolist(),
                    strict=True,
                ):
                    cells += [names[class_id], f"{probability:.6f}"]
            writer.writerow(cells)


def read_answers(path: Path, label_names: Sequence[str], several: bool) -> Answers:
    """Read what `write_answers` has written.

    Args:
        path: The file.
        label_names: Class names by class id.
        several: Whether an image has any number of classes.

    Raises:
        UserError: The file is not there, or it is not that of these classes.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            columns = next(csv.reader(file))
        table = pa_csv.read_csv(
            path,
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.float64() if _is_number(name) else pa.string() for name in columns},
                null_values=[""],
            ),
        )
        return _parsed(table, label_names, several)
    except (OSError, StopIteration, pa.ArrowException, KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {first_line(error)}); restore the file, or train again."
        ) from error


def _is_number(column: str) -> bool:
    return column == "loss" or column.startswith(("p(", "probability "))


def _heading(answers: Answers, whole: bool) -> list[str]:
    several = answers.several
    heading = ["image", "row", *(f"{_SLICE}{column}" for column in answers.slices)]
    heading += ["labels", "predictions", "loss"] if several else ["label", "prediction", "loss"]
    if whole:
        return heading + [f"p({name})" for name in answers.label_names]
    return heading + [f"{what} {rank}" for rank in range(1, LIKELIEST + 1) for what in ("class", "probability")]


def separator_of(label_names: Sequence[str]) -> str:
    """Return what stands between several labels: a mark that is in no name of a class, where there is one."""
    return next((mark for mark in _SEPARATORS if not any(mark in name for name in label_names)), _SEPARATORS[0])


def written(value: Any, names: Sequence[str], separator: str) -> str:
    """Return a label as text: the name of a class id, or the names of the classes that are above 0, (classes,)."""
    if np.ndim(value):
        return separator.join(names[class_id] for class_id in np.flatnonzero(value > 0).tolist())
    return names[int(value)]


def _parsed(table: pa.Table, label_names: Sequence[str], several: bool) -> Answers:
    ids = {csv_cell(name): class_id for class_id, name in enumerate(label_names)}
    slices = {
        name.removeprefix(_SLICE): table[name].to_pylist() for name in table.column_names if name.startswith(_SLICE)
    }
    first = 2 + len(slices)
    labels, predictions, losses = (table.column(first + offset) for offset in range(3))
    rest = [table.column(place) for place in range(first + 3, table.num_columns)]
    if len(rest) == len(label_names) and table.column_names[first + 3].startswith("p("):
        classes, probabilities = _largest(np.stack([_numbers(column) for column in rest], axis=1), len(label_names))
    else:
        classes = np.stack([_class_ids(column, ids, 0) for column in rest[::2]], axis=1).astype(np.int32)
        probabilities = np.stack([_numbers(column) for column in rest[1::2]], axis=1)
    unknown = losses.is_null().to_numpy()
    if several:
        has, given = (_label_sets(column, ids, separator_of(label_names)) for column in (labels, predictions))
        has[unknown], given = NOT_COUNTED, given > 0
    else:
        has, given = _class_ids(labels, ids, NOT_COUNTED), _class_ids(predictions, ids, 0)
    names, rows = table.column(0).to_pylist(), np.array(table.column(1).to_pylist(), np.int64)
    return Answers(names, rows, has, given, _numbers(losses), classes, probabilities, label_names, slices)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = column.to_numpy().astype(np.float32)
    return numbers


def _class_ids(column: pa.ChunkedArray, ids: Mapping[str, int], absent: int) -> NDArray[Any]:
    return np.array([ids[name] if name else absent for name in column.to_pylist()], np.int64)


def _label_sets(column: pa.ChunkedArray, ids: Mapping[str, int], separator: str) -> NDArray[Any]:
    sets = np.zeros((len(column), len(ids)), np.int64)
    for place, text in enumerate(column.to_pylist()):
        sets[place, [ids[name] for name in text.split(separator)] if text else []] = 1
    return sets
