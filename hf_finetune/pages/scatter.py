"""Images as points of a plane, which show themselves where one points at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

WIDTH, HEIGHT = 640, 420
_MARGIN = 12
COLOURS = 10  # of `page.css`, after which they repeat
_MOST_NAMED = 20  # groups of a legend


@dataclass(frozen=True)
class Point:
    """An image as a point.

    Attributes:
        x: Of any unit, to the right.
        y: Likewise, upwards.
        group: The place of its group among the names.
        image: A key of `Page.images`.
        ringed: Whether it stands out.
    """

    x: float
    y: float
    group: int
    image: str
    ringed: bool = False


@dataclass(frozen=True)
class Scatter:
    """Points in the colours of their groups; the image of one is shown beside them.

    Attributes:
        points: At least one.
        names: Of the groups.
    """

    kind: ClassVar[str] = "scatter"
    points: Sequence[Point]
    names: Sequence[str]

    width, height, colours = WIDTH, HEIGHT, COLOURS

    @property
    def legend(self) -> Sequence[str]:
        """The names of the groups, none where they are too many."""
        return self.names if len(self.names) <= _MOST_NAMED else ()

    @cached_property
    def drawn(self) -> list[tuple[float, float, Point]]:
        """The points from left to right, with their places in the drawing."""
        xs, ys = [point.x for point in self.points], [point.y for point in self.points]
        placed = [
            (_scaled(point.x, xs, WIDTH), round(HEIGHT - _scaled(point.y, ys, HEIGHT), 1), point)
            for point in self.points
        ]
        return sorted(placed, key=lambda item: item[:2])


def _scaled(value: float, values: Sequence[float], length: int) -> float:
    low, high = min(values), max(values)
    part = (value - low) / (high - low) if high > low else 0.5
    return round(_MARGIN + part * (length - 2 * _MARGIN), 1)
