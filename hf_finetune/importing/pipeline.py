"""Importing room: pipelines as `train_transforms`, `image_size`, `crop_pct` and `resample`; both libraries' words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_finetune.importing.section import Draft, Section

# Steps that load, convert or pack, and change no pixel.
_PLUMBING = {
    "LoadImageFromFile",
    "ImageToTensor",
    "ToTensor",
    "Collect",
    "PackInputs",
    "ToNumpy",
    "ToPIL",
    "NumpyToPIL",
    "PILToNumpy",
    "Transpose",
    "Normalize",  # import_normalization reads it
}
# Transforms after which pictures of any size have one.
_SIZE_FIXING = {"CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize"}
_RESAMPLINGS = {"nearest", "bilinear", "bicubic", "lanczos"}
_EFFICIENTNET_PADDING = 32  # pixels around EfficientNet's crop at evaluation (Tan and Le 2019, their code)


def import_train_pipeline(steps: list[Section], square: bool, draft: Draft) -> None:
    """Sets train_transforms. `square` says that all pictures are known to be as high as wide."""
    transforms: list[Any] = []
    for step in steps:
        kind = step.take("type")
        if kind in _PLUMBING:
            if kind != "Normalize":
                step.skip_all()
        elif kind in _TRAIN_STEPS:
            transforms += _TRAIN_STEPS[kind](step, square, draft)
        elif isinstance(kind, str) and kind.startswith("torchvision/"):
            arguments = {key: _plain(value) for key, value in step.values.items() if key != "type"}
            transforms.append({kind.removeprefix("torchvision/"): arguments})
            step.skip_all()
        else:
            draft.remark(step.place, "there is no such transform here; it is left out")
            step.skip_all()
    names = {name for entry in transforms for name in (entry if isinstance(entry, dict) else (entry,))}
    if steps and not square and not names & _SIZE_FIXING:
        draft.remark(steps[0].place, "no step known here gives the pictures one size; they are cropped at random and flipped")
    elif steps:
        draft.settings["train_transforms"] = transforms


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _interpolation(step: Section, draft: Draft, default: str = "bilinear") -> str:
    step.skip("backend", "max_attempts")
    word = step.take("interpolation", default)
    if word in _RESAMPLINGS:
        return word
    draft.remark(step.at("interpolation"), f"{word!r}; {default} is taken")
    return default


def _resampled(step: Section, draft: Draft) -> dict[str, str]:
    word = _interpolation(step, draft)
    return {} if word == "bilinear" else {"interpolation": word}


def _sides(value: Any) -> list[int]:
    return [value, value] if isinstance(value, (int, float)) else list(value)


def _side(step: Section, *keys: str) -> Any:
    """Returns the size under the first of the keys that is there: a side in pixels, or [height, width]."""
    key = next((key for key in keys if key in step), keys[0])
    value = step.take(key)
    if not isinstance(value, (int, list, tuple)) or (not isinstance(value, int) and len(value) != 2):
        raise step.draft.refusal(step.at(key), f"is {value!r}; write a side in pixels, or two.")
    sides = _sides(value)
    return sides[0] if sides[0] == sides[1] else sides


def _rgb(colour: Any) -> Any:
    """Returns a fill colour in RGB, whole numbers: MMClassification's pictures are BGR before Normalize."""
    if isinstance(colour, (list, tuple)):
        return [round(value) for value in reversed(colour)]
    return round(colour)


# ---- training ----


def _random_crop(step: Section, square: bool, draft: Draft) -> list[Any]:
    arguments: dict[str, Any] = {"size": _side(step, "crop_size", "size")}
    for key in ("padding", "pad_if_needed"):
        if step.take(key):
            arguments[key] = _plain(step.take(key))
    fill = _rgb(step.take("pad_val", 0))
    if fill not in (0, [0, 0, 0]):
        arguments["fill"] = fill
    if step.take("padding_mode", "constant") != "constant":
        arguments["padding_mode"] = step.take("padding_mode")
    return [{"RandomCrop": arguments}]


def _random_resized_crop(step: Section, square: bool, draft: Draft) -> list[Any]:
    old = "size" in step  # 0.x names the size `size` and the part of the area `scale`
    arguments: dict[str, Any] = {"size": _side(step, "size" if old else "scale")}
    area = _plain(step.take("scale" if old else "crop_ratio_range", [0.08, 1.0]))
    ratio = _plain(step.take("ratio" if old else "aspect_ratio_range", [3 / 4, 4 / 3]))
    if step.take("efficientnet_style", False):
        return _efficientnet_crop(step, square, draft)
    if area != [0.08, 1.0]:
        arguments["scale"] = area
    if [round(value, 6) for value in ratio] != [0.75, 1.333333]:
        arguments["ratio"] = ratio
    return [{"RandomResizedCrop": arguments | _resampled(step, draft)}]


def _efficientnet_crop(step: Section, square: bool, draft: Draft) -> list[Any]:
    size = _side(step, "size" if "size" in step else "scale")
    step.skip("efficientnet_style", "min_covered", "crop_padding")
    draft.remark(step.place, "EfficientNet's way of cropping; RandomResizedCrop covers from 8 % of the picture instead of 10 %")
    word = _interpolation(step, draft, "bicubic")
    return [{"RandomResizedCrop": {"size": size, **({} if word == "bilinear" else {"interpolation": word})}}]


def _random_flip(step: Section, square: bool, draft: Draft) -> list[Any]:
    probability = step.take("prob" if "prob" in step else "flip_prob", 0.5)
    direction = step.take("direction", "horizontal")
    names = {"horizontal": "RandomHorizontalFlip", "vertical": "RandomVerticalFlip"}
    if not isinstance(direction, str) or direction not in names or isinstance(probability, (list, tuple)):
        draft.remark(step.at("direction"), f"{direction!r}; pictures are flipped horizontally instead, with 0.5")
        direction, probability = "horizontal", 0.5
    return [{names[direction]: {"p": probability}}]


def _resize(step: Section, square: bool, draft: Draft) -> list[Any]:
    height_width, short = _resize_target(step, draft)
    if short is not None:
        size: Any = short
    else:
        # One number is the short side here; a square picture becomes a square one either way.
        size = height_width[0] if square and height_width[0] == height_width[1] else height_width
    return [{"Resize": {"size": size} | _resampled(step, draft)}]


def _resize_target(step: Section, draft: Draft) -> tuple[list[int], int | None]:
    """Returns what a Resize asks for: [height, width], or the length of the short side alone."""
    kind, key = step.values["type"], "scale" if "scale" in step else "size"
    value = step.take(key)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, (int, list, tuple)):
        raise draft.refusal(step.at(key), f"is {value!r}; write a side in pixels, or two.")
    if kind == "ResizeEdge" or "edge" in step:
        edge = step.take("edge", "short")
        if edge != "short":
            draft.remark(step.at("edge"), f"{edge!r}; the short edge is taken")
        return [], _sides(value)[0]
    if step.take("adaptive_side", "short") != "short":
        draft.remark(step.at("adaptive_side"), f"{step.take('adaptive_side')!r}; the short side is taken")
    sides = _sides(value)
    if -1 in sides or step.take("keep_ratio", False):
        return [], max(sides)
    return (sides[::-1] if key == "scale" else sides), None  # MMCV 2 writes (width, height), 0.x (height, width)


def _center_crop(step: Section, square: bool, draft: Draft) -> list[Any]:
    step.skip("backend", "interpolation", "efficientnet_style", "crop_padding")
    return [{"CenterCrop": {"size": _side(step, "crop_size")}}]


def _color_jitter(step: Section, square: bool, draft: Draft) -> list[Any]:
    step.skip("backend")
    strengths = {key: _plain(step.take(key)) for key in ("brightness", "contrast", "saturation", "hue")}
    return [{"ColorJitter": {key: value for key, value in strengths.items() if value}}]


def _random_erasing(step: Section, square: bool, draft: Draft) -> list[Any]:
    if step.take("mode", "const") == "rand":
        draft.remark(step.at("mode"), "'rand' erases with noise; here with one colour")
    step.skip("fill_std")
    arguments = {
        "p": step.take("erase_prob", 0.5),
        "scale": [step.take("min_area_ratio", 0.02), round(step.take("max_area_ratio", 0.4), 6)],
        "ratio": [round(value, 6) for value in _sides(step.take("aspect_range", (3 / 10, 10 / 3)))],
        "value": _rgb(step.take("fill_color", (128, 128, 128))),
    }
    if len(arguments["ratio"]) == 2 and arguments["ratio"][0] == arguments["ratio"][1]:
        arguments["ratio"] = sorted((arguments["ratio"][0], round(1 / arguments["ratio"][0], 6)))
    return [{"RandomErasing": arguments}]


def _rand_augment(step: Section, square: bool, draft: Draft) -> list[Any]:
    level, levels = step.number("magnitude_level", 10), step.number("total_level", 10)
    hyperparameters = step.section("hparams")
    # torchvision counts its magnitudes from 0 to 30.
    arguments: dict[str, Any] = {"num_ops": step.take("num_policies", 2), "magnitude": min(30, round(30 * level / levels))}
    if hyperparameters.take("interpolation", "nearest") != "nearest":
        arguments["interpolation"] = hyperparameters.take("interpolation")
    for section in (step, hyperparameters):
        section.skip_all()
    draft.remark(step.place, "its policies and magnitude_std; torchvision's RandAugment has 14 operations of one magnitude")
    return [{"RandAugment": arguments}]


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

# ---- evaluation ----


def import_test_pipeline(steps: list[Section], native_size: int | None, draft: Draft) -> None:
    """Sets image_size, crop_pct and resample. `native_size` is the side of all pictures of a dataset that has one."""
    squashed: list[int] | None = None
    short: int | None = None
    crop: int | None = None
    padding: int | None = None
    resample = "bilinear"
    for step in steps:
        kind = step.take("type")
        if kind in ("Resize", "ResizeEdge"):
            target, short = _resize_target(step, draft)
            squashed = target or None
            resample = _interpolation(step, draft)
        elif kind in ("CenterCrop", "EfficientNetCenterCrop"):
            size = _side(step, "crop_size")
            if isinstance(size, list):
                raise draft.refusal(step.at("crop_size"), f"is {size}; only square pictures can be evaluated here.")
            crop = size
            if kind == "EfficientNetCenterCrop" or step.take("efficientnet_style"):
                padding = int(step.number("crop_padding", _EFFICIENTNET_PADDING))
                resample = _interpolation(step, draft, "bicubic")
            step.skip("interpolation", "backend", "crop_padding", "efficientnet_style")
        elif kind in _PLUMBING:
            if kind != "Normalize":
                step.skip_all()
        else:
            draft.remark(step.place, "there is no such step of evaluation here; it is left out")
            step.skip_all()
    if squashed and squashed[0] != squashed[1]:
        raise draft.refusal("the test pipeline", f"resizes to {squashed}; only square pictures can be evaluated here.")
    edge = squashed[0] if squashed else short
    if edge is None and padding is not None and crop is not None:
        edge = crop + padding
    size = crop or edge or native_size
    if size is None:
        return
    if squashed and native_size is None and crop is None:
        draft.remark("the test pipeline", f"resizes to {edge} x {edge} whatever the shape; here the centre is cut out instead")
    draft.settings["image_size"] = size
    draft.settings["crop_pct"] = _crop_pct(size, edge or size)
    draft.settings["resample"] = resample


def _crop_pct(size: int, edge: int) -> float:
    """Returns the shortest figure for which evaluation resizes the short side to `edge`: int(size / crop_pct)."""
    for digits in range(3, 12):
        figure = round(size / edge, digits)
        if int(size / figure) == edge:
            return figure
    return size / edge


def import_normalization(steps: list[Section], processor: Section, dataset: str | None, draft: Draft) -> None:
    """Sets image_mean and image_std, in RGB, from 1.x's data_preprocessor or from the step Normalize.

    `dataset` is the named dataset. Pictures are RGB here; in MMClassification those of a file are BGR until `to_rgb`
    turns them, and those of CIFAR and MNIST are RGB.
    """
    source = processor
    for step in steps:
        if step.values.get("type") == "Normalize":
            source = step
    processor.skip("type", "num_classes", "to_onehot", "non_blocking", "pad_size_divisor", "pad_value")
    mean, std = source.take("mean"), source.take("std")
    to_rgb = source.take("to_rgb", False if source is processor else True)
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
            draft.remark(source.at("to_rgb"), "False; the network there sees BGR, here RGB, so its first weights do not fit")
    elif arrays and to_rgb and dataset.startswith("cifar"):
        draft.remark(source.at("to_rgb"), "True turns CIFAR's pictures, which are RGB, into BGR; here they stay RGB")
    if max(mean) <= 1:
        draft.remark(source.at("mean"), f"{mean}; image_mean and image_std are of 0 to 255 here and cannot be below 1")
        return
    draft.settings["image_mean"], draft.settings["image_std"] = mean, std


def _listed(figures: Any) -> list[Any]:
    return list(figures) if isinstance(figures, (list, tuple)) else [figures]
