"""Transforms of albumentations by name: its own pixels, draws of the example's own, and mistakes in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.collate import pass_on
from hf_finetune.data.stages import TrainingStage
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.errors import UserError

pytest.importorskip("albumentations")
IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 60), dtype=np.uint8))
ITEMS: dict[str, Any] = {
    "a flip": "A.HorizontalFlip",
    "a crop": {"A.RandomResizedCrop": {"size": [24, 32], "scale": [0.3, 1]}},
    "colours": {"A.ColorJitter": {"p": 0.9}},
    "holes": {"A.CoarseDropout": {"num_holes_range": [2, 5], "fill": "random", "p": 1}},
    "noise": {"A.GaussNoise": {"p": 1}},
    "an elastic change": {"A.ElasticTransform": {"p": 1}},
    "one of": {"A.OneOf": {"transforms": ["A.MotionBlur", {"A.Sequential": {"transforms": ["A.Rotate"]}}], "p": 0.9}},
}


def directly(item: Any, seed: int) -> np.ndarray:
    """Return the pixels that albumentations gives for a seed, asked without this package."""
    import albumentations

    def built(item: Any) -> Any:
        name, arguments = (item, {}) if isinstance(item, str) else next(iter(item.items()))
        inner = {"transforms": [built(one) for one in arguments["transforms"]]} if "transforms" in arguments else {}
        return getattr(albumentations, name.removeprefix("A."))(**{**arguments, **inner})

    transform = built(item)
    transform.set_random_seed(seed)
    return transform(image=IMAGE.permute(1, 2, 0).numpy())["image"]


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
def test_the_pixels_are_those_of_albumentations(item):
    transforms = build_train_transforms([item], uniform=True)
    assert not transforms.batch
    results = []
    for key in (3, -7, 11, 12, 13):
        torch.manual_seed(key)
        seed = int(torch.randint(2**63 - 1, ()))
        image = transforms.apply_to_image(IMAGE, key)
        assert torch.equal(image, torch.from_numpy(directly(item, seed).copy()).permute(2, 0, 1))
        results.append(image.numpy().tobytes())
    assert len(set(results)) > 1


def test_draws_depend_on_seed_epoch_image_and_place_alone_whatever_the_workers():
    rows = {"image": [{"path": "a.png", "bytes": None}] * 24, "label": [0] * 24, "sample_index": [*range(24)]}
    split = Dataset.from_dict(rows)
    decoded: Any = np.repeat(IMAGE.permute(1, 2, 0).numpy()[None], 24, axis=0)
    items = [ITEMS["noise"], ITEMS["holes"], {"RandomApply": {"transforms": [ITEMS["colours"]]}}]

    def seen(workers: int, epoch: int, orders: list[list[int]]) -> dict[int, bytes]:
        stage = TrainingStage(build_train_transforms(items, uniform=True), seed=5, shared=workers > 0)
        stage.set_epoch(epoch)
        batches = ImageBatches(split, stage, decoded)
        loader = DataLoader(batches, batch_sampler=orders, num_workers=workers, collate_fn=pass_on)
        pairs = [pair for batch in loader for pair in zip(batch["sample_index"], batch["pixel_values"], strict=True)]
        return {int(index): image.numpy().tobytes() for index, image in pairs}

    alone = seen(0, 2, [[*range(24)]])
    shared = seen(2, 2, [[*range(23, 11, -1)], [*range(6)], [*range(6, 12)]])
    assert shared == alone and len(set(alone.values())) == 24
    assert seen(0, 2, [[20, 3]]) == {20: alone[20], 3: alone[3]}  # what a resumed epoch has left
    assert seen(0, 3, [[20, 3]])[20] != alone[20]


def test_a_crop_of_one_size_lets_images_differ_in_size():
    crop = {"A.RandomCrop": {"height": 300, "width": 300}}  # larger than what it is tried on
    transforms = build_train_transforms([crop, "RandomHorizontalFlip"], uniform=False)
    assert len(transforms.single) == 1 and len(transforms.batch) == 1
    with pytest.raises(UserError, match="train_transforms: A.RandomCrop: Crop size .* exceeds image dimensions"):
        transforms.apply_to_image(IMAGE, 0)
    with pytest.raises(UserError, match="differ in size and no transform gives them one"):
        build_train_transforms([{"A.Resize": {"height": 8, "width": 8, "p": 0.5}}], uniform=False)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("A.HorizontlFlip", 'A.HorizontlFlip" is not a transform of albumentations. Did you mean "A.HorizontalFlip"?'),
        (
            {"A.Blur": {"blur_limits": 3}},
            'A.Blur has no argument "blur_limits". Did you mean "blur_limit"? Its',
        ),
        ({"A.Blur": {"p": 2}}, "A.Blur: p: Input should be less than or equal to 1."),
        ("A.RandomResizedCrop", "A.RandomResizedCrop: size: Field required."),
        ({"A.Blur": [3]}, "the arguments of A.Blur are a mapping"),
        ("A.ToTensorV2", "A.ToTensorV2 gives torch.uint8 of shape (3, 256, 256), and images stay uint8 of three ch"),
        ("A.Normalize", "A.Normalize gives float32 of shape (256, 256, 3), and images stay uint8 of three channels;"),
        ("A.MaskDropout", "A.MaskDropout: "),
        ({"A.OneOf": {"transforms": ["RandomCrop"]}}, "A.OneOf holds 'RandomCrop'; use transforms of albumentations"),
        ("A.BasicTransform", "A.BasicTransform: "),
        ("A.Compose", "A.Compose: "),
    ],
)
def test_mistakes_are_one_line(item, message):
    with pytest.raises(UserError) as refused:
        build_train_transforms([item], uniform=True)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert str(refused.value).startswith("train_transforms: ")


def test_images_of_other_channels_are_refused():
    with pytest.raises(UserError, match="train_transforms: A.Blur is for RGB of 8 bits, and these images have 13"):
        build_train_transforms(["A.Blur"], uniform=True, channels=13)


def test_without_the_library_the_run_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(UserError, match="is not installed; install it with: pip install 'hf-finetune.albumentations.'"):
        build_train_transforms(["A.Blur"], uniform=True)
