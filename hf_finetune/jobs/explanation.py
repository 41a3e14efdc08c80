"""Where a model finds the class of one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_finetune.errors import UserError
from hf_finetune.evaluation.overlays import side_by_side, with_line


@dataclass(frozen=True)
class Explanation:
    """Where a model finds the class of one image.

    Attributes:
        image: The path of the file, or the place in the list of an image that is no file; of an image in a tar or a
            table, words for where it is.
        label: The likeliest class, "" where the image cannot be read.
        score: Its probability, a part of 1.
        explained: The class that the heat map is of: the likeliest, or the one that was asked for.
        explained_score: Its probability.
        method: "gradcam" or "rollout", which depends on no class.
        layer: For Grad-CAM, the module whose output was used; None for rollout.
        heat_map: Float32 (rows, columns), from 0 to 1: a place for each position of the layer, and all 0 where nothing
            in the image speaks for the class. None where the image cannot be read.
        view: The image as the network sees it; None likewise.
        error: Why the image cannot be read, None where it can.
        file: The PNG file that was written, None without.
    """

    image: Path | str | int
    label: str = ""
    score: float = 0.0
    explained: str = ""
    explained_score: float = 0.0
    method: str = ""
    layer: str | None = None
    heat_map: np.ndarray | None = field(default=None, compare=False, repr=False)
    view: Image.Image | None = field(default=None, compare=False, repr=False)
    error: str | None = None
    file: Path | None = None

    @property
    def nothing_found(self) -> bool:
        """Whether nothing in the image speaks for the class."""
        return self.heat_map is not None and not self.heat_map.any()

    def overlay(self, line: bool = True) -> Image.Image:
        """Return the image as the network sees it, and beside it the same below its heat map.

        Args:
            line: Whether a line below says the class and its probability.

        Raises:
            UserError: The image cannot be read.
        """
        if self.view is None or self.heat_map is None:
            raise UserError(str(self.error))
        both = side_by_side(self.view, self.heat_map)
        return with_line(both, self.described()) if line else both

    def described(self) -> str:
        """Return the class with its probability, and where the heat map is of another class, that one as well."""
        text = f"{self.score:.1%} {self.label}"
        if self.method == "gradcam" and self.explained != self.label:
            text = f"heat map: {self.explained_score:.1%} {self.explained}; predicted: {text}"
        return f"{text} (nothing found)" if self.nothing_found else text

    def as_mapping(self) -> dict[str, Any]:
        """Return what the JSON of the command says of the image."""
        if self.error is not None:
            return {"file": str(self.image), "error": self.error}
        return {
            "file": str(self.image),
            "label": self.label,
            "score": self.score,
            "explained": self.explained,
            "explained_score": self.explained_score,
            "method": self.method,
            "layer": self.layer,
            "nothing_found": self.nothing_found,
            "overlay": None if self.file is None else str(self.file),
        }
