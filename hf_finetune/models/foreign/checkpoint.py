"""A file of another library's weights as the source of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, BaseImageProcessor, PreTrainedConfig

from hf_finetune.errors import UserError
from hf_finetune.models.foreign.recognition import load_foreign
from hf_finetune.models.head import class_names
from hf_finetune.models.image_size import fit_positions, of_size
from hf_finetune.models.input_channels import fit_channels, of_channels
from hf_finetune.models.quiet import quiet_transformers
from hf_finetune.models.source import (
    LoadedWeights,
    classifier_class,
    classifier_config,
    needs_timm,
    new_tensors,
    unbuildable,
)


class ForeignCheckpoint:
    """A file of torchvision, timm, MMPretrain or a paper's authors, which is read when the object is made.

    Args:
        source: A path, or an address that is downloaded once.
        sha256: The beginning of the file's SHA-256, or None.
        settings: The recipe's `model_config`, which replaces what the file's shapes say.

    Raises:
        UserError: The file cannot be had or read, or Transformers has no such network.
    """

    def __init__(self, source: str, sha256: str | None = None, settings: Mapping[str, Any] | None = None) -> None:
        weights = load_foreign(source, sha256)
        self.source, self.sha256, self.settings = source, sha256, dict(settings or {})
        self.name, self.model_type = weights.description, weights.model_type
        self.preprocessing: Mapping[str, Any] = weights.preprocessing
        self._own_settings, self._unused = weights.settings, tuple(sorted(weights.unused))
        self._state_dict: dict[str, torch.Tensor] | None = weights.state_dict

    def _take_state_dict(self) -> dict[str, torch.Tensor]:
        """Hand the tensors over. A network takes them without a copy and training changes them, so never twice."""
        state_dict, self._state_dict = self._state_dict, None
        return load_foreign(self.source, self.sha256).state_dict if state_dict is None else state_dict

    def load_config(self) -> PreTrainedConfig:
        try:
            config = AutoConfig.for_model(self.model_type, **{**self._own_settings, **self.settings})
        except ImportError as error:
            raise needs_timm(self.source) from error
        except (StrictDataclassError, TypeError) as error:
            raise unbuildable(error) from error
        return classifier_config(config, self.settings, self.name)

    def load_processor(self) -> BaseImageProcessor | None:
        return None

    def load_weights(self, config: PreTrainedConfig) -> LoadedWeights:
        own_config = AutoConfig.for_model(self.model_type, **self._own_settings)
        try:
            with quiet_transformers():
                model, info = classifier_class(config).from_pretrained(
                    None,
                    config=of_channels(of_size(config, own_config), own_config),
                    state_dict=self._take_state_dict(),
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                    dtype="float32",
                )
        except ImportError as error:
            raise needs_timm(self.source) from error
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise unbuildable(error) from error
        if info["unexpected_keys"]:
            raise UserError(
                f"load_from: {self.name} does not fit: {len(info['unexpected_keys'])} of its tensors are not in"
                f" {type(model).__name__}, the first is {min(info['unexpected_keys'])}; check model_config."
            )
        model, adapted = fit_channels(model, config)
        model, note = fit_positions(model, config)
        names = tuple(class_names(own_config))
        return LoadedWeights(model, new_tensors(info), names, self._unused, note=adapted + note)
