"""Imports the evaluation pipeline as `image_size`, `resize_mode`, `crop_pct` and `resample`, and the normalization."""

from __future__ import annotations

import math
from typing import Any

from hf_finetune.mmclassification.section import Draft, Section
from hf_finetune.mmclassification.steps import PLUMBING, read_interpolation, read_size, resize_target

_EFFICIENTNET_PADDING = 32  # pixels around EfficientNet's crop at evaluation (Tan and Le 2019, their code)


def import_test_pipeline(steps: list[Section], native_size: int | None, draft: Draft) -> None:
    """Set image_size, resize_mode, crop_pct and resample.

    Args:
        steps: The steps of the pipeline.
        native_size: The side in pixels of all images of the dataset, None where they differ.
        draft: The recipe.

    Raises:
        UserError: The pipeline cuts rectangles out of squashed images.
    """
    squashed: list[int] | None = None
    short: int | None = None
    crop: int | list[int] | None = None
    padding: int | None = None
    resample = "bilinear"
    for step in steps:
        kind = step.take("type")
        if kind in ("Resize", "ResizeEdge"):
            target, short = resize_target(step, draft)
            squashed = target or None
            resample = read_interpolation(step, draft)
        elif kind in ("CenterCrop", "EfficientNetCenterCrop"):
            crop = read_size(step, "crop_size")
            if kind == "EfficientNetCenterCrop" or step.take("efficientnet_style"):
                padding = int(step.number("crop_padding", _EFFICIENTNET_PADDING))
                resample = read_interpolation(step, draft, "bicubic")
            step.skip("interpolation", "backend", "crop_padding", "efficientnet_style")
        elif kind in PLUMBING:
            if kind != "Normalize":
                step.skip_all()
        else:
            draft.remark(step.place, "is not supported in evaluation; it is left out")
            step.skip_all()
    if squashed and crop in (None, squashed[0] if squashed[0] == squashed[1] else squashed):
        _import_squashing(squashed, native_size, draft)
        draft.settings["resample"] = resample
        return
    if squashed and squashed[0] != squashed[1]:
        raise draft.refusal("the test pipeline", f"resizes to {squashed} and crops {crop}; use one size for both.")
    edge = squashed[0] if squashed else short
    side = min(crop) if isinstance(crop, list) else crop
    if edge is None and padding is not None and side is not None:
        edge = side + padding
    side = side or edge or native_size
    if side is None:
        return
    if squashed and native_size is None:
        draft.remark(
            "the test pipeline", f"resizes to {edge} x {edge} whatever the shape; here the short side to {edge}"
        )
    draft.settings["image_size"] = crop or side
    draft.settings["crop_pct"] = _crop_pct(side, edge or side)
    draft.settings["resample"] = resample


def _import_squashing(sides: list[int], native_size: int | None, draft: Draft) -> None:
    square = sides[0] == sides[1]
    draft.settings["image_size"] = sides[0] if square else sides
    draft.settings["crop_pct"] = 1.0
    if not square or native_size is None:  # what squares of one size become is the same in each mode
        draft.settings["resize_mode"] = "squash"


def _crop_pct(size: int, edge: int) -> float:
    """Return the crop_pct with the fewest digits that makes evaluation resize the short side to `edge` pixels.

    Evaluation resizes it to int(size / crop_pct).
    """
    for digits in range(3, 12):
        figure: float = (
            math.floor(size / edge * 10**digits) / 10**digits
        )  # rounded down, so that the division reaches edge
        if int(size / figure) == edge:
            return figure
    return size / edge


def import_normalization(steps: list[Section], processor: Section, dataset: str | None, draft: Draft) -> None:
    """Set image_mean and image_std, in RGB, from the step Normalize or from 1.x's data_preprocessor.

    Images are RGB here. In MMClassification, images from files are BGR until `to_rgb` converts them, and those of CIFAR
    and MNIST are RGB.

    Args:
        steps: The steps of the training and the evaluation pipeline.
        processor: The config's data_preprocessor.
        dataset: The name of a named dataset, None for a folder.
        draft: The recipe.
    """
    source = processor
    for step in steps:
        if step.values.get("type") == "Normalize":
            source = step
    processor.skip("type", "num_classes", "to_onehot", "non_blocking", "pad_size_divisor", "pad_value")
    mean, std = source.take("mean"), source.take("std")
    to_rgb = source.take("to_rgb", source is not processor)
    if mean is None or std is None:
        if source:
            draft.remark(source.at("mean"), "none; the normalization is the checkpoint's, or ImageNet's")
        return
    mean, std = ([float(value) for value in _listed(figures)] for figures in (mean, std))
    if len(mean) == 1:
        mean, std = mean * 3, std * 3
    arrays = dataset is not None and dataset != "imagenet"
    if not arrays and not to_rgb:
        mean, std = mean[::-1], std[::-1]
        if draft.settings.get("load_from"):
            draft.remark(
                source.at("to_rgb"),
                "False; MMClassification's network sees BGR, here RGB, so the weights of its first layer do not fit",
            )
    elif dataset in ("cifar10", "cifar100") and to_rgb:
        draft.remark(source.at("to_rgb"), "True turns CIFAR's images, which are RGB, into BGR; here they stay RGB")
    if max(mean) <= 1:
        draft.remark(source.at("mean"), f"{mean}; image_mean and image_std are of 0 to 255 here and cannot be below 1")
        return
    draft.settings["image_mean"], draft.settings["image_std"] = mean, std


def _listed(figures: Any) -> list[Any]:
    return list(figures) if isinstance(figures, (list, tuple)) else [figures]
