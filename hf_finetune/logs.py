"""The package's logger `hf_finetune`, and the handler that shows its records on a console.

The modules log with `get_logger(__name__)`. Only the commands install the console handler: a program that embeds the
package decides itself what becomes of the records, as with any other library.
"""

from __future__ import annotations

import logging
import os
import sys

PACKAGE = "hf_finetune"
LEVELS = ("debug", "info", "warning", "error", "critical")


class _MainRankFilter(logging.Filter):
    """Lets records below the level ERROR pass in the main process only, so that each line appears once in a run."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or os.environ.get("RANK", "0") == "0"


class ConsoleHandler(logging.Handler):
    """Writes messages as they are above any progress bar: to standard output, errors to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # only where something is shown

        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        tqdm.write(self.format(record), file=stream)
        stream.flush()


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, which speaks in the main process only, except of errors.

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


def show_logs(level: str = "info") -> None:
    """Show the package's log on the console. A second call changes the level.

    Args:
        level: The least severe level that is shown, one of `LEVELS`.
    """
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(level.upper())
    if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())
    logger.propagate = False
