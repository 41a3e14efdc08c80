"""Durations: what is one, and how one is shown."""

from __future__ import annotations

import pytest

from hf_finetune.config.durations import format_duration, parse_duration
from hf_finetune.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1h30m", 5400), ("2 m", 120), ("1H 1M 1S", 3661)],
)
def test_durations_are_read(text, seconds):
    assert parse_duration("time_budget", text) == seconds


@pytest.mark.parametrize("text", ["", "10", "10 minutes", "m", "1d", "-5m", "10m later", "5m,"])
def test_others_are_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"time_budget is .*; use a number with s, m or h, such as 90s, 10m or 1h30m\."):
        parse_duration("time_budget", text)


def test_less_than_a_run_needs_is_refused():
    with pytest.raises(UserError, match="time_budget is 3 s, less than a run needs"):
        parse_duration("time_budget", "3s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.4, "4 s"), (60, "1 min"), (125, "2 min 5 s"), (3600, "1 h"), (5400, "1 h 30 min"), (7201, "2 h")],
)
def test_durations_are_shown(seconds, text):
    assert format_duration(seconds) == text
