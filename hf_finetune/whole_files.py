"""Files that are whole or not there, whenever somebody looks or the process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which takes the place of `path` where the block ends without an error."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def keep_text(path: Path, text: str) -> None:
    """Write a file of the cache, in UTF-8, whose text can be made again; where that fails, it is not there."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
