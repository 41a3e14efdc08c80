"""What a model says of one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hf_finetune.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        image: The path of the file, or the place in the list of an image that is no file; of an image in a tar or a
            table, words for where it is.
        classes: The likeliest classes with their probabilities, parts of 1, the likeliest first. Empty where the image
            cannot be read, and where no class of several labels reaches its threshold.
        error: Why the image cannot be read, None where it can.
        embedding: The features that the head was given, float32 (features,), where they were asked for.
    """

    image: Path | str | int
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    embedding: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        """The likeliest class.

        Raises:
            UserError: Where the image cannot be read, or no class is given.
        """
        return self._first()[0]

    @property
    def score(self) -> float:
        """The probability of the likeliest class, a part of 1.

        Raises:
            UserError: Where the image cannot be read.
        """
        return self._first()[1]

    def _first(self) -> tuple[str, float]:
        if self.error is not None:
            raise UserError(self.error)
        if not self.classes:
            raise UserError(f"No class of {self.image} reaches its threshold; use a lower --threshold, or --top_k 1.")
        return self.classes[0]
