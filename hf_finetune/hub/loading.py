"""What loads a saved model, as a card or a report says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_finetune.models import is_own_architecture


def usage_code(config: Mapping[str, Any], name: str, several: bool) -> str:
    """Return the lines of Python that classify an image.

    Args:
        config: The model's config.json.
        name: The model, as Python writes a text.
        several: Whether the model gives several labels.
    """
    if config.get("image_channels") is not None:
        return f'from hf_finetune import predict\n\npredict({name}, "image.tif")'
    call = f'classifier("image.jpg"{", top_k=None" if several else ""})'
    loading = f'pipeline("image-classification", model={name}{loading_needs(config)["arguments"]})'
    return f"from transformers import pipeline\n\nclassifier = {loading}\n{call}"


def loading_needs(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what `pipeline` needs to load a saved model, by its config.json: more `arguments`, and a `sentence`."""
    if (channels := config.get("image_channels")) is not None:
        sentence = (
            f"Images have {channels} channels, which are read as they are stored, from TIFF files or arrays (.npy)."
            ' `pipeline` opens no such images; `pip install "hf-finetune[bands]"` brings what does.'
        )
        return {"arguments": "", "sentence": sentence}
    code = config.get("auto_map", {}).get("AutoModelForImageClassification")
    if code is not None:
        sentence = (
            f"The network's code, `{code.split('.')[0]}.py`, comes with the weights, and `trust_remote_code` runs it."
        )
        if is_own_architecture(config["model_type"]):
            sentence += " Where hf_finetune is installed, `import hf_finetune.models` replaces it."
        return {"arguments": ", trust_remote_code=True", "sentence": sentence}
    if "image-classification" in config.get("custom_pipelines", {}):
        return {"arguments": ", trust_remote_code=True", "sentence": ""}
    if config.get("model_type") == "timm_wrapper":
        return {"arguments": "", "sentence": "The package timm is needed: `pip install timm`."}
    return {"arguments": "", "sentence": ""}
