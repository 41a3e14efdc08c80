"""What all plots have in common: style, fonts, titles, and PNG files that are there when they are complete.

Only matplotlib's object-oriented interface is used: no pyplot, no window, no state that outlives a call. A plot that
cannot be drawn is left out and the log says why: it must not cost a result.
"""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure

from hf_finetune.errors import first_line
from hf_finetune.evaluation.fonts import families_for
from hf_finetune.logs import get_logger
from hf_finetune.whole_files import written_whole

logger = get_logger(__name__)

GREY = "#666666"
_MARGIN = 0.15  # inches around a plot


@contextmanager
def drawing(path: str | os.PathLike[str], text: str) -> Iterator[set[str]]:
    """Draw with the plots' style and fonts for `text`; yield the characters of it that no installed font has.

    Whatever goes wrong leaves the file `path` out, and the log says so.
    """
    try:
        with _style(text) as missing:
            yield missing
    except Exception as error:  # fonts, memory, a full disk, matplotlib itself: a plot is not worth a result
        reason = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
        logger.warning(f"Note: {Path(path).name} could not be drawn ({reason}); nothing else depends on it.")


@contextmanager
def _style(text: str) -> Iterator[set[str]]:
    families, missing = families_for(text)
    settings: dict[Any, Any] = {
        **matplotlib.rcParamsDefault,  # a matplotlibrc of the user's must not make the plots illegible
        "backend": matplotlib.rcParams["backend"],
        "font.family": families,
        "axes.edgecolor": GREY,
        "axes.labelcolor": "#333333",
        "axes.titlesize": 12,
        "xtick.color": GREY,
        "xtick.labelcolor": "#333333",
        "ytick.color": GREY,
        "ytick.labelcolor": "#333333",
    }
    with matplotlib.rc_context(settings):
        yield missing


def save(figure: Figure, path: str | os.PathLike[str], dots_per_inch: int, aligned: Sequence[Axes] = ()) -> None:
    """Write a figure as a PNG file, which appears when it is complete.

    It is laid out once and drawn once: matplotlib's `bbox_inches="tight"` draws it twice.

    Args:
        figure: The figure.
        path: The PNG file.
        dots_per_inch: Its resolution.
        aligned: Axes above each other, whose labels on the left get one place.
    """
    figure.set_dpi(dots_per_inch)
    canvas = FigureCanvasAgg(figure)
    with written_whole(Path(path)) as unfinished, warnings.catch_warnings():
        # Names of classes are replaced where a font is missing; a warning per character would bury the log.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine(None)
        renderer = canvas.get_renderer()
        if len(aligned):
            _align_labels(aligned, renderer)
        box = figure.get_tightbbox(renderer).padded(_MARGIN)
        figure.savefig(unfinished, format="png", dpi=dots_per_inch, facecolor="white", bbox_inches=box)


def _align_labels(panels: Sequence[Axes], renderer: RendererAgg) -> None:
    """Put the labels of vertical axes where the leftmost is; `align_ylabels` measures all of them for each."""
    left = min(_left_of_label(axes, renderer) for axes in panels)
    for axes in panels:
        axes.yaxis.set_label_coords((left - axes.bbox.x0) / axes.bbox.width, 0.5)


def _left_of_label(axes: Axes, renderer: RendererAgg) -> float:
    axes.yaxis.get_tightbbox(renderer)  # places the label
    return float(axes.yaxis.label.get_position()[0])


def set_title(axes: Axes, title: str, *more_lines: str, width: int = 70) -> None:
    """Set the title of a plot, wrapped at `width` characters, and lines below it."""
    lines = [*textwrap.wrap(title, width), *filter(None, more_lines)]
    height = None if axes.child_axes else 1  # where there is no axis above, its place need not be searched
    axes.set_title("\n".join(lines), pad=12, y=height, parse_math=False)
