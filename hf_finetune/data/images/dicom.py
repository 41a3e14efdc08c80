"""DICOM images, which the package pydicom reads, an extra of this package: one grey channel, or RGB of 8 bits.

Stored values become those of the modality (rescale slope and intercept), such as Hounsfield units. A file that has a
window is shown by it, in 8 bits, as a viewer would; without one, or where a range of values is stated, its values are
scaled like those of any image of more than 8 bits. MONOCHROME1, where low values are white, is inverted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageFile

from hf_finetune.data.images.levels import ValueRange, to_levels

NEEDS_DICOM = "DICOM, which pydicom reads: pip install 'hf-finetune[medical]'"
FORMAT = "DICOM"
_PREAMBLE = 128  # bytes before the mark of a file, DICOM PS3.10 section 7.1
_GREY = ("MONOCHROME1", "MONOCHROME2")


def is_dicom(header: bytes) -> bool:
    """Return whether a file that begins so is DICOM."""
    return header[_PREAMBLE : _PREAMBLE + 4] == b"DICM"


class DicomImage(PIL.ImageFile.ImageFile):
    """A file whose header has been read; its pixels are decoded when they are asked for."""

    format = FORMAT
    format_description = "DICOM"

    def _open(self) -> None:
        import pydicom  # optional, and 0.2 s

        file: Any = self.fp
        header: Any = pydicom.dcmread(file, stop_before_pixels=True)
        if "Rows" not in header:
            raise ValueError("it is DICOM without an image")
        self._kind = str(header.PhotometricInterpretation)
        is_grey = self._kind in _GREY
        if not is_grey and (int(header.SamplesPerPixel) != 3 or int(header.BitsStored) != 8):
            raise ValueError(f"it is DICOM of the kind {self._kind}; use greyscale, or colours of 8 bits")
        self._header = header
        self._size = int(header.Columns), int(header.Rows)
        self._mode = "RGB" if not is_grey else "L" if self.has_window else "F"
        self._values: npt.NDArray[Any] | None = None
        self.n_frames = int(header.get("NumberOfFrames", 1) or 1)
        self.is_animated = self.n_frames > 1
        self.tile = []

    @property
    def has_window(self) -> bool:
        """Whether the file says which values are shown as black and white."""
        return "WindowCenter" in self._header and "WindowWidth" in self._header

    def values(self) -> npt.NDArray[Any]:
        """Return the values of the first frame: of the modality, float32 (rows, columns), or uint8 (rows, columns, 3).

        Raises any kind of error for a broken file.
        """
        if self._values is None:
            from pydicom.pixels.processing import apply_modality_lut
            from pydicom.pixels.utils import pixel_array

            file: Any = self.fp
            file.seek(0)
            stored = pixel_array(file, index=0)
            grey = self._kind in _GREY
            self._values = apply_modality_lut(stored, self._header).astype(np.float32) if grey else stored
        return self._values

    def load(self) -> Any:
        """Decode the pixels, as a window shows them, or else as they are."""
        if self._im is None:
            shown = self.levels(None) if self.mode == "L" else self.values()
            self.im = PIL.Image.fromarray(shown).im
        return super().load()

    def levels(self, value_range: ValueRange | None) -> npt.NDArray[np.uint8]:
        """Return a greyscale image in 8 bits, uint8 (rows, columns).

        Args:
            value_range: The values that become black and white; None for the file's window, or those of the type.
        """
        values = self.values()
        levels = to_levels(values, value_range) if value_range or not self.has_window else self._windowed(values)
        return 255 - levels if self._kind == "MONOCHROME1" else levels

    def _windowed(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Return values as the file's first window shows them, by DICOM PS3.3 section C.11.2.1.2 and C.11.2.1.3."""
        center, width = (float(np.atleast_1d(self._header[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        function = str(self._header.get("VOILUTFunction", "LINEAR"))
        if function == "SIGMOID":
            share = 1 / (1 + np.exp(-4 * (values - center) / width))
        elif function == "LINEAR_EXACT":
            share = (values - center) / width + 0.5
        else:
            share = (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
        return (255 * share.clip(0, 1)).round().astype(np.uint8)


def register() -> None:
    """Let Pillow open DICOM files in this process. Raises `ImportError` without pydicom."""
    import pydicom  # noqa: F401 - optional

    PIL.Image.register_open(FORMAT, DicomImage, is_dicom)
