"""Heat maps drawn over the images that they explain."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from transformers import BaseImageProcessor

from hf_finetune.data.images.bands import shown_bands
from hf_finetune.evaluation.labelled import fitting, font_for
from hf_finetune.models.processor import describe
from hf_finetune.shown_text import one_line

_LEAST_SIDE = 224  # pixels, to which a smaller image is enlarged by a whole number
_GAP, _LINE = 8, 22  # pixels between the two images, and of the line below them
_PAPER, _INK = "white", "#222222"
# From nothing to most, evenly spaced: dark blue, violet, red, orange, yellow. Lightness rises all the way, so that the
# order shows in grey and to colour-blind eyes as well.
_COLOURS = ((20, 20, 60), (95, 25, 125), (190, 50, 90), (240, 115, 40), (255, 225, 80))
_LEAST_COVER, _MOST_COVER = 0.35, 0.6  # of an image by the colour, where the map is 0 and where it is 1


def network_views(pixel_values: torch.Tensor, image_processor: BaseImageProcessor) -> list[Image.Image]:
    """Return images as a network sees them, in RGB; see `shown_bands` for images that are not.

    Args:
        pixel_values: Images of stage one (`EvaluationStage`), (batch, channels, height, width): uint8, or float32 where
            they are not RGB, or are normalized already.
        image_processor: What normalized them.
    """
    figures = describe(image_processor)
    if figures.channels is not None:
        return [shown_bands(image) for image in pixel_values.float().cpu().numpy()]
    levels = pixel_values.float()
    if pixel_values.dtype != torch.uint8:
        mean, std = (torch.tensor(values)[:, None, None] for values in (figures.mean, figures.std))
        levels = levels * std + mean
    if getattr(image_processor, "do_flip_channel_order", False):
        levels = levels.flip(1)
    pixels = levels.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(image) for image in pixels]


def as_large_as(view: Image.Image, heat_map: NDArray[np.float32]) -> Image.Image:
    """Return a heat map, float32 (rows, columns) of 0 to 1, in the size of an image, in grey."""
    levels = np.round(255 * heat_map).astype(np.uint8)  # before it is enlarged, so that rounding changes no pixel
    return Image.fromarray(levels).resize(view.size, Image.Resampling.BICUBIC)


def overlay(view: Image.Image, heat_map: NDArray[np.float32]) -> Image.Image:
    """Return an image with a heat map over it: dark where it is 0, from red to yellow where it is high.

    Args:
        view: The image, in RGB.
        heat_map: Float32 (rows, columns), from 0 to 1.
    """
    heat = np.asarray(as_large_as(view, heat_map), np.float32)[..., None] / 255
    places = np.linspace(0, 1, len(_COLOURS))
    colours = np.concatenate([np.interp(heat, places, channel) for channel in zip(*_COLOURS, strict=True)], axis=-1)
    cover = _LEAST_COVER + (_MOST_COVER - _LEAST_COVER) * heat
    mixed = (1 - cover) * np.asarray(view, np.float32) + cover * colours
    return Image.fromarray(mixed.round().astype(np.uint8))


def enlarged(view: Image.Image) -> Image.Image:
    """Return an image of at least 224 pixels, whose pixels are copied as often as that takes."""
    factor = max(1, -(-_LEAST_SIDE // max(view.size)))
    return view.resize((view.width * factor, view.height * factor), Image.Resampling.NEAREST)


def side_by_side(view: Image.Image, heat_map: NDArray[np.float32]) -> Image.Image:
    """Return an image, enlarged, and to the right of it the same with a heat map over it; see `overlay`."""
    large = enlarged(view)
    both = Image.new("RGB", (2 * large.width + _GAP, large.height), _PAPER)
    both.paste(large, (0, 0))
    both.paste(overlay(large, heat_map), (large.width + _GAP, 0))
    return both


def with_line(image: Image.Image, text: str) -> Image.Image:
    """Return an image with a line of text below it, which is cut where it is too long."""
    text = one_line(text)
    drawn = Image.new("RGB", (image.width, image.height + _LINE), _PAPER)
    drawn.paste(image, (0, 0))
    font: Any = font_for(text)
    ImageDraw.Draw(drawn).text((2, image.height + 4), fitting(text, font, image.width - 4), _INK, font)
    return drawn
