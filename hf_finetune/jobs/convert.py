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
from hf_finetune.models.image_size import match_image_size, stated_sides
from hf_finetune.models.load import load_config, load_model, open_source
from hf_finetune.models.processor import load_image_processor
from hf_finetune.models.saved_form import save_for_pipeline

logger = get_logger(__name__)


def convert_weights(source: str, folder: Path, **settings: Any) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json of a file or an address into a new folder.

    Weights without a head that fits are written as the backbone alone, which can be fine-tuned.

    Args:
        source: A path or an address.
        folder: The new folder.
        **settings: Keys of a recipe, for what the file does not say.

    Raises:
        UserError: The file cannot be loaded, or the folder is not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} is there already; use another name, or take it away first.")
    settings = {"load_from": source, **settings}
    model_arguments, data_arguments, _ = build_arguments(
        Recipe("convert", settings, {key: f"--{key}" for key in settings})
    )
    weights = open_source(model_arguments)
    config = load_config(weights, label_names=None)
    if (sides := stated_sides(data_arguments.image_size)) is not None:
        match_image_size(config, sides, model_arguments.model_config or {})
    image_processor = load_image_processor(weights, config, data_arguments)
    label_names = class_names(config)
    loaded = load_model(weights, config, label_names, seed=0)
    model = cast(PreTrainedModel, loaded.model.base_model) if loaded.initialized else loaded.model
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        part = Path(scratch) / folder.name  # what is interrupted leaves no half
        save_for_pipeline(model, image_processor, part)
        part.replace(folder)
    advice = (
        f"It has no trained head; fine-tune it with --model_name_or_path {folder}"
        if loaded.initialized
        else f"pipeline('image-classification', '{folder}') loads it."
    )
    log_lines(logger, f"Model: {loaded.report}", f"The model is in {folder}. {advice}")
