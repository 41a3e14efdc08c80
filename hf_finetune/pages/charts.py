"""Charts of lines, whose SVG takes its colours from the page: they are dark where the page is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 22, 10, 34  # margins; half of "100 %" stands in the right one
_TICKS = 5
_MOST_POINTS = 400  # of a line; the width has no more

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: For the legend; "" where the chart's title says it.
        points: (x, y), finite, in the order of x.
        dotted: Whether it is dotted and grey: what a line is compared with.
        dots: Whether each point has a dot.
    """

    name: str
    points: Sequence[Point]
    dotted: bool = False
    dots: bool = False


@dataclass(frozen=True)
class LineChart:
    """A chart.

    Attributes:
        title: Above it.
        lines: At least one, with at least one point.
        x_name: Below the x-axis.
        x_format: Makes the text of a tick on the x-axis.
        y_format: Likewise.
        whole: Whether both axes are from 0 to 1 whatever the points are.
    """

    title: str
    lines: Sequence[Line]
    x_name: str
    x_format: Callable[[float], str] = field(default="{:g}".format)
    y_format: Callable[[float], str] = field(default="{:.3g}".format)
    whole: bool = False

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM

    def x_ticks(self) -> list[tuple[float, str]]:
        """Return the place and the text of each tick on the x-axis."""
        return [(self._x(value), self.x_format(value)) for value in _ticks(*self._ranges[0])]

    def y_ticks(self) -> list[tuple[float, str]]:
        """Return the place and the text of each tick on the y-axis."""
        return [(self._y(value), self.y_format(value)) for value in _ticks(*self._ranges[1])]

    def drawn(self, line: Line) -> list[tuple[float, float]]:
        """Return the places of a line's points, no more than the chart can show."""
        step = math.ceil(len(line.points) / _MOST_POINTS)
        points = [*line.points[::step], *(line.points[-1:] if step > 1 else ())]
        return [(self._x(x), self._y(y)) for x, y in points]

    @cached_property
    def _ranges(self) -> tuple[Point, Point]:
        """The lowest and the highest value of x, and of y."""
        if self.whole:
            return (0.0, 1.0), (0.0, 1.0)
        x, y = zip(*(point for line in self.lines for point in line.points), strict=True)
        return _widened(min(x), max(x)), _widened(min(y), max(y))

    def _x(self, value: float) -> float:
        low, high = self._ranges[0]
        return round(_LEFT + (value - low) / (high - low) * (self.right - _LEFT), 1)

    def _y(self, value: float) -> float:
        low, high = self._ranges[1]
        return round(self.bottom - (value - low) / (high - low) * (self.bottom - _TOP), 1)


def _widened(low: float, high: float) -> Point:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from `low` to `high`, at least one."""
    rough = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * count for count in range(first, last + 1)]
