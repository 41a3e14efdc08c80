"""The log of a training as a table, `history.csv`: a line for each entry."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_finetune.shown_text import csv_cell

_FIRST = ("epoch", "step", "loss", "learning_rate", "grad_norm", "eval_loss")  # columns, where they occur


def write_history(log_history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write what was logged. A column is empty where an entry does not have it."""
    found = dict.fromkeys(key for entry in log_history for key in entry)
    columns = [key for key in _FIRST if key in found] + [key for key in found if key not in _FIRST]
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(csv_cell, columns))
        writer.writerows([_cell(entry.get(key, "")) for key in columns] for entry in log_history)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read what `write_history` has written; nothing where the file is missing."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [{key: _value(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]


def _cell(value: Any) -> Any:
    return csv_cell(value if isinstance(value, (str, int, float)) else json.dumps(value, default=str))


def _value(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell
