"""From an image's bytes or file to pixels, and a quick look at its header.

For an ordinary 8-bit image `decode_image` returns the same pixels as transformers' `image_utils.load_image`, which
`pipeline("image-classification")` uses. Images of more than 8 bits are scaled by one range of values for all, because
Pillow's conversion would clip them to white.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import PIL.TiffImagePlugin

from hf_finetune.data.images.dicom import DicomImage
from hf_finetune.data.images.heif import MissingDecoder, open_image
from hf_finetune.data.images.levels import ValueRange, is_wide, to_levels
from hf_finetune.errors import UserError

# fmt: off
IMAGE_EXTENSIONS = (
    ".apng", ".avif", ".bmp", ".dcm", ".dib", ".dicom", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2",
    ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
)
# fmt: on

ARRAY_EXTENSION = ".npy"  # of arrays, which are images where they are named as such (`bands`)

# The last bytes of a complete file. A file that ends otherwise may be truncated, or have something appended.
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_LATE_EXIF = 4096  # bytes at the end of a PNG in which EXIF and XMP are looked for
_OF_CAMERAS = ("HEIF", "MPO")  # formats in which a camera stores more than the photo
NO_SUCH_FILE = "no such file"  # the reason of an UnreadableImage whose file does not exist
_REDUCTIONS = (8, 4, 2)  # at which libjpeg decodes for less than the whole work
_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_WIDTH, _LENGTH = PIL.ExifTags.Base.ImageWidth, PIL.ExifTags.Base.ImageLength


ImageValue: TypeAlias = Mapping[str, Any] | str | bytes | Path | PIL.Image.Image


class Unused(IntFlag):
    """What a file holds beside the 8 bits per channel of its first image, which are used, here and by `pipeline`."""

    NONE = 0
    MORE = 1  # pages of a TIFF, frames of an animation
    OF_CAMERA = 2  # what cameras add to a photo: a gain map, a depth map, a second view
    LOW_BITS = 4  # of colours with more than 8 bits per channel, which Pillow reduces


class Header(NamedTuple):
    """What the header of an image shows.

    Attributes:
        height: The height of the upright image in pixels.
        width: Its width in pixels.
        unused: What the file holds beside the image.
        wide: Whether its pixels have more than 8 bits.
    """

    height: int
    width: int
    unused: Unused = Unused.NONE
    wide: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width


@dataclass(frozen=True)
class Decoding:
    """What decides the pixels of an image beside its file.

    Attributes:
        on_white: Whether pixels of a transparent colour (`tRNS` of PNG, GIF) become white. Image processors with
            `do_convert_rgb` do this in `pipeline`, which has dropped every other kind of alpha before.
        value_range: The values that become 0 and 255 in images of more than 8 bits; None for those of their type.
        channels: How many channels images have that are read as they are stored (`bands`); None for RGB of 8 bits.
    """

    on_white: bool = False
    value_range: ValueRange | None = None
    channels: int | None = None


AS_STORED = Decoding()


class UnreadableImage(UserError):
    """An image that cannot be read.

    Attributes:
        name: Its path, or words where it has none.
        reason: Why, in words: "not an image".
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be read as an image: {reason}.")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.reason)  # pickled from a loader's worker to the main process


class OpenImage:
    """An image whose header has been read, but not its pixels. A context manager that closes the file.

    Attributes:
        height: The height of the upright image in pixels.
        width: The width of the upright image in pixels.
        mode: Its mode, as Pillow calls it.
        format: The format of its file, as Pillow calls it; "" without a file.
        orientation: Its EXIF orientation, 1 to 8; 0 without.
    """

    def __init__(self, value: ImageValue) -> None:
        """Read the header.

        Args:
            value: A path, the bytes of an image file, {"bytes", "path"} as in a column of `datasets` (bytes win), or a
                PIL image.

        Raises:
            UnreadableImage: There is no image, or its header cannot be read.
        """
        self._value = value
        self._file: BinaryIO | None = None
        try:
            if isinstance(value, PIL.Image.Image):
                self._image = value
            else:
                self._file = content_of(value)
                self._image = open_image(self._file)
            orientation = self._orientation()
        except Exception as error:  # decoders raise errors of any kind for broken files
            self.close()
            raise UnreadableImage(image_name(value), reason_of(error, value)) from error
        width, height = self._image.size
        turns = orientation in _TRANSPOSING_ORIENTATIONS
        if turns and isinstance(self._image, PIL.TiffImagePlugin.TiffImageFile):
            # Pillow 11.1 and later give the size of the upright image already.
            width, height = (self._image.tag_v2[tag] for tag in (_WIDTH, _LENGTH))
        self.height, self.width = (width, height) if turns else (height, width)
        self.mode, self.format = self._image.mode, self._image.format or ""
        self.orientation = orientation if orientation in range(1, 9) else 0

    def __enter__(self) -> OpenImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, if this object opened it."""
        if self._file is not None:
            self._file.close()

    @property
    def unused(self) -> Unused:
        """What the file holds beside the 8 bits per channel of this image."""
        return self._other_images() | (Unused.LOW_BITS if self._has_low_bits() else Unused.NONE)

    def _has_low_bits(self) -> bool:
        """Return whether Pillow reduces colours to 8 bits, which only its decoder's arguments show ("RGB;16B")."""
        if is_wide(self.mode):
            return False
        for codec, _, _, arguments in getattr(self._image, "tile", []):
            if codec.startswith("ppm"):  # ("RGB", 65535): the mode and the greatest value
                return bool(arguments[-1] > 255)
            if ";16" in str(arguments):
                return True
        return False

    def _other_images(self) -> Unused:
        if self._image.format == "PSD":  # its layers are parts of the one image
            return Unused.NONE
        try:
            if not getattr(self._image, "is_animated", False):
                return Unused.NONE
        except Exception:  # a GIF that is broken after its first frame, which counts alone
            return Unused.NONE
        return Unused.OF_CAMERA if self._image.format in _OF_CAMERAS else Unused.MORE

    def _orientation(self) -> int | None:
        """Return the EXIF orientation, None without. Only a PNG that has it after its pixels is decoded."""
        image = self._image
        if image.format == "PNG" and self._file is not None:
            tail = self._tail(self._file, _LATE_EXIF)
            if not any(name in tail for name in (b"eXIf", b"Orientation")):
                image = PIL.Image.Image()  # its getexif does not look behind the pixels
                image.info = self._image.info
        return image.getexif().get(PIL.ExifTags.Base.Orientation)

    @staticmethod
    def _tail(file: BinaryIO, size: int) -> bytes:
        position = file.tell()
        file.seek(-min(size, file.seek(0, os.SEEK_END)), os.SEEK_END)
        tail = file.read()
        file.seek(position)
        return tail

    def decode(self, reduction: int = 1, how: Decoding = AS_STORED) -> PIL.Image.Image:
        """Decode the image to upright RGB, 8 bits per channel.

        EXIF orientation is applied. Alpha, also that of a palette, is dropped without a background, as `pipeline` does.
        Colour profiles and gamma are not applied.
        Images of more than 8 bits are scaled, by `how.value_range` or a range that depends on their type alone
        (`levels`).

        Args:
            reduction: 1, 2, 4 or 8. A JPEG is decoded at one over this fraction of its sides, rounded up, which saves
                the same share of the inverse cosine transform (scaled decoding of libjpeg). Other formats are decoded
                at full size.
            how: What decides the pixels beside the file.

        Returns:
            The image in mode RGB.

        Raises:
            UnreadableImage: The pixels cannot be decoded.
        """
        try:
            if reduction > 1 and self._image.format != "HEIF":  # pillow-heif would take the embedded thumbnail
                width, height = self._image.size
                self._image.draft(None, (max(1, width // reduction), max(1, height // reduction)))
            image = _to_rgb(self._image, how.value_range)
            return _on_white(image) if how.on_white else image
        except Exception as error:
            raise UnreadableImage(image_name(self._value), reason_of(error, self._value)) from error

    def values(self) -> npt.NDArray[np.generic]:
        """Return the pixels as Pillow stores them, of shape (height, width) or (height, width, channels).

        Raises:
            UnreadableImage: The pixels cannot be decoded.
        """
        try:
            return np.asarray(self._image)
        except Exception as error:
            raise UnreadableImage(image_name(self._value), reason_of(error, self._value)) from error

    def check_end(self) -> None:
        """Decode a file without the end marker of its format, to find out whether it is truncated.

        Raises:
            UnreadableImage: The file is truncated.
        """
        ending = _ENDINGS.get(self._image.format or "", b"")
        if self._file is None or not ending:
            return
        try:
            if self._tail(self._file, len(ending)) != ending:
                self._image.load()
        except Exception as error:
            raise UnreadableImage(image_name(self._value), reason_of(error, self._value)) from error


def decode_image(value: ImageValue, how: Decoding = AS_STORED) -> PIL.Image.Image:
    """Return an image as upright RGB, 8 bits per channel; see `OpenImage`. Raises `UnreadableImage`."""
    with OpenImage(value) as image:
        return image.decode(how=how)


def read_header(value: ImageValue) -> Header:
    """Return what an image's header shows.

    Only a file without the end marker of its format is decoded, to find out whether it is truncated. Raises
    `UnreadableImage`.
    """
    with OpenImage(value) as image:
        image.check_end()
        return Header(image.height, image.width, image.unused, is_wide(image.mode))


def image_name(value: Any) -> str:
    """Return the path of an image, or words where it has none."""
    if isinstance(value, Mapping):
        value = value.get("path")
    return str(value) if isinstance(value, str | Path) and str(value) else "an image without a name"


def shown_name(path: str | Path | None, folder: Path | None, role: str, row: int) -> str:
    """Return what messages call an image: its path below the dataset's folder, or its row where it is no file.

    Args:
        path: Where it is; only an absolute path is a file.
        folder: The folder of the dataset, if it is one.
        role: The split.
        row: The row of the split in the source.
    """
    path = Path(path or "")
    if not path.is_absolute():
        return f"row {row} of {role}"
    folder = None if folder is None else folder.absolute()
    return str(path.relative_to(folder) if folder is not None and path.is_relative_to(folder) else path)


def reduction_for(height: float, width: float, target_height: float, target_width: float) -> int:
    """Return the largest reduction of `OpenImage.decode` that leaves the wanted pixels on both sides.

    Args:
        height: Of the image or its crop, in pixels.
        width: Likewise.
        target_height: The wanted pixels.
        target_width: Likewise.
    """
    most = min(height / target_height, width / target_width)
    return next((reduction for reduction in _REDUCTIONS if reduction <= most), 1)


def content_of(value: Any) -> BinaryIO:
    """Open the file of an image, or its bytes; `OpenImage` says what they are. Raises errors of any kind."""
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if value is None:
        raise ValueError("there is no image")
    if isinstance(value, bytes):
        return io.BytesIO(value)
    if not stat.S_ISREG(os.stat(value).st_mode):
        raise ValueError("a folder, pipe or device, and not a file")  # a pipe could be waited for without end
    return open(value, "rb")


def _to_rgb(image: PIL.Image.Image, value_range: ValueRange | None) -> PIL.Image.Image:
    if image.getexif().get(PIL.ExifTags.Base.Orientation) is not None:
        image = PIL.ImageOps.exif_transpose(image)
    if isinstance(image, DicomImage) and image.mode != "RGB":
        image = PIL.Image.fromarray(image.levels(value_range))
    elif is_wide(image.mode):
        image = PIL.Image.fromarray(to_levels(np.asarray(image), value_range))
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the colours are the same without this step, but Pillow would warn
    return image.convert("RGB")


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return an RGB image whose transparent colour, if Pillow has kept one in `info`, is white."""
    if image.info.get("transparency") is None:
        return image
    transparent = image.convert("RGBA")
    result = PIL.Image.new("RGB", image.size, "white")
    result.paste(transparent, mask=transparent)
    return result


def reason_of(error: Exception, value: Any) -> str:
    """Return in words why an image cannot be read."""
    if isinstance(error, FileNotFoundError):
        return NO_SUCH_FILE
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, MissingDecoder):
        return str(error)
    if isinstance(error, PIL.UnidentifiedImageError):
        with content_of(value) as file:
            return "not an image" if file.read(1) else "empty file"
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"more than {2 * (PIL.Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
