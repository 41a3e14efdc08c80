"""A finished model in a folder, such that `pipeline` gives what was evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_finetune.models.channels import has_one_channel, with_three_channels
from hf_finetune.models.quiet import quiet_transformers


def save_for_pipeline(
    model: PreTrainedModel, image_processor: Any, folder: str | Path, state_dict: dict[str, torch.Tensor] | None = None
) -> None:
    """Save a model and its image processor.

    Args:
        model: The model, without wrappers.
        image_processor: What prepares its images.
        folder: Where the files go.
        state_dict: The weights, where the model does not hold them all itself (FSDP, DeepSpeed).
    """
    own_config = model.config
    try:
        if has_one_channel(model):
            model.config, state_dict = with_three_channels(model, state_dict)
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=state_dict)
            image_processor.save_pretrained(folder)
    finally:
        model.config = own_config


def how_saved(model: PreTrainedModel) -> str:
    """Return a sentence on what the saved model has that the trained one had not; "" where they are the same."""
    if has_one_channel(model):
        return (
            "The network of 1 channel is saved with 3: its first convolution takes the luminance of RGB, which is how"
            " pipeline reads every image."
        )
    return ""
