"""The final table to the letter, and JSON that any reader accepts."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from hf_finetune.errors import UserError
from hf_finetune.evaluation.analysis import per_class_figures
from hf_finetune.evaluation.metrics import METRICS, Metric, run_metrics
from hf_finetune.evaluation.report import (
    best_classes,
    describe_split,
    format_log_figures,
    format_report,
    save_confusion_matrix,
    to_json,
    worst_classes,
    write_metrics,
)

FIGURES = {"accuracy": 0.8721, "macro_f1": 0.87154, "balanced_accuracy": 0.87, "loss": 0.40119, "samples": 10_000}


def row(name: str, f1: float, support: int = 10) -> dict:
    if support == 0:
        return {"name": name, "precision": math.nan, "recall": math.nan, "f1": math.nan, "support": 0}
    return {"name": name, "precision": 1.0, "recall": 0.5, "f1": f1, "support": support}


def test_describe_split():
    assert describe_split("test", 10_000) == "test (10,000 images)"
    assert describe_split("test", 1) == "test (1 image)"
    assert describe_split("validation", 500, True) == "validation (500 images), which also chose the checkpoint"


def test_report_to_the_letter():
    figures = {
        "test (10,000 images)": {**FIGURES, "top5_accuracy": 0.9941},
        "validation (5,000 images), which also chose the checkpoint": {**FIGURES, "top5_accuracy": float("nan")},
    }
    per_class = [row("airplane", 0.9, 1_000), row("鸟", 0.05), row("never there", 0.0, support=0)]
    assert format_report(figures, per_class, "test (10,000 images)").split("\n") == [
        "split                             accuracy    top-5  macro F1  balanced    loss",
        "test (10,000 images)               87.21 %  99.41 %   87.15 %   87.00 %  0.4012",
        "validation (5,000 images), which   87.21 %        -   87.15 %   87.00 %  0.4012",
        "also chose the checkpoint",
        "",
        "All 3 classes, test (10,000 images):",
        "class        precision   recall       F1  images",
        "airplane      100.00 %  50.00 %  90.00 %   1,000",
        "鸟            100.00 %  50.00 %   5.00 %      10",
        "never there          -        -        -       0",
    ]


def test_no_top5_column_without_the_figure():
    report = format_report({"test": FIGURES})
    assert report.split("\n")[0].split() == ["split", "accuracy", "macro", "F1", "balanced", "loss"]
    assert len(report.split("\n")) == 2


def test_the_worst_twenty_of_many_and_it_says_so():
    per_class = [row(f"class {number}", number / 100) for number in reversed(range(100))]
    per_class.append(row("absent", 0.0, support=0))
    lines = format_report({"test": FIGURES}, per_class, "test").split("\n")
    assert "The 20 of 101 classes with the lowest F1 (without an image in this split: 1), test:" in " ".join(lines)
    assert [line.split("  ")[0] for line in lines[-20:]] == [f"class {number}" for number in range(20)]
    best = "The 5 of 101 classes with the highest F1 (not shown: 75), test:"
    start = lines.index(best) + 2
    assert [line.split("  ")[0] for line in lines[start : start + 5]] == [f"class {99 - number}" for number in range(5)]


@pytest.mark.parametrize("absent", [0, 3])
@pytest.mark.parametrize("present", [1, 4, 5, 6, 8, 9, 30])
def test_the_best_and_the_worst_do_not_overlap(present, absent):
    rows = [row(f"class {number}", number / 100) for number in range(present)]
    rows += [row(f"absent {number}", 0.0, support=0) for number in range(absent)]
    worst, _ = worst_classes(rows, 5)
    best, caption = best_classes(rows, 5, 3)
    shown = [entry["name"] for entry in (*worst, *best) if entry["support"]]
    assert len(set(shown)) == len(shown) == min(present, 8)
    assert bool(best) == bool(caption) == (present > 5)
    if best:
        hidden = int(caption.split("shown: ")[1].rstrip(")"))
        assert hidden + len(best) + len(worst) + absent == len(rows)


def test_worst_classes_keep_the_order_where_all_fit():
    rows = [row("b", 0.9), row("a", 0.1)]
    assert worst_classes(rows, 2) == (rows, "All 2 classes")
    assert worst_classes(rows, 1) == ([rows[1]], "The 1 of 2 classes with the lowest F1")


@pytest.mark.parametrize("name", ["tench, Tinca tinca, " * 5, "丁鱥" * 30, "two\nlines"], ids=["long", "wide", "lines"])
def test_long_names_stay_within_the_line(name):
    lines = format_report({"test": FIGURES}, [row(name, 0.5)]).split("\n")
    assert len(lines) == 6
    assert len(lines[-1]) <= 80
    assert lines[-1].endswith("100.00 %  50.00 %  50.00 %      10")


def test_a_metric_of_the_run_has_a_column_and_a_place_in_the_log_line():
    own = Metric(lambda predictions: 0.0, "my kind", "my own kind", "my_kind", lambda value: f"{value:.1f} points")
    metrics = run_metrics({"mine": own, "brier_score": lambda probabilities, labels: 0.0})
    values = {**FIGURES, "mine": 12.34, "brier_score": 0.25}
    head, line = format_report({"test": values}, metrics=metrics).split("\n")
    assert head.split()[-5:] == ["loss", "my", "kind", "brier", "score"]
    assert line.endswith("0.4012  12.3 points       0.2500")
    logs = {f"eval_{name}": value for name, value in values.items()}
    assert format_log_figures(logs) == "loss 0.4012  accuracy 87.21%"
    assert format_log_figures(logs, metrics) == (
        "loss 0.4012  accuracy 87.21%  my own kind 12.3 points  brier score 0.2500"
    )


def test_json_says_null_where_the_table_says_a_dash():
    """A class without an image in the split has no figures; one that was never predicted has a precision of 0."""
    rows = per_class_figures(np.array([0, 0]), np.array([0, 1]), ["there", "never predicted", "absent"])
    cells = [line.split()[-4:] for line in format_report({"test": FIGURES}, rows).split("\n")[-3:]]
    written = json.loads(to_json({"per_class": rows}))["per_class"]
    for row, texts in zip(written, cells, strict=True):
        for name, text in zip(("precision", "recall", "f1"), texts, strict=False):
            assert (row[name] is None) == (text == "-"), (row, texts)
    assert written[1]["precision"] == 0.0 and written[2]["f1"] is None
    assert json.loads(to_json({"metrics": {"top5_accuracy": math.nan}}))["metrics"]["top5_accuracy"] is None
    assert METRICS["top5_accuracy"].format(math.nan) == "-"


def test_the_confusion_matrix_is_saved_as_image_or_table(tmp_path: Path):
    matrix = np.array([[3, 1], [0, 2]])
    save_confusion_matrix(matrix, ["a, b", "c"], tmp_path / "matrix.csv")
    assert (tmp_path / "matrix.csv").read_text() == 'label,"a, b",c\n"a, b",3,1\nc,0,2\n'
    save_confusion_matrix(matrix, ["a, b", "c"], tmp_path / "matrix.PNG", "resnet on digits")
    assert (tmp_path / "matrix.PNG").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"matrix.jpg: a confusion matrix is saved as .png or .csv; use .*matrix.png"):
        save_confusion_matrix(matrix, ["a", "b"], tmp_path / "matrix.jpg")


def test_write_metrics_is_valid_sorted_json(tmp_path: Path):
    path = tmp_path / "metrics.json"
    mapping = {"b": float("nan"), "a": np.float32(0.5), "c": [np.int64(3), float("inf")], "d": np.eye(2), "e": "é"}
    write_metrics(path, mapping)

    def refuse(constant: str):
        raise AssertionError(constant)

    text = path.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == {
        "a": 0.5,
        "b": None,
        "c": [3, None],
        "d": [[1.0, 0.0], [0.0, 1.0]],
        "e": "é",
    }
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "metrics.json"
    write_metrics(path, {"accuracy": 1.0})
    with pytest.raises(TypeError):
        write_metrics(path, {"accuracy": object()})

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_metrics(path, {"accuracy": 2.0})
    assert json.loads(path.read_text()) == {"accuracy": 1.0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]
