"""The package's logger and its progress: what is shown where, and how an embedding program silences it."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest

from hf_finetune import logs
from hf_finetune.logs import (
    PlainProgress,
    _duration,
    get_logger,
    progress_bar,
    quiet_library_bars,
    set_level,
    show_logs,
    wrapped,
    write_result,
)


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _level():
    logger = logging.getLogger("hf_finetune")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield
    logger.level, logger.propagate, logger.handlers = before
    logging.getLogger("hf_finetune").setLevel(before[0])


def test_the_level_decides_what_is_shown(capsys):
    logger = get_logger("hf_finetune.some.module")
    for level, expected in (("warning", "w\n"), ("info", "i\nw\n"), ("debug", "d\ni\nw\n"), ("error", "")):
        show_logs(level)
        logger.debug("d")
        logger.info("i")
        logger.warning("w")
        assert capsys.readouterr().out == expected, level
    logger.error("e")
    assert capsys.readouterr() == ("", "e\n")


def test_passive_keeps_the_level():
    show_logs("warning")
    set_level("passive")
    assert logging.getLogger("hf_finetune").level == logging.WARNING


EMBEDDING = """
import logging, sys
import hf_finetune
from hf_finetune.logs import get_logger
logger = get_logger("hf_finetune.anything")
logger.info("quiet without handlers")
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s:%(message)s")
logger.info("the program's own handlers show it")
logging.getLogger("hf_finetune").setLevel(logging.ERROR)
logger.info("silenced")
logger.warning("silenced as well")
"""


def test_an_embedding_program_decides_what_is_shown():
    completed = subprocess.run([sys.executable, "-c", EMBEDDING], capture_output=True, text=True, check=True)
    assert completed.stdout == "hf_finetune.anything:the program's own handlers show it\n"
    assert completed.stderr == ""


def test_other_ranks_log_errors_only(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    show_logs()
    logger = get_logger("hf_finetune.some.module")
    logger.warning("w")
    logger.error("e")
    assert capsys.readouterr() == ("", "e\n")


PROSE = "There is no validation split: 144 of 1,438 images are held out for it (10 % of train, stratified, seed 42)."
TABLE = "flower     0.981  " + "x" * 80


def test_results_are_written_whatever_the_level_once_in_a_run(capsys, monkeypatch):
    show_logs("error")
    write_result("test   0.9\nall 24 images")
    assert capsys.readouterr().out == "test   0.9\nall 24 images\n"
    monkeypatch.setenv("RANK", "1")
    write_result("test   0.9")
    assert capsys.readouterr().out == ""


def test_prose_is_broken_between_words_and_tables_are_not():
    lines = wrapped(f"  {PROSE}").split("\n")
    assert len(lines) == 2 and all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("  There") and lines[1].startswith("    ")
    assert " ".join(line.strip() for line in lines) == PROSE
    assert wrapped(TABLE) == TABLE
    assert wrapped("short") == "short"
    assert wrapped("/a/path/" + "x" * 90) == "/a/path/" + "x" * 90


def test_lines_are_broken_on_a_terminal_only(capsys, monkeypatch):
    show_logs()
    get_logger("hf_finetune.some.module").info(PROSE)
    assert capsys.readouterr().out == f"{PROSE}\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    get_logger("hf_finetune.some.module").info(PROSE)
    assert terminal.getvalue().count("\n") == 2


# ---- progress ----


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that progress reads; tests set its only element."""
    now = [100.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    return now


def test_into_a_file_progress_is_a_line_every_so_often(capsys, clock):
    with progress_bar(total=105, desc="training") as bar:
        assert isinstance(bar, PlainProgress)
        for _ in range(30):
            clock[0] += 1
            bar.update()
    assert capsys.readouterr() == ("", "training 10/105, 10 s\ntraining 20/105, 20 s\ntraining 30/105, 30 s\n")


def test_a_long_run_has_fewer_lines(capsys, clock):
    bar = progress_bar(total=36_000, desc="training")
    for _ in range(36_000):
        clock[0] += 1
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert 50 < len(lines) < 100


def test_what_is_iterated_over_is_counted_and_a_short_one_says_nothing(capsys, clock):
    assert list(progress_bar(["a", "b"], desc="images")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
    bar = PlainProgress(["a", "b"], desc="images")
    assert bar.total == 2 and list(bar) == ["a", "b"] and bar.count == 2


def test_a_disabled_bar_is_silent(capsys, clock):
    bar = progress_bar(total=2, desc="training", disable=True)
    clock[0] += 1000
    bar.update()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("unit", "total", "line"),
    [
        ("image", 4, "checking 2/4, 12 s"),
        ("image", None, "checking 2, 12 s"),
        ("B", 4e6, "checking 0.0/4.0 MB, 12 s"),
    ],
)
def test_lines_of_progress(unit, total, line):
    bar: PlainProgress = PlainProgress(total=total, desc="checking", unit=unit)
    bar.count = 2
    assert bar.line(12.3) == line


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations(seconds, text):
    assert _duration(seconds) == text


def test_on_a_terminal_progress_is_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(total=2, desc="training") as bar:
        bar.update()
    assert "training" in terminal.getvalue() and "\r" in terminal.getvalue()


@pytest.mark.parametrize(("stream", "expected"), [(io.StringIO, "1"), (Terminal, None)])
def test_the_bars_of_libraries_are_kept_out_of_files(monkeypatch, stream, expected):
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    monkeypatch.setattr(logs, "_QUIET_BARS", ("HF_HUB_DISABLE_PROGRESS_BARS",))
    monkeypatch.setattr(sys, "stderr", stream())
    quiet_library_bars()
    import os

    assert os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == expected
