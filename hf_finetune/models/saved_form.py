"""A model in a folder: as it is, or such that `pipeline` gives what was evaluated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.data.images import levels
from hf_finetune.models.adapters import has_adapters, save_adapter, weights_below
from hf_finetune.models.channels import has_one_channel, with_three_channels
from hf_finetune.models.quiet import quiet_transformers

_TASK = "image-classification"
# The pipeline of images with more than 8 bits, and what it imports.
_CODE = tuple(Path(levels.__file__).with_name(name) for name in ("wide_pipeline.py", "levels.py"))
_PIPELINE = "WideImageClassificationPipeline"


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
    model.config = copy.deepcopy(own_config)
    try:
        if has_one_channel(model):
            model.config, state_dict = with_three_channels(model, state_dict)
        _name_pipeline(model.config, Path(folder))
        if has_adapters(model):  # Transformers loads an adapter and what is below it from one folder
            save_adapter(model, folder)
            state_dict = weights_below(model)
        _save(model, image_processor, folder, state_dict)
    finally:
        model.config = own_config


def save_whole(
    model: PreTrainedModel, image_processor: Any, folder: str | Path, state_dict: dict[str, torch.Tensor] | None
) -> None:
    """Save a model and its image processor as they are, for a resume; see `save_for_pipeline` for the arguments.

    Of a model with adapters these are saved with the head: nothing else of it changes.
    """
    if has_adapters(model):
        save_adapter(model, folder)
        model.config.save_pretrained(folder)
        image_processor.save_pretrained(folder)
    else:
        _save(model, image_processor, folder, state_dict)


def _save(
    model: PreTrainedModel, image_processor: Any, folder: str | Path, state_dict: dict[str, torch.Tensor] | None
) -> None:
    with quiet_transformers():
        model.save_pretrained(folder, state_dict=state_dict)
        image_processor.save_pretrained(folder)


def _name_pipeline(config: PreTrainedConfig, folder: Path) -> None:
    """Let `pipeline` use the pipeline of images of more than 8 bits where the model needs it, and copy its code.

    What the configuration of a checkpoint says of the task was for another model, whose code is not here.
    """
    pipelines = dict(getattr(config, "custom_pipelines", None) or {})
    pipelines.pop(_TASK, None)
    if getattr(config, "value_range", None) is not None:
        pipelines[_TASK] = {"impl": f"{_CODE[0].stem}.{_PIPELINE}", "pt": ["AutoModelForImageClassification"]}
        folder.mkdir(parents=True, exist_ok=True)
        for file in _CODE:
            code = file.read_text(encoding="utf-8")
            (folder / file.name).write_text(code.replace(f"from {levels.__package__}.", "from ."), encoding="utf-8")
    if pipelines:
        config.custom_pipelines = pipelines
    elif hasattr(config, "custom_pipelines"):
        del config.custom_pipelines


def how_saved(model: PreTrainedModel) -> str:
    """Return sentences on what loads the saved model, or how it differs from the trained one; "" without either."""
    sentences = []
    if has_one_channel(model):
        sentences.append(
            "The network of 1 channel is saved with 3: its first convolution takes the luminance of RGB, which is how"
            " pipeline reads every image."
        )
    if has_adapters(model):
        sentences.append(
            "adapter_model.safetensors and adapter_config.json are what was trained, adapters and the head, for the"
            " package peft, which is needed: without it every class gets the same score, because model.safetensors"
            " holds the frozen weights and a head of zeros. A plain model without adapters is written by: hf-finetune"
            " export FOLDER --format safetensors --output PLAIN."
        )
    value_range = getattr(model.config, "value_range", None)
    if value_range is not None:
        low, high = value_range
        sentences.append(
            "Plain pipeline would clip images of more than 8 bits, and refuses this model: with trust_remote_code=True"
            f" it runs {_CODE[0].name} of this folder, which scales their values {low:g} to {high:g} as in training."
        )
    return " ".join(sentences)
