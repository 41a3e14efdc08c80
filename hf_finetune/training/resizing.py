"""What training and evaluation do to images of another shape than the network's, and where the two differ."""

from __future__ import annotations

from transformers import BaseImageProcessor

from hf_finetune.config.data import DataArguments
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger
from hf_finetune.models.processor import Preprocessing, describe, is_timm

logger = get_logger(__name__)

# Images that are longer than the network's shape by these factors are worth a note: where training and evaluation
# differ by what the user stated, and where it is the ordinary way of training.
_DIFFERS, _LONG = 1.1, 2.0
_TRAINING = {"crop": "cuts parts out of images", "squash": "squashes images to {0}", "pad": "pads images to {0}"}
_EVALUATION = {"crop": "cuts the centre out of them", "squash": "squashes them", "pad": "pads them"}


def report_resizing(
    training: str | None,
    image_processor: BaseImageProcessor,
    data: ImageDataset,
    arguments: DataArguments,
    as_evaluated: bool = False,
) -> list[str]:
    """Return what becomes of the images, and notes where training and evaluation differ or parts are never seen.

    Args:
        training: What training does; see `config.resize_mode.training_mode`.
        image_processor: What evaluation does.
        data: The images.
        arguments: What the recipe says.
        as_evaluated: Whether training images are prepared as in evaluation instead.

    Raises:
        UserError: An image is so long that nothing is left of it beside its borders.
    """
    wanted = describe(image_processor)
    mode = wanted.resize_mode
    training = mode if as_evaluated else training
    height, width = wanted.sides
    aspects = data.aspects or (height / width, height / width)
    longer = max(aspects[1] * width / height, height / width / aspects[0])
    size = f"{height} x {width}"
    lines = [f"Images: {size} pixels for the network; {_both(training, mode, as_evaluated)}."]
    if longer < 1.001 and wanted.crop_pct == 1:
        lines = [f"Images: {size} pixels for the network; they keep their shape."]
    if (
        mode == "pad"
        and arguments.on_bad_image == "stop"
        and min(height, width * aspects[0], width, height / aspects[1]) < 1
    ):
        raise UserError(
            f"{data.source}: an image is so long ({longer:,.0f} times the shape {size}) that resize_mode pad leaves"
            " nothing of it; use --resize_mode squash, or --on_bad_image skip."
        )
    seen = min(_share_seen(wanted, aspect, is_timm(image_processor)) for aspect in aspects)
    share = f" (it sees {100 * seen:.0f} % of the longest)" if mode == "crop" else ""
    stated = arguments.resize_mode is not None
    ordinary = training == "crop" and not stated
    if training not in (None, mode) and longer > (_LONG if ordinary else _DIFFERS):
        lines.append(
            f"Note: training {_TRAINING[str(training)].format(size)}, evaluation {_EVALUATION[mode]}{share}:"
            f" {_advice(str(training), mode, arguments)}."
        )
    elif mode == "crop" and longer > _LONG:
        lines.append(
            f"Note: evaluation cuts the centre out of images{share}: to see them whole, use --resize_mode squash or"
            " --resize_mode pad."
        )
    if mode == "crop" and not is_timm(image_processor) and _borders(wanted, aspects):
        lines.append(
            f"Note: evaluation resizes the short side, so images that are less long than {size} get black borders; use"
            " --resize_mode squash or --resize_mode pad."
        )
    return lines


def _both(training: str | None, mode: str, as_evaluated: bool) -> str:
    if as_evaluated and mode == "crop":
        return "training and evaluation cut the centre out of them"
    if training is None:
        return f"evaluation {_EVALUATION[mode]}"
    if training == mode != "crop":
        return f"training and evaluation {mode} them"
    words = {**_EVALUATION, "crop": "cuts parts out of them"}
    return f"training {words[training]}, evaluation {_EVALUATION[mode]}"


def _advice(training: str, mode: str, arguments: DataArguments) -> str:
    if training != "crop":
        return f"set --resize_mode {training}"
    flags = [] if arguments.resize_mode is not None else [f"--resize_mode {mode}"]
    flags += ["--train_transforms null"] if arguments.train_transforms is not None else []
    return f"to train on whole images too, use {' '.join(flags)}"


def _resized(wanted: Preprocessing, aspect: float, covers: bool) -> tuple[float, float]:
    """Return the (height, width) in pixels from which evaluation crops an image of height / width `aspect`."""
    height, width = wanted.sides
    if covers:  # timm's: both sides reach the size
        rows = max(height, width * aspect) / wanted.crop_pct
        return rows, rows / aspect
    side = min(height, width) / wanted.crop_pct
    return side * max(aspect, 1), side * max(1 / aspect, 1)


def _share_seen(wanted: Preprocessing, aspect: float, covers: bool) -> float:
    """Return the part of an image that evaluation sees if it crops, up to 1."""
    rows, columns = _resized(wanted, aspect, covers)
    height, width = wanted.sides
    return min(1, height / rows) * min(1, width / columns)


def _borders(wanted: Preprocessing, aspects: tuple[float, float]) -> bool:
    """Return whether an image of these aspects, or between them, is smaller than what is cropped from it."""
    height, width = wanted.sides
    return _resized(wanted, aspects[0], False)[0] < height - 1 or _resized(wanted, aspects[1], False)[1] < width - 1
