"""The image processor: how an image becomes the network's input in evaluation.

A recipe may change its size, what becomes of images of another shape, mean, standard deviation or resampling. The
resulting processor prepares the images of every evaluation, is saved with the model, and is what
`pipeline("image-classification")` applies. It is always of a class of Transformers, so `pipeline` needs no other code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from transformers import BaseImageProcessor, BitImageProcessor, ConvNextImageProcessor, PreTrainedConfig
from transformers.image_utils import PILImageResampling

from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.models.channels import image_channels
from hf_finetune.models.load import open_source
from hf_finetune.models.source import ModelSource

# Pillow's filters (`PIL.Image.Resampling`) by their names.
RESAMPLINGS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
# Of ImageNet's training images, in pixel units (0 to 255): the figures of torchvision's models, times 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
# Of an image's area, what a random crop of a recipe without train_transforms shows at least: a run of a few epochs
# sees too little of each image with the 8 % that ImageNet's 90 epochs are trained with.
_CROPPED = (0.35, 1.0)
_TIMM_MODES = {"center": "crop", "squash": "squash", "border": "pad"}


@dataclass(frozen=True)
class Preprocessing:
    """What an image processor does, by the names that a recipe uses.

    Attributes:
        image_size: Side of the square that the network sees, or its (height, width) where they differ, in pixels.
        crop_pct: The shorter of these sides divided by the shorter side of the resized image, above 0 and at most 1.
        resize_mode: What becomes of an image of another shape. "crop" resizes it by its shorter side and cuts out the
            centre; "squash" resizes both sides; "pad" resizes it to fit as a whole and adds borders.
        fill: The values of these borders, 0 to 255, one for each channel.
        mean: Mean of each channel, in pixel units (0 to 255).
        std: Standard deviation of each channel, in pixel units.
        resample: The filter that resizes, one of `RESAMPLINGS`.
        channels: How many channels images have that are read as they are stored, in whose units `mean` and `std` are;
            None for RGB of 8 bits.
    """

    image_size: int | tuple[int, int] = 224
    crop_pct: float = 0.875
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resample: str = "bilinear"
    resize_mode: str = "crop"
    fill: tuple[int, ...] = (0, 0, 0)
    channels: int | None = None

    @property
    def sides(self) -> tuple[int, int]:
        """The height and the width of what the network sees, in pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)


def _image_size(height: int, width: int) -> int | tuple[int, int]:
    return height if height == width else (height, width)


def is_timm(processor: BaseImageProcessor) -> bool:
    """Return whether an image processor applies timm's own transforms."""
    return type(processor).__name__ == "TimmWrapperImageProcessor"


def describe(processor: Any) -> Preprocessing:
    """Return the figures of an image processor.

    Args:
        processor: An image processor of Transformers; which attributes it has depends on its class.
    """
    if is_timm(processor):
        config = processor.data_config
        mean = tuple(255 * value for value in config["mean"])
        mode = _TIMM_MODES[config["crop_mode"]]
        return Preprocessing(
            image_size=_image_size(*config["input_size"][-2:]),
            crop_pct=config["crop_pct"],
            mean=mean,
            std=tuple(255 * value for value in config["std"]),
            resample=config["interpolation"],
            resize_mode=mode,
            fill=tuple(map(round, mean)) if mode == "pad" else (0, 0, 0),
        )
    size = dict(processor.size)
    crop_size = dict(getattr(processor, "crop_size", None) or {}) if getattr(processor, "do_center_crop", False) else {}
    edge: int | None = size.get("shortest_edge")
    mode = "crop" if edge else "pad" if size.get("max_height") else "squash"
    resized = (edge, edge) if edge else (size["height"], size["width"]) if mode == "squash" else ()
    sides = (crop_size["height"], crop_size["width"]) if crop_size else resized
    crop_pct = min(sides) / min(resized or sides)
    if getattr(processor, "crop_pct", None):
        if min(sides) < 384:  # ConvNextImageProcessor crops below 384 pixels, and squashes from there
            crop_pct = processor.crop_pct
        elif isinstance(processor, ConvNextImageProcessor):
            mode = "squash"
    scale = 255.0 if processor.do_rescale else 1.0
    normalized = processor.do_normalize
    return Preprocessing(
        image_size=_image_size(*sides),
        crop_pct=crop_pct,
        mean=tuple(scale * value for value in processor.image_mean) if normalized else (0.0, 0.0, 0.0),
        std=tuple(scale * value for value in processor.image_std) if normalized else (scale, scale, scale),
        resample=PILImageResampling(processor.resample).name.lower(),
        resize_mode=mode,
        channels=getattr(processor, "image_channels", None),
    )


def _build(preprocessing: Preprocessing) -> BaseImageProcessor:
    height, width = preprocessing.sides
    crop_pct = preprocessing.crop_pct
    if preprocessing.resize_mode == "pad":  # the centre crop of an image that is too small pads it
        size = {"max_height": height, "max_width": width}
    elif preprocessing.resize_mode == "squash":
        size = {"height": int(height / crop_pct), "width": int(width / crop_pct)}
    else:
        size = {"shortest_edge": int(min(height, width) / crop_pct)}
    scale = 255 if preprocessing.channels is None else 1
    figures: dict[str, Any] = {} if preprocessing.channels is None else {"do_convert_rgb": False, "do_rescale": False}
    processor: Any = BitImageProcessor(
        size=size,
        crop_size={"height": height, "width": width},
        resample=RESAMPLINGS[preprocessing.resample],
        image_mean=[value / scale for value in preprocessing.mean],
        image_std=[value / scale for value in preprocessing.std],
        **figures,
    )
    if preprocessing.channels is not None:
        processor.image_channels = preprocessing.channels
    return cast(BaseImageProcessor, processor)


def _of_channels(name: str, values: list[float], channels: int | None) -> tuple[float, ...]:
    """Return a recipe's mean or standard deviation for each of the channels, checked; None is for RGB."""
    count = channels or 3
    if len(values) not in (1, count):
        each = "the channel" if count == 1 else f"each of the {count} channels, or one for all"
        raise UserError(f"{name} has {len(values)} figures; use one for {each}.")
    if channels is not None:
        if name == "image_std" and min(values) <= 0:
            raise UserError(f"image_std is {values}; use figures above 0, in the units of the files.")
        return tuple(float(value) for value in (values * count if len(values) == 1 else values))
    if max(values) <= 1.0:
        raise UserError(f"{name} is {values}, which looks like a scale of 0 to 1; use it in pixel units, 0 to 255.")
    if min(values) < 0 or max(values) > 255 or (name == "image_std" and min(values) == 0):
        raise UserError(
            f"{name} is {values}; use figures {'above 0' if name == 'image_std' else 'from 0'} up to 255, in pixel"
            " units."
        )
    return tuple(float(value) for value in (values * 3 if len(values) == 1 else values))


def _overridden(preprocessing: Preprocessing, arguments: DataArguments) -> Preprocessing:
    changes: dict[str, Any] = {}
    if arguments.image_size is not None:
        size = arguments.image_size
        changes["image_size"] = _image_size(*size) if isinstance(size, list) else size
    if arguments.resize_mode is not None:
        changes["resize_mode"] = arguments.resize_mode
        if arguments.resize_mode != "crop":
            changes["crop_pct"] = 1.0  # all of an image is seen; `check_data` refuses another figure
    if arguments.crop_pct is not None:
        if not 0 < arguments.crop_pct <= 1:
            raise UserError(f"crop_pct is {arguments.crop_pct}; use a number above 0 and at most 1, such as 0.875.")
        changes["crop_pct"] = arguments.crop_pct
    if arguments.image_mean is not None:
        changes["mean"] = _of_channels("image_mean", arguments.image_mean, preprocessing.channels)
    if arguments.image_std is not None:
        changes["std"] = _of_channels("image_std", arguments.image_std, preprocessing.channels)
    if arguments.resample is not None:
        if arguments.resample not in RESAMPLINGS:
            raise UserError(
                f'resample is "{arguments.resample}".{did_you_mean(arguments.resample, RESAMPLINGS)}'
                f" Use one of {', '.join(RESAMPLINGS)}."
            )
        changes["resample"] = arguments.resample
    return replace(preprocessing, **changes)


def default_train_transforms(preprocessing: Preprocessing, resize_mode: str | None = None) -> list[dict[str, Any]]:
    """Return the training transforms of a recipe that names none: one to the network's size, and a flip.

    Args:
        preprocessing: What the image processor does.
        resize_mode: The recipe's. "squash" and "pad" treat an image as evaluation does. Otherwise it is a random crop,
            whatever the checkpoint's image processor does.
    """
    size, interpolation = list(preprocessing.sides), preprocessing.resample
    if resize_mode == "squash":
        step: dict[str, Any] = {"Resize": {"size": size, "interpolation": interpolation}}
    elif resize_mode == "pad":
        fill = list(preprocessing.fill) if any(preprocessing.fill) else 0
        step = {"Letterbox": {"size": size, "interpolation": interpolation, "fill": fill}}
    else:
        square = isinstance(preprocessing.image_size, int)
        sides = size[0] if square else size
        step = {"RandomResizedCrop": {"size": sides, "scale": list(_CROPPED), "interpolation": interpolation}}
    return [step, {"RandomHorizontalFlip": {"p": 0.5}}]


def load_image_processor(
    source: ModelArguments | ModelSource | None, config: PreTrainedConfig, data: DataArguments | None = None
) -> BaseImageProcessor:
    """Load the image processor of a network's source and apply what the recipe sets.

    A source without an image processor gets a `BitImageProcessor` with the figures of ImageNet, and of its own where it
    has some (`ModelSource.preprocessing`).

    Args:
        source: Where the network comes from; None, or arguments that name no network, for ImageNet's figures.
        config: The network's configuration. timm's networks keep their figures in it (`pretrained_cfg`), and it is
            changed with them.
        data: The recipe's figures; None changes none.

    Returns:
        The image processor. Where the network was trained on images of more than 8 bits, it has the attribute
        `value_range`, the range by which they are scaled.

    Raises:
        UserError: The recipe's figures make no sense, or the checkpoint's preprocessor_config.json is damaged.
    """
    processor: Any = _load_image_processor(source, config, data)
    value_range = getattr(config, "value_range", None)
    if value_range is not None:
        processor.value_range = value_range
    return cast(BaseImageProcessor, processor)


def _load_image_processor(
    source: ModelArguments | ModelSource | None, config: PreTrainedConfig, data: DataArguments | None
) -> BaseImageProcessor:
    if isinstance(source, ModelArguments):
        named = source.model_name_or_path or source.load_from or source.model_type
        source = open_source(source) if named else None
    processor = None if source is None else source.load_processor()
    own = describe(processor) if processor is not None else Preprocessing()
    if processor is None and source is not None:
        own = replace(own, **source.preprocessing)
    channels = image_channels(config)
    if channels is not None and own.channels is None:  # ImageNet's figures are those of RGB
        own = replace(own, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels, fill=(0,) * channels)
    before = own
    if data is not None and data.crop_pct is not None and not (processor is not None and is_timm(processor)):
        before = replace(
            own, resize_mode="crop"
        )  # a figure for crops asks for one; timm's also apply to squashed images
    wanted = own if data is None else _overridden(before, data)
    if processor is not None and wanted == own and wanted == describe(processor):
        return processor
    if processor is None or channels is not None or not is_timm(processor):
        return _build(wanted)
    pretrained_config = {key: value for key, value in config.pretrained_cfg.items() if not key.startswith("test_")}
    pretrained_config |= {
        "input_size": [3, *wanted.sides],
        "crop_pct": wanted.crop_pct,
        "crop_mode": next(name for name, mode in _TIMM_MODES.items() if mode == wanted.resize_mode),
        "mean": [value / 255 for value in wanted.mean],
        "std": [value / 255 for value in wanted.std],
        "interpolation": wanted.resample,
    }
    config.pretrained_cfg = pretrained_config
    timm_processor: Any = type(processor)
    adapted: BaseImageProcessor = timm_processor(pretrained_config, architecture=config.architecture)
    return adapted
