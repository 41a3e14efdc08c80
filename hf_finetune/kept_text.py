"""Text files in the cache, which are whole or not there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def keep_text(file: Path, text: str) -> None:
    """Write a file in UTF-8 whose text can be made again; where that fails, it is not there."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(text, encoding="utf-8")
            os.replace(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)
