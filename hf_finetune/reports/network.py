"""The network of a finished run, for what a report shows of it."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.errors import UserError
from hf_finetune.models.head import head_module, inputs_of
from hf_finetune.models.load import load_trained, open_source
from hf_finetune.models.processor import load_image_processor

MOST_SECONDS = 45.0
"""In which a report shows images to the network where nobody waits for something else."""


class RunNetwork:
    """The network in the folder of a run, loaded when it is first used.

    It is on the CPU, so that a report that is written again is the same.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        """Note the folder; nothing is loaded.

        Args:
            folder: The folder of the run.
            seconds: From now on, after which `late` is true.
        """
        self._folder = folder
        self._until = time.monotonic() + seconds

    @property
    def late(self) -> bool:
        """Whether the time is over in which images are shown to the network."""
        return time.monotonic() >= self._until

    @cached_property
    def network(self) -> PreTrainedModel:
        """The network, in evaluation mode."""
        return load_trained(ModelArguments(model_name_or_path=str(self._folder)))

    @cached_property
    def image_processor(self) -> BaseImageProcessor:
        """What prepares its images."""
        return load_image_processor(
            open_source(ModelArguments(model_name_or_path=str(self._folder))), self.network.config
        )

    @cached_property
    def _stages(self) -> tuple[EvaluationStage, DeviceStage]:
        return EvaluationStage(self.image_processor, uniform=False), DeviceStage(self.image_processor, uniform=False)

    def prepare(self, value: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return an image of stage one, (1, 3, height, width), and as the network takes it, float32 of this shape.

        Args:
            value: The image as it is stored; None for one that is not there.

        Returns:
            None where it cannot be read.
        """
        stage, device_stage = self._stages
        if value is None:
            return None
        try:
            pixel_values = stage({"image": [value], "label": [-1]})["pixel_values"]
        except UserError:
            return None
        return pixel_values, device_stage({"pixel_values": pixel_values})["pixel_values"]

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the head is given for one image, float32 (features,).

        Raises:
            UserError: The head is not one module.
        """
        head = head_module(self.network)
        if head is None:
            raise UserError(
                f"{type(self.network).__name__} has no head of one module, which features would be given to."
            )
        with inputs_of(head) as given, torch.inference_mode():
            self.network(pixel_values=inputs)
        return given[-1].float().flatten()
