"""Small images of one size are decoded once, into a file of pixels that is mapped into memory.

Fetching an image from there costs a copy of a few kilobytes instead of a decoding. The file lies in the cache folder
of `datasets` and is named after the images that it holds. The first epoch fills it as it goes, so that no first step
waits for it, with an unfinished name that only the processes of one run share; whole and on the disk, it gets the name
under which later runs find it.
"""

from __future__ import annotations

import atexit
import hashlib
import itertools
import os
import shutil
import socket
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.data.columns import are_files, arrow_column
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.decoding import UnreadableImage, image_name
from hf_finetune.data.images.pixels import decode_pixels
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger, progress_bar

logger = get_logger(__name__)

AUTO_LIMIT = 2 * 2**30  # bytes of one file: CIFAR-10's 50,000 training images take 154 MB
_WORTH_SAYING = 10 * 2**20  # bytes
_CHUNK = 256  # images decoded at a time where none is asked for
_SECONDS_BEFORE_BAR = 2
_ABANDONED = 2 * 24 * 3600  # seconds after which an unfinished file is taken for that of a run that was killed

_runs = itertools.count()


class DecodedImages:
    """The pixels of a source's split, uint8 (images, height, width, 3), each decoded when it is first asked for.

    `source` has the encoded images as the column `image`, all of them `size` (height, width) pixels. `finished` is
    the .npy file that holds them or will; until it is there, `unfinished` is, with a mark for every image in it.
    """

    def __init__(self, source: Dataset, size: tuple[int, int], finished: Path, unfinished: Path) -> None:
        self.source, self.size, self.finished, self.unfinished = source, size, finished, unfinished
        self._filled: np.ndarray | None = None
        if finished.is_file():
            self._file = np.load(finished, mmap_mode="r", allow_pickle=False)
        else:
            self._file = np.load(unfinished, mmap_mode="r+", allow_pickle=False)
            self._inode = os.stat(unfinished).st_ino
            self._filled = np.asarray(np.load(_marks(unfinished), mmap_mode="r+", allow_pickle=False))
        self._pixels = np.asarray(self._file)  # the same memory, without what a memmap does at every access

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns the images of `rows`, int64 (batch,), as uint8 (batch, height, width, 3).

        Raises `UnreadableImage` for an image that cannot be read or is of another size.
        """
        if self._filled is not None and not (filled := self._filled[rows]).all():
            self._decode(rows[filled == 0])
        return self._pixels[rows]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.size, self.finished, self.unfinished)  # a worker maps the file too

    def _decode(self, rows: np.ndarray) -> None:
        for row, value in zip(rows.tolist(), self.source[rows]["image"], strict=True):
            pixels = decode_pixels(value)
            if pixels.shape[1:] != self.size:
                height, width = pixels.shape[1:]
                raise UnreadableImage(
                    image_name(value), f"it is of {height} x {width} pixels, not of {self.size[0]} x {self.size[1]}"
                )
            self._pixels[row] = pixels.permute(1, 2, 0).numpy()
        self._filled[rows] = 1

    def finish(self) -> None:
        """Decodes what nobody asked for, and gives the file its lasting name. Nothing happens if it has it.

        Images that cannot be read leave the file unfinished, and it goes when the run ends.
        """
        if self._filled is None or self.finished.is_file():
            return
        rest = np.flatnonzero(self._filled == 0)
        try:
            with progress_bar(total=len(rest), desc="Decoding", unit="image", delay=_SECONDS_BEFORE_BAR) as bar:
                for start in range(0, len(rest), _CHUNK):
                    chunk = rest[start : start + _CHUNK]
                    self._decode(chunk)
                    bar.update(len(chunk))
            self._file.flush()  # to the disk, before the name says that it is there
            if os.stat(self.unfinished).st_ino != self._inode:
                return  # somebody has put another file in its place
            os.replace(self.unfinished, self.finished)
        except (OSError, UserError):
            return
        _marks(self.unfinished).unlink(missing_ok=True)


def open_decoded_images(
    data: ImageDataset,
    mode: str,
    processes: int = 1,
    local_process_index: int = 0,
) -> dict[str, DecodedImages]:
    """Returns the decoded images of the roles whose images are worth it.

    `mode` is "never", "always", or "auto": small images of one size, of which the run uses at least half, in a file
    of at most 2 GiB that leaves as much free. Of a run's `processes` those on one machine share the files; there, the
    first has to be here before the others. Raises `UserError` where "always" cannot be had.
    """
    if mode == "never" or (mode == "auto" and not data.uniform):
        return {}
    if not data.uniform:
        raise UserError(
            f"decode_cache is always, but the images of {data.source} are not known to be small and of one size;"
            " use --decode_cache auto."
        )
    # What the processes of one run on one machine, and no others, have in common: the machine, where the folder is on a
    # disk that several share, the launcher that started them, and how often they have come here.
    run = f"{socket.gethostname()}-{os.getppid() if processes > 1 else os.getpid()}-{next(_runs)}"
    creates = local_process_index == 0
    # A held-out part has the source, and so the file, of what it was held out from; two roles may be one split.
    keys = {role: _key(data.sources[role]) for role in data.splits}
    decoded: dict[str, DecodedImages | None] = {}
    for role, key in keys.items():
        if key not in decoded:
            source = data.sources[role]
            used = sum(len(split) for other, split in data.splits.items() if keys[other] == key)
            worth_it = mode == "always" or 2 * used >= len(source)
            decoded[key] = _open(source, data.image_sizes, mode, key, run, creates) if worth_it else None
    return {role: decoded[key] for role, key in keys.items() if decoded[key] is not None}


def finish(decoded: Collection[DecodedImages]) -> None:
    """Finishes the files, each once."""
    for images in {id(images): images for images in decoded}.values():
        images.finish()


def _open(
    source: Dataset,
    size: tuple[int, int],
    mode: str,
    key: str,
    run: str,
    creates: bool,
) -> DecodedImages | None:
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_finetune"
    finished = folder / f"decoded-{key}.npy"
    unfinished = finished.with_suffix(f".{run}.unfinished")
    try:
        if creates and not finished.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shape = (len(source), *size, 3)
            needed, free = int(np.prod(shape)), shutil.disk_usage(folder).free
            if mode == "auto" and needed > min(AUTO_LIMIT, free / 2):
                return None
            if needed > free:
                raise UserError(
                    f"decode_cache is always, but {folder} has room for {free / 1e9:.1f} GB and the images take"
                    f" {needed / 1e9:.1f} GB; use --decode_cache never, or set HF_DATASETS_CACHE."
                )
            _create(unfinished, shape)
            if needed > _WORTH_SAYING:
                logger.info(f"Images are decoded once, for this and later runs: {needed / 1e6:,.0f} MB in {folder}.")
        return DecodedImages(source, size, finished, unfinished)
    except OSError as error:
        if mode == "always":
            raise UserError(f"decode_cache is always, but nothing can be written to {folder}: {error}.") from error
        return None


def _key(source: Dataset) -> str:
    """Returns a name for these images: their dataset's fingerprint, or their files' paths, sizes and dates.

    Another version of Pillow may decode to other pixels.
    """
    digest = hashlib.sha256(f"{PIL.__version__} {len(source)}".encode())
    if are_files(source):
        for path in pc.struct_field(arrow_column(source, "image"), "path").to_pylist():
            status = os.stat(path) if os.path.exists(path) else None  # one that is missing is in no split
            digest.update(f"{path} {status and (status.st_size, status.st_mtime_ns)}\n".encode())
    else:
        digest.update(source._fingerprint.encode())
    return digest.hexdigest()[:32]


def _marks(unfinished: Path) -> Path:
    return unfinished.with_suffix(".marks")


def _create(unfinished: Path, shape: Sequence[int]) -> None:
    """Creates the file of a run and its marks, which go with the process if the file was not finished."""
    for old in unfinished.parent.glob("decoded-*"):
        if old.suffix in (".unfinished", ".marks") and time.time() - old.stat().st_mtime > _ABANDONED:
            old.unlink(missing_ok=True)
    for path, its_shape in ((unfinished, tuple(shape)), (_marks(unfinished), (shape[0],))):
        path.unlink(missing_ok=True)
        atexit.register(path.unlink, missing_ok=True)
        with open(path, "xb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": its_shape})
            # The room is taken now: a full disk would later kill the process in the middle of a write to memory.
            length = file.tell() + int(np.prod(its_shape))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, length)
            else:
                file.truncate(length)
