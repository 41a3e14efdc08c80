"""Networks: the package's own architectures, loading with head replacement, freezing, and image processors.

Importing it registers the package's architectures with the Auto classes of Transformers, and changes nothing else.
"""

from __future__ import annotations

from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageClassification

from hf_finetune.models.custom_head import CustomHeadConfig, CustomHeadForImageClassification
from hf_finetune.models.fast_resnet import FastResNetConfig, FastResNetForImageClassification
from hf_finetune.models.lenet5 import LeNet5Config, LeNet5ForImageClassification
from hf_finetune.models.pooled_backbone import PooledBackboneConfig, PooledBackboneForImageClassification
from hf_finetune.models.resnet_cifar import ResNetCifarConfig, ResNetCifarForImageClassification

for _config_class, _model_class in (
    (CustomHeadConfig, CustomHeadForImageClassification),
    (FastResNetConfig, FastResNetForImageClassification),
    (LeNet5Config, LeNet5ForImageClassification),
    (PooledBackboneConfig, PooledBackboneForImageClassification),
    (ResNetCifarConfig, ResNetCifarForImageClassification),
):
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    AutoModelForImageClassification.register(_config_class, _model_class, exist_ok=True)
    # `save_pretrained` then copies the module beside the weights, so that they load without this package.
    _config_class.register_for_auto_class()
    _model_class.register_for_auto_class("AutoModelForImageClassification")


def is_own_architecture(model_type: str) -> bool:
    """Whether `model_type` is an architecture of this package rather than of Transformers."""
    return model_type in CONFIG_MAPPING and CONFIG_MAPPING[model_type].__module__.startswith(f"{__name__}.")
