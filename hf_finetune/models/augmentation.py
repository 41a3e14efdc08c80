"""Lists of training transforms by name, at the size of a network: `augmentation` in a recipe."""

from __future__ import annotations

from typing import Any

from hf_finetune.models.processor import Preprocessing, default_train_transforms

# Of an image's area, what a random crop shows at least: as for ImageNet (Szegedy et al. 2015, arXiv:1409.4842).
_HEAVY_CROP = [0.08, 1.0]
# Müller and Hutter, "TrivialAugment", ICCV 2021, arXiv:2103.10158: one operation of random strength for each image.
_MEDIUM: list[Any] = ["TrivialAugmentWide"]
# Those of DeiT (Touvron et al. 2021, arXiv:2012.12877, table 9): timm's rand-m9-mstd0.5-inc1, erasing, mixing.
_HEAVY: list[Any] = [
    {"IncreasingRandAugment": {"num_ops": 2, "magnitude": 9}},
    {"RandomErasing": {"p": 0.25, "value": "random"}},
    {"RandomChoice": {"transforms": [{"MixUp": {"alpha": 0.8}}, {"CutMix": {"alpha": 1.0}}]}},
]


def augmentation_transforms(name: str, preprocessing: Preprocessing, resize_mode: str | None) -> list[Any]:
    """Return the list of training transforms that a word stands for.

    Args:
        name: "none", what evaluation does; "light", what a recipe without train_transforms does; "medium" or "heavy".
        preprocessing: What the image processor does.
        resize_mode: The recipe's.
    """
    if name == "none":
        return _as_evaluated(preprocessing)
    sized, flip = default_train_transforms(preprocessing, resize_mode)
    if name == "heavy" and "RandomResizedCrop" in sized:
        sized = {"RandomResizedCrop": {**sized["RandomResizedCrop"], "scale": _HEAVY_CROP}}
    return [sized, flip, *{"light": [], "medium": _MEDIUM, "heavy": _HEAVY}[name]]


def _as_evaluated(preprocessing: Preprocessing) -> list[Any]:
    sides, crop_pct = list(preprocessing.sides), preprocessing.crop_pct
    if preprocessing.resize_mode == "pad":
        sized, _ = default_train_transforms(preprocessing, "pad")
        return [sized]
    if preprocessing.resize_mode == "squash":
        size: int | list[int] = [int(side / crop_pct) for side in sides]
    else:
        size = int(min(sides) / crop_pct)
    resize = {"Resize": {"size": size, "interpolation": preprocessing.resample}}
    return [resize, {"CenterCrop": {"size": sides}}]
