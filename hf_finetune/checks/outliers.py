"""Images unlike the others: blank ones, and those far out in brightness, size, or the features of a network.

Far out is what Tukey calls so ("Exploratory data analysis", 1977): more than three interquartile ranges beyond a
quartile. Where more than one image in a hundred is, the distribution has long tails and none of them is told.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hf_finetune.checks.finding import MOST_GROUPS, Finding, Group, Severity, names_of
from hf_finetune.checks.subject import Rows, Subject, counted

_RANGES = 3.0
_MOST = 0.01  # of the images
_FEW = 100  # images, of which no quartile is known well
_LEAST_BRIGHTNESS = 16.0  # levels of 0 to 255 that the interquartile range counts for at least
_LEAST_SIZE = np.log(2)  # likewise, of the logarithm of a side
_LEAST_DISTANCE = np.log(1.1)  # likewise, of the logarithm of a distance


def check_blank(subject: Subject) -> list[Finding]:
    """List the images of one colour."""
    rows = np.flatnonzero(subject.looks["constant"])
    if not len(rows):
        return []
    groups = subject.alone(rows)
    are = "image is" if len(rows) == 1 else "images are"
    text = f"{len(rows):,} {are} blank, all pixels alike ({names_of(groups)})."
    return [Finding("blank", Severity.PROBLEM, text, "Remove them, unless blank is a class.", len(rows), groups)]


def check_outliers(subject: Subject) -> list[Finding]:
    """List the images that are far out in brightness or size."""
    looks = subject.looks
    rows = np.flatnonzero(looks["readable"] & ~looks["constant"])
    if len(rows) < _FEW:
        return []
    brightness = looks["colour"][rows].mean(axis=1)
    found = []
    dark_or_bright = far_out(brightness, _LEAST_BRIGHTNESS)
    if len(dark_or_bright):
        groups = [_described(subject, rows[place], f"brightness {brightness[place]:.0f}") for place in dark_or_bright]
        middle = f"half of all have a brightness of {_quartiles(brightness)} of 255"
        found.append(_finding("brightness_outliers", f"much darker or brighter than the others; {middle}", groups))
    sides = np.log(np.stack([looks["height"][rows], looks["width"][rows]], axis=1).astype(np.float64))
    odd = np.union1d(*(far_out(sides[:, place], _LEAST_SIZE) for place in (0, 1)))
    if 0 < len(odd) <= _MOST * len(rows):
        groups = [
            _described(subject, row, f"{looks['width'][row]} x {looks['height'][row]} pixels") for row in rows[odd]
        ]
        found.append(_finding("size_outliers", "much smaller, larger, wider or taller than the others", groups))
    return found


def check_unlike(subject: Subject) -> list[Finding]:
    """List the images whose features are far from those of all others."""
    if subject.distances is None:
        return []
    rows = np.flatnonzero(np.isfinite(subject.distances) & ~subject.looks["constant"])
    if len(rows) < _FEW:
        return []
    distances = subject.distances[rows]
    logarithms = np.log(np.maximum(distances, np.finfo(np.float32).eps))
    places = far_out(logarithms, _LEAST_DISTANCE, above=True)
    if not len(places):
        return []
    usual = np.median(distances)
    groups = [
        _described(subject, rows[place], f"{distances[place] / usual:.1f} times as far as usual") for place in places
    ]
    what = "unlike all others but a few, by the features of the network"
    return [_finding("unlike_others", what, groups)]


def far_out(values: npt.NDArray[np.floating], least_range: float, *, above: bool = False) -> Rows:
    """Return the places of the values that are far out, int64, the farthest first; none where they are many.

    Args:
        values: Numbers, (values,).
        least_range: What the interquartile range counts for at least.
        above: Leave those below the quartiles out.
    """
    low, high = np.percentile(values, [25, 75])
    width = max(high - low, least_range)
    excess = (values - high if above else np.maximum(low - values, values - high)) / width
    places = np.flatnonzero(excess > _RANGES)
    return places[np.argsort(-excess[places], kind="stable")] if len(places) <= _MOST * len(values) else places[:0]


def _quartiles(values: npt.NDArray[np.floating]) -> str:
    low, high = np.percentile(values, [25, 75])
    return f"{low:.0f} to {high:.0f}"


def _described(subject: Subject, row: int, text: str) -> Group:
    return Group([subject.image(int(row))], text)


def _finding(check: str, what: str, groups: list[Group]) -> Finding:
    are = "is" if len(groups) == 1 else "are"
    shown = "; ".join(f"{group.images[0].name}, {group.text}" for group in groups[:3])
    text = f"{counted(len(groups))} {are} {what} ({shown})."
    return Finding(check, Severity.NOTE, text, "Look at them.", len(groups), groups[:MOST_GROUPS])
