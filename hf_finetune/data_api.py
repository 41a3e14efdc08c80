"""The functions for Python programs that look at a dataset: check_dataset and dataset_stats."""

from __future__ import annotations

import os
from collections.abc import Sequence

from typing_extensions import Unpack

from hf_finetune.api import DatasetLike, in_python_words, read_data_settings
from hf_finetune.config.settings import Settings
from hf_finetune.jobs.check import run_check
from hf_finetune.jobs.check_result import CheckResult
from hf_finetune.jobs.stats import IMAGES, DatasetStats, run_stats


def check_dataset(
    dataset: DatasetLike,
    *,
    split: str | Sequence[str] = (),
    model: str | os.PathLike[str] | None = None,
    quick: bool = False,
    output: str | os.PathLike[str] | None = None,
    **settings: Unpack[Settings],
) -> CheckResult:
    """Look for what is wrong with a dataset before any training. Nothing is printed.

    Args:
        dataset: As in `finetune`.
        split: Which splits to look at: train, validation or test, or their own names. Absent, all.
        model: The network by whose features labels are judged and images compared: a Hub id, a folder or an embedded
            checkpoint's name. Absent, the embedded checkpoint resnet_small_cifar10.
        quick: Ask no network: do not judge labels, nor find images unlike all others. It takes most of the time.
        output: A .html file for a page with the findings and their images.
        settings: Keys of a recipe that say which images (`hf_finetune.Settings`), such as `group_column`.

    Returns:
        The findings, the figures of splits and files, the verdict, and whether something falsifies figures.

    Raises:
        UserError: For a dataset or a model that cannot be had.
    """
    with in_python_words():
        given, values = read_data_settings(dataset, settings)
        return run_check(
            splits=[split] if isinstance(split, str) else split,
            model=None if model is None else os.fspath(model),
            quick=quick,
            output=None if output is None else os.fspath(output),
            given=given,
            **values,
        )


def dataset_stats(
    dataset: DatasetLike, *, split: str | None = None, images: int = IMAGES, **settings: Unpack[Settings]
) -> DatasetStats:
    """Compute mean and standard deviation of the channels of a dataset, as `image_mean` and `image_std` need them.

    Args:
        dataset: As in `finetune`.
        split: train, validation or test, or its own name. Absent, train, or the first that there is.
        images: How many images to read at most, drawn by `seed`.
        settings: Keys of a recipe that say which images (`hf_finetune.Settings`), such as `streaming`.

    Returns:
        Mean and standard deviation of red, green and blue, parts of 1. Each image counts as much as any other,
        whatever its size.

    Raises:
        UserError: For a dataset that cannot be had.
    """
    with in_python_words():
        given, values = read_data_settings(dataset, settings)
        return run_stats(split=split, images=images, given=given, **values)
