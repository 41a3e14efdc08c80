"""The functions for Python programs that look at a run before it begins: browse and schedule."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel
from typing_extensions import Unpack

from hf_finetune.api import DatasetLike, in_python_words, read_call
from hf_finetune.config.settings import Settings
from hf_finetune.data.transforms.given import ImageFunction
from hf_finetune.jobs.browse import IMAGES, BrowseResult, browse_images
from hf_finetune.jobs.schedule import show_schedule
from hf_finetune.jobs.schedule_result import ScheduleResult


def browse(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    images: int = IMAGES,
    output: str | os.PathLike[str] | None = None,
    dataset: DatasetLike | None = None,
    model: str | os.PathLike[str] | PreTrainedModel | None = None,
    image_processor: str | os.PathLike[str] | BaseImageProcessor | None = None,
    train_transforms: Sequence[Any] | ImageFunction | None = None,
    **settings: Unpack[Settings],
) -> BrowseResult:
    """Show training images after every stage of a run's pipeline, as a page and as one image. Nothing is trained.

    Args:
        recipe: As in `finetune`, and so are all that follow but `images` and `output`.
        images: How many images, 64 at most: the first that the training sees.
        output: The folder for browse.html and browse.jpg; absent, browse, or browse-2 and so on.
        dataset: See there.
        model: See there.
        image_processor: See there.
        train_transforms: See there.
        settings: See there.

    Returns:
        The folder, and the images after each stage. The last stage of training is bit for bit what the first batches
        of the training hold.

    Raises:
        UserError: For whatever the caller can fix.
    """
    with in_python_words():
        objects = (dataset, model, image_processor, train_transforms, None, None, None, ())
        resolved, given, _ = read_call(recipe, *objects, settings, "browse")
        return browse_images(resolved, None if output is None else os.fspath(output), images, given)


def schedule(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    dataset: DatasetLike | None = None,
    model: str | os.PathLike[str] | PreTrainedModel | None = None,
    **settings: Unpack[Settings],
) -> ScheduleResult:
    """Draw what changes over the steps of a run: learning rates, momentum, EMA, freezing, sizes. Nothing is trained.

    Args:
        recipe: As in `finetune`, and so are all that follow but `output`.
        output: The PNG file; absent, schedule.png, or schedule-2.png and so on.
        dataset: See there.
        model: See there.
        settings: See there.

    Returns:
        The values at each step; or at shares of the time, where a `time_budget` ends the run.

    Raises:
        UserError: For whatever the caller can fix.
    """
    with in_python_words():
        objects = (dataset, model, None, None, None, None, None, ())
        resolved, given, _ = read_call(recipe, *objects, settings, "schedule")
        return show_schedule(resolved, None if output is None else os.fspath(output), given=given)
