"""Plots are laid out once and drawn once, and look as if matplotlib had done it twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hf_finetune.evaluation.drawing import save
from hf_finetune.evaluation.plots import _power_of_ten


def two_panels() -> Figure:
    """Return a figure whose upper panel has wide numbers and whose lower panel has narrow ones."""
    figure = Figure(figsize=(3, 3), layout="constrained")
    for axes, height in zip(figure.subplots(2, 1, sharex=True), (123_456, 1), strict=True):
        axes.plot([0, 1], [0, height])
        axes.set_ylabel("figure")
    return figure


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("L"))


@pytest.mark.usefixtures("drawn_plots")
@pytest.mark.parametrize("aligned", [False, True])
def test_a_plot_is_that_of_matplotlib(tmp_path: Path, aligned: bool) -> None:
    figure, expected = two_panels(), two_panels()
    if aligned:
        expected.align_ylabels()
    save(figure, tmp_path / "ours.png", 100, figure.axes if aligned else ())
    expected.savefig(tmp_path / "theirs.png", dpi=100, bbox_inches="tight", pad_inches=0.15, facecolor="white")
    ours, theirs = pixels(tmp_path / "ours.png"), pixels(tmp_path / "theirs.png")
    height, width = np.minimum(ours.shape, theirs.shape)
    assert np.abs(np.subtract(ours.shape, theirs.shape)).max() <= 1  # a label's place is not rounded as theirs is
    different = (ours[:height, -width:] != theirs[:height, -width:]).mean()
    assert different <= (0.06 if aligned else 0)
    if aligned:
        left = [axes.yaxis.label.get_window_extent().x0 for axes in figure.axes]
        assert left[0] == pytest.approx(left[1])


@pytest.mark.parametrize(("value", "text"), [(1e-12, "10⁻¹²"), (0.001, "10⁻³"), (1.0, "10⁰")])
def test_a_power_of_ten_needs_no_formula(value: float, text: str) -> None:
    assert _power_of_ten(value) == text
