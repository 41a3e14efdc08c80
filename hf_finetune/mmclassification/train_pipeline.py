"""Imports the training pipeline of both libraries as `train_transforms`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_finetune.mmclassification.section import Draft, Section
from hf_finetune.mmclassification.steps import PLUMBING, as_lists, as_pair, read_interpolation, read_size, resize_target

# Transforms that give all images one size.
_SIZE_FIXING = {"CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize"}


def import_train_pipeline(steps: list[Section], square: bool, mixing: list[Any], draft: Draft) -> None:
    """Set train_transforms.

    Args:
        steps: The steps of the pipeline.
        square: Whether all images of the dataset are as high as wide.
        mixing: The transforms that mix a batch, which come last.
        draft: The recipe.
    """
    transforms: list[Any] = []
    for step in steps:
        kind = step.take("type")
        if kind in PLUMBING:
            if kind != "Normalize":
                step.skip_all()
        elif kind in _TRAIN_STEPS:
            transforms += _TRAIN_STEPS[kind](step, square, draft)
        elif isinstance(kind, str) and kind.startswith("torchvision/"):
            arguments = {key: as_lists(value) for key, value in step.values.items() if key != "type"}
            transforms.append({kind.removeprefix("torchvision/"): arguments})
            step.skip_all()
        else:
            draft.remark(step.place, "is not supported; it is left out")
            step.skip_all()
    names = {name for entry in transforms for name in (entry if isinstance(entry, dict) else (entry,))}
    if steps and not square and not names & _SIZE_FIXING:
        draft.remark(
            steps[0].place, "no step known here gives the images one size; they are cropped at random and flipped"
        )
    elif steps:
        draft.settings["train_transforms"] = [*transforms, *mixing]
        mixing = []
    if mixing:
        draft.remark("model.train_cfg.augments", "needs train_transforms, which are missing; images are not mixed")


def _resampled(step: Section, draft: Draft) -> dict[str, str]:
    word = read_interpolation(step, draft)
    return {} if word == "bilinear" else {"interpolation": word}


def _rgb(colour: Any) -> Any:
    """Return a fill colour as whole numbers in RGB; MMClassification's images are BGR before Normalize."""
    if isinstance(colour, (list, tuple)):
        return [round(value) for value in reversed(colour)]
    return round(colour)


def _random_crop(step: Section, square: bool, draft: Draft) -> list[Any]:
    arguments: dict[str, Any] = {"size": read_size(step, "crop_size", "size")}
    for key in ("padding", "pad_if_needed"):
        if step.take(key):
            arguments[key] = as_lists(step.take(key))
    fill = _rgb(step.take("pad_val", 0))
    if fill not in (0, [0, 0, 0]):
        arguments["fill"] = fill
    if step.take("padding_mode", "constant") != "constant":
        arguments["padding_mode"] = step.take("padding_mode")
    return [{"RandomCrop": arguments}]


def _random_resized_crop(step: Section, square: bool, draft: Draft) -> list[Any]:
    old = "size" in step  # 0.x names the size `size` and the part of the area `scale`
    arguments: dict[str, Any] = {"size": read_size(step, "size" if old else "scale")}
    area = as_lists(step.take("scale" if old else "crop_ratio_range", [0.08, 1.0]))
    ratio = as_lists(step.take("ratio" if old else "aspect_ratio_range", [3 / 4, 4 / 3]))
    if step.take("efficientnet_style", False):
        return _efficientnet_crop(step, square, draft)
    if area != [0.08, 1.0]:
        arguments["scale"] = area
    if [round(value, 6) for value in ratio] != [0.75, 1.333333]:
        arguments["ratio"] = ratio
    return [{"RandomResizedCrop": arguments | _resampled(step, draft)}]


def _efficientnet_crop(step: Section, square: bool, draft: Draft) -> list[Any]:
    size = read_size(step, "size" if "size" in step else "scale")
    step.skip("efficientnet_style", "min_covered", "crop_padding")
    draft.remark(step.place, "EfficientNet's crop; RandomResizedCrop covers at least 8 % of the image instead of 10 %")
    word = read_interpolation(step, draft, "bicubic")
    return [{"RandomResizedCrop": {"size": size, **({} if word == "bilinear" else {"interpolation": word})}}]


def _random_flip(step: Section, square: bool, draft: Draft) -> list[Any]:
    probability = step.take("prob" if "prob" in step else "flip_prob", 0.5)
    direction = step.take("direction", "horizontal")
    names = {"horizontal": "RandomHorizontalFlip", "vertical": "RandomVerticalFlip"}
    if not isinstance(direction, str) or direction not in names or isinstance(probability, (list, tuple)):
        draft.remark(
            step.at("direction"), f"{direction!r}; images are flipped horizontally instead, with probability 0.5"
        )
        direction, probability = "horizontal", 0.5
    return [{names[direction]: {"p": probability}}]


def _resize(step: Section, square: bool, draft: Draft) -> list[Any]:
    height_width, short = resize_target(step, draft)
    if short is not None:
        size: Any = short
    else:
        # One number is the short side here; a square image becomes a square one either way.
        size = height_width[0] if square and height_width[0] == height_width[1] else height_width
    return [{"Resize": {"size": size} | _resampled(step, draft)}]


def _center_crop(step: Section, square: bool, draft: Draft) -> list[Any]:
    step.skip("backend", "interpolation", "efficientnet_style", "crop_padding")
    return [{"CenterCrop": {"size": read_size(step, "crop_size")}}]


def _color_jitter(step: Section, square: bool, draft: Draft) -> list[Any]:
    step.skip("backend")
    strengths = {key: as_lists(step.take(key)) for key in ("brightness", "contrast", "saturation", "hue")}
    return [{"ColorJitter": {key: value for key, value in strengths.items() if value}}]


def _random_erasing(step: Section, square: bool, draft: Draft) -> list[Any]:
    # Noise has the mean and deviation of the normalization here, which is what configs write there.
    noise, colour = step.take("mode", "const") == "rand", step.take("fill_color", (128, 128, 128))
    if step.take("fill_std") is None and noise:
        draft.remark(step.at("mode"), "'rand' without fill_std is uniform noise; here it is normal")
    arguments = {
        "p": step.take("erase_prob", 0.5),
        "scale": [step.take("min_area_ratio", 0.02), round(step.take("max_area_ratio", 0.4), 6)],
        "ratio": [round(value, 6) for value in as_pair(step.take("aspect_range", (3 / 10, 10 / 3)))],
        "value": "random" if noise else _rgb(colour),
    }
    if len(arguments["ratio"]) == 2 and arguments["ratio"][0] == arguments["ratio"][1]:
        arguments["ratio"] = sorted((arguments["ratio"][0], round(1 / arguments["ratio"][0], 6)))
    return [{"RandomErasing": arguments}]


# timm's operations with their ranges: the policies "timm_increasing", which 0.x's configs write out.
_INCREASING = {
    *(("AutoContrast", None, None), ("Equalize", None, None), ("Invert", None, None), ("Rotate", (0, 30), None)),
    *(("Posterize", (4, 0), None), ("Solarize", (256, 0), None), ("SolarizeAdd", (0, 110), None)),
    *((name, (0, 0.9), None) for name in ("ColorTransform", "Contrast", "Brightness", "Sharpness")),
    *(("Shear", (0, 0.3), direction) for direction in ("horizontal", "vertical")),
    *(("Translate", (0, 0.45), direction) for direction in ("horizontal", "vertical")),
}


def _are_increasing(policies: Any) -> bool:
    if not isinstance(policies, (list, tuple)) or not all(isinstance(policy, dict) for policy in policies):
        return bool(policies == "timm_increasing")
    found = [
        (policy.get("type"), tuple(as_lists(policy.get("magnitude_range")) or ()) or None, policy.get("direction"))
        for policy in policies
    ]
    return len(found) == len(_INCREASING) and set(found) == _INCREASING


def _rand_augment(step: Section, square: bool, draft: Draft) -> list[Any]:
    level, levels = step.number("magnitude_level", 10), step.number("total_level", 10)
    spread, count = step.take("magnitude_std", 0), step.take("num_policies", 2)
    hyperparameters = step.section("hparams")
    fill, increasing = hyperparameters.take("pad_val", 128), _are_increasing(step.take("policies"))
    for section in (step, hyperparameters):
        section.skip_all()
    if not increasing:
        draft.remark(step.place, "its list of policies; torchvision's RandAugment has 14 operations of one magnitude")
        # torchvision counts its magnitudes from 0 to 30.
        return [{"RandAugment": {"num_ops": count, "magnitude": min(30, round(30 * level / levels))}}]
    magnitude = 10 * level / levels
    if magnitude > 10:
        draft.remark(step.at("magnitude_level"), f"{level:g} of {levels:g}; here with the full strength, 10 of 10")
    if spread == "inf":
        draft.remark(step.at("magnitude_std"), "'inf' draws magnitudes from 0 on; here they are all the same")
        spread = 0
    arguments = {
        "num_ops": count,
        "magnitude": round(min(10.0, magnitude), 6),
        "magnitude_std": round(10 * max(0, spread) / levels, 6),
    }
    return [{"IncreasingRandAugment": arguments | ({} if fill == 128 else {"fill": _rgb(fill)})}]


def _auto_augment(step: Section, square: bool, draft: Draft) -> list[Any]:
    policies = step.take("policies")
    step.skip_all()
    if policies != "imagenet":
        draft.remark(step.place, "its list of policies; torchvision's AutoAugment has the 25 of ImageNet")
    return ["AutoAugment"]


def _random_grayscale(step: Section, square: bool, draft: Draft) -> list[Any]:
    step.skip("keep_channels", "channel_weights", "color_format")
    return [{"RandomGrayscale": {"p": step.take("prob" if "prob" in step else "gray_prob", 0.1)}}]


_TRAIN_STEPS: dict[str, Callable[[Section, bool, Draft], list[Any]]] = {
    "RandomCrop": _random_crop,
    "RandomResizedCrop": _random_resized_crop,
    "EfficientNetRandomCrop": _efficientnet_crop,
    "RandomFlip": _random_flip,
    "Resize": _resize,
    "ResizeEdge": _resize,
    "CenterCrop": _center_crop,
    "ColorJitter": _color_jitter,
    "RandomErasing": _random_erasing,
    "RandAugment": _rand_augment,
    "AutoAugment": _auto_augment,
    "RandomGrayscale": _random_grayscale,
}
