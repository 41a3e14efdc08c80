"""From an image's bytes or file to pixels, and a quick look at its header.

What `decode_image` returns for an ordinary 8-bit image is, pixel for pixel, what transformers'
`image_utils.load_image` returns, which is what `pipeline("image-classification")` sees. Images of more than 8 bits,
which Pillow's own conversion clips to white, are scaled.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from hf_finetune.errors import UserError

# fmt: off
IMAGE_EXTENSIONS = (
    ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)
# fmt: on

# The last bytes of a whole file. A file that ends otherwise may be cut short, or merely have something appended.
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
NO_SUCH_FILE = "no such file"  # the reason of an UnreadableImage whose path leads nowhere
_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


class UnreadableImage(UserError):
    """An image that cannot be read: `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be read as an image: {reason}.")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.reason)  # it crosses from a loader's worker to the main process


class OpenImage:
    """An image whose header has been read and whose pixels have not. A context manager; closes its file.

    `value` is a path, the bytes of a file, `{"bytes": ..., "path": ...}` as in a `datasets` column (bytes win), or an
    open image. `height` and `width` are those of the upright image, in pixels. Raises `UnreadableImage`, a
    `UserError` that names the image, here and in `decode`.
    """

    def __init__(self, value: Mapping[str, Any] | str | bytes | Path | PIL.Image.Image) -> None:
        self._value = value
        self._file: BinaryIO | None = None
        try:
            if isinstance(value, PIL.Image.Image):
                self._image = value
            else:
                self._file = _open_file(value)
                self._image = PIL.Image.open(self._file)
            # PNG's own getexif would decode the image, in search of a tag behind it.
            orientation = PIL.Image.Image.getexif(self._image).get(PIL.ExifTags.Base.Orientation)
        except Exception as error:  # decoders of broken files raise whatever they stumble over
            self.close()
            raise UnreadableImage(image_name(value), _reason(error, value)) from error
        sides = self._image.size if orientation in _TRANSPOSING_ORIENTATIONS else reversed(self._image.size)
        self.height, self.width = sides

    def __enter__(self) -> OpenImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def decode(self, reduction: int = 1) -> PIL.Image.Image:
        """Returns the image as upright RGB, uint8.

        A `reduction` of 2, 4 or 8 lets a JPEG be decoded at that fraction of its sides (rounded up), which takes that
        much less of its inverse cosine transform (libjpeg's scaled decoding); other formats come whole. EXIF
        orientation is applied. Alpha, a palette's too, is dropped and not laid over a background, because the pipeline
        does so. 16-bit images keep their high byte; 32-bit integers are taken as 16-bit values; floating-point
        images are taken as 0 to 1 where no value is above 1, and as 0 to 255 otherwise.
        """
        try:
            if reduction > 1:
                width, height = self._image.size
                self._image.draft(None, (max(1, width // reduction), max(1, height // reduction)))
            return _to_rgb(self._image)
        except Exception as error:
            raise UnreadableImage(image_name(self._value), _reason(error, self._value)) from error

    def check_end(self) -> None:
        """Decodes a file that does not end as its format does, to see whether it is cut short."""
        ending = _ENDINGS.get(self._image.format or "", b"")
        if self._file is None or not ending:
            return
        try:
            position = self._file.tell()
            self._file.seek(-min(len(ending), self._file.seek(0, os.SEEK_END)), os.SEEK_END)
            whole = self._file.read() == ending
            self._file.seek(position)
            if not whole:
                self._image.load()
        except Exception as error:
            raise UnreadableImage(image_name(self._value), _reason(error, self._value)) from error


def decode_image(value: Mapping[str, Any] | str | bytes | Path | PIL.Image.Image) -> PIL.Image.Image:
    """Returns a whole image as upright RGB, uint8; see `OpenImage`. Raises `UnreadableImage`."""
    with OpenImage(value) as image:
        return image.decode()


def read_image_size(value: Mapping[str, Any] | str | bytes | Path) -> tuple[int, int]:
    """Returns (height, width) in pixels of the upright image from its header, without decoding it.

    Only a file that does not end as its format does is decoded, to see whether it is cut short. Raises
    `UnreadableImage`.
    """
    with OpenImage(value) as image:
        image.check_end()
        return image.height, image.width


def image_name(value: Any) -> str:
    """Returns the path of an image, or words where it has none."""
    if isinstance(value, Mapping):
        value = value.get("path")
    return str(value) if isinstance(value, str | Path) and str(value) else "an image without a name"


def _open_file(value: Any) -> BinaryIO:
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if value is None:
        raise ValueError("there is no image")
    return io.BytesIO(value) if isinstance(value, bytes) else open(value, "rb")


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.getexif().get(PIL.ExifTags.Base.Orientation) is not None:
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = PIL.Image.fromarray((np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8))
    elif image.mode == "F":
        pixels = np.nan_to_num(np.asarray(image), posinf=255.0)
        scale = 255.0 if pixels.max(initial=0.0) <= 1.0 else 1.0
        image = PIL.Image.fromarray((pixels * scale).clip(0, 255).round().astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours as without this step, which would warn of lost transparency
    return image.convert("RGB")


def _reason(error: Exception, value: Any) -> str:
    if isinstance(error, FileNotFoundError):
        return NO_SUCH_FILE
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, PIL.UnidentifiedImageError):
        with _open_file(value) as file:
            return "not an image" if file.read(1) else "empty file"
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"more than {2 * (PIL.Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
