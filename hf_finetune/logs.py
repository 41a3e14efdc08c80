"""The package's logger `hf_finetune`, the handler that shows its records on a console, and progress bars.

The modules log with `get_logger(__name__)`. Only the commands install the console handler: a program that embeds the
package decides itself what becomes of the records, as with any other library.

On a terminal and in a notebook a progress bar is tqdm's. Into a file or a pipe, where a bar would leave carriage
returns and escape codes, its state is written as a plain line every so often: `training 40/105, 12 s`.
"""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Generic, Protocol, TextIO, TypeVar, overload

from hf_finetune.shown_text import printable, without_secrets
from hf_finetune.streams import give_up

PACKAGE = "hf_finetune"
LEVELS = ("debug", "info", "warning", "error", "critical")
COLUMNS = 80

Item = TypeVar("Item")

_SECONDS_BETWEEN_LINES = 10.0
_PART_BETWEEN_LINES = 0.1  # of the time that has passed: a run of ten hours has some sixty lines, not thousands
_QUIET_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


# ---- the logger ----


class _MainRankFilter(logging.Filter):
    """Lets records below the level ERROR pass in the main process only, so that each line appears once in a run."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or os.environ.get("RANK", "0") == "0"


class ConsoleHandler(logging.Handler):
    """Writes messages above any progress bar: to standard output, errors to standard error.

    Attributes:
        leaves_output: Whether all go to standard error, because standard output is one JSON document.
    """

    leaves_output = False

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if self.leaves_output or record.levelno >= logging.ERROR else sys.stdout
        message = self.format(record)
        if stream.isatty():
            message = "\n".join(map(wrapped, message.split("\n")))
        tell(message, stream)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module. Below the level ERROR it logs in the main process only.

    Args:
        name: The module's `__name__`.

    Returns:
        A logger below `hf_finetune`.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(item, _MainRankFilter) for item in logger.filters):
        logger.addFilter(_MainRankFilter())
    return logger


def log_lines(logger: logging.Logger, *lines: str, level: int = logging.INFO) -> None:
    """Log each line as a record of its own; without lines, nothing is logged."""
    for line in lines:
        logger.log(level, line)


def set_level(level: str) -> None:
    """Set the least severe level that the package logs, one of `LEVELS`; `passive` leaves it as it is."""
    if level != "passive":
        logging.getLogger(PACKAGE).setLevel(level.upper())


def show_logs(level: str = "info") -> None:
    """Show the package's log on the console. A second call changes the level.

    Args:
        level: The least severe level that is shown, one of `LEVELS`.
    """
    logger = logging.getLogger(PACKAGE)
    set_level(level)
    if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())
    logger.propagate = False


def leave_output(leaves: bool) -> None:
    """Show all records on standard error where a command `leaves` standard output to one JSON document."""
    for handler in logging.getLogger(PACKAGE).handlers:
        if isinstance(handler, ConsoleHandler):
            handler.leaves_output = leaves


# ---- lines ----


def write_line(text: str, stream: TextIO | None = None) -> None:
    """Write a line above any progress bar, without the passwords of addresses and control characters.

    Args:
        text: The line, without its end.
        stream: Where to; standard output by default.
    """
    stream = stream or sys.stdout
    text = printable(without_secrets(text))
    tqdm: Any = sys.modules.get("tqdm")  # not imported: then there is no bar
    if tqdm is None:
        print(text, file=stream)
    else:
        tqdm.tqdm.write(text, file=stream)
    stream.flush()


def write_result(text: str) -> None:
    """Write what a command was asked for to standard output, whatever the level of the log, in the main process only.

    Args:
        text: Lines, without the end of the last. On a terminal, prose is broken between words, as in the log.
    """
    if os.environ.get("RANK", "0") == "0":
        write_line("\n".join(map(wrapped, text.split("\n"))) if sys.stdout.isatty() else text)


def tell(text: str, stream: TextIO) -> None:
    """Write a line about the work. Where it cannot be written, the work continues: no run is lost with its reader.

    Args:
        text: The line, without its end.
        stream: Standard output or standard error.
    """
    try:
        write_line(text, stream)
    except OSError as error:
        give_up(stream)
        if stream is sys.stdout:
            reason = "its reader has ended" if isinstance(error, BrokenPipeError) else error.strerror
            tell(f"hf-finetune: standard output is lost ({reason}); the command continues without it.", sys.stderr)


def wrapped(line: str, width: int = COLUMNS) -> str:
    """Return a line of prose broken between words; a row of a table, which has gaps, stays whole."""
    if len(line) <= width or "  " in line.strip():
        return line
    indent = line[: len(line) - len(line.lstrip())] + "  "
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, expand_tabs=False
    )


# ---- progress ----


class Progress(Protocol[Item]):
    """What a progress bar can do, a part of tqdm's interface."""

    total: float | None  # how many there are, which may change

    def update(self, n: int = 1) -> Any: ...
    def set_description(self, desc: str, refresh: bool = True) -> None: ...
    def close(self) -> None: ...
    def __iter__(self) -> Iterator[Item]: ...
    def __enter__(self) -> Progress[Item]: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainProgress(Generic[Item]):
    """Progress as plain lines: one after ten seconds, then one whenever a tenth of the time so far has passed again.

    Args:
        iterable: What is iterated over, if anything.
        total: How many there are; by default the iterable's length, if it has one.
        desc: What is done.
        unit: What is counted, in the singular; `B` counts bytes, which are shown in megabytes.
        disable: Write nothing.
    """

    def __init__(
        self,
        iterable: Iterable[Item] = (),
        total: int | None = None,
        desc: str = "",
        unit: str = "",
        disable: bool = False,
    ) -> None:
        length = len(iterable) if isinstance(iterable, Sized) else None
        self.iterable = iterable
        self.total: float | None = total if total is not None else length
        self.desc = desc
        self.unit = unit
        self.disable = disable
        self.count = 0
        self._began = self._written = time.monotonic()

    def update(self, n: int = 1) -> None:
        """Count `n` more, and write a line if it is time to."""
        self.count += n
        now = time.monotonic()
        wait = max(_SECONDS_BETWEEN_LINES, _PART_BETWEEN_LINES * (now - self._began))
        if not self.disable and now - self._written >= wait:
            self._written = now
            tell(self.line(now - self._began), sys.stderr)

    def line(self, seconds: float) -> str:
        """Return the state after `seconds`, such as `training 40/105, 12 s`."""
        shown = [f"{count / 1e6:.1f}" if self.unit == "B" else f"{count}" for count in (self.count, self.total or 0)]
        counted = "/".join(shown) if self.total else shown[0]
        return f"{self.desc or 'progress'} {counted}{' MB' * (self.unit == 'B')}, {_duration(seconds)}"

    def set_description(self, desc: str, refresh: bool = True) -> None:
        """Set what the next line says is done."""
        self.desc = desc

    def close(self) -> None:
        """End, without a line of its own."""

    def __iter__(self) -> Iterator[Item]:
        for item in self.iterable:
            yield item
            self.update()

    def __enter__(self) -> PlainProgress[Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@overload
def progress_bar(
    iterable: None = None, *, total: int | None = None, desc: str = "", unit: str = "it", delay: float = 0,
    leave: bool = True, disable: bool | None = False,
) -> Progress[Any]: ...  # fmt: skip
@overload
def progress_bar(
    iterable: Iterable[Item], *, total: int | None = None, desc: str = "", unit: str = "it", delay: float = 0,
    leave: bool = True, disable: bool | None = False,
) -> Progress[Item]: ...  # fmt: skip
def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    desc: str = "",
    unit: str = "it",
    delay: float = 0,
    leave: bool = True,
    disable: bool | None = False,
) -> Progress[Any]:
    """Return a progress bar, or what writes plain lines where standard error is no terminal and no notebook.

    Args:
        iterable: What is iterated over; absent, the caller counts with `update`.
        total: How many there are; by default the iterable's length, if it has one.
        desc: What is done.
        unit: What is counted, in the singular; `B` counts bytes.
        delay: Seconds before a bar appears.
        leave: Whether a finished bar stays on the screen.
        disable: Show nothing.
    """
    desc = printable(desc)
    if not (sys.stderr.isatty() or _in_notebook()):
        return PlainProgress(() if iterable is None else iterable, total, desc, unit, bool(disable))
    from tqdm.auto import tqdm  # only where a bar is shown

    return tqdm(
        iterable,
        total=total,
        desc=desc or None,
        unit=unit,
        unit_scale=unit == "B",
        delay=delay,
        leave=leave,
        disable=bool(disable),
        dynamic_ncols=True,
    )


def quiet_library_bars() -> None:
    """Keep the bars of other libraries out of a file or a pipe. Called by the commands, before those are imported."""
    if not sys.stderr.isatty():
        for name in _QUIET_BARS:
            os.environ.setdefault(name, "1")


def _in_notebook() -> bool:
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and "IPKernelApp" in getattr(get_shell(), "config", {})


def _duration(seconds: float) -> str:
    """Return `12 s`, `3 min 20 s` or `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
