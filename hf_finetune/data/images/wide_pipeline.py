"""A pipeline for images of more than 8 bits, which plain `pipeline("image-classification")` would clip to white.

The file is saved beside the weights of models that were trained on such images, with `levels.py`, which is all that it
may import of this package. `pipeline(..., trust_remote_code=True)` runs it.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from transformers import ImageClassificationPipeline

from hf_finetune.data.images.levels import is_wide, to_levels


class WideImageClassificationPipeline(ImageClassificationPipeline):
    """`pipeline("image-classification")` with the range of values of `config.json`."""

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:  # type: ignore[override]
        """Return what the model is given for an image.

        Args:
            image: The path of a file or a PIL image, of any number of bits.
            timeout: Not used: addresses of the web are not read.

        Raises:
            ValueError: It is neither.
        """
        if isinstance(image, str) and os.path.isfile(image):
            with PIL.Image.open(image) as opened:
                return super().preprocess(self._of_8_bits(opened), timeout)
        if isinstance(image, PIL.Image.Image):
            return super().preprocess(self._of_8_bits(image), timeout)
        raise ValueError("This pipeline takes paths of files and PIL images, and this is neither.")

    def _of_8_bits(self, image: PIL.Image.Image) -> PIL.Image.Image:
        if not is_wide(image.mode):
            return image
        low, high = self.model.config.value_range
        return PIL.Image.fromarray(to_levels(np.asarray(PIL.ImageOps.exif_transpose(image)), (low, high)))
