"""Exports to a model folder with the weights as safetensors, without the rest of a run's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.config.run_files import apply_umask
from hf_finetune.errors import UserError
from hf_finetune.exporters.base import Logits, LogitsOf
from hf_finetune.models.ensemble import Ensemble
from hf_finetune.models.load import load_trained
from hf_finetune.models.saved_form import save_for_pipeline


def write_folder(
    model: PreTrainedModel, image_processor: BaseImageProcessor, pixel_values: torch.Tensor, folder: Path
) -> None:
    """Write a model folder: weights, config.json, the image processor, and the network's own code where it has some.

    Args:
        model: The network.
        image_processor: Its image processor.
        pixel_values: Not needed.
        folder: The folder.

    Raises:
        UserError: For an ensemble, whose members are folders already.
    """
    if isinstance(model, Ensemble):
        raise UserError("An ensemble has no weights of its own; use --format onnx, or export one of its members.")
    save_for_pipeline(model, image_processor, folder)
    apply_umask(folder)


def open_folder(folder: Path, arguments: ModelArguments) -> Logits:
    """Return the network of a folder; `arguments` are the original's."""
    return LogitsOf(load_trained(replace(arguments, model_name_or_path=str(folder))))
