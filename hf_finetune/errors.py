"""The package's exceptions, and what their messages share.

A user's mistake is one line that says what was wrong, where it stood, and what to use instead. The commands print that
line and exit with code 2; a Python caller catches `UserError`.
"""

from __future__ import annotations

import difflib
import errno
import re
import signal
from collections.abc import Iterable, Sequence

from hf_finetune.shown_text import one_line, without_secrets

_NEAR = 0.75  # of difflib's ratio: twice the letters that agree, in order, over all letters
_LONG_ENOUGH = 4  # letters from which a word may be the beginning of another


class UserError(Exception):
    """Something that the user can fix. Its message is one line, complete as it stands, without passwords."""

    def __init__(self, message: object) -> None:
        super().__init__(without_secrets(str(message)))


class LoadingError(UserError):
    """Images cannot be loaded any more. It ends the run, which can be resumed from its checkpoints."""


class Interrupted(Exception):
    """A signal stopped the training after a step, and a checkpoint was saved. The commands exit with 128 + `signal`.

    Attributes:
        signal: The signal that stopped the training.
    """

    def __init__(self, signal: signal.Signals, step: int) -> None:
        super().__init__(f"Interrupted by {signal.name} after step {step}; saved. The same command resumes the run.")
        self.signal = signal


NO_ROOM = {
    errno.ENOSPC: "the disk is full; free some space on it",
    errno.EDQUOT: "the quota of the disk is used up; free some space on it",
    errno.EFBIG: "the file is larger than is allowed; raise the limit with ulimit -f unlimited",
}


def no_room(error: BaseException) -> int | None:
    """Return the key of `NO_ROOM` that an error stands for, or None.

    Libraries in Rust, such as safetensors, raise errors of their own, which say the number in their message alone.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(found[1])
    if number not in NO_ROOM and error.__context__ is not None:
        return no_room(error.__context__)
    return number if number in NO_ROOM else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a guess at what a mistyped word was meant to be.

    Args:
        word: What the user wrote.
        known: The words that would have been right.

    Returns:
        ` Did you mean "x"?` for the nearest of `known`, or an empty string if none is near: three quarters of the
        letters agree, or it begins with `word`.
    """
    names = list(known)
    matches = difflib.get_close_matches(word, names, n=1, cutoff=_NEAR)
    if not matches and len(word) >= _LONG_ENOUGH:
        matches = [name for name in names if name.startswith(word)]
    return f' Did you mean "{matches[0]}"?' if matches else ""


def listing(names: Sequence[object], limit: int = 5) -> str:
    """Return `a, b, c`, and from `limit` names on `a, b, c, d, e and 7 more`."""
    shown = ", ".join(one_line(str(name)) for name in names[:limit])
    return f"{shown} and {len(names) - limit:,} more" if len(names) > limit else shown


def reason_of(error: Exception) -> str:
    """Return an error of any kind in one line: what a `UserError` says, and of others the class too."""
    return first_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, to stand inside a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
