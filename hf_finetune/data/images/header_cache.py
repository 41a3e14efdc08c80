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

from hf_finetune.data.images.decoding import Header, Unused
from hf_finetune.whole_files import written_whole

# A file that changes twice within one tick of the file system's clock has the same times both times. Ticks of Linux are
# 1 to 10 ms; a file system that keeps whole seconds (FAT: two) shows by the times themselves.
_TICK = 20_000_000  # nanoseconds
_COARSE_TICK = 2_000_000_000
_UNKNOWN = -1

Keys = npt.NDArray[np.uint64]
"""The hash of each file, of shape (files, 2); zeros for a file that must not be kept."""


class HeaderCache:
    """The headers of the images of one dataset, as a file in the cache folder of `datasets`.

    Where that folder cannot be written or the file is corrupt, headers are read again.
    """

    def __init__(self, name: str) -> None:
        """Read the file.

        Args:
            name: What tells the dataset from others: its folder.
        """
        # Another Pillow may read other files.
        digest = hashlib.sha256(f"{name}\0{PIL.__version__}\0{Header._fields}".encode("utf-8", "surrogatepass"))
        self._path = Path(datasets.config.HF_DATASETS_CACHE, "hf_finetune", f"headers-{digest.hexdigest()[:32]}.npz")
        self._keys: Keys = np.zeros((0, 2), np.uint64)
        self._numbers = np.zeros(0, np.int32)
        self._headers: list[Header] = []
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(self._path) as kept:
            keys, numbers, headers = kept["keys"], kept["numbers"], kept["headers"]
            if len(keys) == len(numbers) and (not len(numbers) or numbers.max() < len(headers)):
                self._headers = [
                    Header(height, width, Unused(unused), bool(wide))
                    for height, width, unused, wide in headers.tolist()
                ]
                self._keys, self._numbers = keys, numbers
        self._used = np.zeros(len(self._keys), bool)
        self._added: dict[bytes, Header] = {}
        self._lock = threading.Lock()

    def find(self, keys: Keys) -> list[Header | None]:
        """Return the header of each file, None for one that is not known."""
        if not len(self._keys):
            return [None] * len(keys)
        # Sorted by the first half of the hash. Where two files shared it, one of them would be read again.
        places = np.searchsorted(self._keys[:, 0], keys[:, 0]).clip(max=len(self._keys) - 1)
        found = (self._keys[places] == keys).all(axis=1) & (keys[:, 0] != 0)
        self._used[places[found]] = True
        numbers = np.where(found, self._numbers[places], _UNKNOWN).tolist()
        return [None if number == _UNKNOWN else self._headers[number] for number in numbers]

    def add(self, keys: Keys, headers: Sequence[Header | None]) -> None:
        """Keep the headers of files; None stands for an unreadable one. Any thread may call this."""
        new = {
            key.tobytes(): header for key, header in zip(keys, headers, strict=True) if key[0] and header is not None
        }
        with self._lock:
            self._added.update(new)

    def save(self) -> None:
        """Write the file, if anything was added. Entries that nobody used go when they are more than the others."""
        if not self._added:
            return
        keep = self._used | (np.count_nonzero(~self._used) <= np.count_nonzero(self._used) + len(self._added))
        headers = list(dict.fromkeys([*self._headers, *self._added.values()]))
        number_of = {header: number for number, header in enumerate(headers)}
        keys = np.frombuffer(b"".join(self._added), np.uint64).reshape(-1, 2)
        keys = np.concatenate([self._keys[keep], keys])
        numbers = np.array([number_of[header] for header in self._added.values()], np.int32)
        numbers = np.concatenate([self._numbers[keep], numbers])
        order = np.argsort(keys[:, 0])
        with suppress(OSError):  # without a cache that can be written, headers are read again
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self._path) as unfinished, open(unfinished, "wb") as file:  # savez would change the name
                np.savez(file, keys=keys[order], numbers=numbers[order], headers=np.array(headers, np.int64))


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
