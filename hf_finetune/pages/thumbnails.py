"""Thumbnails of images as data URIs, as large as their number allows."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

from PIL import Image

# Longest side in pixels and JPEG quality, the best first. At the last, an image takes about a kilobyte.
_FORMS = ((160, 82), (128, 78), (96, 72), (72, 65), (48, 55))
LARGEST_SIDE = _FORMS[0][0]
_TRIED = 16  # images by which a form is judged


def thumbnail_sources(images: Sequence[Image.Image | None], budget: int, side: int = LARGEST_SIDE) -> list[str]:
    """Return a data URI of each image, all of one form: the best whose URIs fit into a budget, else the smallest.

    Args:
        images: They may be of any size and mode, and are left as they are. None stands for one that cannot be had.
        budget: Characters of all URIs together.
        side: The longest side of the best form in pixels.

    Returns:
        In the order of `images`; "" for None.
    """
    there = [image for image in images if image is not None]
    some = there[:: math.ceil(len(there) / _TRIED) or 1]
    sources: list[str] = []
    forms = [(longest * side // LARGEST_SIDE, quality) for longest, quality in _FORMS]
    for form in forms:
        if form != forms[-1] and len(there) * sum(len(_source(image, *form)) for image in some) > budget * len(some):
            continue
        sources = ["" if image is None else _source(image, *form) for image in images]
        if sum(map(len, sources)) <= budget:
            break
    return sources


def _source(image: Image.Image, side: int, quality: int) -> str:
    small = image.convert("RGB")
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
