"""A file of another library's weights in, a Transformers folder out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.recipe import Recipe
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.models.head import class_names
from hf_finetune.models.load import load_config, load_model, quiet_transformers
from hf_finetune.models.processor import load_image_processor

logger = get_logger(__name__)


def convert_weights(source: str, folder: Path, **settings: Any) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json of a file or an address into a new folder.

    `settings` are keys of a recipe that say what the file does not. Weights without a head that fits are written as the
    backbone alone, which is a start for fine-tuning. Raises `UserError` for a file that cannot be loaded and for a
    folder that holds something.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} is there already; use another name, or take it away first.")
    settings = {"load_from": source, **settings}
    model_arguments, data_arguments, _ = build_arguments(
        Recipe("convert", settings, {key: f"--{key}" for key in settings})
    )
    config = load_config(model_arguments, label_names=None)
    image_processor = load_image_processor(model_arguments, config, data_arguments)
    label_names = class_names(config)
    loaded = load_model(model_arguments, config, label_names, seed=0)
    model = cast(PreTrainedModel, loaded.model.base_model) if loaded.initialized else loaded.model
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        part = Path(scratch) / folder.name  # what is interrupted leaves no half
        with quiet_transformers():
            model.save_pretrained(part)
        image_processor.save_pretrained(part)
        part.replace(folder)
    advice = (
        f"It has no trained head; fine-tune it with --model_name_or_path {folder}"
        if loaded.initialized
        else f"pipeline('image-classification', '{folder}') loads it."
    )
    log_lines(logger, f"Model: {loaded.report}", f"The model is in {folder}. {advice}")
