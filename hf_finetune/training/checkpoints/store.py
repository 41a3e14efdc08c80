"""The folders `checkpoint-STEP` of a run: written atomically, with a manifest through which corruption is detected.

A checkpoint is written into a hidden folder, flushed to the disk, listed in a manifest and renamed. Whenever the
process is ended, a folder with the final name is whole. Later corruption is detected through the manifest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hf_finetune.errors import NO_ROOM, UserError, no_room

MANIFEST_FILE = "manifest.json"
STATE_FILE = "trainer_state.json"
# Holds what is being written or removed. Hidden, and on the run's own file system, so that one rename publishes it.
UNFINISHED_FOLDER = ".unfinished"
# Not "checkpoint-...": the stock Trainer would count it among the checkpoints, and delete it.
_CORRUPT_PREFIX = "corrupt-"
# Bytes. A write that fails with less left has met a full disk, whatever the error says: torch.save's does not say so.
_ALMOST_NOTHING = 1 << 20


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the folders `checkpoint-STEP`, the newest first."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path in steps if steps[path].isdigit()), key=lambda path: int(steps[path]), reverse=True)


def find_fault(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint ("optimizer.pt has 10 of 4,096 bytes"), or None if it is whole."""
    try:
        if not (checkpoint / MANIFEST_FILE).is_file():
            return f"{MANIFEST_FILE} is missing"
        for name, listed in json.loads((checkpoint / MANIFEST_FILE).read_text())["files"].items():
            file = checkpoint / name
            if not file.is_file():
                return f"{name} is missing"
            if (size := file.stat().st_size) != listed["bytes"]:
                return f"{name} has {size:,} of {listed['bytes']:,} bytes"
            if _sha256(file) != listed["sha256"]:
                return f"{name} is not what was written, by its checksum"
    except OSError as error:
        return f"{Path(error.filename or checkpoint).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_FILE} is no manifest"
    return None


def set_aside(checkpoint: Path) -> Path:
    """Rename a corrupt checkpoint, so that nothing takes it for a whole one, and return its new place."""
    name, number = _CORRUPT_PREFIX + checkpoint.name, 1
    while checkpoint.with_name(name).exists():
        number += 1
        name = f"{_CORRUPT_PREFIX}{checkpoint.name}-{number}"
    return checkpoint.rename(checkpoint.with_name(name))


def publish(unfinished: Path, folder: Path) -> Path:
    """Flush and list a complete checkpoint, and rename it into the folder of its run.

    Args:
        unfinished: The folder that holds it, with its final name, on the same file system.
        folder: The folder of the run; an earlier checkpoint of the same name there is replaced.

    Returns:
        Its final place.
    """
    paths = sorted(unfinished.rglob("*"))
    with ThreadPoolExecutor(1) as other_thread:
        flushed = other_thread.map(flush, paths)  # the disk writes while this thread computes the checksums
        listed = {
            path.relative_to(unfinished).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in paths
            if path.is_file()
        }
        list(flushed)  # raises an error that a flush has raised
    (unfinished / MANIFEST_FILE).write_text(json.dumps({"files": listed}, indent=1))
    flush(unfinished / MANIFEST_FILE)
    flush(unfinished)
    final = folder / unfinished.name
    if final.exists():
        remove_checkpoint(final)
    unfinished.rename(final)
    flush(folder)
    return final


@contextmanager
def written_aside(
    folder: Path,
    name: str,
    needed: int,
    is_writer: bool,
    wait_for_all: Callable[[], None],
    after_publishing: Callable[[], None],
) -> Iterator[Path]:
    """Write a checkpoint into a hidden folder, and publish it at the end. All ranks enter the context.

    Args:
        folder: The folder of the run.
        name: The name of the checkpoint.
        needed: Its bytes, about, for the message about a full disk.
        is_writer: Whether this rank creates the hidden folder and publishes.
        wait_for_all: Returns when all ranks have called it.
        after_publishing: Called by the writer at the end; it may remove older checkpoints.

    Yields:
        The folder into which the checkpoint is written; it need not exist yet.

    Raises:
        UserError: The disk is full.
    """
    with full_disk_told(folder, "a checkpoint", needed):
        if is_writer:
            remove_unfinished(folder)
            (folder / UNFINISHED_FOLDER).mkdir(parents=True)
        wait_for_all()
        yield folder / UNFINISHED_FOLDER / name
        wait_for_all()  # the files of each rank are there
        if is_writer:
            publish(folder / UNFINISHED_FOLDER / name, folder)
            after_publishing()
            remove_unfinished(folder)
    wait_for_all()


def rotate(folder: Path, limit: int | None, best: Path | None) -> None:
    """Remove the oldest checkpoints beyond `limit`, but never the newest nor the best; None is no limit."""
    checkpoints = list_checkpoints(folder)
    kept = {checkpoint.name for checkpoint in (*checkpoints[:1], best) if checkpoint is not None}
    excess = 0 if limit is None else len(checkpoints) - max(limit, len(kept))
    removable = [checkpoint for checkpoint in reversed(checkpoints) if checkpoint.name not in kept]
    for checkpoint in removable[: max(0, excess)]:
        remove_checkpoint(checkpoint)


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint. It is renamed before the first of its files is removed."""
    aside = checkpoint.parent / UNFINISHED_FOLDER / f"removed-{checkpoint.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    shutil.rmtree(checkpoint.rename(aside))


def remove_unfinished(folder: Path) -> None:
    """Remove what an interrupted write or removal has left."""
    shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)


def remove_all(folder: Path) -> None:
    """Remove all checkpoints of a run: whole ones, corrupt ones and what is left of unfinished ones."""
    for checkpoint in (*list_checkpoints(folder), *folder.glob(f"{_CORRUPT_PREFIX}checkpoint-*")):
        shutil.rmtree(checkpoint)
    remove_unfinished(folder)


def check_room(folder: Path, checkpoint_bytes: int, weight_bytes: int, checkpoints: int) -> None:
    """Check that the checkpoints and the result of a run fit on the disk.

    Args:
        folder: The folder of the run. Checkpoints that are there already count as free.
        checkpoint_bytes: The size of a checkpoint.
        weight_bytes: The size of the result.
        checkpoints: How many checkpoints there are at most at a time.

    Raises:
        UserError: They do not fit; the message says how many bytes are missing.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    taken = sum(file.stat().st_size for old in list_checkpoints(folder) for file in old.rglob("*") if file.is_file())
    needed = checkpoints * checkpoint_bytes + weight_bytes - taken
    if needed > free:
        plural = "s" * (checkpoints != 1)
        raise UserError(
            f"output_dir: {checkpoints} checkpoint{plural} of {_size(checkpoint_bytes)} and the result need"
            f" {_size(needed)} on the disk of {existing} and {_size(free)} are free: {_size(needed - free)} are"
            " missing; free them, or use another --output_dir or a lower --save_total_limit."
        )


@contextmanager
def full_disk_told(folder: Path, what: str, needed: int) -> Iterator[None]:
    """Turn the errors of a full disk into one `UserError`, and remove what is unfinished.

    Args:
        folder: The folder of the run.
        what: What is written, for the message.
        needed: Its bytes, about.

    Raises:
        UserError: The disk is full; the message says how many bytes are missing and which checkpoint is whole.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free
        reason = no_room(error) or _guess(needed, free)
        remove_unfinished(folder)
        if reason is None:
            raise
        whole = list_checkpoints(folder)
        kept = f"{whole[0].name} is whole, and the same command resumes from it" if whole else "None was saved before"
        if reason == errno.EFBIG:
            raise UserError(f"output_dir: {what} could not be written: {NO_ROOM[reason]}. {kept}.") from error
        free = shutil.disk_usage(folder).free
        missing = max(needed - free, 0) or needed  # a quota does not show in what is free
        raise UserError(
            f"output_dir: the disk of {folder} is full: {what} of {_size(needed)} could not be written, {_size(free)}"
            f" are free; free {_size(missing)} or more. {kept}."
        ) from error


def _guess(needed: int, free: int) -> int | None:
    """Return what has probably met an error that does not say it, as those of torch.save."""
    if free < min(needed, _ALMOST_NOTHING):
        return errno.ENOSPC
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return errno.EFBIG if limit != resource.RLIM_INFINITY and limit < needed else None


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Wait until the disk has a file, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
