"""A residual network that learns small images in few epochs. The file imports nothing of this package, since it is
saved beside its weights.

After Keller Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024, arXiv:2404.00498), section 3: a frozen
convolution that whitens 2 x 2 patches, three blocks of two convolutions that begin as the identity, BatchNorm without a
learned scale, GELU, and a maximum over all positions before the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class FastResNetConfig(PreTrainedConfig):
    """Configuration of the network.

    Args:
        num_channels: Channels of the images.
        hidden_sizes: Channels of each block. The paper has 64, 256 and 256.
        patch_size: Side in pixels of the patches that the first convolution whitens.
        whitening_epsilon: Added to the variances before their square roots are divided by, so that directions without
            signal are not amplified.
        batch_norm_momentum: Weight of the current batch in the running statistics. The paper has 0.4: a short run needs
            statistics that follow it.
        logit_scale: What the features are multiplied by before the head.
    """

    model_type = "fast_resnet"

    def __init__(
        self,
        num_channels: int = 3,
        hidden_sizes: Sequence[int] = (64, 256, 256),
        patch_size: int = 2,
        whitening_epsilon: float = 5e-4,
        batch_norm_momentum: float = 0.4,
        logit_scale: float = 1 / 9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_channels = num_channels
        self.hidden_sizes = list(hidden_sizes)
        self.patch_size = patch_size
        self.whitening_epsilon = whitening_epsilon
        self.batch_norm_momentum = batch_norm_momentum
        self.logit_scale = logit_scale


class BatchNormWithoutScale(nn.BatchNorm2d):
    """BatchNorm whose scale stays 1; its bias is learned."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__(channels, eps=1e-12, momentum=momentum)
        del self.weight
        self.register_buffer("weight", torch.ones(channels))


class Whitening(nn.Module):
    """A convolution whose filters are not trained; its bias is."""

    weight: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(out_channels, in_channels, size, size))
        self.bias = nn.Parameter(torch.empty(out_channels))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the whitened patches, (batch, out_channels, height - size + 1, width - size + 1)."""
        return nn.functional.conv2d(images, self.weight, self.bias)


class FastResNetBlock(nn.Module):
    """Two convolutions with BatchNorm and GELU; the first halves the image."""

    def __init__(self, in_channels: int, out_channels: int, momentum: float) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.normalization1 = BatchNormWithoutScale(out_channels, momentum)
        self.convolution2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.normalization2 = BatchNormWithoutScale(out_channels, momentum)
        self.activation = nn.GELU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features of half the height and width, (batch, out_channels, height // 2, width // 2)."""
        images = self.activation(self.normalization1(self.pool(self.convolution1(images))))
        features: torch.Tensor = self.activation(self.normalization2(self.convolution2(images)))
        return features


class FastResNetBackbone(nn.Module):
    """The whitening convolution and the blocks."""

    def __init__(self, config: FastResNetConfig) -> None:
        super().__init__()
        channels = 2 * config.num_channels * config.patch_size**2
        self.whitening = Whitening(config.num_channels, channels, config.patch_size)
        self.activation = nn.GELU()
        sizes = [channels, *config.hidden_sizes]
        self.blocks = nn.ModuleList(
            FastResNetBlock(before, after, config.batch_norm_momentum) for before, after in pairwise(sizes)
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the features of images, (batch, hidden_sizes[-1])."""
        images = self.activation(self.whitening(pixel_values))
        for block in self.blocks:
            images = block(images)
        return images.amax(dim=(2, 3))


class FastResNetForImageClassification(PreTrainedModel):
    """The network for images of about 32 x 32 pixels; 16 x 16 is the least. 1.97 million parameters at ten classes."""

    config_class = FastResNetConfig
    base_model_prefix = "features"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False

    def __init__(self, config: FastResNetConfig) -> None:
        super().__init__(config)
        self.features = FastResNetBackbone(config)
        self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Whitening):  # until `initialize_from_images`
            nn.init.orthogonal_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            module.reset_parameters()
            nn.init.dirac_(module.weight[: module.in_channels])  # the first filters pass their channel on (section 3.2)
        elif isinstance(module, BatchNormWithoutScale):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            module.reset_parameters()
            nn.init.zeros_(module.bias)

    @torch.no_grad()
    def initialize_from_images(self, pixel_values: torch.Tensor) -> None:
        """Set the first convolution to whiten the patches of these images, and to give each direction both signs.

        Its filters are the eigenvectors of the patches' covariance, each divided by the square root of its eigenvalue
        (section 3.1).

        Args:
            pixel_values: Normalized images, float (batch, channels, height, width); some hundreds are enough.
        """
        size = self.config.patch_size
        patches = pixel_values.unfold(2, size, 1).unfold(3, size, 1)  # (batch, channels, rows, columns, size, size)
        rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
        values, vectors = torch.linalg.eigh(torch.cov(rows.T))
        filters = (vectors / (values + self.config.whitening_epsilon).sqrt()).T.flip(0)  # the largest first
        shape = (-1, self.config.num_channels, size, size)
        self.features.whitening.weight.copy_(torch.cat([filters, -filters]).view(shape))

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention | tuple[torch.Tensor, ...]:
        """Compute the logits, and the loss where labels are given.

        Args:
            pixel_values: Images, float of shape (batch, num_channels, height, width).
            labels: Class ids, int64 of shape (batch,), or where an image has several labels 0 and 1 for each class,
                float of shape (batch, num_labels).
            return_dict: False returns a tuple.

        Returns:
            `logits`, float of shape (batch, num_labels), and `loss`, a float scalar, None without labels: cross
            entropy, or binary cross entropy of several labels.
        """
        logits = self.classifier(self.features(pixel_values) * self.config.logit_scale)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)
