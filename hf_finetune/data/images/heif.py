"""HEIF images, which iPhones take, AVIF and DICOM images: what reads them, and what to install where nothing does.

Pillow reads no HEIF; pillow-heif, an extra of this package, does. It is imported when the first such file is met, and
then registers itself with Pillow. What counts is the content: many a .jpg from a phone is HEIF.
"""

from __future__ import annotations

from typing import BinaryIO

import PIL.Image

from hf_finetune.data.images import dicom
from hf_finetune.errors import UserError

NEEDS_HEIF = "HEIC, which pillow-heif reads: pip install 'hf-finetune[heif]'"
NEEDS_AVIF = "AVIF, which this Pillow does not read: pip install --upgrade pillow"

# ISO/IEC 14496-12, section 4.3: a file begins with its size, "ftyp" and its major brand. Brands of HEIF are those of
# ISO/IEC 23008-12, annex B and section 10; "avif" and "avis" are those of AV1.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_HEADER = 132  # bytes in which the mark of DICOM is, and the compatible brands of an image


class MissingDecoder(UserError):
    """An image that another library would read."""


def open_image(file: BinaryIO) -> PIL.Image.Image:
    """Open an image as `PIL.Image.open` does, HEIF and DICOM included.

    Args:
        file: An open file, at its beginning.

    Returns:
        The image, whose pixels are not decoded yet.

    Raises:
        MissingDecoder: It is HEIF, AVIF or DICOM, and what reads these is not installed.
        Exception: Whatever Pillow raises for other files.
    """
    try:
        return PIL.Image.open(file)
    except PIL.UnidentifiedImageError:
        file.seek(0)
        header = file.read(_HEADER)
        file.seek(0)
        if dicom.is_dicom(header):
            return _open_dicom(file)
        if header[4:8] != b"ftyp":
            raise
        if header[8:12] in _AVIF_BRANDS or (header[8:12] == b"mif1" and any(brand in header for brand in _AVIF_BRANDS)):
            raise MissingDecoder(NEEDS_AVIF) from None
        if header[8:12] not in _HEIF_BRANDS:
            raise
        if "HEIF" in PIL.Image.OPEN:  # the decoder is there, and the file is damaged
            raise
        _register()
        return PIL.Image.open(file)


def _open_dicom(file: BinaryIO) -> PIL.Image.Image:
    try:
        dicom.register()
    except ImportError:
        raise MissingDecoder(dicom.NEEDS_DICOM) from None
    return dicom.DicomImage(file)


def _register() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise MissingDecoder(NEEDS_HEIF) from None
    pillow_heif.register_heif_opener()
