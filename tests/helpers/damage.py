"""Damage done to image files."""

from __future__ import annotations

from pathlib import Path

import PIL.Image


def spoil_pixels(path: Path) -> None:
    """Leave the header and the end of a PNG file as they are; what lies between cannot be decoded any more."""
    content = bytearray(path.read_bytes())
    middle = content.index(b"IDAT") + 20
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)


def write_bomb(path: Path) -> None:
    """A file of 50 kB with 400 million pixels."""
    PIL.Image.new("1", (20_000, 20_000)).save(path, format="PNG")
