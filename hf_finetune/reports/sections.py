"""The sections of a report, but for those of images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_finetune.config.recipe import to_yaml
from hf_finetune.config.training_keys import MULTISTEP
from hf_finetune.data.splits import ROLES
from hf_finetune.evaluation.analysis import Confusions
from hf_finetune.evaluation.calibration import reliability
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.evaluation.report import class_cells, class_heading, describe_split, format_interval
from hf_finetune.evaluation.slices import remark_of, slice_figures
from hf_finetune.hub.loading import loading_needs, usage_code
from hf_finetune.pages.charts import Line, LineChart
from hf_finetune.pages.page import (
    Block,
    Cell,
    Charts,
    Code,
    Column,
    Details,
    Fact,
    Facts,
    Matrix,
    Note,
    Paragraph,
    Section,
    Table,
    shortened,
)
from hf_finetune.reports.answers import Answers
from hf_finetune.reports.choice import Choice
from hf_finetune.reports.run import PREFIXES, RunFiles

_MOST_IN_MATRIX = 30  # classes
_MOST_PAIRS = 100  # of classes that are confused, in the table that takes the matrix's place
_MOST_CLASSES = 500  # in the table of classes
_PARTS = {"prepare": "time for data and network", "train": "for training", "evaluate": "for evaluation"}


def figures_section(run: RunFiles) -> Section:
    """Return the figures with their intervals, and which split is which."""
    blocks: list[Block] = [Note(text, "warning") for text in run.record.get("warnings", ())]
    if run.role is None:
        return Section("Figures", [*blocks, Note("No split was left to evaluate on.", "warning")])
    figures, intervals = run.figures(run.role), run.intervals(run.role)
    blocks.append(
        Facts(
            [
                Fact(
                    metric.title,
                    metric.format(figures[name]),
                    f"95 %: {format_interval(intervals[name])}" if name in intervals else "",
                )
                for name, metric in run.metrics.items()
                if name in figures
            ]
        )
    )
    chose = bool(run.record.get("validation_chose_checkpoint"))
    blocks.append(Paragraph(f"These are figures on {describe_split(run.role, run.images(run.role))}. {_honesty(run)}"))
    if len(run.roles) > 1:
        blocks.append(_splits_table(run, chose))
    if intervals:
        blocks.append(
            Paragraph(
                "An interval of 95 % is what other images of the same kind may give. A difference between two models"
                " that is smaller than the interval may be chance; hf-finetune compare tells."
            )
        )
    return Section("Figures", blocks)


def _honesty(run: RunFiles) -> str:
    if run.role == "test":
        return "None of them had a part in training or in the choice of the weights."
    if run.record.get("validation_chose_checkpoint"):
        return "They also chose the weights, so new images will give lower figures; a test split would tell."
    return "They were not trained on. There is no test split."


def _splits_table(run: RunFiles, chose: bool) -> Table:
    columns = [Column("split"), *(Column(metric.title, number=True) for metric in run.metrics.values())]
    rows = []
    for role in run.roles:
        described = describe_split(role, run.images(role), chose_checkpoint=chose and role == "validation")
        figures, intervals = run.figures(role), run.intervals(role)
        cells = [Cell(described)]
        for name, metric in run.metrics.items():
            value = figures.get(name, math.nan)
            limits = f" ({format_interval(intervals[name])})" if name in intervals else ""
            cells.append(Cell(metric.format(value) + limits, value))
        rows.append(cells)
    return Table(columns, rows)


def training_section(run: RunFiles) -> Section:
    """Return the curves of the training, and how long each part took."""
    charts = _curves(run)
    blocks: list[Block] = [Charts(charts)] if charts else [Paragraph("Nothing was logged during training.")]
    seconds = run.record.get("seconds", {})
    if seconds:
        blocks.append(Facts([Fact(_PARTS[name], _duration(seconds[name])) for name in _PARTS if name in seconds]))
        if run.record.get("resumed"):
            blocks.append(Note("The run was interrupted: the times are those since it resumed."))
    skipped = len(run.record.get("skipped_steps", ()))
    if skipped:
        blocks.append(Note(f"{skipped:,} optimizer steps had a non-finite loss and changed nothing.", "warning"))
    return Section("Training", blocks)


def _curves(run: RunFiles) -> list[LineChart]:
    metric = next((name for name in ("accuracy", "mAP") if _series(run.history, f"eval_{name}")), "accuracy")
    stepwise = run.recipe.values.get("lr_scheduler_type", MULTISTEP) == MULTISTEP
    rate = _series(run.history, "learning_rate")
    lines = {
        "loss": [
            Line("train", _series(run.history, "loss")),
            Line("validation", _series(run.history, "eval_loss"), dots=True),
        ],
        f"{metric} on validation": [Line("", _series(run.history, f"eval_{metric}"), dots=True)],
        "learning rate": [Line("", _with_corners(rate) if stepwise else rate)],
    }
    charts = []
    for title, of_chart in lines.items():
        drawn = [line for line in of_chart if line.points]
        if drawn:
            form = "{:.3g}".format if metric not in title else lambda value: f"{100 * value:g} %"
            charts.append(LineChart(title, drawn, "epoch", y_format=form))
    return charts


def _series(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    points = [(entry["epoch"], entry[key]) for entry in history if key in entry and "epoch" in entry]
    return [(x, y) for x, y in points if isinstance(y, float) and math.isfinite(y)]


def _with_corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of a rate that is held until it falls."""
    corners = list(points[:1])
    for (_, before), (epoch, rate) in itertools.pairwise(points):
        corners += [(epoch, before)] * (rate < before) + [(epoch, rate)]
    return corners


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def confusion_section(run: RunFiles, answers: Answers, choice: Choice) -> Section:
    """Return the confusion matrix, or of many classes the pairs that are confused most."""
    known = answers.known
    names = [shortened(name) for name in answers.label_names]
    found = Confusions.count(answers.predictions[known], answers.labels[known], len(names))
    if len(names) <= _MOST_IN_MATRIX:
        note = "A row is a class of the images, a column what the model said; a number opens images of its cell."
        return Section("Confusions", [Paragraph(note), _matrix(found, names, choice)])
    wrong = np.flatnonzero(found.labels != found.predictions)
    order = wrong[np.argsort(-found.images[wrong], kind="stable")][:_MOST_PAIRS]
    support = np.bincount(answers.labels[known], minlength=len(names))
    rows = []
    for cell in order:
        label, prediction, images = int(found.labels[cell]), int(found.predictions[cell]), int(found.images[cell])
        title = f"{names[label]} taken for {names[prediction]}"
        rows.append(
            [
                Cell(names[label]),
                Cell(names[prediction]),
                Cell(f"{images:,}", images, images=_keys(choice.cells.get((label, prediction), ())), title=title),
                Cell(as_percent(images / support[label]), images / support[label]),
            ]
        )
    text = f"The {len(rows):,} of {len(wrong):,} pairs of classes that are confused most; a number opens images."
    columns = [Column("truth"), Column("prediction"), Column("images", number=True)]
    table = Table([*columns, Column("share of the truth", number=True)], rows)
    return Section("Confusions", [Paragraph(text), table] if rows else [Paragraph("No class was taken for another.")])


def _matrix(found: Confusions, names: Sequence[str], choice: Choice) -> Matrix:
    matrix = found.matrix()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cells = [
        [
            Cell(
                f"{matrix[label, prediction]:,}" if matrix[label, prediction] else "",
                share=float(shares[label, prediction]),
                images=_keys(choice.cells.get((label, prediction), ())),
                title=names[label] if label == prediction else f"{names[label]} taken for {names[prediction]}",
            )
            for prediction in range(len(names))
        ]
        for label in range(len(names))
    ]
    recall = np.diagonal(shares)
    orders = {
        "as in the model": list(range(len(names))),
        "by name": sorted(range(len(names)), key=lambda class_id: names[class_id].casefold()),
        "lowest recall first": np.argsort(recall, kind="stable").tolist(),
        "most images first": np.argsort(-matrix.sum(axis=1), kind="stable").tolist(),
    }
    return Matrix(names, cells, "truth", "prediction", orders)


def _keys(places: Sequence[int]) -> list[str]:
    return [str(place) for place in places]


def classes_section(run: RunFiles) -> Section:
    """Return a table of the figures of each class."""
    rows: list[Any] = [{**row, **_without_null(row)} for row in run.record["per_class"]]
    order = sorted(rows, key=lambda row: (math.isnan(row["f1"]), row["f1"]))[:_MOST_CLASSES]
    blocks: list[Block] = []
    if len(order) < len(rows):
        blocks.append(Paragraph(f"The {len(order):,} of {len(rows):,} classes with the lowest F1."))
    heading = class_heading(rows)
    columns = [Column(heading[0]), *(Column(name, number=True) for name in [*heading[1:], "95 % of recall"])]
    keys = ["average_precision", "threshold"] if "AP" in heading else []
    keys += ["precision", "recall", "f1", "support"]
    shown = []
    for row in order if len(order) < len(rows) else rows:
        texts = zip(class_cells(row), keys, strict=True)
        bars = ("average_precision", "precision", "recall", "f1")
        cells = [
            Cell(text, row[key], None if key not in bars or math.isnan(row[key]) else row[key]) for text, key in texts
        ]
        limits = row["recall_interval"]
        cells.append(Cell("-", math.nan) if limits is None else Cell(format_interval(limits), limits[0]))
        shown.append([Cell(shortened(row["name"])), *cells])
    return Section("Classes", [*blocks, Table(columns, shown)])


def _without_null(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan for key, value in row.items() if value is None and key != "recall_interval"}


def scores_section(run: RunFiles, answers: Answers) -> Section:
    """Return the reliability diagram, and what the calibration error means."""
    known = answers.known
    bins = reliability(answers.confidences[known], answers.correct[known])
    points = [(row["confidence"], row["accuracy"]) for row in bins]
    lines = [Line("as it should be", [(0.0, 0.0), (1.0, 1.0)], dotted=True), Line("images", points, dots=True)]
    chart = LineChart("accuracy of the images of each score", lines, "score", _percent_tick, _percent_tick, whole=True)
    mean = sum(row["confidence"] * row["images"] for row in bins) / max(1, int(known.sum()))
    accuracy = float(np.mean(answers.correct[known]))
    tendency = "too high" if mean > accuracy else "too low"
    text = (
        f"The mean score of the predicted class is {as_percent(mean)}, and {as_percent(accuracy)} of the predictions"
        f" are correct: on the whole, scores are {tendency} by {100 * abs(mean - accuracy):.1f} points."
    )
    if (temperature := run.record["metrics"].get("train_temperature")) is not None:
        text += f" They were calibrated on validation, by a temperature of {temperature:.3f}."
    elif abs(mean - accuracy) > 0.05:  # five points
        text += " Train with calibrate: true to correct them on validation."
    columns = [Column(name, number=True) for name in ("score", "images", "mean score", "accuracy")]
    rows = [
        [
            Cell(f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %", row["low"]),
            Cell(f"{row['images']:,}", row["images"]),
            Cell(as_percent(row["confidence"]), row["confidence"]),
            Cell(as_percent(row["accuracy"]), row["accuracy"]),
        ]
        for row in bins
    ]
    return Section("Scores", [Paragraph(text), Charts([chart]), Details("The numbers", [Table(columns, rows)])])


def _percent_tick(value: float) -> str:
    return f"{100 * value:.0f} %"


def slices_section(answers: Answers) -> Section:
    """Return the accuracy of each value of the columns of slices."""
    known = np.flatnonzero(answers.known)
    what = "images with all their labels and no other" if answers.several else "accuracy"
    blocks: list[Block] = [
        Paragraph(
            "A value whose interval ends below the figure of all images is marked; of many values, one in forty is by"
            " chance. An interval wider than 20 points means too few images to tell."
        )
    ]
    for column, values in answers.slices.items():
        rows = []
        for row in slice_figures([values[place] for place in known.tolist()], answers.correct[known]):
            rows.append(
                [
                    Cell(shortened(row["value"])),
                    Cell(f"{row['images']:,}", row["images"]),
                    Cell(as_percent(row["accuracy"]), row["accuracy"], row["accuracy"]),
                    Cell(format_interval(row["interval"]), row["interval"][0]),
                    Cell(remark_of(row)),
                ]
            )
        numbers = [Column(name, number=True) for name in ("images", what, "95 % interval")]
        blocks.append(Table([Column(shortened(column)), *numbers, Column("remark")], rows))
    return Section("Slices", blocks)


def again_section(run: RunFiles) -> Section:
    """Return how to load the model, how to train it again, and the recipe with who set what."""
    several = run.answers is not None and run.answers.several
    code = usage_code(run.config, repr(str(run.folder)), several)
    blocks: list[Block] = [Paragraph("To use the model:"), Code(code)]
    blocks += [Paragraph(text) for text in (loading_needs(run.config)["sentence"],) if text]
    if command := run.record.get("command"):
        blocks += [Paragraph("It was trained by:"), Code(command)]
    if again := run.record.get("again"):
        blocks += [Paragraph("To train it again from the files of this folder, run this in the folder:"), Code(again)]
    blocks += [Paragraph("The recipe, and what set each value:"), Code(to_yaml(run.recipe, explain=True))]
    versions = ", ".join(f"{name} {version}" for name, version in run.record.get("versions", {}).items())
    return Section("How to repeat it", [*blocks, Paragraph(f"Versions: {versions}.")])


def data_blocks(run: RunFiles) -> list[Block]:
    """Return what the splits are and what was said of the data: duplicates, unreadable images, what is left out."""
    splits = run.record.get("splits", {})
    counts = {role: run.images(role) for role in PREFIXES if role in run.roles}
    rows = [
        [Cell(role), Cell(splits[role]), Cell(f"{counts[role]:,}" if role in counts else "")]
        for role in ROLES
        if role in splits
    ]
    blocks: list[Block] = [Table([Column("for"), Column("split"), Column("images counted", number=True)], rows)]
    blocks += [Note(text) for text in run.record.get("notes", ())]
    unreadable = run.record.get("unreadable_images", ())
    if unreadable:
        lines = "\n".join([*unreadable[:100], *(["..."] if len(unreadable) > 100 else [])])
        blocks.append(Details(f"{len(unreadable):,} images could not be read", [Code(lines)]))
    return blocks
