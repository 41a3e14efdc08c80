"""The weights of a checkpoint, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_finetune.errors import listing
from hf_finetune.models.adapters import has_adapters, load_adapter
from hf_finetune.models.quiet import quiet_transformers
from hf_finetune.training.checkpoints.usable import misfits_told


def reload_whole(model: PreTrainedModel, folder: Path) -> None:
    """Reload a model's weights through `from_pretrained`, strictly.

    `save_pretrained` writes ViT-like models under legacy key names, and the stock Trainer then skips most of them
    without a word (transformers#43701).

    Args:
        model: The model, without wrappers; its weights are replaced.
        folder: Where `models.saved_form.save_whole` has saved it.

    Raises:
        UserError: The weights are those of another network.
    """
    if has_adapters(model):
        with misfits_told(folder, "its adapters"):
            load_adapter(model, folder)
        return
    with quiet_transformers(), misfits_told(folder, "its weights"):
        read: Any = type(model).from_pretrained(
            folder, config=model.config, use_safetensors=True, dtype=model.dtype, output_loading_info=True
        )
        saved, keys = read
        if keys["missing_keys"]:  # which would keep their initial values
            raise LookupError(f"without {listing(sorted(keys['missing_keys']))}")
        model.load_state_dict(saved.state_dict(), strict=True)
