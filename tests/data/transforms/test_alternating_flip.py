"""The flip of every second epoch: on batches and on single images."""

from __future__ import annotations

import pytest
import torch

from hf_finetune.data.stages import TrainingStage
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.data.transforms.randomness import draw_keys

COUNT = 64


def flips(items: list[object], epoch: int) -> torch.Tensor:
    """Return which of 64 images are mirrored in an epoch, bool (64,)."""
    transforms = build_train_transforms(items, uniform=True)
    stage = TrainingStage(transforms, seed=3)
    stage.set_epoch(epoch)
    pixels = torch.zeros(COUNT, 4, 4, 3, dtype=torch.uint8)
    pixels[:, :, 0] = 255  # the left column is white
    rows = {"pixels": pixels.numpy(), "label": [0] * COUNT, "sample_index": list(range(COUNT))}
    batch = stage(rows)
    images = transforms.apply_to_batch(batch["pixel_values"], batch["draw_keys"])
    return images[:, 0, 0, 3] == 255


@pytest.mark.parametrize("items", [["AlternatingHorizontalFlip"], ["AlternatingHorizontalFlip", "RandomInvert"]])
def test_each_image_is_mirrored_in_every_second_epoch(items):
    if len(items) > 1:  # a transform of single images after it
        items = [items[0], {items[1]: {"p": 0.0}}]
    first = flips(items, 0)
    assert 20 < int(first.sum()) < 44
    assert torch.equal(flips(items, 1), ~first)
    assert torch.equal(flips(items, 2), first)


def test_the_draws_of_other_lists_stay_as_they_are():
    stage = TrainingStage(build_train_transforms(["RandomHorizontalFlip"], uniform=True), seed=3)
    rows = {"pixels": torch.zeros(2, 4, 4, 3, dtype=torch.uint8).numpy(), "label": [0, 0], "sample_index": [0, 1]}
    assert not stage.transforms.alternates
    assert stage(rows)["draw_keys"].tolist() == draw_keys(3, 0, torch.arange(2)).tolist()
