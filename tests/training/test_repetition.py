"""What a run says of repeated augmentation, and where it is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from hf_finetune.errors import UserError
from hf_finetune.training.assembly import assemble
from hf_finetune.training.given import Given
from hf_finetune.training.plan import plan_run
from hf_finetune.training.run import choose_recipe
from tests.helpers.streamed import write_parquet
from tests.helpers.tiny import write_recipe

pytestmark = pytest.mark.usefixtures("datasets_cache")


def assembled(folder: Path, dataset: Path, given: Given | None = None, **settings: Any) -> None:
    recipe = write_recipe(folder, global_batch_size=16, repeated_augmentation=3, validation_fraction=0.0, **settings)
    flags = {"dataset": str(dataset), "output_dir": str(folder / "run")}
    assemble(plan_run(choose_recipe(recipe, flags, str), given or Given()))


def test_a_line_says_what_a_step_and_an_epoch_show(image_folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "hf_finetune")
    assembled(tmp_path, image_folder)
    line = "Repeated augmentation: a step of 16 images shows 6, each up to 3 times; an epoch shows 27 of 72."
    assert line in caplog.text


def test_copies_that_do_not_differ_are_refused_and_a_function_may_make_them_differ(image_folder, tmp_path):
    with pytest.raises(UserError, match="repeated_augmentation 3 shows copies of an image that differ by what is"):
        assembled(tmp_path, image_folder, train_transforms=[{"Resize": {"size": [16, 16]}}])
    assembled(tmp_path, image_folder, Given(train_transforms=lambda image: image))


def test_a_stream_is_refused(tmp_path):
    for split, rows in (("train", 20), ("test", 8)):
        write_parquet(tmp_path, split, rows)
    with pytest.raises(UserError, match="repeated_augmentation 3 needs images in random order, and they are streamed;"):
        assembled(tmp_path, tmp_path, streaming=True)
