"""Measurements in a file of JSON lines, so that a comparison of hours resumes where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Results:
    """The lines of a results file; what is in it is not measured again."""

    def __init__(self, path: Path) -> None:
        """Read the results that are there."""
        self._path = path
        self.lines: list[dict[str, Any]] = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )

    def find(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the line that has all of these values; None if there is none."""
        return next((line for line in self.lines if asked.items() <= line.items()), None)

    def keep(self, line: dict[str, Any]) -> None:
        """Print a line and append it to the file."""
        self.lines.append(line)
        print(json.dumps(line), flush=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
