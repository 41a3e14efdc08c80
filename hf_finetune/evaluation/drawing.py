"""What all plots have in common: style, fonts, titles, and PNG files that are there when they are complete.

Only matplotlib's object-oriented interface is used: no pyplot, no window, no state that outlives a call. A plot that
cannot be drawn is left out and the log says why: it must not cost a result.
"""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_finetune.errors import first_line
from hf_finetune.evaluation.fonts import families_for
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

GREY = "#666666"


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


def save(figure: Figure, path: str | os.PathLike[str], dots_per_inch: int) -> None:
    """Write a figure as a PNG file, which appears when it is complete."""
    FigureCanvasAgg(figure)
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with warnings.catch_warnings():
            # Names of classes are replaced where a font is missing; a warning per character would bury the log.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(
                unfinished, format="png", dpi=dots_per_inch, facecolor="white", bbox_inches="tight", pad_inches=0.15
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def set_title(axes: Axes, title: str, *more_lines: str, width: int = 70) -> None:
    """Set the title of a plot, wrapped at `width` characters, and lines below it."""
    lines = [*textwrap.wrap(title, width), *filter(None, more_lines)]
    axes.set_title("\n".join(lines), pad=12, parse_math=False)
