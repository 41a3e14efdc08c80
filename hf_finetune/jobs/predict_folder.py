"""Predictions of any number of images, as a folder of tables, by any number of processes, resumed after any end.

Consecutive images are a part, and each part becomes one table. A table has its name from the moment on in which it is
whole and on the disk; then a record of it is written. So what a killed process leaves is parts that are done, and
parts that are not there. Which process makes which part does not change what is in it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.data import DataArguments
from hf_finetune.data.image_list import ImageList, ListedImages
from hf_finetune.data.images.unused import describe_unused
from hf_finetune.distributed import all_see, group_is_ready, join_processes, main_process_first
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.jobs.classifier import open_classifier
from hf_finetune.jobs.predict import Classification, Unreadable, check_channels, list_into, split_rows
from hf_finetune.jobs.prediction import Prediction
from hf_finetune.jobs.prediction_files import TABLES, UNFINISHED, open_table
from hf_finetune.jobs.prediction_settings import PredictionSettings
from hf_finetune.jobs.prepared_batches import workers_for
from hf_finetune.logs import get_logger, log_lines, progress_bar
from hf_finetune.training.checkpoints.lock import LOCK_FILE, locked
from hf_finetune.training.checkpoints.store import flush

logger = get_logger(__name__)

# Names with an underscore are passed over by readers of a folder of Parquet files.
MANIFEST = "_manifest.json"
PROGRESS = "_progress"
_LIST = "images.jsonl"
_MOST_PARTS = 64  # unless these would be too large
_LARGEST_PART = 5000  # images: what an end of the process costs at most
_WAIT = timedelta(days=1)  # for the other processes, whose last parts may take longer


@dataclass(frozen=True)
class PredictedFolder:
    """A folder of finished predictions.

    Attributes:
        folder: The folder.
        tables: Its tables, in the order of the images.
        images: How many images there were.
        unreadable: How many of them cannot be read; their rows say why.
    """

    folder: Path
    tables: list[Path]
    images: int
    unreadable: int


def predict_to_folder(
    model: str | Path | PreTrainedModel,
    images: list[str | Path],
    output: str | Path,
    settings: PredictionSettings,
    table_format: str = "parquet",
    shard_size: int | None = None,
    data: DataArguments | None = None,
    split: str | None = None,
    image_processor: BaseImageProcessor | None = None,
    show_bar: bool = False,
) -> PredictedFolder:
    """Write the classes of images as tables into a folder. The same call resumes what was interrupted.

    Every process of a launched job calls this; each does its share of the parts.

    Args:
        model: A folder, a Hub id, an embedded name, an ONNX file or a model object.
        images: Files, folders, tars and Parquet files.
        output: The folder; it must not exist, be empty, or hold the unfinished predictions of the same call.
        settings: What is asked of each image.
        table_format: "parquet", "csv" or "jsonl".
        shard_size: Images of a table; None for a 64th of all, at most 5,000.
        data: A dataset, in place of `images`.
        split: Its split.
        image_processor: What prepares images; absent, the model's own.
        show_bar: Whether a progress bar is shown on standard error.

    Raises:
        UserError: For a model, images or a folder that cannot be had, and where the folder holds other predictions.
    """
    folder = Path(output).expanduser()
    _check_form(table_format, shard_size, settings)
    join_processes(use_cpu=True, timeout=_WAIT)  # only their store is needed
    rank, world_size = _place()
    with _main_process_locks(folder, rank):
        if group_is_ready() and not all_see(folder, rank, world_size):
            raise UserError(f"--output: {folder} is not on a disk that all machines of the job share; use one that is.")
        _use_own_device()
        classification = Classification(open_classifier(model, image_processor), settings)
        stated = {
            "model": classification.classifier.digest(),
            "format": table_format,
            "shard_size": shard_size,
            **{name: value for name, value in asdict(settings).items() if name != "num_workers"},
        }
        with _main_process_begins(rank):
            channels = classification.classifier.stage.decoding.channels
            listed = _begin(folder, stated, images, data, split, channels) if rank == 0 else None
        job = _Job(folder, _read_manifest(folder, stated), table_format, classification)
        missing = job.missing()
        if len(missing) < len(job.parts):
            done = len(job.parts) - len(missing)
            logger.info(f"{folder}: {done:,} of {len(job.parts):,} tables are done; the others follow.")
        _wait_for_all(rank, world_size)  # nothing is written until all have seen what is missing
        job.work(listed or _opened(folder, data, split), missing[rank::world_size], show_bar)
        log_lines(logger, *describe_unused(classification.unused))
        _wait_for_all(rank, world_size)
        if rank == 0:
            job.finish()
        _wait_for_all(rank, world_size)
    return job.result()


def _check_form(table_format: str, shard_size: int | None, settings: PredictionSettings) -> None:
    if table_format not in TABLES:
        raise UserError(f"--format is {table_format}; use {', '.join(TABLES)}.{did_you_mean(table_format, TABLES)}")
    if shard_size is not None and shard_size < 1:
        raise UserError(f"--shard_size is {shard_size}; use 1 or more.")
    if settings.embeddings and table_format == "csv":
        raise UserError("--embeddings do not fit into CSV; use --format parquet or jsonl.")


def _place() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    if not group_is_ready():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _use_own_device() -> None:
    """Let each process of a machine use another of its accelerators."""
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", 0)) % torch.accelerator.device_count())


@contextmanager
def _main_process_locks(folder: Path, rank: int) -> Iterator[None]:
    if rank > 0:
        yield
        return
    _check_free(folder)
    with locked(folder, flag="output"):
        yield


@contextmanager
def _main_process_begins(rank: int) -> Iterator[None]:
    if not group_is_ready():
        yield
        return
    with main_process_first(rank, 0):
        yield


def _wait_for_all(rank: int, world_size: int) -> None:
    for other in range(world_size if group_is_ready() else 0):
        with main_process_first(rank, other):
            pass


def _check_free(folder: Path) -> None:
    """Check that a folder is free for predictions, or holds unfinished ones."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder} is a file; --format writes a folder of tables, so use another name.")
    if (folder / MANIFEST).is_file():
        if _load(folder / MANIFEST).get("done"):
            raise UserError(f"--output: {folder} holds finished predictions; use another folder, or remove it.")
        return
    left = (PROGRESS, LOCK_FILE, UNFINISHED, ".seen-")  # by a process that was killed before it wrote the manifest
    others = [path.name for path in folder.iterdir() if not path.name.startswith(left)] if folder.is_dir() else []
    if others:
        raise UserError(f"--output: {folder} holds other files, such as {min(others)}; use a folder of its own.")


def _begin(
    folder: Path,
    stated: dict[str, Any],
    paths: list[str | Path],
    data: DataArguments | None,
    split: str | None,
    channels: int | None,
) -> ImageList:
    """List the images and write the manifest, or check that they are those of an existing one."""
    progress = folder / PROGRESS
    progress.mkdir(exist_ok=True)
    for left in folder.rglob(f"{UNFINISHED}*"):
        left.unlink()
    unfinished = progress / f"{UNFINISHED}{_LIST}"
    images = list_into(unfinished, paths, data, split)
    check_channels(images, channels)
    found = {"count": len(images), "digest": images.digest}
    if not (folder / MANIFEST).is_file():
        _write(folder / MANIFEST, {"version": 1, "done": False, "images": found, "settings": stated})
    begun = _read_manifest(folder, stated)["images"]
    if begun != found:
        raise UserError(
            f"--output: {folder} was begun for {begun['count']:,} images, and now there are {len(images):,}, or"
            " others; restore them, or use another folder."
        )
    if not unfinished.exists():
        return images
    os.replace(unfinished, progress / _LIST)
    return ListedImages(progress / _LIST)


def _read_manifest(folder: Path, stated: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a folder that was begun with the same settings."""
    if not (folder / MANIFEST).is_file():
        raise UserError(f"--output: the main process could not begin {folder}; it says why.")
    manifest = _load(folder / MANIFEST)
    before = manifest.get("settings", {})
    differing = [name for name in stated if before.get(name) != stated[name]]
    if "model" in differing:
        raise UserError(f"--output: {folder} was begun with another model; use another folder, or that model.")
    if differing:
        name = differing[0]
        raise UserError(
            f"--output: {folder} was begun with {name} {_shown(before.get(name))}, and now it is"
            f" {_shown(stated[name])}; use another folder, or the same flags."
        )
    return manifest


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _opened(folder: Path, data: DataArguments | None, split: str | None) -> ImageList:
    """Open in another process what the main process has listed."""
    if data is not None and data.dataset is not None:
        return list_into(folder, (), data, split)
    return ListedImages(folder / PROGRESS / _LIST)


class _Job:
    """The parts of a folder: what is done, and doing the others."""

    def __init__(
        self, folder: Path, manifest: dict[str, Any], table_format: str, classification: Classification
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.classification = classification
        self._format = table_format
        count, batch = manifest["images"]["count"], classification.settings.batch_size
        usual = min(_LARGEST_PART, max(batch, -(-count // _MOST_PARTS)))
        self.parts = split_rows(range(count), manifest["settings"]["shard_size"] or -(-usual // batch) * batch)

    def table(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.{self._format}"

    def _record(self, part: int) -> Path:
        return self.folder / PROGRESS / f"part-{part:05d}.json"

    def missing(self) -> list[int]:
        """Return the parts without a record, or whose table is not what the record says."""
        return [part for part in range(len(self.parts)) if not self._is_done(part)]

    def _is_done(self, part: int) -> bool:
        record, table = self._record(part), self.table(part)
        return record.is_file() and table.is_file() and _load(record).get("bytes") == table.stat().st_size

    def work(self, images: ImageList, own: list[int], show_bar: bool) -> None:
        """Make the tables of parts. Workers decode the images of the next one while a table is completed."""
        size = self.classification.settings.batch_size
        workers = workers_for(
            sum(len(split_rows(self.parts[part], size)) for part in own), self.classification.settings.num_workers
        )
        ranges = (rows for part in own for rows in split_rows(self.parts[part], size))
        batches = self.classification.batches(images, ranges, workers)
        bar = progress_bar(
            total=sum(len(self.parts[part]) for part in own),
            desc="images",
            unit="image",
            delay=2,
            disable=not show_bar or os.environ.get("RANK", "0") != "0",
        )
        with bar:
            for part in own:
                self._make(part, islice(batches, len(split_rows(self.parts[part], size))), bar.update)

    def _make(self, part: int, batches: Iterator[list[Prediction]], done: Any) -> None:
        unreadable, table = Unreadable(), self.table(part)
        with open_table(table, TABLES[self._format], self.classification.settings.embeddings) as rows:
            for batch in batches:
                rows.write(list(unreadable.noting(batch)))
                done(len(batch))
        size = table.stat().st_size
        _write(self._record(part), {"images": len(self.parts[part]), "unreadable": unreadable.count, "bytes": size})
        for reason in unreadable.lines():
            logger.error(f"hf-finetune: {reason}")

    def finish(self) -> None:
        """Write into the manifest that all is done, and remove the records."""
        records = {self.table(part).name: _load(self._record(part)) for part in range(len(self.parts))}
        _write(self.folder / MANIFEST, {**self.manifest, "done": True, "tables": records})
        shutil.rmtree(self.folder / PROGRESS)
        count = sum(record["unreadable"] for record in records.values())
        bad = f", {count:,} of which cannot be read" if count else ""
        tables = "1 table" if len(records) == 1 else f"{len(records):,} tables"
        logger.info(f"{self.manifest['images']['count']:,} images{bad}, in {tables}: {self.folder}.")

    def result(self) -> PredictedFolder:
        """Return what the finished manifest says."""
        records = _load(self.folder / MANIFEST)["tables"]
        return PredictedFolder(
            self.folder,
            [self.folder / name for name in records],
            sum(record["images"] for record in records.values()),
            sum(record["unreadable"] for record in records.values()),
        )


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not what predict wrote; remove its folder, or use another.")
    return content


def _write(file: Path, content: dict[str, Any]) -> None:
    """Write JSON under another name in the same folder; it appears when it is whole and on the disk."""
    unfinished = file.with_name(f"{UNFINISHED}{os.getpid()}-{file.name}")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    flush(unfinished)
    os.replace(unfinished, file)
    flush(file.parent)
