"""The image processor: what a recipe changes, what it leaves, and that it means the same to Transformers."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    BitImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError
from hf_finetune.models.processor import Preprocessing, default_train_transforms, describe, load_image_processor
from tests.helpers.tiny import TINY_RESNET, tiny_timm

TUTORIAL = {
    "image_size": 224,
    "crop_pct": 1.0,
    "image_mean": [125.307, 122.961, 113.8575],
    "image_std": [51.5865, 50.847, 51.255],
    "resample": "bilinear",
}


@pytest.fixture
def checkpoint(tmp_path) -> ModelArguments:
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET)).save_pretrained(tmp_path)
    ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875, resample=3).save_pretrained(tmp_path)
    return ModelArguments(model_name_or_path=str(tmp_path))


def test_without_changes_the_checkpoints_own_processor_stays(checkpoint):
    processor = load_image_processor(checkpoint, ResNetConfig(), DataArguments())
    assert isinstance(processor, ConvNextImageProcessor)
    assert describe(processor) == Preprocessing(
        image_size=224,
        crop_pct=0.875,
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        resample="bicubic",
    )


def test_the_tutorials_preprocessing(checkpoint, tmp_path):
    processor = load_image_processor(checkpoint, ResNetConfig(), DataArguments(**TUTORIAL))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (result,) = processor(PIL.Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), (224, 224), mode="bilinear", antialias=True
    )[0]
    mean, std = (torch.tensor(TUTORIAL[name])[:, None, None] for name in ("image_mean", "image_std"))
    # Resizing happens in uint8 with weights of 16 bits, so the last level may differ.
    assert ((result * std + mean) - enlarged).abs().max() <= 1
    processor.save_pretrained(tmp_path / "saved")
    again = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(PIL.Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0], result)


def test_one_change_keeps_the_checkpoints_other_figures(checkpoint):
    processor = load_image_processor(checkpoint, ResNetConfig(), DataArguments(image_size=64))
    assert describe(processor).mean == (127.5, 127.5, 127.5) and describe(processor).resample == "bicubic"
    assert dict(processor.size)["shortest_edge"] == int(64 / 0.875)
    assert processor(PIL.Image.new("RGB", (90, 200)), return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize("source", [None, ModelArguments()])
def test_without_a_model_the_figures_are_imagenets(source):
    assert describe(load_image_processor(source, ResNetConfig())) == Preprocessing()


def test_a_model_from_scratch_starts_from_imagenets_figures():
    processor = load_image_processor(ModelArguments(model_type="resnet"), ResNetConfig(), DataArguments(image_size=112))
    assert describe(processor) == Preprocessing(image_size=112)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (ViTImageProcessor(), (224, 1.0)),
        (BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}), (224, 0.875)),
        (ConvNextImageProcessor(size={"shortest_edge": 384}), (384, 1.0)),
    ],
)
def test_the_processors_of_several_families_are_understood(processor, expected):
    preprocessing = describe(processor)
    assert (preprocessing.image_size, preprocessing.crop_pct) == expected
    pixels = processor(PIL.Image.new("RGB", (500, 400)), return_tensors="pt")["pixel_values"]
    assert pixels.shape[-2:] == (preprocessing.image_size, preprocessing.image_size)


@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("family", ["transformers", "timm"])
def test_a_saved_processor_says_how_images_of_another_shape_are_treated(family, mode, size, tmp_path):
    data = DataArguments(image_size=list(size), resize_mode=mode)
    if family == "timm":
        figures = {"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bilinear"}
        tiny_timm(3, pretrained_cfg=figures).save_pretrained(tmp_path)
        arguments = ModelArguments(model_name_or_path=str(tmp_path))
        config = AutoConfig.from_pretrained(tmp_path)
    else:
        arguments, config = ModelArguments(model_type="resnet"), ResNetConfig()
    processor = load_image_processor(arguments, config, data)
    (config if family == "timm" else processor).save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    found = describe(again)
    assert (found.sides, found.resize_mode) == (size, mode)
    assert found.image_size == (32 if size == (32, 32) else size)
    image = PIL.Image.fromarray(np.full((30, 120, 3), 250, np.uint8))
    image.paste((0, 0, 0), (0, 0, 12, 30))  # a black end
    (pixels,) = again(image, return_tensors="pt")["pixel_values"]
    mean, std = (torch.tensor(figures)[:, None, None] for figures in (found.mean, found.std))
    pixels = pixels * std + mean
    height, width = size
    assert pixels.shape == (3, height, width)
    assert bool((pixels[:, height // 2, 0] < 5).all()) is (mode != "crop")  # the end is seen, but by a crop
    border = pixels[:, 0].mean(dim=-1)
    assert torch.allclose(border, torch.tensor(found.fill).float(), atol=1) is (mode == "pad")
    assert any(found.fill) is (family == "timm" and mode == "pad")  # timm pads with the mean, others with black


@pytest.mark.parametrize(
    ("changes", "mode", "resized"),
    [
        ({"image_size": 96}, "squash", {"height": 96, "width": 96}),
        ({"image_mean": [128]}, "squash", {"height": 48, "width": 48}),
        ({"image_size": [96, 48]}, "squash", {"height": 96, "width": 48}),
        ({"crop_pct": 0.5}, "crop", {"shortest_edge": 96}),
        ({"resize_mode": "crop"}, "crop", {"shortest_edge": 48}),
        ({"resize_mode": "pad"}, "pad", {"max_height": 48, "max_width": 48}),
    ],
)
def test_the_checkpoints_own_mode_stays_where_none_is_stated(tmp_path, changes, mode, resized):
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path)
    arguments = ModelArguments(model_name_or_path=str(tmp_path))
    processor = load_image_processor(arguments, ResNetConfig(), DataArguments(**changes))
    assert describe(processor).resize_mode == mode
    assert {name: side for name, side in dict(processor.size).items() if side} == resized


def test_a_processor_that_squashes_and_then_crops_is_kept_as_it_is(tmp_path):
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET)).save_pretrained(tmp_path)
    DeiTImageProcessor(size={"height": 64, "width": 64}, crop_size={"height": 56, "width": 56}).save_pretrained(
        tmp_path
    )
    arguments = ModelArguments(model_name_or_path=str(tmp_path))
    own = load_image_processor(arguments, ResNetConfig(), DataArguments())
    assert isinstance(own, DeiTImageProcessor)
    built = load_image_processor(arguments, ResNetConfig(), DataArguments(image_mean=[255 * 0.485]))
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8))
    raw = {"do_normalize": False, "return_tensors": "pt"}
    assert torch.equal(own(image, **raw)["pixel_values"], built(image, **raw)["pixel_values"])
    whole = load_image_processor(arguments, ResNetConfig(), DataArguments(resize_mode="squash"))
    assert (describe(whole).crop_pct, dict(whole.size)["height"]) == (1.0, 56)


def test_training_transforms_follow_the_stated_mode():
    wide = Preprocessing(image_size=(48, 96), resize_mode="pad", fill=(124, 116, 104))
    flip = {"RandomHorizontalFlip": {"p": 0.5}}
    sides = {"size": [48, 96], "interpolation": "bilinear"}
    crop = {"RandomResizedCrop": {**sides, "scale": [0.35, 1.0]}}
    assert default_train_transforms(wide) == default_train_transforms(wide, "crop") == [crop, flip]
    assert default_train_transforms(wide, "squash") == [{"Resize": sides}, flip]
    assert default_train_transforms(wide, "pad") == [{"Letterbox": {**sides, "fill": [124, 116, 104]}}, flip]


def test_training_without_named_transforms_crops_and_flips_at_the_networks_size():
    assert default_train_transforms(Preprocessing(image_size=96, resample="bicubic")) == [
        {"RandomResizedCrop": {"size": 96, "scale": [0.35, 1.0], "interpolation": "bicubic"}},
        {"RandomHorizontalFlip": {"p": 0.5}},
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": [0.485, 0.456, 0.406]}, "looks like a scale of 0 to 1"),
        ({"image_std": [50.0, 50.0]}, "image_std has 2 figures"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": [224]}, "image_size is [224]; use the side in pixels, such as 224, or height and width"),
        ({"image_size": [224, 0]}, "image_size is [224, 0]"),
        ({"image_size": [224, 1.5]}, "image_size is [224, 1.5]"),
        ({"resize_mode": "letterbox"}, 'resize_mode is "letterbox". Use one of crop, squash, pad.'),
        ({"resize_mode": "pad", "crop_pct": 0.9}, "with resize_mode pad nothing is cropped; use --crop_pct null"),
        ({"crop_pct": 1.5}, "crop_pct is 1.5"),
        ({"resample": "bilinaer"}, 'Did you mean "bilinear"?'),
    ],
)
def test_figures_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        load_image_processor(ModelArguments(model_type="resnet"), ResNetConfig(), DataArguments(**changes))
    assert message in str(error.value)
