"""Images that cannot be read when their batch is due, although the check before training accepted them.

A file can be deleted or overwritten during a run, and pixels can be broken behind a valid header.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hf_finetune.data.batches import OnUnreadable
from hf_finetune.data.dataset import EarlierImages, ImageDataset
from hf_finetune.data.images.decoding import NO_SUCH_FILE, UnreadableImage, image_name, shown_name
from hf_finetune.data.images.header_check import describe_bad_image
from hf_finetune.errors import LoadingError, listing
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

_RECORD_FILE = "unreadable_images.jsonl"


class _AsksOnError(Protocol):
    on_unreadable: OnUnreadable | None


Batches = TypeVar("Batches", bound=_AsksOnError)


class BadImages:
    """What a run does with unreadable images (`on_bad_image`), and the list of those found so far.

    The list is a file, because the workers of a loader add to it too. It is deleted when the process ends, or, after
    `persist_to`, when the run ends; a resumed run reads it (`earlier_images`).
    """

    def __init__(self, data: ImageDataset, on_bad_image: str) -> None:
        """Start the list with the images that the check before training left out.

        Args:
            data: The images of the run.
            on_bad_image: "stop" to raise an error at an unreadable image, "skip" to replace it.
        """
        self._sources, self._folder, self._left_out = data.sources, data.folder, data.left_out
        self._skip = on_bad_image == "skip"
        # Made by the first image that is added: a process that is killed then leaves no empty file.
        self._list = Path(tempfile.gettempdir(), f"hf_finetune_bad_images_{secrets.token_hex(8)}")
        atexit.register(self._list.unlink, missing_ok=True)
        for image in data.bad_images:
            self._add(image)

    def persist_to(self, folder: Path, resumed: bool, first: bool) -> None:
        """Keep the list in the folder of a run from now on.

        Args:
            folder: The run's folder.
            resumed: Whether the run resumes an interrupted one, whose list is continued.
            first: Whether this is the process that writes the file's first line: the first one on its machine. The
                others must call this after it.
        """
        temporary, self._list = self._list, folder / _RECORD_FILE
        found = temporary.read_text(encoding="utf-8") if temporary.is_file() else ""
        temporary.unlink(missing_ok=True)
        if not first:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not resumed or not self._list.is_file():
            counts = {role: len(source) for role, source in self._sources.items()}
            with open(self._list, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps({"counts": counts, "left_out": self._left_out}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        with open(self._list, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(found)

    def close(self) -> None:
        """Delete the list, once the run has ended and its metrics name the images."""
        self._list.unlink(missing_ok=True)

    def on_error(self, role: str, batches: Batches) -> Batches:
        """Return the batches of a role, which from now on report unreadable images here."""
        batches.on_unreadable = partial(self._meet, role)
        return batches

    def name(self, role: str, sample_index: int) -> str:
        """Return the path of an image below the dataset's folder, or its row where it is no file."""
        source = self._sources.get(role)  # None for a stream
        path = None if source is None else image_name(source[sample_index]["image"])
        return shown_name(path, self._folder, role, sample_index)

    def found(self) -> list[str]:
        """Return the unreadable images, each once and with the reason, sorted."""
        return sorted({line["image"] for line in _read_lines(self._list) if "image" in line})

    def _add(self, described: str, lost_file: str | None = None) -> None:
        line = {"image": described} if lost_file is None else {"image": described, "lost_file": lost_file}
        with open(self._list, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(line) + "\n")  # one short write, so that lines of several processes do not mix

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
    """Return what the unfinished run in a folder recorded about its images, or None where it recorded nothing."""
    lines = _read_lines(folder / _RECORD_FILE)
    if not lines or "counts" not in lines[0]:
        return None
    lost = sorted({line["lost_file"] for line in lines if "lost_file" in line})
    unreadable = sorted({line["image"] for line in lines if "image" in line})
    return EarlierImages(lines[0]["counts"], lines[0]["left_out"], lost, unreadable)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a list; a power failure may have truncated the last one."""
    read = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            read.append(json.loads(line))
    return read


def note_lost(data: ImageDataset, unreadable: Sequence[str]) -> list[str]:
    """Add the images that a run could not read to the dataset's list and notes.

    Args:
        data: The images of the run.
        unreadable: What `BadImages.found` returned.

    Returns:
        The new note, or nothing where all were known before training.
    """
    lost = [image for image in unreadable if image not in data.bad_images]
    if not lost:
        return []
    images = "1 image" if len(lost) == 1 else f"{len(lost):,} images"
    note = f"{images} could not be read when their batch was due and did not count: {listing(lost)}."
    data.bad_images = sorted({*data.bad_images, *lost})
    data.notes.append(note)
    return [note]
