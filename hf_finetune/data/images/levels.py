"""Images of more than 8 bits as images of 8 bits: a range of values becomes the levels 0 to 255.

The file imports nothing of this package, since it is saved beside the weights of models that need it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ValueRange = tuple[float, float]
"""The lowest and the highest value; what is below or above is clipped."""

# Without a range, the values that a mode can hold: 16 bits, also of what Pillow hands out as 32 bits; and 0 to 1, the
# custom of floating point.
_WHOLE_NUMBERS: ValueRange = (0, 65535)
_FLOATING_POINT: ValueRange = (0, 1)


def is_wide(mode: str) -> bool:
    """Return whether the pixels of a mode of Pillow have more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


def to_levels(values: npt.NDArray[np.generic], value_range: ValueRange | None) -> npt.NDArray[np.uint8]:
    """Return the levels of an image's values.

    Whole numbers are divided into 256 steps of the same width where the range holds as many: of 0 to 65535, the high
    byte is left. Other values are scaled and rounded. NaN becomes 0.

    Args:
        values: The pixels of an image of a wide mode, of any shape.
        value_range: The range, the same for all images of a dataset; None for the range of the type.

    Returns:
        uint8 of the same shape.
    """
    whole = values.dtype.kind != "f"
    low, high = value_range or (_WHOLE_NUMBERS if whole else _FLOATING_POINT)
    pixels = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    if whole and high - low >= 255:
        levels = np.floor((pixels - low) * 256 / (high - low + 1))
    else:
        levels = np.round((pixels - low) * 255 / (high - low))
    return levels.clip(0, 255).astype(np.uint8)
