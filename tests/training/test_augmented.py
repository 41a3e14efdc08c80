"""augmented.jpg shows what the network is given, with its labels, and changes nothing of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hf_finetune import finetune
from hf_finetune.training.augmented import label_text
from tests.helpers.tiny import write_recipe

NAMES = ["cat", "dog", "ox", "two\nlines"]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (torch.tensor(1), "dog"),
        (torch.tensor(3), r"two\u000alines"),
        (torch.tensor([0.7, 0.3, 0.0, 0.0]), "cat 0.7 + dog 0.3"),
        (torch.tensor([0.0, 1.0, 0.0, 0.0]), "dog"),
        (torch.tensor([1.0, 0.0, 1.0, 0.0]), "cat + ox"),
        (torch.tensor([1.0, 1.0, 1.0, 1.0]), "cat + dog + ox + ..."),
        (torch.zeros(4), "no class"),
    ],
)
def test_a_label_in_words(label, text):
    assert label_text(label, NAMES) == text


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"train_transforms": [{"RandomCrop": {"size": 16, "padding": 2}}, "MixUp"]}])
def test_the_images_are_those_that_the_network_is_given(image_folder, tmp_path, changes):
    output = tmp_path / "output"
    recipe = write_recipe(tmp_path, num_train_epochs=1, **changes)
    finetune(str(recipe), dataset=str(image_folder), output_dir=str(output))
    grid = np.asarray(Image.open(output / "augmented.jpg").convert("RGB"))
    tiles = grid[8:168, 8:168], grid[8 + 3 * 186 : 168 + 3 * 186, 8 + 3 * 168 : 168 + 3 * 168]
    # The folder's classes are blue, green and red; the first tile is a blue image, the last a red one.
    blue, red = (tile[48:112, 48:112].reshape(-1, 3).mean(axis=0).argmax() for tile in tiles)
    assert changes or (blue, red) == (2, 0)
    assert grid.shape == (8 + 4 * 186, 8 + 4 * 168, 3)
