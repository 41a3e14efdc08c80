"""Stands for a value that only running a config would give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unreadable:
    """A value that only running the file would give.

    Attributes:
        file: The file's name.
        line: The line of the expression, from 1.
        source: The expression.
        reason: Why it was not read.
    """

    file: str
    line: int
    source: str
    reason: str

    def __deepcopy__(self, memo: dict[int, Any]) -> Unreadable:
        """Return itself: it never changes, and a config can hold a hundred thousand."""
        return self

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: `{self.source}` {self.reason}"


class UnreadableError(Exception):
    """Raised inside an expression that cannot be evaluated; `value` says which and why."""

    def __init__(self, value: Unreadable) -> None:
        super().__init__(str(value))
        self.value = value
