"""A network that the caller has built, as the source of a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import UserError
from hf_finetune.models.checkpoint import Checkpoint, open_checkpoint
from hf_finetune.models.head import class_names, replace_head
from hf_finetune.models.source import LoadedWeights, classifier_class


def check_given_model(model: object, argument: str = "model") -> PreTrainedModel:
    """Return the object if it is a network of Transformers with a head.

    Args:
        model: The object.
        argument: The name of the argument that it was given as.

    Raises:
        UserError: It is anything else.
    """
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"{argument} is {kind}; use a name, a folder or a transformers.PreTrainedModel such as"
            " AutoModelForImageClassification.from_pretrained(...)."
        )
    classifier = classifier_class(model.config)
    if classifier is not None and model.base_model is model and not isinstance(model, classifier):
        raise UserError(f"{argument} is {kind}, which has no head for classes; use a {classifier.__name__}.")
    return model


class ModelObject:
    """A `PreTrainedModel` in place of a checkpoint's name. It is trained itself, not a copy of it.

    Args:
        model: An image classifier of Transformers, or the caller's own class: it takes `pixel_values`, float of shape
            (batch, channels, height, width), and gives `logits`, float of shape (batch, config.num_labels).

    Raises:
        UserError: It is a backbone without a head.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = check_given_model(model)
        self.name = type(model).__name__

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        size = getattr(self.model.config, "image_size", None)
        if isinstance(size, (list, tuple)) and len(size) == 2:
            height, width = size
            return {"image_size": height if height == width else (height, width)}
        return {"image_size": size} if isinstance(size, int) else {}

    def load_config(self) -> PreTrainedConfig:
        """Return a copy, so that a run that is refused leaves the caller's model as it was."""
        return copy.deepcopy(self.model.config)

    @cached_property
    def _origin(self) -> Checkpoint | None:
        """The checkpoint that the model was loaded from, None where it is not known or no longer there."""
        name = self.model.config.name_or_path
        try:
            return open_checkpoint(name) if name else None
        except UserError:
            return None

    def load_processor(self) -> BaseImageProcessor | None:
        """Load the image processor of the checkpoint that the model was loaded from, None where there is none.

        Raises:
            UserError: Its preprocessor_config.json is damaged.
        """
        return self._origin.load_processor() if self._origin else None

    def load_weights(self, config: PreTrainedConfig) -> LoadedWeights:
        """Give the model the configuration `config`, and new layers in its head where the number of classes differs.

        Raises:
            UserError: The head cannot be replaced.
        """
        own = self.model.config
        label_names = tuple(class_names(own))
        self.model.float()
        new = frozenset[str]() if own.num_labels == config.num_labels else replace_head(self.model, config)
        for module in self.model.modules():
            if getattr(module, "config", None) is own:
                module.config = config  # type: ignore[assignment]
        return LoadedWeights(self.model, new, label_names)
