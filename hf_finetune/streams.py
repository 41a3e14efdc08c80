"""Standard output and standard error of the commands: where one breaks, a line is lost and never the work."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from contextlib import suppress
from typing import TextIO

_ESCAPES = "hf_finetune.json_escapes"


def prepare_streams() -> None:
    """Let both streams take any text: an encoding's gaps are escaped, and a stream that is closed takes everything.

    The escapes are those of JSON, so that what `--json` prints is valid in any encoding.
    """
    codecs.register_error(_ESCAPES, _json_escapes)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as with >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPES)


def _json_escapes(error: UnicodeError) -> tuple[str, int]:
    """Return what stands in place of the characters that an encoding lacks: a `\\uXXXX` for each unit of UTF-16."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)), error.end


def give_up(stream: TextIO) -> None:
    """Let a broken stream take everything from now on, also what it still holds.

    Args:
        stream: One whose reader has ended, whose terminal is gone or whose disk is full.
    """
    with suppress(OSError, ValueError):  # a stream without a file needs nothing
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def has_lost_reader(stream: TextIO) -> bool:
    """Return whether a stream is a pipe whose reader has ended."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # a stream without a file
        return False
