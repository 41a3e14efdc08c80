"""Checks an exported file that has its preprocessing inside against the image processor that it replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import PIL.Image
import torch
from transformers import BaseImageProcessor

from hf_finetune.data.device import DeviceStage
from hf_finetune.data.images.pixels import to_tensor
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.errors import UserError
from hf_finetune.exporters.base import Logits
from hf_finetune.models.processor import describe

# Levels of 0 to 255, the mean over an image. onnxruntime rounds halves otherwise than Pillow: 0.01 on photographs,
# up to 0.07 where sides have a simple ratio. A crop that is cut out one pixel beside differs by more than 1.
_LARGEST_DIFFERENCE = 0.25


@dataclass(frozen=True)
class PreprocessingCheck:
    """How a file with its preprocessing inside answers.

    Attributes:
        images: Number of images that were compared.
        same: Number of images that get the same class as from the image processor's pixels.
        mean: The mean difference of pixels, in levels of 0 to 255.
        largest: The largest mean difference of an image, in levels.
    """

    images: int
    same: int
    mean: float
    largest: float

    def __str__(self) -> str:
        """Return the check in a sentence."""
        return (
            f"With its preprocessing, checked on {self.images:,} images: pixels differ by {self.mean:.2g} of 255 levels"
            f" on average, {self.largest:.2g} in the worst image; the same class on {self.same:,}."
        )


def check_preprocessing(
    whole: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    network: Logits,
    image_processor: BaseImageProcessor,
    images: Iterable[PIL.Image.Image],
) -> PreprocessingCheck:
    """Compare a file that has its preprocessing inside with the same file after the image processor.

    Args:
        whole: The file, see `onnx_preprocessing.open_preprocessing`.
        network: The file without preprocessing.
        image_processor: The image processor.
        images: Images in RGB, of any sizes.

    Raises:
        UserError: The pixels differ.
    """
    stage, device_stage = EvaluationStage(image_processor, False), DeviceStage(image_processor, False)
    levels = torch.tensor(describe(image_processor).std)[:, None, None]
    differences, same = [], 0
    for image in images:
        row: dict[str, Any] = {"image": [image], "label": [-1]}
        prepared = device_stage(stage(row))["pixel_values"]
        pixel_values, logits = whole(to_tensor(image)[None])
        difference = ((pixel_values - prepared) * levels).abs().mean().item()
        if difference > _LARGEST_DIFFERENCE:
            raise UserError(
                f"--with_preprocessing: what {type(image_processor).__name__} does cannot be put into the file, since"
                f" pixels of an image of {image.width} x {image.height} would differ by {difference:.2g} levels; leave"
                " the flag out."
            )
        differences.append(difference)
        same += int(logits.argmax() == network(prepared).argmax())
    return PreprocessingCheck(len(differences), same, sum(differences) / len(differences), max(differences))
