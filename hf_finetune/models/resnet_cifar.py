"""A ResNet for small images. The file imports nothing of this package, since it is saved beside its weights.

The network of MMClassification's `ResNet_CIFAR`: a 3 x 3 stem of stride 1 without max pooling, where the ResNet of
He et al., "Deep residual learning for image recognition" (CVPR 2016), has one of 7 x 7 and stride 2 with it. The first
stage then works on 32 x 32 positions of a 32-pixel image rather than on 8 x 8. All else is Transformers' own ResNet.
"""

from __future__ import annotations

from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer


class ResNetCifarConfig(ResNetConfig):
    """Configuration of the ResNet for small images; its settings are those of `ResNetConfig`."""

    model_type = "resnet_cifar"


class ResNetCifarForImageClassification(ResNetForImageClassification):
    """ResNet for images of about 32 x 32 pixels. Its tensors have the names of Transformers' ResNet."""

    config_class = ResNetCifarConfig
    accepts_loss_kwargs = False

    def __init__(self, config: ResNetCifarConfig) -> None:
        super().__init__(config)
        stem = self.resnet.embedder
        stem.embedder.convolution = nn.Conv2d(
            config.num_channels, config.embedding_size, kernel_size=3, padding=1, bias=False
        )
        stem.pooler = nn.Identity()  # type: ignore[assignment]
        self.post_init()
        # MMClassification's ResNets begin with every residual branch at zero (Goyal et al., 2017, section 5.1).
        for module in self.modules():
            if isinstance(module, (ResNetBasicLayer, ResNetBottleNeckLayer)):
                nn.init.zeros_(module.layer[-1].normalization.weight)  # type: ignore[arg-type, union-attr]
