"""The image processor, the single truth of how an image becomes the network's input in evaluation.

A recipe may change its size, crop, mean, standard deviation or resampling. What it then says is what is evaluated, what
is saved, and what `pipeline("image-classification")` applies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, BaseImageProcessor, BitImageProcessor, PreTrainedConfig
from transformers.image_utils import PILImageResampling

from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.models.foreign.recognition import load_foreign
from hf_finetune.models.load import loading_settings, quiet_transformers, resolve_checkpoint

RESAMPLINGS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of 0 to 255; the figures of torchvision's ImageNet models, times 255
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Preprocessing:
    """What a processor does, in a recipe's words. `mean` and `std` are in pixel units, 0 to 255."""

    image_size: int = 224
    crop_pct: float = 0.875
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resample: str = "bilinear"


def _is_timm(processor: BaseImageProcessor | None) -> bool:
    return type(processor).__name__ == "TimmWrapperImageProcessor"


def describe(processor: BaseImageProcessor) -> Preprocessing:
    """Reads a processor's figures, whatever its class writes them as."""
    if _is_timm(processor):
        config = processor.data_config
        return Preprocessing(
            image_size=config["input_size"][-1],
            crop_pct=config["crop_pct"],
            mean=tuple(255 * value for value in config["mean"]),
            std=tuple(255 * value for value in config["std"]),
            resample=config["interpolation"],
        )
    size = dict(processor.size)
    crop_size = dict(getattr(processor, "crop_size", None) or {}) if getattr(processor, "do_center_crop", False) else {}
    edge = size.get("shortest_edge") or size.get("height")
    image_size = crop_size.get("height") or edge
    crop_pct = image_size / edge
    if getattr(processor, "crop_pct", None) and image_size < 384:  # ConvNextImageProcessor crops below 384 pixels
        crop_pct = processor.crop_pct
    scale = 255.0 if processor.do_rescale else 1.0
    normalized = processor.do_normalize
    return Preprocessing(
        image_size=image_size,
        crop_pct=crop_pct,
        mean=tuple(scale * value for value in processor.image_mean) if normalized else (0.0, 0.0, 0.0),
        std=tuple(scale * value for value in processor.image_std) if normalized else (scale, scale, scale),
        resample=PILImageResampling(processor.resample).name.lower(),
    )


def _build(preprocessing: Preprocessing) -> BaseImageProcessor:
    image_size = preprocessing.image_size
    return BitImageProcessor(
        size={"shortest_edge": int(image_size / preprocessing.crop_pct)},
        crop_size={"height": image_size, "width": image_size},
        resample=RESAMPLINGS[preprocessing.resample],
        image_mean=[value / 255 for value in preprocessing.mean],
        image_std=[value / 255 for value in preprocessing.std],
    )


def _three_channels(name: str, values: list[float]) -> tuple[float, ...]:
    if len(values) not in (1, 3):
        raise UserError(f"{name} has {len(values)} figures; use one for each of the 3 channels, or one for all.")
    if max(values) <= 1.0:
        raise UserError(f"{name} is {values}, which looks like a scale of 0 to 1; use it in pixel units, 0 to 255.")
    if min(values) < 0 or max(values) > 255 or (name == "image_std" and min(values) == 0):
        raise UserError(
            f"{name} is {values}; use figures {'above 0' if name == 'image_std' else 'from 0'} up to 255, in pixel"
            " units."
        )
    return tuple(float(value) for value in (values * 3 if len(values) == 1 else values))


def _overridden(preprocessing: Preprocessing, arguments: DataArguments) -> Preprocessing:
    changes = {}
    if arguments.image_size is not None:
        if arguments.image_size < 1:
            raise UserError(f"image_size is {arguments.image_size}; use the side in pixels, such as 224.")
        changes["image_size"] = arguments.image_size
    if arguments.crop_pct is not None:
        if not 0 < arguments.crop_pct <= 1:
            raise UserError(f"crop_pct is {arguments.crop_pct}; use a part of 1, such as 0.875.")
        changes["crop_pct"] = arguments.crop_pct
    if arguments.image_mean is not None:
        changes["mean"] = _three_channels("image_mean", arguments.image_mean)
    if arguments.image_std is not None:
        changes["std"] = _three_channels("image_std", arguments.image_std)
    if arguments.resample is not None:
        if arguments.resample not in RESAMPLINGS:
            raise UserError(
                f'resample is "{arguments.resample}".{did_you_mean(arguments.resample, RESAMPLINGS)}'
                f" Use one of {', '.join(RESAMPLINGS)}."
            )
        changes["resample"] = arguments.resample
    return replace(preprocessing, **changes)


def default_train_transforms(preprocessing: Preprocessing) -> list[dict[str, Any]]:
    """Returns the transforms of a run whose recipe names none: a random crop at the network's size, and a flip."""
    crop = {"size": preprocessing.image_size, "interpolation": preprocessing.resample}
    return [{"RandomResizedCrop": crop}, {"RandomHorizontalFlip": {"p": 0.5}}]


def load_image_processor(
    model: ModelArguments, config: PreTrainedConfig, data: DataArguments | None = None
) -> BaseImageProcessor:
    """Loads the checkpoint's image processor and applies what the recipe says otherwise.

    Without a checkpoint, or where it has no processor, ImageNet's figures are the base, and for weights from elsewhere
    those that their library states otherwise. A checkpoint of timm's keeps its figures in the model's configuration,
    `config`, which is changed with it. Raises `UserError` for figures that make no sense.
    """
    processor = None
    if model.model_name_or_path is not None:
        checkpoint = resolve_checkpoint(model.model_name_or_path)
        try:
            with quiet_transformers():
                processor = AutoImageProcessor.from_pretrained(checkpoint, **loading_settings(model))
        except (OSError, ValueError) as error:  # a checkpoint without preprocessor_config.json
            if (Path(checkpoint) / "preprocessor_config.json").is_file():
                raise UserError(
                    f"{checkpoint}/preprocessor_config.json cannot be read ({str(error).splitlines()[0]}); fix it, or"
                    " take it away and write image_size, image_mean and image_std."
                ) from error
            processor = None
    own = describe(processor) if processor is not None else Preprocessing()
    if model.load_from is not None:
        own = replace(own, **load_foreign(model.load_from, model.load_from_sha256).preprocessing)
    wanted = own if data is None else _overridden(own, data)
    if processor is not None and wanted == own:
        return processor
    if not _is_timm(processor):
        return _build(wanted)
    pretrained_config = {key: value for key, value in config.pretrained_cfg.items() if not key.startswith("test_")}
    pretrained_config |= {
        "input_size": [3, wanted.image_size, wanted.image_size],
        "crop_pct": wanted.crop_pct,
        "mean": [value / 255 for value in wanted.mean],
        "std": [value / 255 for value in wanted.std],
        "interpolation": wanted.resample,
    }
    config.pretrained_cfg = pretrained_config
    return type(processor)(pretrained_config, architecture=config.architecture)
