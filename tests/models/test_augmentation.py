"""Lists of training transforms by name: at the network's size, by its resize_mode, and what evaluation does."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import v2
from transformers import PreTrainedConfig

from hf_finetune.config.data import DataArguments
from hf_finetune.data.transforms.build import build_train_transforms, known_transforms
from hf_finetune.errors import UserError
from hf_finetune.models.augmentation import augmentation_transforms
from hf_finetune.models.processor import Preprocessing, default_train_transforms, load_image_processor

NAMES = ("none", "light", "medium", "heavy")


@pytest.mark.parametrize("mode", [None, "squash", "pad"])
@pytest.mark.parametrize("size", [32, (32, 48)])
@pytest.mark.parametrize("name", NAMES)
def test_every_list_is_built_at_the_size_of_the_network(name, size, mode):
    preprocessing = Preprocessing(image_size=size, resize_mode=mode or "crop", crop_pct=1.0 if mode else 0.875)
    items = augmentation_transforms(name, preprocessing, mode)
    assert build_train_transforms(items, uniform=False).mixing is not None or name != "heavy"
    names = [item if isinstance(item, str) else next(iter(item)) for item in items]
    assert ("RandomResizedCrop" in names) == (mode is None and name != "none")
    sides = items[0].get("RandomResizedCrop", items[0].get("Letterbox", items[0].get("Resize", {})))["size"]
    assert sides in (32, [32, 32], [32, 48], 36)


def test_each_does_more_than_the_one_before():
    none, light, medium, heavy = (augmentation_transforms(name, Preprocessing(), None) for name in NAMES)
    assert none == [{"Resize": {"size": 256, "interpolation": "bilinear"}}, {"CenterCrop": {"size": [224, 224]}}]
    assert light == default_train_transforms(Preprocessing())
    assert medium == [*light, "TrivialAugmentWide"]
    assert heavy[0]["RandomResizedCrop"]["scale"] == [0.08, 1.0] and len(heavy) == 5
    assert [next(iter(item)) for item in heavy[2:]] == ["IncreasingRandAugment", "RandomErasing", "RandomChoice"]


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("shape", [(40, 60), (70, 33)])
def test_none_is_what_evaluation_does(mode, shape):
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    processor = load_image_processor(None, PreTrainedConfig(), DataArguments(resize_mode=mode, image_size=32))
    expected = processor(image, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    preprocessing = Preprocessing(image_size=32, resize_mode=mode, crop_pct=0.875 if mode == "crop" else 1.0)
    pixels = v2.functional.pil_to_tensor(image)
    for item in augmentation_transforms("none", preprocessing, mode):
        ((name, arguments),) = item.items()
        arguments = {key: v2.InterpolationMode(value) if key == "interpolation" else value
                     for key, value in arguments.items()}  # fmt: skip
        pixels = known_transforms()[name](**arguments)(pixels)
    assert pixels.shape == expected.shape
    torch.testing.assert_close(pixels / 255, expected, atol=2 / 255, rtol=0)


def test_it_is_refused_beside_a_list():
    told = r"^augmentation light is a list of train_transforms, and there is another; use --train_transforms null, or"
    with pytest.raises(UserError, match=told):
        DataArguments(augmentation="light", train_transforms=["RandomHorizontalFlip"])
    with pytest.raises(UserError, match=r'^augmentation is "hevy"\. Did you mean "heavy"\?'):
        DataArguments(augmentation="hevy")
