"""Data room: pictures that cannot be read when their batch is due, though the check before training found them good.

A file can vanish or be written over while a run goes on, and behind a good header there can be bad pixels.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from hf_finetune.data.batching import PictureBatches
from hf_finetune.data.decoding import UnreadableImage, image_name
from hf_finetune.data.header_check import describe_bad_image
from hf_finetune.data.loading import ImageDataset
from hf_finetune.data.raw import listing
from hf_finetune.errors import UserError


class LoadingError(UserError):
    """Pictures that do not come any more. It ends a run, whose checkpoints stay."""


class BadImages:
    """What a run does with an unreadable picture, `on_bad_image` stop or skip, and the list of those it has met.

    The list is a file, because a loader's workers meet them too; it goes with the process that has made it.
    """

    def __init__(self, data: ImageDataset, on_bad_image: str) -> None:
        self.left_out = data.left_out
        self._sources, self._folder = data.sources, data.folder
        self._skip = on_bad_image == "skip"
        descriptor, name = tempfile.mkstemp(prefix="hf_finetune_bad_images_")
        os.close(descriptor)
        self._list = Path(name)
        atexit.register(self._list.unlink, missing_ok=True)
        self.add(data.bad_images)

    def watch(self, role: str, batches: PictureBatches) -> PictureBatches:
        """Returns the batches of a role, which now ask here what to do with an unreadable picture."""
        batches.on_unreadable = partial(self._meet, role)
        return batches

    def name(self, role: str, sample_index: int) -> str:
        """Returns the path of a picture below the dataset's folder, or of one without a file its row."""
        path = Path(image_name(self._sources[role][sample_index]["image"]))
        if not path.is_absolute():
            return f"row {sample_index} of {role}"
        below = self._folder is not None and path.is_relative_to(self._folder.absolute())
        return str(path.relative_to(self._folder.absolute()) if below else path)

    def found(self) -> list[str]:
        """Returns the unreadable pictures, each once and with the reason, sorted."""
        lines = self._list.read_text(encoding="utf-8").splitlines()
        return sorted({json.loads(line) for line in lines})

    def add(self, described: Iterable[str]) -> None:
        with open(self._list, "a", encoding="utf-8") as file:
            # One short write, so that processes do not mix theirs.
            file.write("".join(json.dumps(one) + "\n" for one in described))

    def _meet(self, role: str, error: UnreadableImage, sample_index: int) -> None:
        described = describe_bad_image(error, self._folder, role, sample_index)
        if not self._skip:
            raise LoadingError(
                f"A picture of {role} cannot be read: {described}; mend it, or write --on_bad_image skip."
            ) from error
        if described not in self.found():
            self.add([described])
            print(f"hf-finetune: {described}: it cannot be read and is left out.", file=sys.stderr, flush=True)


def note_lost(data: ImageDataset, unreadable: Sequence[str]) -> list[str]:
    """Adds what a run has met to the dataset's list and notes; returns the new note, or nothing."""
    lost = [picture for picture in unreadable if picture not in data.bad_images]
    if not lost:
        return []
    pictures = "1 picture" if len(lost) == 1 else f"{len(lost):,} pictures"
    note = f"{pictures} could not be read when their batch was due and did not count: {listing(lost)}."
    data.bad_images = sorted({*data.bad_images, *lost})
    data.notes.append(note)
    return [note]
