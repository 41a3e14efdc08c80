"""The porch of the house: how a user's mistake is told. Every room may import it; it imports none.

A mistake is one line that says what was wrong, where it stood, and what to write instead. The command line prints
that line and exits with code 2; a Python caller catches `UserError`.
"""

from __future__ import annotations

import argparse
import difflib
import signal
from collections.abc import Iterable
from typing import NoReturn


class UserError(Exception):
    """Something that the user can mend. Its message is one line, complete as it stands."""


class Interrupted(Exception):
    """A training that a signal ended after a step, and that was saved. The command line exits with 128 + `signal`."""

    def __init__(self, signal: signal.Signals, step: int) -> None:
        super().__init__(f"Interrupted by {signal.name} after step {step}; saved. The same command goes on.")
        self.signal = signal


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean "x"?` for the nearest known spelling of `word`, or an empty string if none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' Did you mean "{matches[0]}"?' if matches else ""


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and exit code 2, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.rstrip('.')}; its use is shown by: {self.prog} --help")
