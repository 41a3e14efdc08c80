"""Pipelines, normalization and datasets of configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.errors import UserError
from tests.helpers.mm_configs import (
    NORMALIZATION,
    imported,
    new_config,
    old_config,
    old_data,
    remarks,
    settings,
)

CROP = dict(type="RandomResizedCrop", size=224)
MEAN, STD = NORMALIZATION["mean"], NORMALIZATION["std"]


def with_steps(*train: dict, test: tuple = (), dataset: str = "ImageNet", **data: Any) -> dict[str, Any]:
    return old_config(data=old_data(dataset, train=list(train), test=list(test), **data))


STEPS = [
    (dict(type="RandomCrop", size=32, padding=4), {"RandomCrop": {"size": 32, "padding": 4}}),
    (
        dict(type="RandomCrop", crop_size=(32, 24), padding=2, pad_val=(1, 2, 3), padding_mode="reflect"),
        {"RandomCrop": {"size": [32, 24], "padding": 2, "fill": [3, 2, 1], "padding_mode": "reflect"}},
    ),
    (CROP, {"RandomResizedCrop": {"size": 224}}),
    (
        dict(type="RandomResizedCrop", size=224, scale=(0.2, 1.0), interpolation="bicubic", backend="pillow"),
        {"RandomResizedCrop": {"size": 224, "scale": [0.2, 1.0], "interpolation": "bicubic"}},
    ),
    (
        dict(type="RandomResizedCrop", scale=192, crop_ratio_range=(0.67, 1.0)),
        {"RandomResizedCrop": {"size": 192, "scale": [0.67, 1.0]}},
    ),
    (dict(type="RandomFlip", flip_prob=0.4), {"RandomHorizontalFlip": {"p": 0.4}}),
    (dict(type="RandomFlip", prob=0.5, direction="vertical"), {"RandomVerticalFlip": {"p": 0.5}}),
    (dict(type="Resize", size=224), {"Resize": {"size": [224, 224]}}),
    (dict(type="Resize", size=(256, -1)), {"Resize": {"size": 256}}),
    (dict(type="Resize", size=(100, 200)), {"Resize": {"size": [100, 200]}}),
    (dict(type="Resize", scale=(100, 200)), {"Resize": {"size": [200, 100]}}),
    (dict(type="ResizeEdge", scale=256, edge="short"), {"Resize": {"size": 256}}),
    (dict(type="CenterCrop", crop_size=224), {"CenterCrop": {"size": 224}}),
    (
        dict(type="ColorJitter", brightness=0.4, contrast=(0.8, 1.2), saturation=0.0),
        {"ColorJitter": {"brightness": 0.4, "contrast": [0.8, 1.2]}},
    ),
    (
        dict(type="RandomErasing", erase_prob=0.25, min_area_ratio=0.02, max_area_ratio=1 / 3, fill_color=MEAN[::-1]),
        {
            "RandomErasing": {
                "p": 0.25,
                "scale": [0.02, 0.333333],
                "ratio": [0.3, 3.333333],
                "value": [124, 116, 104],
            }
        },
    ),
    (
        dict(type="RandomErasing", mode="rand", fill_color=MEAN[::-1], fill_std=[57.375, 57.12, 58.395]),
        {"RandomErasing": {"p": 0.5, "scale": [0.02, 0.4], "ratio": [0.3, 3.333333], "value": "random"}},
    ),
    (
        dict(type="RandAugment", policies="timm_increasing", num_policies=2, magnitude_level=9, total_level=10),
        {"IncreasingRandAugment": {"num_ops": 2, "magnitude": 9.0, "magnitude_std": 0.0}},
    ),
    (
        dict(
            type="RandAugment",
            policies="timm_increasing",
            num_policies=3,
            magnitude_level=14,
            magnitude_std=0.5,
            total_level=20,
            hparams=dict(pad_val=MEAN[::-1], interpolation="bicubic"),
        ),
        {
            "IncreasingRandAugment": {
                "num_ops": 3,
                "magnitude": 7.0,
                "magnitude_std": 0.25,
                "fill": [124, 116, 104],
            }
        },
    ),
    (
        dict(type="RandAugment", policies=[dict(type="Invert")], num_policies=2, magnitude_level=9, total_level=10),
        {"RandAugment": {"num_ops": 2, "magnitude": 27}},
    ),
    (dict(type="AutoAugment", policies="imagenet"), "AutoAugment"),
    (dict(type="RandomGrayscale", gray_prob=0.2), {"RandomGrayscale": {"p": 0.2}}),
    (dict(type="torchvision/RandomRotation", degrees=(1, 2)), {"RandomRotation": {"degrees": [1, 2]}}),
]


@pytest.mark.parametrize(("step", "expected"), STEPS, ids=lambda value: str(value)[:60])
def test_a_training_step_becomes_a_transform_that_can_be_built(tmp_path: Path, step: dict, expected: Any) -> None:
    items = settings(tmp_path, with_steps(CROP, step))["train_transforms"]
    assert items == [{"RandomResizedCrop": {"size": 224}}, expected]
    build_train_transforms(items, uniform=False)


TOLD = [
    (dict(type="Lighting", eigval=[1]), "Lighting: is not supported; it is left out"),
    (dict(type="RandomResizedCrop", size=224, efficientnet_style=True), "EfficientNet's crop"),
    (dict(type="EfficientNetRandomCrop", scale=224), "EfficientNet's crop"),
    (dict(type="RandomFlip", prob=[0.3, 0.3], direction=["horizontal", "vertical"]), "flipped horizontally instead"),
    (dict(type="RandAugment", policies=[dict(type="Rotate")], magnitude_std=0.5), "its list of policies"),
    (dict(type="AutoAugment", policies=[[dict(type="Rotate")]]), "its list of policies"),
    (dict(type="Resize", size=224, interpolation="area"), "'area'; bilinear is taken"),
]


@pytest.mark.parametrize(("step", "remark"), TOLD, ids=lambda value: str(value)[:60])
def test_a_step_that_is_not_followed_exactly_is_told(tmp_path: Path, step: dict, remark: str) -> None:
    assert remark in remarks(imported(tmp_path, with_steps(step, CROP)))


def test_without_any_step_that_sizes_images_the_default_is_taken(tmp_path: Path) -> None:
    draft = imported(tmp_path, with_steps(dict(type="Wiggle")))
    assert "train_transforms" not in draft.settings and "they are cropped at random" in remarks(draft)


CENTER = dict(type="CenterCrop", crop_size=224)
EVALUATION = [
    ((dict(type="Resize", size=(256, -1)), CENTER), (224, 0.875, "bilinear")),
    ((dict(type="ResizeEdge", scale=248, edge="short", interpolation="bicubic"), CENTER), (224, 0.903, "bicubic")),
    ((dict(type="Resize", size=(600, -1)), dict(type="CenterCrop", crop_size=448)), (448, 0.746, "bilinear")),
    ((dict(type="Resize", size=384, backend="pillow", interpolation="bicubic"),), (384, 1.0, "bicubic")),
    ((dict(type="EfficientNetCenterCrop", crop_size=300),), (300, 0.903, "bicubic")),
    (
        (dict(type="CenterCrop", crop_size=224, efficientnet_style=True, interpolation="bilinear"),),
        (224, 0.875, "bilinear"),
    ),
]


@pytest.mark.parametrize(("steps", "expected"), EVALUATION, ids=lambda value: str(value)[:60])
def test_the_evaluation_pipeline(tmp_path: Path, steps: tuple, expected: tuple) -> None:
    values = settings(tmp_path, with_steps(CROP, test=steps))
    size, crop_pct, resample = (values[key] for key in ("image_size", "crop_pct", "resample"))
    assert (size, crop_pct, resample) == expected
    edge = next((value for step in steps for key in ("size", "scale") if (value := step.get(key))), size + 32)
    assert int(size / crop_pct) == (edge[0] if isinstance(edge, tuple) else edge)


def test_images_are_squashed_where_the_pipeline_does(tmp_path: Path) -> None:
    resize = (dict(type="Resize", size=384),)
    draft = imported(tmp_path, with_steps(CROP, test=resize))
    assert (draft.settings["resize_mode"], draft.settings["image_size"]) == ("squash", 384)
    assert "whatever the shape" not in remarks(draft)
    cropped = imported(tmp_path, with_steps(CROP, test=(dict(type="Resize", size=256), CENTER)))
    assert "256 x 256 whatever the shape" in remarks(cropped) and "resize_mode" not in cropped.settings
    square = imported(tmp_path, with_steps(CROP, test=resize, dataset="CIFAR10", data_prefix="data/cifar10"))
    assert "whatever the shape" not in remarks(square) and "resize_mode" not in square.settings
    bare = settings(tmp_path, with_steps(dict(type="RandomFlip"), dataset="MNIST", data_prefix="data/mnist"))
    assert (bare["image_size"], bare["crop_pct"], bare["dataset"]) == (28, 1.0, "mnist")
    wide = (dict(type="Resize", size=(100, 200)),)
    values = settings(tmp_path, with_steps(CROP, test=wide))
    assert (values["resize_mode"], values["image_size"], values["crop_pct"]) == ("squash", [100, 200], 1.0)
    values = settings(tmp_path, with_steps(CROP, test=(dict(type="ResizeEdge", scale=128), *_cropped([100, 200]))))
    assert values["image_size"] == [100, 200] and int(100 / values["crop_pct"]) == 128 and "resize_mode" not in values
    with pytest.raises(UserError, match="use one size for both"):
        imported(tmp_path, with_steps(CROP, test=(*wide, *_cropped(100))))


def _cropped(size: int | list[int]) -> tuple[dict]:
    return (dict(type="CenterCrop", crop_size=size),)


@pytest.mark.parametrize("to_rgb", [True, False])
def test_figures_in_bgr_are_turned(tmp_path: Path, to_rgb: bool) -> None:
    normalize = dict(type="Normalize", mean=MEAN, std=STD, to_rgb=to_rgb)
    values = settings(tmp_path, with_steps(CROP, normalize))
    expected = (MEAN, STD) if to_rgb else (MEAN[::-1], STD[::-1])
    assert (values["image_mean"], values["image_std"]) == expected
    new = settings(tmp_path, new_config(data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=to_rgb)))
    assert (new["image_mean"], new["image_std"]) == expected


def test_figures_of_arrays_stay_and_one_figure_is_three(tmp_path: Path) -> None:
    normalize = dict(type="Normalize", mean=[33.46], std=[78.87], to_rgb=True)
    values = settings(tmp_path, with_steps(normalize, dataset="MNIST", data_prefix="data/mnist"))
    assert values["image_mean"] == [33.46] * 3 and values["image_std"] == [78.87] * 3
    normalize = dict(type="Normalize", mean=MEAN, std=STD, to_rgb=False)
    draft = imported(tmp_path, with_steps(normalize, dataset="CIFAR100", data_prefix="data/cifar100"))
    assert draft.settings["image_mean"] == MEAN and draft.settings["dataset"] == "cifar100"


DATASETS = [
    (dict(dataset="CIFAR10", data_prefix="data/cifar10"), {"dataset": "cifar10"}),
    (
        dict(dataset="FashionMNIST", data_prefix="/big/fashion"),
        {"dataset": "fashion_mnist", "dataset_path": "/big/fashion"},
    ),
    (dict(data_prefix="data/imagenet/train"), {"dataset": "imagenet"}),
    (dict(data_prefix="/big/imagenet/train"), {"dataset": "imagenet", "dataset_path": "/big/imagenet"}),
    (dict(data_prefix="data/birds/train", classes=["a", "b"]), {"dataset": "data/birds"}),
    (dict(dataset="CustomDataset", data_prefix="data/birds/train"), {"dataset": "data/birds"}),
    (dict(dataset="CustomDataset", data_root="data/birds", data_prefix=""), {"dataset": "data/birds"}),
]


@pytest.mark.parametrize(("data", "expected"), DATASETS, ids=lambda value: str(value)[:60])
def test_the_dataset_and_its_path(tmp_path: Path, data: dict, expected: dict) -> None:
    values = settings(tmp_path, with_steps(CROP, **data))
    assert {key: value for key, value in values.items() if key.startswith("dataset")} == expected


def test_repeated_augmentation(tmp_path: Path) -> None:
    loader = new_config()["train_dataloader"]
    draft = imported(tmp_path, new_config(train_dataloader={**loader, "sampler": dict(type="RepeatAugSampler")}))
    assert draft.settings["repeated_augmentation"] == 3
    sampler = dict(type="RepeatAugSampler", shuffle=True, num_repeats=4, selected_round=256)
    draft = imported(tmp_path, new_config(train_dataloader={**loader, "sampler": sampler}))
    assert draft.settings["repeated_augmentation"] == 4 and "sampler" not in remarks(draft)


def test_datasets_that_need_manual_work_become_remarks(tmp_path: Path) -> None:
    draft = imported(tmp_path, with_steps(CROP, dataset="CUB", data_root="data/CUB", ann_file="images.txt"))
    assert "arrange its images as data/CUB/train/CLASS/" in remarks(draft)
    assert "list paths and labels in a CSV table" in remarks(draft)
    inner = old_data()["train"]
    wrapped = {**old_data(), "train": dict(type="RepeatDataset", times=3, dataset=inner)}
    draft = imported(tmp_path, old_config(data=wrapped))
    assert draft.settings["dataset"] == "imagenet" and "RepeatDataset is not supported" in remarks(draft)
    wrapped["train"] = dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=inner)
    draft = imported(tmp_path, old_config(data=wrapped))
    assert "ClassBalancedDataset is not supported; the dataset inside is taken as it is, and sampling: sqrt" in remarks(
        draft
    )
    with pytest.raises(UserError, match="names no folder of images"):
        imported(tmp_path, with_steps(CROP, dataset="CustomDataset"))
