"""How a user's mistake is told. It imports nothing of the package.

A mistake is one line that says what was wrong, where it stood, and what to write instead. The command line prints
that line and exits with code 2; a Python caller catches `UserError`.
"""

from __future__ import annotations

import argparse
import difflib
import signal
from collections.abc import Iterable, Sequence
from typing import NoReturn


class UserError(Exception):
    """Something that the user can fix. Its message is one line, complete as it stands."""


class Interrupted(Exception):
    """A training that a signal ended after a step, and that was saved. The command line exits with 128 + `signal`."""

    def __init__(self, signal: signal.Signals, step: int) -> None:
        super().__init__(f"Interrupted by {signal.name} after step {step}; saved. The same command resumes the run.")
        self.signal = signal


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean "x"?` for the nearest known spelling of `word`, or an empty string if none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' Did you mean "{matches[0]}"?' if matches else ""


def listing(names: Sequence[object], limit: int = 5) -> str:
    """Returns `a, b, c`, and from `limit` names on `a, b, c, d, e and 7 more`."""
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit:,} more" if len(names) > limit else shown


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's message, to stand inside a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and exit code 2, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.rstrip('.')}; its use is shown by: {self.prog} --help")
