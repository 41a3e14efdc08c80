"""Images that cannot be read when their batch is due, though the check before training found them good.

A file can vanish or be written over during a run, and behind a good header there can be bad pixels.
"""

from __future__ import annotations

import atexit
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.dataset import EarlierImages, ImageDataset
from hf_finetune.data.images.decoding import NO_SUCH_FILE, UnreadableImage, image_name
from hf_finetune.data.images.header_check import describe_bad_image
from hf_finetune.errors import UserError, listing
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

_RECORD_FILE = "unreadable_images.jsonl"


class LoadingError(UserError):
    """Images that do not come any more. It ends a run, whose checkpoints stay."""


class BadImages:
    """What a run does with an unreadable image, `on_bad_image` stop or skip, and the list of those it has met.

    The list is a file, because a loader's workers meet them too. It goes with the process, or where a run keeps it in
    its folder (`persist_to`) with the run, which reads there how to resume (`earlier_images`).
    """

    def __init__(self, data: ImageDataset, on_bad_image: str) -> None:
        self._sources, self._folder, self._left_out = data.sources, data.folder, data.left_out
        self._skip = on_bad_image == "skip"
        descriptor, name = tempfile.mkstemp(prefix="hf_finetune_bad_images_")
        os.close(descriptor)
        self._list = Path(name)
        atexit.register(self._list.unlink, missing_ok=True)
        for image in data.bad_images:
            self._add(image)

    def persist_to(self, folder: Path, goes_on: bool, first: bool) -> None:
        """Keeps the list in the folder of a run, which is new or `goes_on`; the `first` process writes what it is of.

        The others come after it.
        """
        temporary, self._list = self._list, folder / _RECORD_FILE
        if not first:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not goes_on or not self._list.is_file():
            counts = {role: len(source) for role, source in self._sources.items()}
            with open(self._list, "w", encoding="utf-8") as file:
                file.write(json.dumps({"counts": counts, "left_out": self._left_out}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        with open(self._list, "a", encoding="utf-8") as file:
            file.write(temporary.read_text(encoding="utf-8"))

    def close(self) -> None:
        """Removes the list, once the run has ended and the images are in its metrics."""
        self._list.unlink(missing_ok=True)

    def on_error(self, role: str, batches: ImageBatches) -> ImageBatches:
        """Returns the batches of a role, which now ask here what to do with an unreadable image."""
        batches.on_unreadable = partial(self._meet, role)
        return batches

    def name(self, role: str, sample_index: int) -> str:
        """Returns the path of an image below the dataset's folder, or of one without a file its row."""
        source = self._sources.get(role)  # of a stream, nothing is at hand
        path = Path(image_name(source[sample_index]["image"]) if source is not None else "")
        if not path.is_absolute():
            return f"row {sample_index} of {role}"
        below = self._folder is not None and path.is_relative_to(self._folder.absolute())
        return str(path.relative_to(self._folder.absolute()) if below else path)

    def found(self) -> list[str]:
        """Returns the unreadable images, each once and with the reason, sorted."""
        return sorted({line["image"] for line in _read_lines(self._list) if "image" in line})

    def _add(self, described: str, lost_file: str | None = None) -> None:
        line = {"image": described} if lost_file is None else {"image": described, "lost_file": lost_file}
        with open(self._list, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # one short write, so that processes do not mix theirs

    def _meet(self, role: str, error: UnreadableImage, sample_index: int) -> None:
        described = describe_bad_image(error, self._folder, role, sample_index)
        if described not in self.found():
            gone = error.reason == NO_SUCH_FILE and Path(error.name).is_absolute()
            self._add(described, self.name(role, sample_index) if gone else None)
            if self._skip:
                logger.error(f"hf-finetune: {described}: it cannot be read and is left out.")
        if not self._skip:
            raise LoadingError(
                f"An image of {role} cannot be read: {described}; fix it, or use --on_bad_image skip."
            ) from error


def earlier_images(folder: Path) -> EarlierImages | None:
    """Returns what the unfinished run in a folder knows of its images, None where it does not say."""
    lines = _read_lines(folder / _RECORD_FILE)
    if not lines or "counts" not in lines[0]:
        return None
    lost = sorted({line["lost_file"] for line in lines if "lost_file" in line})
    return EarlierImages(lines[0]["counts"], lines[0]["left_out"], lost)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of a list; the last may be corrupt by a power cut."""
    read = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            read.append(json.loads(line))
    return read


def note_lost(data: ImageDataset, unreadable: Sequence[str]) -> list[str]:
    """Adds what a run has met to the dataset's list and notes; returns the new note, or nothing."""
    lost = [image for image in unreadable if image not in data.bad_images]
    if not lost:
        return []
    images = "1 image" if len(lost) == 1 else f"{len(lost):,} images"
    note = f"{images} could not be read when their batch was due and did not count: {listing(lost)}."
    data.bad_images = sorted({*data.bad_images, *lost})
    data.notes.append(note)
    return [note]
