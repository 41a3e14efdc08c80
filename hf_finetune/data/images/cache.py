"""A cache of decoded pixels: small images of one size are decoded once, into a file that is mapped into memory.

Reading an image from it costs a copy of a few kilobytes instead of decoding. The file is in the cache folder of
`datasets`, and its name is a hash of its images. The first epoch fills it while it trains, so that the first step does
not wait. Until it is complete its name is known to the processes of one run only; then it is flushed to the disk and
renamed to the name under which later runs find it. Such a file has checksums, and what a disk has changed is decoded
anew.
"""

from __future__ import annotations

import atexit
import hashlib
import itertools
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
from datasets import Dataset

from hf_finetune.data.checked_rows import CheckedRows, DamagedFile, write_sums
from hf_finetune.data.columns import are_files, image_paths
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.decoding import AS_STORED, Decoding, UnreadableImage, image_name
from hf_finetune.data.images.pixels import decode_pixels
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger, progress_bar

logger = get_logger(__name__)

AUTO_LIMIT = 2 * 2**30  # bytes of one file: CIFAR-10's 50,000 training images take 154 MB
_WORTH_LOGGING = 10 * 2**20  # bytes of a file that a log line mentions
_CHUNK = 256  # images decoded at a time to complete the file
_SECONDS_BEFORE_BAR = 2
_ABANDONED = 2 * 24 * 3600  # seconds after which an unfinished file is regarded as left by a killed run

_runs = itertools.count()


class DecodedImages:
    """The pixels of a source's split, each image decoded when it is first read."""

    def __init__(
        self, source: Dataset, size: tuple[int, int], finished: Path, unfinished: Path, how: Decoding = AS_STORED
    ) -> None:
        """Map the file.

        Args:
            source: The encoded images, as the column `image`.
            size: The (height, width) in pixels of all images.
            finished: The file, uint8 of shape (images, height, width, 3) with checksums, if it is complete.
            unfinished: The same file while it is incomplete. A second file marks the images that are in it.
            how: What decides the pixels beside the images.

        Raises:
            DamagedFile: The complete file is truncated, empty or of another shape.
        """
        self.source, self.size, self.finished, self.unfinished, self.how = source, size, finished, unfinished, how
        self._filled: np.ndarray | None = None
        self._checked: CheckedRows | None = None
        self._told = False
        if finished.is_file():
            self._checked = CheckedRows(finished, (len(source), *size, 3), np.uint8)
            self._pixels = self._checked.values
        else:
            self._file = np.load(unfinished, mmap_mode="r+", allow_pickle=False)
            self._inode = os.stat(unfinished).st_ino
            self._filled = np.asarray(np.load(_marks(unfinished), mmap_mode="r+", allow_pickle=False))
            self._pixels = np.asarray(self._file)  # the same memory; indexing a memmap is slower

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return the pixels of some images, and decode those that have not been decoded.

        Args:
            rows: Row numbers in the source, int64 of shape (batch,).

        Returns:
            uint8 of shape (batch, height, width, 3).

        Raises:
            UnreadableImage: An image cannot be decoded or has another size.
        """
        if self._filled is not None and not (filled := self._filled[rows]).all():
            self._decode(rows[filled == 0], self._filled)
        if self._checked is not None and (damaged := self._checked.damaged(rows)):
            self._repair(damaged, rows, self._checked)
        pixels: np.ndarray = self._pixels[rows]
        return pixels

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.source,
            self.size,
            self.finished,
            self.unfinished,
            self.how,
        )  # a worker maps the same file

    def _decode(self, rows: np.ndarray, filled: np.ndarray) -> None:
        for row, pixels in zip(rows.tolist(), self._decoded(rows), strict=True):
            self._pixels[row] = pixels
        filled[rows] = 1

    def _decoded(self, rows: np.ndarray | range) -> Iterator[np.ndarray]:
        """Yield the pixels of images, uint8 (height, width, 3), decoded from the source."""
        for value in self.source[rows]["image"]:
            pixels = decode_pixels(value, self.how)
            if pixels.shape[1:] != self.size:
                height, width = pixels.shape[1:]
                raise UnreadableImage(
                    image_name(value), f"it has {height} x {width} pixels instead of {self.size[0]} x {self.size[1]}"
                )
            yield pixels.permute(1, 2, 0).numpy()

    def _repair(self, damaged: Sequence[range], wanted: np.ndarray, checked: CheckedRows) -> None:
        """Decode the images of damaged blocks; of a block with an unreadable image, only those that are wanted."""
        if not self._told:
            self._told = True
            # As an error, because a worker of any process may be the first to see it.
            logger.error(
                f"Note: the cache of decoded images is damaged ({self.finished.name}, images {damaged[0].start:,} to"
                f" {damaged[0].stop - 1:,}); what is damaged is decoded anew."
            )
        for block in damaged:
            try:
                checked.replace(block, np.stack(list(self._decoded(block))))
            except UnreadableImage:
                rows = wanted[(wanted >= block.start) & (wanted < block.stop)]
                for row, pixels in zip(rows.tolist(), self._decoded(rows), strict=True):
                    self._pixels[row] = pixels

    def finish(self) -> None:
        """Decode the remaining images and rename the file to its final name, unless that is done already.

        Where an image cannot be read the file stays unfinished, and is deleted when the run ends.
        """
        if self._filled is None or self.finished.is_file():
            return
        rest = np.flatnonzero(self._filled == 0)
        try:
            with progress_bar(total=len(rest), desc="Decoding", unit="image", delay=_SECONDS_BEFORE_BAR) as bar:
                for start in range(0, len(rest), _CHUNK):
                    chunk = rest[start : start + _CHUNK]
                    self._decode(chunk, self._filled)
                    bar.update(len(chunk))
            self._file.flush()  # before the final name promises complete pixels
            write_sums(self.unfinished)
            if os.stat(self.unfinished).st_ino != self._inode:
                return  # another process has replaced the file
            os.replace(self.unfinished, self.finished)
        except (OSError, UserError):
            return
        _marks(self.unfinished).unlink(missing_ok=True)


def open_decoded_images(
    data: ImageDataset,
    mode: str,
    processes: int = 1,
    local_process_index: int = 0,
    how: Decoding = AS_STORED,
) -> dict[str, DecodedImages]:
    """Open the caches of decoded pixels.

    Args:
        data: The images of the run.
        mode: "never"; "always"; or "auto", which caches small images of one size, if the run uses at least half of
            them and the file takes at most 2 GiB and half of the free disk space.
        processes: The world size.
        local_process_index: The process's number on its machine. The processes of one machine share the files, and
            number 0 must call this before the others.
        how: What decides the pixels beside the images.

    Returns:
        By role, the decoded images of those that are cached.

    Raises:
        UserError: The mode is "always" and the images cannot be cached.
    """
    if how.channels is not None and mode == "always":
        raise UserError("decode_cache keeps RGB, and images are read as they are stored; use --decode_cache auto.")
    if mode == "never" or how.channels is not None or (mode == "auto" and not data.uniform):
        return {}
    sizes = data.image_sizes
    if sizes is None or not data.uniform:
        raise UserError(
            f"decode_cache is always, but the images of {data.source} are not known to be small and of one size;"
            " use --decode_cache auto."
        )
    # A name that the processes of one run on one machine share, and no others: the machine (several may use one disk),
    # the launcher that started them, and the number of calls of this function.
    run = f"{socket.gethostname()}-{os.getppid() if processes > 1 else os.getpid()}-{next(_runs)}"
    creates = local_process_index == 0
    # A held-out part shares the source, and so the file, with the rest of train; two roles may share a split.
    keys = {role: _key(data.sources[role], how) for role in data.splits}
    decoded: dict[str, DecodedImages | None] = {}
    for role, key in keys.items():
        if key not in decoded:
            source = data.sources[role]
            used = sum(len(split) for other, split in data.splits.items() if keys[other] == key)
            worth_it = mode == "always" or 2 * used >= len(source)
            decoded[key] = _open(source, sizes, mode, key, run, creates, how) if worth_it else None
    return {role: images for role, key in keys.items() if (images := decoded[key]) is not None}


def finish(decoded: Collection[DecodedImages]) -> None:
    """Complete the files, each once; see `DecodedImages.finish`."""
    for images in {id(images): images for images in decoded}.values():
        images.finish()


def _open(
    source: Dataset,
    size: tuple[int, int],
    mode: str,
    key: str,
    run: str,
    creates: bool,
    how: Decoding,
) -> DecodedImages | None:
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_finetune"
    finished = folder / f"decoded-{key}.npy"
    unfinished = finished.with_suffix(f".{run}.unfinished")
    try:
        if creates and not _is_sound(finished, (len(source), *size, 3)):
            folder.mkdir(parents=True, exist_ok=True)
            shape = (len(source), *size, 3)
            needed, free = int(np.prod(shape)), shutil.disk_usage(folder).free
            if mode == "auto" and needed > min(AUTO_LIMIT, free / 2):
                return None
            if needed > free:
                raise UserError(
                    f"decode_cache is always, but {folder} has {free / 1e9:.1f} GB free and the images take"
                    f" {needed / 1e9:.1f} GB; use --decode_cache never, or set HF_DATASETS_CACHE."
                )
            _create(unfinished, shape)
            if needed > _WORTH_LOGGING:
                logger.info(f"Images are decoded once, for this and later runs: {needed / 1e6:,.0f} MB in {folder}.")
        return DecodedImages(source, size, finished, unfinished, how)
    except OSError as error:
        if mode == "always":
            raise UserError(f"decode_cache is always, but nothing can be written to {folder}: {error}.") from error
        return None


def _is_sound(finished: Path, shape: tuple[int, ...]) -> bool:
    """Whether the complete file is there and of the right length; one that is not is deleted."""
    if not finished.is_file():
        return False
    try:
        CheckedRows(finished, shape, np.uint8)
    except DamagedFile as fault:
        finished.unlink()
        logger.warning(
            f"Note: the cache of decoded images is damaged or of another version ({fault}); it is made anew."
        )
        return False
    return True


def _key(source: Dataset, how: Decoding = AS_STORED) -> str:
    """Return a hash of the images: of their dataset's fingerprint, or of their files' paths, sizes and dates.

    What else decides their pixels is part of it, and the version of Pillow, because another one may decode otherwise.
    """
    digest = hashlib.sha256(f"{PIL.__version__} {how} {len(source)}".encode())
    if are_files(source):
        for path in image_paths(source).to_pylist():
            status = os.stat(path) if os.path.exists(path) else None  # a missing file is in no split
            digest.update(f"{path} {status and (status.st_size, status.st_mtime_ns)}\n".encode())
    else:
        digest.update(source._fingerprint.encode())
    return digest.hexdigest()[:32]


def _marks(unfinished: Path) -> Path:
    return unfinished.with_suffix(".marks")


def _create(unfinished: Path, shape: Sequence[int]) -> None:
    """Create the unfinished file of a run and its marks, which are deleted when the process ends."""
    for old in unfinished.parent.glob("decoded-*"):
        if old.suffix in (".unfinished", ".marks") and time.time() - old.stat().st_mtime > _ABANDONED:
            old.unlink(missing_ok=True)
    for path, its_shape in ((unfinished, tuple(shape)), (_marks(unfinished), (shape[0],))):
        path.unlink(missing_ok=True)
        atexit.register(path.unlink, missing_ok=True)
        with open(path, "xb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": its_shape})
            # Reserve the disk space now: on a full disk a later write to mapped memory would kill the process.
            length = file.tell() + int(np.prod(its_shape))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, length)
            else:
                file.truncate(length)
