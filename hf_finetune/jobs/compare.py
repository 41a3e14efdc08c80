"""Two models on the same images."""

from __future__ import annotations

import csv
import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hf_finetune.config.arguments import KEY_TYPES
from hf_finetune.config.recipe import load_recipe
from hf_finetune.config.run_files import METRICS_FILE, RECIPE_FILE
from hf_finetune.data.sources.objects import GivenDataset
from hf_finetune.errors import UserError
from hf_finetune.evaluation.intervals import Interval, wilson_interval
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.evaluation.paired import PairedCounts, difference_interval, mcnemar
from hf_finetune.evaluation.report import aligned, format_interval, shortened, to_json, write_metrics
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.jobs.evaluate import evaluate_model
from hf_finetune.jobs.evaluation_result import EvaluationResult, LabelSetResult, check_output
from hf_finetune.logs import get_logger, log_lines, write_result
from hf_finetune.shown_text import csv_cell

logger = get_logger(__name__)

# The keys of a recipe that say which images a run is evaluated on. Those of the first are paths, where they exist.
_PATHS = ("dataset", "dataset_path")
_DATA_KEYS = (
    *_PATHS,
    "dataset_config",
    "dataset_revision",
    "image_column",
    "label_column",
    "label_separator",
    "label_from_name",
    "label_strip",
    "train_split",
    "validation_split",
    "test_split",
    "validation_fraction",
    "group_column",
    "weight_column",
    "fold",
    "max_eval_samples",
    "streaming",
)
_MOST_CLASSES = 10  # in the table
_CHANCE = 0.05  # p-value from which a difference may be chance


class ClassDifference(TypedDict):
    """The recall of one class under both models, parts of 1, and its number of `images`."""

    name: str
    images: int
    first: float
    second: float
    difference: float


class Disagreement(TypedDict):
    """An image that only one of the models classifies correctly: `correct` is "first" or "second"."""

    row: int
    image: str
    label: str
    first: str
    second: str
    correct: str


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two models on the same images. A difference is the second's figure less the first's.

    Attributes:
        models: What the models are called.
        split: What they were evaluated on, such as "test".
        counts: How many images both, one and neither of them classify correctly.
        first: The evaluation of the first model.
        second: The evaluation of the second model.
        notes: Sentences on the images.
    """

    models: tuple[str, str]
    split: str
    counts: PairedCounts
    first: EvaluationResult = field(repr=False)
    second: EvaluationResult = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def accuracies(self) -> tuple[float, float]:
        """The accuracy of each, a part of 1."""
        counts = self.counts
        return (counts.both + counts.only_first) / counts.images, (counts.both + counts.only_second) / counts.images

    @property
    def intervals(self) -> tuple[Interval, Interval]:
        """The 95 % score interval of each accuracy."""
        counts = self.counts
        return (
            wilson_interval(counts.both + counts.only_first, counts.images),
            wilson_interval(counts.both + counts.only_second, counts.images),
        )

    @property
    def difference(self) -> float:
        """The second accuracy less the first, a part of 1."""
        return (self.counts.only_second - self.counts.only_first) / self.counts.images

    @property
    def difference_interval(self) -> Interval:
        """The 95 % interval of the difference (`evaluation.paired`)."""
        return difference_interval(self.counts)

    @property
    def p_value(self) -> float:
        """McNemar's p-value: how likely a difference as large is between models that are equally accurate."""
        return mcnemar(self.counts)[0]

    def __repr__(self) -> str:
        """Return one line with both accuracies, the difference and the p-value."""
        first, second = map(as_percent, self.accuracies)
        return (
            f"Comparison on {self.counts.images:,} images of {self.split}: accuracy {first} and {second}, difference"
            f" {_points(self.difference)} ({_range_of_points(self.difference_interval)}), p = {self.p_value:.2g}"
        )

    def per_class(self) -> list[ClassDifference]:
        """Return the recall of each class under both, the largest difference first; without classes with no image."""
        labelled, correct_1, correct_2 = _correct(self.first, self.second)
        labels, classes = self.first.labels[labelled], len(self.first.label_names)
        images = np.bincount(labels, minlength=classes)
        recalls = [np.bincount(labels[hits], minlength=classes) for hits in (correct_1[labelled], correct_2[labelled])]
        rows: list[ClassDifference] = [
            {
                "name": self.first.label_names[class_id],
                "images": int(images[class_id]),
                "first": float(recalls[0][class_id] / images[class_id]),
                "second": float(recalls[1][class_id] / images[class_id]),
                "difference": float((recalls[1][class_id] - recalls[0][class_id]) / images[class_id]),
            }
            for class_id in np.flatnonzero(images)
        ]
        return sorted(rows, key=lambda row: -abs(row["difference"]))

    def disagreements(self) -> Iterator[Disagreement]:
        """Yield the images that only one of the models classifies correctly, in the split's order."""
        first, second = self.first, self.second
        labelled, correct_1, correct_2 = _correct(first, second)
        for row in np.flatnonzero(labelled & (correct_1 != correct_2)).tolist():
            yield {
                "row": row,
                "image": first.image_name(row),
                "label": first.label_names[first.labels[row]],
                "first": first.label_names[first.predictions[row]],
                "second": second.label_names[second.predictions[row]],
                "correct": "first" if correct_1[row] else "second",
            }

    def as_mapping(self) -> dict[str, Any]:
        """Return what `--json` prints: all but the images on which the models differ."""
        p_value, test = mcnemar(self.counts)
        return {
            "split": self.split,
            "images": self.counts.images,
            "first": {"model": self.models[0], **_accuracy(self.accuracies[0], self.intervals[0])},
            "second": {"model": self.models[1], **_accuracy(self.accuracies[1], self.intervals[1])},
            "difference": self.difference,
            "difference_interval": list(self.difference_interval),
            "mcnemar": {"p_value": p_value, "test": test},
            "correct": {name: getattr(self.counts, name) for name in ("both", "only_first", "only_second", "neither")},
            "per_class": self.per_class(),
            "notes": list(self.notes),
        }

    def report(self) -> str:
        """Return the tables that the command prints."""
        counts, (p_value, test) = self.counts, mcnemar(self.counts)
        rows = [["model", "accuracy", "95 % interval"]]
        for letter, name, accuracy, interval in zip("AB", self.models, self.accuracies, self.intervals, strict=True):
            rows.append([f"{letter}  {shortened(name)}", as_percent(accuracy), format_interval(interval)])
        rows.append(["B - A, points", _points(self.difference), _range_of_points(self.difference_interval)])
        verdict = "may be chance" if p_value >= _CHANCE else "is more than chance gives"
        sentences = [
            f"{counts.images:,} images, {self.split}: both are correct on {counts.both:,}, neither on"
            f" {counts.neither:,}, only A on {counts.only_first:,}, only B on {counts.only_second:,}.",
            f"The difference {verdict} (McNemar's test, {test}: p = {p_value:.2g}).",
            *self.notes,
        ]
        lines = [*aligned(rows), "", *(line for text in sentences for line in textwrap.wrap(text, 80))]
        classes = [row for row in self.per_class() if row["difference"]][:_MOST_CLASSES]
        if classes:
            cells = [
                [shortened(row["name"]), as_percent(row["first"]), as_percent(row["second"]),
                 _points(row["difference"]), f"{row['images']:,}"]
                for row in classes
            ]  # fmt: skip
            lines += ["", "Recall of the classes with the largest differences:"]
            lines += aligned([["class", "A", "B", "B - A, points", "images"], *cells])
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write the images that only one of the models classifies correctly.

        Args:
            path: A CSV file of these images, or a JSON file of all figures and these images.

        Raises:
            UserError: For a name that ends otherwise.
        """
        check_output(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            write_metrics(path, {**self.as_mapping(), "disagreements": list(self.disagreements())})
            return
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Disagreement.__annotations__)
            writer.writerows([csv_cell(cell) for cell in row.values()] for row in self.disagreements())


def compare_models(
    first: str | Path | PreTrainedModel,
    second: str | Path | PreTrainedModel,
    *,
    split: str | None = None,
    output: str | Path | None = None,
    show: str | None = None,
    labels_by_index: bool = False,
    given: GivenDataset | None = None,
    **settings: Any,
) -> Comparison:
    """Compare two models on the same images. Classes are matched by name, in whatever order the models have them.

    Args:
        first: A folder, a Hub id, an embedded name, or a model object.
        second: Likewise.
        split: As in `evaluate_model`.
        output: A .json or .csv file for the images on which the models differ (`Comparison.save`).
        show: Write the result to standard output, as a "table" or as "json"; None writes nothing.
        labels_by_index: As in `evaluate_model`, for both.
        given: A dataset that is open already.
        settings: Keys of a recipe that say which images. Without a dataset, the images that both runs report their
            figures on.

    Returns:
        The comparison.

    Raises:
        UserError: For models and datasets that cannot be had, and for runs that were not evaluated on the same images.
    """
    if output is not None:
        output = Path(output).expanduser()
        check_output(output)
    notes: tuple[str, ...] = ()
    if given is None and settings.get("dataset") is None:
        split, of_runs, notes = _images_of_runs(first, second, split)
        settings = {**of_runs, **settings}

    def evaluated(model: str | Path | PreTrainedModel) -> EvaluationResult:
        result = evaluate_model(model, split=split, labels_by_index=labels_by_index, given=given, **settings)
        if isinstance(result, LabelSetResult):
            raise UserError(
                "compare counts images that are classified correctly, and these have several labels; use hf-finetune"
                " evaluate for each model."
            )
        return result

    results = evaluated(first), evaluated(second)
    labelled, correct_1, correct_2 = _correct(*results)
    counts = PairedCounts(
        *(
            int((labelled & pair).sum())
            for pair in (correct_1 & correct_2, correct_1 & ~correct_2, ~correct_1 & correct_2, ~correct_1 & ~correct_2)
        )
    )
    comparison = Comparison((_called(first), _called(second)), results[0].split, counts, results[0], results[1], notes)
    if output is not None:
        comparison.save(output)
        log_lines(logger, f"Written: {output}.")
    if show is not None:  # last: its reader may have ended
        text = to_json(comparison.as_mapping()).rstrip("\n") if show == "json" else f"\n{comparison.report()}"
        write_result(text)
    return comparison


def _correct(
    first: EvaluationResult, second: EvaluationResult
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which images both were given with a label, and which each classifies correctly."""
    labelled = (first.labels >= 0) & (second.labels >= 0)
    return labelled, first.predictions == first.labels, second.predictions == second.labels


def _images_of_runs(
    first: str | Path | PreTrainedModel, second: str | Path | PreTrainedModel, split: str | None
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return the split that both runs report their figures on, the keys that name its images, and notes."""
    recipes, figures = zip(*(_read_run(model) for model in (first, second)), strict=True)
    for key in _DATA_KEYS:
        values = [recipe.get(key) for recipe in recipes]
        if not _same(key, *values):
            shown = [json.dumps(value, ensure_ascii=False) for value in values]
            raise UserError(
                f"The runs have other images ({key}: {shown[0]} and {shown[1]}); use --dataset to say which to compare"
                " on."
            )
    role = split or figures[0]["reported_split"]
    splits = [run["splits"].get(role) for run in figures]
    if role is None or splits[0] is None or splits[0] != splits[1]:
        what = f"{role}: {splits[0]} and {splits[1]}" if role else "neither was evaluated"
        raise UserError(f"The runs have no split in common ({what}); use --dataset to say which images to compare on.")
    notes: tuple[str, ...] = ()
    if role == "validation" and any(run["validation_chose_checkpoint"] for run in figures):
        notes = ("Note: validation also chose the checkpoint, so both accuracies are higher than on new images.",)
    used = {key: recipes[0][key] for key in (*_DATA_KEYS, "seed") if key in recipes[0]}
    return role, {"validation_fraction": 0.1, **used}, notes


def _read_run(model: str | Path | PreTrainedModel) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the recipe of a run and its figures."""
    if isinstance(model, PreTrainedModel):
        raise UserError("A model object does not say which images to compare on; use --dataset.")
    folder = Path(model).expanduser()
    try:
        figures = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        figures = None
    if not (folder / RECIPE_FILE).is_file() or not isinstance(figures, dict) or "splits" not in figures:
        raise UserError(f"{model} is no folder of a finished run, so it names no images to compare on; use --dataset.")
    recipe = load_recipe(folder / RECIPE_FILE, KEY_TYPES).values
    if recipe.get("dataset") is None:
        raise UserError(f"The recipe of {model} names no dataset; use --dataset.")
    return recipe, figures


def _same(key: str, first: Any, second: Any) -> bool:
    if key in _PATHS and first is not None and second is not None:
        paths = [os.path.expanduser(str(value)) for value in (first, second)]
        if all(map(os.path.exists, paths)):
            return os.path.samefile(*paths)
    return bool(first == second)


def _called(model: str | Path | PreTrainedModel) -> str:
    if isinstance(model, PreTrainedModel):
        return model.name_or_path or type(model).__name__
    return str(without_private_text(str(model), Path.cwd()))


def _accuracy(accuracy: float, interval: Interval) -> dict[str, Any]:
    return {"accuracy": accuracy, "accuracy_interval": list(interval)}


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def _range_of_points(interval: Interval) -> str:
    return f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
