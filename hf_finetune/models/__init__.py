"""The models room: the package's own architectures, loading with head replacement, and image processors.

Importing it registers the package's architectures with the Auto classes of Transformers.
"""

from __future__ import annotations

from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageClassification

from hf_finetune.models.lenet5 import LeNet5Config, LeNet5ForImageClassification

AutoConfig.register(LeNet5Config.model_type, LeNet5Config, exist_ok=True)
AutoModelForImageClassification.register(LeNet5Config, LeNet5ForImageClassification, exist_ok=True)
# Saving copies the module beside the weights, so that a machine without this package can load them.
LeNet5Config.register_for_auto_class()
LeNet5ForImageClassification.register_for_auto_class("AutoModelForImageClassification")


def is_own_architecture(model_type: str) -> bool:
    """Whether an architecture is one of this package's, which importing this room registers."""
    return model_type in CONFIG_MAPPING and CONFIG_MAPPING[model_type].__module__.startswith(f"{__name__}.")
