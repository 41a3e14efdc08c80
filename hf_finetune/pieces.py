"""Work on many rows, in several threads where these help."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hf_finetune.cores import usable_cores

_SIZE = 64  # rows of a piece
# Seconds of a row, of work or of waiting, from which threads help. Python runs one of them at a time: eight threads
# take two to three times as long as one to read headers of files on a local disk (0.1 ms each), or to decode images of
# 32 pixels (0.2 ms). They win with photographs (1.5 ms), and with disks that answer over a network.
_LONG = 0.5e-3

Rows = npt.NDArray[np.int64]
Found = TypeVar("Found")


def in_pieces(function: Callable[[Rows], Found], rows: Rows) -> Iterator[tuple[Rows, Found]]:
    """Apply a function to rows, a piece at a time.

    One thread does it until a piece takes long; what is left is then done by several.

    Args:
        function: What to do with a piece. Any thread may call it.
        rows: The rows.

    Yields:
        Each piece with what `function` returns for it, in their order.
    """
    pieces = iter([rows[start : start + _SIZE] for start in range(0, len(rows), _SIZE)])
    work = waiting = 0.0
    for piece in pieces:
        began, worked = time.perf_counter(), time.thread_time()
        found = function(piece)
        work = time.thread_time() - worked
        waiting = time.perf_counter() - began - work
        yield piece, found
        if max(work, waiting) > _LONG * len(piece):
            break
    left = list(pieces)
    with ThreadPoolExecutor(usable_cores() if work > waiting else min(16, 4 * usable_cores())) as pool:
        yield from zip(left, pool.map(function, left), strict=True)
