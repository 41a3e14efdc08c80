"""Data room: small pictures of one size are decoded once, into a file of pixels that later passes map into memory.

Fetching a picture from there costs a copy of a few kilobytes instead of a decoding. The file lies in the cache folder
of `datasets`, is named after the pictures that it holds, is written aside and renamed when it is whole, and is shared
by the processes and the runs of a machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
import pyarrow.compute as pc
from datasets import Dataset
from filelock import FileLock
from tqdm.auto import tqdm

from hf_finetune.data.columns import are_files, arrow_column
from hf_finetune.data.decoding import UnreadableImage, decode_image
from hf_finetune.data.loading import ImageDataset
from hf_finetune.errors import UserError

AUTO_LIMIT = 2 * 2**30  # bytes of one file: CIFAR-10's 50,000 training pictures take 154 MB
_CHUNK = 256  # pictures a thread decodes at a time
_SECONDS_BEFORE_BAR = 2


class DecodedPictures:
    """The pixels of a source's split, uint8 (pictures, height, width, 3), mapped into memory from a .npy file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels = np.load(path, mmap_mode="r", allow_pickle=False)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns the pictures of `rows`, int64 (batch,), as uint8 (batch, height, width, 3)."""
        return np.asarray(self._pixels[rows])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)  # a loader's worker maps the file too, instead of being sent its content


def open_decoded_pictures(
    data: ImageDataset, mode: str, say: Callable[[str], object] = print
) -> dict[str, DecodedPictures]:
    """Returns the decoded pictures of each role's source, decoding them now where no run did before.

    `mode` is "never", "always", or "auto": small pictures of one size, of which the run uses at least half, in a file
    of at most 2 GiB that leaves as much free. What cannot be decoded once is missing from the result and decoded as it
    is needed. Raises `UserError` where "always" cannot be had.
    """
    decoded: dict[str, DecodedPictures] = {}
    if mode == "never":
        return decoded
    if not data.uniform:
        if mode == "always":
            raise UserError(
                f"decode_cache is always, but the pictures of {data.source} are not known to be small and of one size;"
                " write --decode_cache auto."
            )
        return decoded
    for role, source in data.sources.items():
        if role not in data.splits:
            continue
        sharing = [other for other, its_source in data.sources.items() if its_source is source and other in data.splits]
        used = sum(len(data.splits[other]) for other in sharing)
        if role != sharing[0]:
            if sharing[0] in decoded:
                decoded[role] = decoded[sharing[0]]
        elif mode == "always" or 2 * used >= len(source):
            pictures = _open_or_write(source, data.image_sizes, mode, f"{data.source}, {role}", say)
            if pictures is not None:
                decoded[role] = pictures
    return decoded


def _open_or_write(
    source: Dataset, size: tuple[int, int], mode: str, name: str, say: Callable[[str], object]
) -> DecodedPictures | None:
    shape = (len(source), *size, 3)
    needed = int(np.prod(shape))
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_finetune"
    path = folder / f"decoded-{_key(source)}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # of several processes one decodes, and the others find the file
            if not path.is_file():
                free = shutil.disk_usage(folder).free
                if mode == "auto" and needed > min(AUTO_LIMIT, free / 2):
                    return None
                if needed > free:
                    raise UserError(
                        f"decode_cache is always, but {folder} has room for {free / 1e9:.1f} GB and the pictures of"
                        f" {name} take {needed / 1e9:.1f} GB; write --decode_cache never, or set HF_DATASETS_CACHE."
                    )
                _write(source, shape, path, name)
                say(f"Decoded once, for this and later runs: {name}, {needed / 1e6:,.0f} MB in {folder}.")
        return DecodedPictures(path)
    except (OSError, UnreadableImage, ValueError) as error:
        if mode == "always":
            raise UserError(f"decode_cache is always, but the pictures of {name} cannot be kept: {error}") from error
        return None  # a picture that cannot be read is named when it is needed


def _key(source: Dataset) -> str:
    """Returns a name for these pictures: their dataset's fingerprint, or their files' paths, sizes and dates.

    Another version of Pillow may decode to other pixels.
    """
    digest = hashlib.sha256(f"{PIL.__version__} {len(source)}".encode())
    if are_files(source):
        for path in pc.struct_field(arrow_column(source, "image"), "path").to_pylist():
            status = os.stat(path)
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    else:
        digest.update(source._fingerprint.encode())
    return digest.hexdigest()[:32]


def _write(source: Dataset, shape: tuple[int, ...], path: Path, name: str) -> None:
    """Decodes all pictures into `path`, which appears when it is whole. Raises what decoding and writing raise."""
    unfinished = path.with_suffix(".unfinished")
    try:
        with (
            open(unfinished, "wb") as file,
            tqdm(total=len(source), desc=f"Decoding {name}", unit="picture", delay=_SECONDS_BEFORE_BAR) as bar,
        ):
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for pixels in _decode_in_order(source, shape[1:]):
                file.write(pixels)
                bar.update(len(pixels))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _decode_in_order(source: Dataset, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    images = source.with_format("arrow")

    def decode(start: int) -> np.ndarray:
        values: Sequence[Any] = images[start : start + _CHUNK]["image"].to_pylist()
        pixels = np.empty((len(values), *shape), dtype=np.uint8)
        for position, value in enumerate(values):
            picture = decode_image(value)
            if (picture.height, picture.width) != shape[:2]:
                raise ValueError(f"picture {start + position} is of {picture.height} x {picture.width} pixels")
            pixels[position] = picture
        return pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        starts = range(0, len(source), _CHUNK)
        # A few chunks ahead of the file, and no more: all of them at once would be held in memory.
        ahead = [pool.submit(decode, start) for start in starts[: 2 * (os.cpu_count() or 1)]]
        for start in starts:
            yield ahead.pop(0).result()
            following = start + _CHUNK * 2 * (os.cpu_count() or 1)
            if following < len(source):
                ahead.append(pool.submit(decode, following))
