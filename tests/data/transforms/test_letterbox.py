"""`Letterbox` gives the pixels of an image processor that pads, of one image, of a batch, and decoded in part."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import InterpolationMode
from transformers import BaseImageProcessor, PreTrainedConfig

from hf_finetune.config.data import DataArguments
from hf_finetune.data.images.decoding import UnreadableImage
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.data.transforms.letterbox import Letterbox
from hf_finetune.errors import UserError
from hf_finetune.models.processor import load_image_processor

SIZES = ([24, 24], [16, 40], [40, 16])
SHAPES = ((90, 20), (20, 90), (49, 49), (7, 5))


def padding_processor(size: list[int], resample: str = "bilinear") -> BaseImageProcessor:
    data = DataArguments(image_size=size, resize_mode="pad", resample=resample)
    return load_image_processor(None, PreTrainedConfig(), data)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_the_pixels_are_those_of_the_image_processor(size, resample):
    letterbox = Letterbox(size, InterpolationMode(resample))
    processor = padding_processor(size, resample)
    for shape in SHAPES:
        image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8))
        expected = processor([image], do_rescale=False, do_normalize=False)["pixel_values"][0]
        assert torch.equal(letterbox(image), expected)
        assert torch.equal(letterbox(image.expand(2, -1, -1, -1))[1], expected)


def test_the_image_is_in_the_centre_and_its_borders_have_the_stated_values():
    framed = Letterbox([8, 4], fill=[1, 2, 3])(torch.full((3, 10, 10), 200, dtype=torch.uint8))
    assert framed.dtype == torch.uint8 and framed.shape == (3, 8, 4)
    assert framed[:, 2:6].eq(200).all()
    for rows in (framed[:, :2], framed[:, 6:]):
        assert rows.eq(torch.tensor([1, 2, 3])[:, None, None]).all()


def test_it_gives_images_of_different_sizes_one_size_and_runs_on_batches_of_one_size():
    items = [{"Letterbox": {"size": 8, "interpolation": "nearest"}}, "RandomHorizontalFlip"]
    assert len(build_train_transforms(items, uniform=False).single) == 1  # its interpolation needs whole images
    assert len(build_train_transforms(items, uniform=True).batch) == 2
    with pytest.raises(UserError, match="Letterbox: its size is the side in pixels, or height and width"):
        build_train_transforms([{"Letterbox": {"size": [1, 2, 3]}}], uniform=False)


@pytest.mark.parametrize("size", SIZES)
def test_an_image_of_which_nothing_is_left_counts_as_unreadable(size):
    stage = EvaluationStage(padding_processor(size), uniform=False)
    transforms = build_train_transforms([{"Letterbox": {"size": size}}], uniform=False)
    for height, width in ((2, 400), (400, 2)):
        image = PIL.Image.new("RGB", (width, height))
        with pytest.raises(UnreadableImage, match=f"{height} x {width} pixels, of which padding leaves nothing"):
            stage({"image": [image], "label": [0]})
        with pytest.raises(UnreadableImage, match=f"{height} x {width} pixels, of which padding leaves nothing"):
            transforms.decode([image], torch.zeros(1, dtype=torch.int64))
    squashed = load_image_processor(None, PreTrainedConfig(), DataArguments(image_size=size, resize_mode="squash"))
    batch = EvaluationStage(squashed, uniform=False)({"image": [image], "label": [0]})
    assert batch["pixel_values"].shape == (1, 3, *size)
