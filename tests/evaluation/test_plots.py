"""The plots: written whole, without warnings, without global state, and with what they must show."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hf_finetune.evaluation import fonts
from hf_finetune.evaluation.analysis import Confusions
from hf_finetune.evaluation.plots import plot_confusion_matrix, plot_training_curve

pytestmark = pytest.mark.usefixtures("drawn_plots")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, in order; any warning is an error."""
    saved: list[Figure] = []
    savefig = Figure.savefig

    def keep(figure: Figure, *arguments, **keywords):
        saved.append(figure)
        savefig(figure, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", keep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield saved


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def tick_labels(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize(("classes", "numbered"), [(2, True), (20, True), (21, False)])
def test_names_and_numbers(classes: int, numbered: bool, figures: list[Figure], tmp_path: Path):
    matrix = np.eye(classes, dtype=np.int64) * 1_234
    matrix[0, 1] = 7
    names = [f"class {number}" for number in range(classes)]
    plot_confusion_matrix(matrix, names, tmp_path / "matrix.png")
    size_of(tmp_path / "matrix.png")
    assert tick_labels(figures[0]) == names
    cells = [text.get_text() for text in figures[0].axes[0].texts]
    assert cells == (["1,234", "7", *["1,234"] * (classes - 1)] if numbered else [])


def test_beyond_sixty_classes_the_axes_count(figures: list[Figure], tmp_path: Path):
    plot_confusion_matrix(np.eye(61, dtype=np.int64), ["a name"] * 61, tmp_path / "matrix.png")
    assert "a name" not in tick_labels(figures[0])
    assert figures[0].axes[0].get_xlabel() == "predicted class id"


def test_a_thousand_classes_have_a_pixel_each(figures: list[Figure], tmp_path: Path):
    plot_confusion_matrix(np.eye(1_000, dtype=np.int64), ["a name"] * 1_000, tmp_path / "matrix.png")
    axes = figures[0].axes[0]
    assert axes.get_window_extent().width > 1_000
    assert max(size_of(tmp_path / "matrix.png")) < 4_000


@pytest.mark.parametrize(("classes", "per_cell", "cells"), [(500, 1, 500), (501, 2, 251), (21_841, 44, 497)])
def test_beyond_five_hundred_classes_neighbours_share_a_cell(classes, per_cell, cells, figures, tmp_path):
    labels = np.arange(classes)
    confusions = Confusions.count(np.where(labels % 4 == 0, 0, labels), labels, classes)
    plot_confusion_matrix(confusions, ["a name"] * classes, tmp_path / "matrix.png")
    axes = figures[0].axes[0]
    shares = axes.images[0].get_array()
    assert shares.shape == (cells, cells)
    assert np.allclose(shares.filled(0).sum(axis=1), 1)
    assert axes.get_xlim() == (-0.5, cells * per_cell - 0.5)  # class ids
    accuracy, *binned = axes.get_title().split("\n")[1:]
    assert accuracy.startswith("accuracy 7") and binned == (
        [f"each cell is {per_cell} x {per_cell} classes"] if per_cell > 1 else []
    )


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("no\nfont"), OSError(28, "No space left on device")])
def test_a_plot_that_fails_is_one_line(error, tmp_path, monkeypatch, logged):
    def fail(figure: Figure, file: Path, **settings):
        file.write_bytes(b"half a plot")
        raise error

    monkeypatch.setattr(Figure, "savefig", fail)
    plot_confusion_matrix(np.eye(3, dtype=np.int64), ["a", "b", "c"], tmp_path / "matrix.png")
    plot_training_curve(HISTORY, tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())
    assert [line.split(" (")[0] for line in logged] == [
        "Note: matrix.png could not be drawn",
        "Note: curve.png could not be drawn",
    ]
    assert all(type(error).__name__ in line and "\n" not in line for line in logged)


def test_colours_are_shares_of_the_row(figures: list[Figure], tmp_path: Path):
    plot_confusion_matrix(np.array([[3, 1], [0, 0]]), ["there", "absent"], tmp_path / "matrix.png")
    shares = figures[0].axes[0].images[0].get_array()
    assert shares.filled(-1).tolist() == [[0.75, 0.25], [-1, -1]]
    assert figures[0].axes[0].get_title() == "Confusion matrix\naccuracy 75.00 % on 4 images"


def test_names_that_are_formulas_or_long(figures: list[Figure], tmp_path: Path):
    names = ["$5 \\frac$", "été", "a name that is far too long for the margin"]
    plot_confusion_matrix(np.eye(3, dtype=np.int64), names, tmp_path / "matrix.png")
    assert tick_labels(figures[0]) == ["$5 \\frac$", "été", "a name that is far too …"]
    size_of(tmp_path / "matrix.png")


def test_the_title_names_model_data_and_split(figures: list[Figure], tmp_path: Path):
    matrix = np.array([[180, 4], [4, 171]])
    plot_confusion_matrix(matrix, ["a", "b"], tmp_path / "matrix.png", "$resnet_50$ on digits", "test")
    assert figures[0].axes[0].get_title() == "$resnet_50$ on digits\naccuracy 97.77 % on 359 test images"
    plot_confusion_matrix(np.array([[1, 0], [0, 0]]), ["a", "b"], tmp_path / "matrix.png", "a " * 30, "test")
    *lines, last = figures[1].axes[0].get_title().split("\n")
    assert len(lines) == 2 and last == "accuracy 100.00 % on 1 test image"
    plot_training_curve(HISTORY, tmp_path / "curve.png", title="resnet50 on digits")
    assert figures[2].axes[0].get_title() == "resnet50 on digits"


def test_a_script_without_a_font_is_replaced_by_class_ids(figures, tmp_path, monkeypatch, logged):
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [])
    plot_confusion_matrix(np.eye(3, dtype=np.int64), ["cat", "小鸟", "кот"], tmp_path / "matrix.png")
    assert tick_labels(figures[0]) == ["cat", "class 1", "кот"]
    assert len(logged) == 1 and logged[0].startswith("Note: no installed font can draw 1 of the class names (小鸟), so")


def test_fonts_are_looked_for_only_where_a_character_needs_them(monkeypatch):
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: 1 / 0)
    assert fonts.families_for("abc é ß кот … %\n") == (["DejaVu Sans"], set())


def test_an_installed_font_draws_chinese_japanese_and_korean(figures: list[Figure], tmp_path: Path, logged):
    families, missing = fonts.families_for("小鸟 とり 새")
    if missing:
        pytest.skip("no font with these characters is installed")
    names = ["小鸟", "とり", "새"]
    plot_confusion_matrix(np.eye(3, dtype=np.int64), names, tmp_path / "matrix.png", "小鸟")
    assert tick_labels(figures[0]) == names and not logged
    assert figures[0].axes[0].get_yticklabels()[0].get_fontfamily() == families and len(families) > 1


HISTORY = [
    {"epoch": 0.5, "step": 5, "loss": 2.0, "learning_rate": 0.01, "grad_norm": 1.0},
    {"epoch": 1.0, "step": 10, "loss": float("nan"), "learning_rate": 0.01},
    {"epoch": 1.0, "step": 10, "eval_loss": 1.5, "eval_accuracy": 0.6, "eval_runtime": 1.0},
    {"epoch": 1.5, "step": 15, "loss": 1.0, "learning_rate": 0.001},
    {"epoch": 2.0, "step": 20, "eval_loss": 1.25, "eval_accuracy": 0.5},
    {"epoch": 2.0, "step": 20, "loss": 0.5, "learning_rate": 0.0},
    {"epoch": 2.0, "step": 20, "train_loss": 1.2, "train_runtime": 9.0, "total_flos": 1.0},
]


def test_training_curve(figures: list[Figure], tmp_path: Path):
    plot_training_curve(HISTORY, tmp_path / "curve.png", "held-out split")
    size_of(tmp_path / "curve.png")
    loss, accuracy, rate = figures[0].axes
    assert [line.get_xydata().tolist() for line in loss.get_lines()] == [
        [[0.5, 2.0], [1.5, 1.0], [2.0, 0.5]],
        [[1.0, 1.5], [2.0, 1.25]],
    ]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "held-out split"]
    assert accuracy.get_lines()[0].get_xydata().tolist() == [[1.0, 0.6], [2.0, 0.5]]
    assert accuracy.get_title(loc="left") == "held-out split, highest 60.00 % at epoch 1"
    assert rate.get_yscale() == "log"
    assert rate.get_lines()[0].get_xydata().tolist() == [[0.5, 0.01], [1.0, 0.01], [1.5, 0.001]]
    low, high = rate.get_ylim()
    assert low < 0.001 and high > 0.01


def test_a_stepwise_rate_is_drawn_as_steps_after_its_warm_up(figures: list[Figure], tmp_path: Path):
    rates = [0.001, 0.005, 0.01, 0.01, 0.001, 0.001, 0.0001]
    history = [{"epoch": epoch, "learning_rate": rate} for epoch, rate in enumerate(rates)]
    plot_training_curve(history, tmp_path / "curve.png", stepwise_rate=True)
    assert figures[0].axes[-1].get_lines()[0].get_xydata().tolist() == [
        [0, 0.001], [1, 0.005], [2, 0.01], [3, 0.01], [4, 0.01], [4, 0.001], [5, 0.001], [6, 0.001], [6, 0.0001],
    ]  # fmt: skip
    plot_training_curve(history, tmp_path / "curve.png")
    assert len(figures[1].axes[-1].get_lines()[0].get_xydata()) == len(rates)


def test_training_curve_without_evaluation(figures: list[Figure], tmp_path: Path):
    plot_training_curve([entry for entry in HISTORY if "eval_loss" not in entry], tmp_path / "curve.png")
    assert [axes.get_ylabel() for axes in figures[0].axes] == ["loss (nats)", "learning rate"]
    assert [axes.get_lines()[0].get_label() for axes in figures[0].axes] == ["train", "learning rate"]


@pytest.mark.parametrize(
    ("history", "drawn"),
    [(HISTORY[:1], ["train", "learning rate"]), (HISTORY[2:3], ["validation", "validation"]), ([], [])],
    ids=["one log line", "one evaluation", "nothing"],
)
def test_training_curve_of_a_point_or_less(history, drawn, figures: list[Figure], tmp_path: Path):
    plot_training_curve(history, tmp_path / "curve.png")
    size_of(tmp_path / "curve.png")
    lines = [line for axes in figures[0].axes for line in axes.get_lines() if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == drawn
    assert all(line.get_marker() == "o" for line in lines)


def test_settings_of_the_user_are_neither_followed_nor_changed(figures: list[Figure], tmp_path: Path):
    with matplotlib.rc_context({"axes.titlesize": 40, "text.usetex": True}):
        before = dict(matplotlib.rcParams)
        plot_training_curve(HISTORY, tmp_path / "curve.png")
        assert dict(matplotlib.rcParams) == before
    assert figures[0].axes[0].title.get_fontsize() == 12
