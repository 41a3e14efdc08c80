"""Hashes of what an image shows: those of copies that were saved or resized again differ in few bits.

The hash is that of the discrete cosine transform ("pHash": Zauner, "Implementation and benchmarking of perceptual image
hash functions", 2010): of the luminance at 32 x 32 pixels, the signs of the lowest frequencies about their median.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

SIDE = 32  # pixels of what is transformed
_LOW = 8  # frequencies in each direction, without the mean: 63 bits
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's mode L


def perceptual_hashes(small: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return the hashes of images, uint64 (images,), from their pixels, uint8 (images, 32, 32, 3)."""
    spectrum = dctn(small @ _LUMINANCE, axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW].reshape(len(small), -1)
    low = spectrum[:, 1:]
    bits = np.pad(low > np.median(low, axis=1, keepdims=True), ((0, 0), (1, 0)))
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def thumbnails(small: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return luminance, uint8 (images, 16, 16), of pixels, uint8 (images, 32, 32, 3)."""
    quarters = (small @ _LUMINANCE).reshape(len(small), 16, 2, 16, 2)
    return np.round(quarters.mean(axis=(2, 4))).astype(np.uint8)
