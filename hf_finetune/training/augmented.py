"""A batch of training images as the network sees it, with its labels, as one image: `augmented.jpg`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.errors import UserError
from hf_finetune.evaluation.labelled import fitting, font_for
from hf_finetune.logs import get_logger
from hf_finetune.shown_text import one_line

logger = get_logger(__name__)

_IMAGES, _COLUMNS = 16, 4
_SIDE = 160  # pixels of an image's longer side
_GAP, _LINE = 8, 18  # pixels between images, and of the line below each
_LEAST_SHARE = 0.01  # of a class in a mixed label that is named
_MOST_NAMED = 3  # classes of a label
_PAPER, _INK = "white", "#222222"


def save_batch(
    images: ImageBatches | StreamedBatches,
    stage: DeviceStage,
    device: torch.device,
    label_names: Sequence[str],
    path: Path,
) -> None:
    """Write sixteen training images, spread over the split, as the first epoch shows them to the network.

    Nothing of the run changes by it: the draws of transforms are keyed by the image. Where one of the images cannot be
    read, nothing is written, and the training meets it.

    Args:
        images: The training images, as workers prepare them.
        stage: Completes a batch of them.
        device: Where it does.
        label_names: Class names by class id.
        path: The JPEG file.
    """
    images, stage = copy.copy(images), copy.copy(stage)
    images.on_unreadable, stage.observer = None, None
    try:
        if isinstance(images, StreamedBatches):
            batch = images.first(_IMAGES)
        else:
            batch = images.__getitems__(np.unique(np.linspace(0, len(images) - 1, _IMAGES).astype(np.int64)).tolist())
    except (RuntimeError, UserError) as error:  # RuntimeError is torch's where images differ in size
        logger.debug(f"{path.name} is not written: {error}")
        return
    try:
        _draw(batch, stage, device, label_names, path)
    except Exception as error:  # fonts, memory, a full disk: it is not worth a run
        logger.warning(f"Note: {path.name} could not be drawn ({type(error).__name__}); nothing else depends on it.")


def _draw(
    batch: dict[str, torch.Tensor], stage: DeviceStage, device: torch.device, label_names: Sequence[str], path: Path
) -> None:
    prepared = stage({name: tensor.to(device) for name, tensor in batch.items()})
    levels = stage.levels(prepared["pixel_values"]).permute(0, 2, 3, 1).numpy()
    texts = [label_text(label, label_names) for label in prepared["labels"].cpu()]
    image_grid([Image.fromarray(image) for image in levels], texts, _COLUMNS).save(path, quality=85)


def label_text(label: torch.Tensor, label_names: Sequence[str], decimals: int = 1) -> str:
    """Return a label in words: "cat", of mixed images "cat 0.7 + dog 0.3", of several labels "cat + dog".

    Args:
        label: A class id, int64 (), or the share or the presence of each class, float (classes,).
        label_names: Class names by class id.
        decimals: Of shares.
    """
    if label.ndim == 0:
        return one_line(label_names[int(label)])
    shares, classes = label.sort(descending=True, stable=True)
    parts = [
        one_line(label_names[class_id]) + ("" if share > 1 - _LEAST_SHARE else f" {share:.{decimals}f}")
        for share, class_id in zip(shares.tolist(), classes.tolist(), strict=True)
        if share >= _LEAST_SHARE
    ]
    return " + ".join([*parts[:_MOST_NAMED], *(["..."] if len(parts) > _MOST_NAMED else [])]) or "no class"


def image_grid(images: Sequence[Image.Image], texts: Sequence[str], columns: int) -> Image.Image:
    """Return images in rows, each with a line of text below it.

    Args:
        images: At least one, of any sizes.
        texts: Their texts.
        columns: How many are in a row, at most.
    """
    tiles = [tile_of(image) for image in images]
    width, height = (max(tile.size[axis] for tile in tiles) for axis in (0, 1))
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step = width + _GAP, height + _LINE + _GAP
    grid = Image.new("RGB", (columns * step[0] + _GAP, rows * step[1] + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(grid), font_for("".join(texts))
    for place, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
        x, y = _GAP + place % columns * step[0], _GAP + place // columns * step[1]
        grid.paste(tile, (x, y))
        draw.text((x, y + height + 2), fitting(text, font, width), _INK, font)
    return grid


def tile_of(image: Image.Image) -> Image.Image:
    """Return an image with a longer side of 160 pixels, in which the pixels of a smaller one are squares."""
    factor = _SIDE / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BICUBIC)
