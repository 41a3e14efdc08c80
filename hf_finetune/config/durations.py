"""Durations as people write them: 90s, 10m, 1.5h."""

from __future__ import annotations

import re

from hf_finetune.errors import UserError

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_LEAST = 10.0  # seconds; the libraries alone take several to start


def parse_duration(key: str, text: str) -> float:
    """Return the seconds of a duration.

    Args:
        key: The setting that it is of, for messages.
        text: A number with a unit, such as 90s, 10m, 1.5h or 1h30m.

    Raises:
        UserError: It is no duration, or one too short for any run.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip().lower())
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != re.sub(r"\s", "", text.lower()):
        raise UserError(f'{key} is "{text}"; use a number with s, m or h, such as 90s, 10m or 1h30m.')
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds < _LEAST:
        raise UserError(f"{key} is {seconds:g} s, less than a run needs to start and to save; use at least 10s.")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration for a message, such as 4 s, 2 min 5 s or 1 h 30 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
