"""Thumbnails of images as data URIs, as large as their number allows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

# Longest side in pixels and JPEG quality, the best first. At the last, an image takes about a kilobyte.
_FORMS = ((160, 82), (128, 78), (96, 72), (72, 65), (48, 55))
LARGEST_SIDE = _FORMS[0][0]


def thumbnail_sources(images: Sequence[Image.Image | None], budget: int) -> list[str]:
    """Return a data URI of each image, all of one form: the best whose URIs fit into a budget, else the smallest.

    Args:
        images: They may be of any size and mode, and are left as they are. None stands for one that cannot be had.
        budget: Characters of all URIs together.

    Returns:
        In the order of `images`; "" for None.
    """
    sources: list[str] = []
    for side, quality in _FORMS:
        sources = ["" if image is None else _source(image, side, quality) for image in images]
        if sum(map(len, sources)) <= budget:
            break
    return sources


def _source(image: Image.Image, side: int, quality: int) -> str:
    small = image.convert("RGB")
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
