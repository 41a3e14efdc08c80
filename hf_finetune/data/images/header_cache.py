"""What the headers of image files have shown, kept so that a later run and the other ranks open none of them.

A file is known by its path, its size and the times of its last change; one that has changed in any of these is read
again. An entry is 20 bytes. Unreadable images are not kept.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
import PIL

# A file that changes twice within one tick of the file system's clock has the same times both times. Ticks of Linux are
# 1 to 10 ms; a file system that keeps whole seconds (FAT: two) shows by the times themselves.
_TICK = 20_000_000  # nanoseconds
_COARSE_TICK = 2_000_000_000
_UNKNOWN = -1

Keys = npt.NDArray[np.uint64]
"""The hash of each file, of shape (files, 2); zeros for a file that must not be kept."""


class HeaderCache:
    """The sizes of the images of one dataset, as a file in the cache folder of `datasets`.

    Where that folder cannot be written or the file is corrupt, headers are read again.
    """

    def __init__(self, name: str) -> None:
        """Read the file.

        Args:
            name: What tells the dataset from others: its folder.
        """
        # Another Pillow may read other files.
        key = hashlib.sha256(f"{name}\0{PIL.__version__}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
        self._path = Path(datasets.config.HF_DATASETS_CACHE, "hf_finetune", f"headers-{key}.npz")
        self._keys: Keys = np.zeros((0, 2), np.uint64)
        self._numbers = np.zeros(0, np.int32)
        self._sizes: list[tuple[int, int]] = []
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(self._path) as kept:
            keys, numbers, sizes = kept["keys"], kept["numbers"], kept["sizes"]
            if len(keys) == len(numbers) and (not len(numbers) or numbers.max() < len(sizes)):
                self._keys, self._numbers = keys, numbers
                self._sizes = [(int(height), int(width)) for height, width in sizes]
        self._used = np.zeros(len(self._keys), bool)
        self._added: dict[bytes, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def find(self, keys: Keys) -> list[tuple[int, int] | None]:
        """Return the (height, width) in pixels of each file, None for one that is not known."""
        if not len(self._keys):
            return [None] * len(keys)
        # Sorted by the first half of the hash. Where two files shared it, one of them would be read again.
        places = np.searchsorted(self._keys[:, 0], keys[:, 0]).clip(max=len(self._keys) - 1)
        found = (self._keys[places] == keys).all(axis=1) & (keys[:, 0] != 0)
        self._used[places[found]] = True
        numbers = np.where(found, self._numbers[places], _UNKNOWN).tolist()
        return [None if number == _UNKNOWN else self._sizes[number] for number in numbers]

    def add(self, keys: Keys, sizes: Sequence[tuple[int, int] | None]) -> None:
        """Keep the sizes of files; None stands for an unreadable one. Any thread may call this."""
        new = {key.tobytes(): size for key, size in zip(keys, sizes, strict=True) if key[0] and size is not None}
        with self._lock:
            self._added.update(new)

    def save(self) -> None:
        """Write the file, if anything was added. Entries that nobody used go when they are more than the others."""
        if not self._added:
            return
        keep = self._used | (np.count_nonzero(~self._used) <= np.count_nonzero(self._used) + len(self._added))
        sizes = list(dict.fromkeys([*self._sizes, *self._added.values()]))
        number_of = {size: number for number, size in enumerate(sizes)}
        keys = np.frombuffer(b"".join(self._added), np.uint64).reshape(-1, 2)
        keys = np.concatenate([self._keys[keep], keys])
        numbers = np.array([number_of[size] for size in self._added.values()], np.int32)
        numbers = np.concatenate([self._numbers[keep], numbers])
        order = np.argsort(keys[:, 0])
        unfinished = self._path.with_name(f".{self._path.stem}.{os.getpid()}.tmp.npz")
        with suppress(OSError):  # without a cache that can be written, headers are read again
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                np.savez(unfinished, keys=keys[order], numbers=numbers[order], sizes=np.array(sizes, np.int64))
                os.replace(unfinished, self._path)
            finally:
                unfinished.unlink(missing_ok=True)


def file_keys(paths: Sequence[str]) -> Keys:
    """Return the hash of each file's path, size and times, for `HeaderCache`; no file is opened."""
    now = time.time_ns()
    return np.frombuffer(b"".join([_file_key(path, now) for path in paths]), np.uint64).reshape(-1, 2)


def _file_key(path: str, now: int) -> bytes:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return bytes(16)
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    tick = _TICK if changed % 1_000_000_000 else _COARSE_TICK
    if now - changed < tick or not stat.S_ISREG(found.st_mode):
        return bytes(16)
    text = f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
