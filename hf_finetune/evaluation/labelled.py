"""Texts in images: a font that has their characters, and as much of a text as fits."""

from __future__ import annotations

from typing import Any

from PIL import ImageFont

_FONT_SIZE = 12


def font_for(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font that has the characters of a text, where one is installed."""
    if text.isascii():
        return ImageFont.load_default(_FONT_SIZE)
    from matplotlib.font_manager import findfont

    from hf_finetune.evaluation.fonts import families_for  # matplotlib, which takes half a second

    return ImageFont.truetype(findfont(families_for(text)[0][-1]), _FONT_SIZE)


def fitting(text: str, font: Any, width: int) -> str:
    """Return a text, or its beginning and dots, no wider than a number of pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
