"""Images of any number of channels, read as they are stored: arrays of NumPy, TIFF files, and what Pillow opens.

Nothing is scaled or converted to colours. Their values, of 8 or 16 bits or floating point, become float32, and mean and
standard deviation are in the units of the file. TIFF files are read by the package tifffile, which is optional: Pillow
opens none of more than 4 channels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import PIL.Image

from hf_finetune.data.images.decoding import (
    Header,
    ImageValue,
    OpenImage,
    UnreadableImage,
    content_of,
    image_name,
    reason_of,
)
from hf_finetune.data.images.levels import is_wide
from hf_finetune.errors import UserError

Pixels = npt.NDArray[np.float32]

NPY = b"\x93NUMPY"  # how a file of numpy.save begins
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF of both byte orders
# Values that float32 holds; float64 is rounded to it.
_TYPES = ("uint8", "int8", "uint16", "int16", "float16", "float32", "float64")
_OF_MODE = {"1": 1, "L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}  # the modes of Pillow whose values are those of channels
_LOW, _HIGH = 2, 98  # percentiles of a channel that are shown as black and white
_LOOKED_AT = 64  # images of a split, evenly spread, that stand for all


@dataclass(frozen=True)
class Stored:
    """What the header of an image says.

    Attributes:
        height: In pixels.
        width: In pixels.
        channels: How many it has; None for an array that does not show which of its axes they are.
        dtype: The type of its values.
        layout: "HWC", "CHW" or "HW": the axes of an array; None where the file says them itself.
        shape: The shape of an array.
        turned: Whether EXIF turns it.
    """

    height: int
    width: int
    channels: int | None
    dtype: str
    layout: str | None = None
    shape: tuple[int, ...] = ()
    turned: bool = False


class OtherChannels(UnreadableImage):
    """An image that is whole, and has another number of channels than it is to have.

    Attributes:
        channels: How many it has.
    """

    def __init__(self, name: str, reason: str, channels: int) -> None:
        super().__init__(name, reason)
        self.channels = channels

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.reason, self.channels)


class NeedsTifffile(UserError):
    """A TIFF file is to be read as it is stored, and tifffile is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "TIFF files are read as they are stored by the package tifffile; install it with `pip install"
            ' "hf-finetune[bands]"`.'
        )


def is_stored_as_bands(value: ImageValue) -> bool:
    """Return whether an image is an array or a TIFF file, which may have any number of channels."""
    try:
        with content_of(value) as file:
            start = file.read(len(NPY))
    except Exception:  # a PIL image, or no file: its reader tells it
        return False
    return start.startswith((NPY, *_TIFF))


def look(value: ImageValue, channels: int | None = None) -> Stored:
    """Return what the header of an image says; no pixel is read.

    Args:
        value: An image as `OpenImage` takes it.
        channels: How many it is to have; None where that is not known yet.

    Raises:
        UnreadableImage: It cannot be read, or is no image of so many channels.
        NeedsTifffile: It is a TIFF file, and tifffile is not installed.
    """
    with _named(value), _opened(value) as (file, start):
        if start == NPY:
            stored, _, _ = _array_header(file, channels)
        elif start.startswith(_TIFF):
            with _tiff(file) as series:
                stored = _of_tiff(series)
        else:
            stored = _of_pillow(value)
        return _checked(value, stored, channels)


def find_other_channels(values: Iterable[ImageValue], channels: int) -> OtherChannels | None:
    """Return what is wrong with the first image where all have another number of channels; None where one has not.

    Args:
        values: Images as `OpenImage` takes them. None is asked for after one that has so many, or cannot be read.
        channels: How many they are to have.

    Raises:
        NeedsTifffile: One is a TIFF file, and tifffile is not installed.
    """
    first = None
    for value in values:
        try:
            look(value, channels)
        except OtherChannels as error:
            first = first or error
        except UnreadableImage:
            return None
        else:
            return None
    return first


def count_channels(channels: int) -> str:
    """Return a number of channels in words."""
    return "1 channel" if channels == 1 else f"{channels} channels"


def rows_to_look_at(count: int) -> list[int]:
    """Return rows, evenly spread, whose images stand for those of so many."""
    return [int(row) for row in np.linspace(0, count - 1, min(_LOOKED_AT, count))]


def read_band_header(value: ImageValue, channels: int) -> Header:
    """Return the size of an image of so many channels; see `look`."""
    stored = look(value, channels)
    return Header(stored.height, stored.width)


def read_bands(value: ImageValue, channels: int) -> Pixels:
    """Return the values of an image as they are stored.

    Args:
        value: An image as `OpenImage` takes it.
        channels: How many channels it has.

    Returns:
        Float32 of shape (channels, height, width).

    Raises:
        UnreadableImage: It cannot be read, has another number of channels, or values that are not finite.
        NeedsTifffile: It is a TIFF file, and tifffile is not installed.
    """
    with _named(value), _opened(value) as (file, start):
        if start == NPY:
            stored, order, offset = _array_header(file, channels)
            _checked(value, stored, channels)
            file.seek(offset)
            array = np.frombuffer(file.read(), np.dtype(order), count=int(np.prod(stored.shape)))
            array = _channels_first(array.reshape(stored.shape), stored.layout)
        elif start.startswith(_TIFF):
            with _tiff(file) as series:
                _checked(value, _of_tiff(series), channels)
                array = _tiff_pixels(series)
        else:
            _checked(value, _of_pillow(value), channels)
            with OpenImage(value) as opened:
                array = opened.values()
            array = np.atleast_3d(array).transpose(2, 0, 1)
        pixels = np.ascontiguousarray(array, np.float32)
        if array.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ValueError("some of its values are not finite (NaN or infinite)")
        return pixels


def shown_bands(pixels: Pixels) -> PIL.Image.Image:
    """Return an image to look at: its first three channels as red, green and blue, or the first one in gray.

    What is shown as black and white are the percentiles 2 and 98 of each channel. No network sees this.

    Args:
        pixels: Float32 of shape (channels, height, width).
    """
    shown = pixels[:3] if len(pixels) >= 3 else pixels[:1].repeat(3, axis=0)
    low, high = np.percentile(shown, (_LOW, _HIGH), axis=(1, 2), keepdims=True)
    levels = 255 * (shown - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return PIL.Image.fromarray(levels.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))


@contextmanager
def _opened(value: ImageValue) -> Iterator[tuple[BinaryIO, bytes]]:
    """Open an image, and give its file and how it begins; a PIL image has neither."""
    with io.BytesIO() if isinstance(value, PIL.Image.Image) else content_of(value) as file:
        start = file.read(len(NPY))
        file.seek(0)
        yield file, start


@contextmanager
def _named(value: ImageValue) -> Iterator[None]:
    """Let errors of any reader be those of an image that cannot be read."""
    try:
        yield
    except (UnreadableImage, NeedsTifffile):
        raise
    except Exception as error:  # readers raise errors of any kind for broken files
        raise UnreadableImage(image_name(value), reason_of(error, value)) from error


def _checked(value: ImageValue, stored: Stored, channels: int | None) -> Stored:
    if channels is not None and stored.channels != channels:
        if stored.channels is None:
            raise ValueError(f"its shape is {stored.shape}, of which no end is the {count_channels(channels)}")
        reason = f"it has {count_channels(stored.channels)} instead of {channels}"
        raise OtherChannels(image_name(value), reason, stored.channels)
    if stored.turned:
        raise ValueError("it is turned by EXIF, which is not done to channels; save it upright")
    if stored.dtype not in _TYPES:
        raise ValueError(f"its values are {stored.dtype}; use uint8, uint16, int16 or float32")
    if stored.height * stored.width > 2 * (PIL.Image.MAX_IMAGE_PIXELS or 2**62):
        raise ValueError(f"more than {2 * (PIL.Image.MAX_IMAGE_PIXELS or 0):,} pixels")
    return stored


# ---- arrays ----


def _array_header(file: BinaryIO, channels: int | None) -> tuple[Stored, str, int]:
    """Return what the header of a .npy file says, the type of its values with their byte order, and where they begin.

    No pickle is opened: an array of objects is refused here.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    offset = file.tell()
    if dtype.hasobject or dtype.names is not None:
        raise ValueError("it holds objects, which may run code and are not opened; save numbers")
    if columns_first:
        raise ValueError("it is stored in Fortran order; save it by numpy.save(file, numpy.ascontiguousarray(array))")
    if file.seek(0, os.SEEK_END) < offset + dtype.itemsize * int(np.prod(shape)):
        raise ValueError("the file is truncated")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"its shape is {shape}; use height x width x channels, or channels x height x width")
    layout = _layout(shape, channels)
    height, width = shape[1:] if layout == "CHW" else shape[:2]
    of_axis = {"HW": 1, "HWC": shape[-1], "CHW": shape[0], None: None}
    return Stored(height, width, of_axis[layout], dtype.name, layout, shape), dtype.str, offset


def _layout(shape: tuple[int, ...], channels: int | None) -> str | None:
    """Return which axes of an array are height, width and channels: at its end, or else at its beginning.

    Where the number of channels is not known, or is that of neither, they are the one axis that is shorter than both
    others.
    """
    if len(shape) == 2:
        return "HW"
    first, middle, last = shape
    if channels in (first, last):
        return "HWC" if last == channels else "CHW"
    return "HWC" if last < min(first, middle) else "CHW" if first < min(middle, last) else None


def _channels_first(array: npt.NDArray[Any], layout: str | None) -> npt.NDArray[Any]:
    return array.transpose(2, 0, 1) if layout == "HWC" else array.reshape(-1, *array.shape[-2:])


# ---- TIFF ----


@contextmanager
def _tiff(file: BinaryIO) -> Iterator[Any]:
    """Open a TIFF file, and give its first series of pages: those that are one image."""
    if find_spec("tifffile") is None:
        raise NeedsTifffile
    import tifffile  # optional, and 0.1 s

    with tifffile.TiffFile(file) as tiff:
        yield tiff.series[0]


def _axes(series: Any) -> tuple[str, tuple[int, ...]]:
    """Return the axes of a series by the letters of tifffile, and their lengths; those of length 1 are left out."""
    pairs = [
        (axis, length) for axis, length in zip(series.axes, series.shape, strict=True) if length > 1 or axis in "YX"
    ]
    axes = "".join(axis for axis, _ in pairs)
    if len(pairs) > 3 or "Y" not in axes or "X" not in axes:
        raise ValueError(f"it has the axes {series.axes} of lengths {series.shape}, which are not those of one image")
    return axes, tuple(length for _, length in pairs)


def _of_tiff(series: Any) -> Stored:
    axes, lengths = _axes(series)
    by_axis = dict(zip(axes, lengths, strict=True))
    channels = next((length for axis, length in by_axis.items() if axis not in "YX"), 1)
    return Stored(by_axis["Y"], by_axis["X"], channels, np.dtype(series.dtype).name)


def _tiff_pixels(series: Any) -> npt.NDArray[Any]:
    axes, lengths = _axes(series)
    array = series.asarray().reshape(lengths)
    other = next((place for place, axis in enumerate(axes) if axis not in "YX"), None)
    order = [axes.index("Y"), axes.index("X")]
    return array.transpose(order)[None] if other is None else array.transpose([other, *order])


# ---- what Pillow opens ----


def _of_pillow(value: ImageValue) -> Stored:
    with OpenImage(value) as opened:
        mode = opened.mode
        channels = 1 if (wide := is_wide(mode)) else _OF_MODE.get(mode)
        if channels is None:
            raise ValueError(f"its mode is {mode}, whose values are not those of channels; use a TIFF file or an array")
        dtype = "float32" if mode == "F" else "uint16" if wide else "uint8"
        turned = opened.orientation not in (0, 1)
        return Stored(opened.height, opened.width, channels, dtype, turned=turned)
