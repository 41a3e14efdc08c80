"""The report of a finished run, made again from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL.Image import Image

from hf_finetune.config.data import DataArguments
from hf_finetune.config.run_files import REPORT_FILE
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.build import build_dataset
from hf_finetune.data.images.decoding import Decoding
from hf_finetune.errors import UserError, first_line
from hf_finetune.logs import get_logger
from hf_finetune.reports.answers import Answers
from hf_finetune.reports.images import encoded_images, names_of_rows, small_images
from hf_finetune.reports.page import write_report
from hf_finetune.reports.run import RunFiles
from hf_finetune.shown_text import csv_cell

logger = get_logger(__name__)


def report_run(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the report of a finished run: figures, mistakes with their images, and how to repeat it.

    Nothing is evaluated again: the folder holds the answers. The images of the thumbnails are read where the recipe
    says they are, and the network is loaded for the heat maps of a dozen mistakes; if images are not there any more,
    the report says so.

    Args:
        folder: The folder of the run.
        output: The HTML file; absent, report.html in the folder.

    Returns:
        The file.

    Raises:
        UserError: The folder is not that of a finished run, or the file is a folder.
    """
    folder = Path(folder).expanduser()
    path = folder / REPORT_FILE if output is None else Path(output).expanduser()
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; use the name of a file.")
    run = RunFiles.read(folder)
    images, absent = (None, "") if run.answers is None else _reader(run, run.answers)
    if absent:
        logger.warning(f"Note: {absent}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if images is None:
        write_report(folder, path, None, absent)
    else:
        write_report(folder, path, images.small, absent, images.encoded)
    logger.info(f"Written: {path}.")
    return path


@dataclass(frozen=True)
class _Images:
    """The images of the split of a run, which may have changed since.

    Attributes:
        source: The column `image` of the split.
        rows: The row of each image of the run, None for one that is not there any more.
        how: What decides the pixels of an image beside its file.
    """

    source: Dataset
    rows: Sequence[int | None]
    how: Decoding

    def small(self, places: Sequence[int]) -> list[Image | None]:
        return small_images(self.source, [self.rows[place] for place in places], self.how)

    def encoded(self, places: Sequence[int]) -> list[Any]:
        return encoded_images(self.source, [self.rows[place] for place in places])


def _reader(run: RunFiles, answers: Answers) -> tuple[_Images | None, str]:
    """Return the images of the split; or None, and why they cannot be had."""
    values, role = run.recipe.values, run.role
    if values.get("dataset") is None:
        return None, "the images were given by a Python program"
    if values.get("streaming"):
        return None, "the images of a stream are not read again"
    known = {name: values[name] for name in (entry.name for entry in fields(DataArguments)) if name in values}
    try:
        arguments = DataArguments(**{**known, "on_bad_image": "skip"})
        data = build_dataset(arguments, values.get("seed", FinetuneArguments.seed), require_train=False)
    except UserError as error:
        return None, f"the images cannot be had any more ({first_line(error).rstrip('.')})"
    if role not in data.sources:
        return None, f"{data.source} has no {role} split any more"
    names = names_of_rows(data, role, np.arange(len(data.sources[role])))
    rows_of = {csv_cell(name): row for row, name in enumerate(names)}
    rows = [rows_of.get(name) for name in answers.names]
    found = np.array([row is not None for row in rows]) & answers.known
    labels = data.source_labels[role][[row or 0 for row in rows]][found]
    if data.label_names != list(answers.label_names) or not np.array_equal(labels, answers.labels[found]):
        return None, f"{data.source} has other labels than the run had"
    value_range = run.config.get("value_range")
    channels = run.config.get("image_channels")
    how = Decoding(value_range=None if value_range is None else (value_range[0], value_range[1]), channels=channels)
    return _Images(data.sources[role], rows, how), ""
