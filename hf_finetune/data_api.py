"""The functions for Python programs that look at a dataset: check_dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence

from typing_extensions import Unpack

from hf_finetune.api import DatasetLike, in_python_words, read_data_settings
from hf_finetune.config.settings import Settings
from hf_finetune.jobs.check import run_check
from hf_finetune.jobs.check_result import CheckResult


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
        model: The network by whose features labels are judged: a Hub id, a folder or an embedded checkpoint's name.
            Absent, the embedded checkpoint resnet_small_cifar10.
        quick: Do not judge labels, which takes most of the time.
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
