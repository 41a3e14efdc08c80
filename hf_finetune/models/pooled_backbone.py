"""A vision backbone of Transformers that has no classifier of its own, with a linear head on its pooled features. The
file imports nothing of this package, since it is saved beside its weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class PooledBackboneConfig(PreTrainedConfig):
    """Configuration of the network.

    Args:
        vision_config: The configuration of the backbone, or its keys with its `model_type` among them.
    """

    model_type = "pooled_backbone"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig}

    def __init__(self, vision_config: PreTrainedConfig | dict[str, Any] | None = None, **kwargs: Any) -> None:
        if isinstance(vision_config, dict):
            keys = dict(vision_config)
            vision_config = AutoConfig.for_model(keys.pop("model_type"), **keys)
        self.vision_config = vision_config
        super().__init__(**kwargs)


def pooled(output: Any) -> torch.Tensor:
    """Return one vector for each image: what the backbone pools itself, or the mean over all positions.

    Args:
        output: The backbone's output: `pooler_output`, float (batch, channels, ...), if it has one; otherwise
            `last_hidden_state`, float (batch, positions, channels) or (batch, channels, height, width).

    Returns:
        Float of shape (batch, channels).
    """
    features: torch.Tensor | None = getattr(output, "pooler_output", None)
    if features is not None:
        return features.flatten(1)
    features = output.last_hidden_state
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features.mean(dim=1)


class PooledBackboneForImageClassification(PreTrainedModel):
    """The backbone, and a linear layer from its pooled features to the logits."""

    config_class = PooledBackboneConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: PooledBackboneConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.vision_config)
        self.classifier = nn.Linear(features_of(config.vision_config), config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:  # the backbone has initialized itself
            module.reset_parameters()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention | tuple[torch.Tensor, ...]:
        """Compute the logits, and the loss where labels are given.

        Args:
            pixel_values: Images, float of shape (batch, channels, height, width).
            labels: Class ids, int64 of shape (batch,), or where an image has several labels 0 and 1 for each class,
                float of shape (batch, num_labels).
            return_dict: False returns a tuple.

        Returns:
            `logits`, float of shape (batch, num_labels), and `loss`, a float scalar, None without labels: cross
            entropy, or binary cross entropy of several labels.
        """
        logits = self.classifier(pooled(self.backbone(pixel_values=pixel_values)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


def features_of(config: Any) -> int:
    """Return the channels of the backbone's features: the last stage's where the configuration names stages."""
    sizes = getattr(config, "hidden_sizes", None)
    return int(sizes[-1] if sizes else config.hidden_size)


def with_head(
    backbone: PreTrainedModel, config: PooledBackboneConfig, new: frozenset[str]
) -> tuple[PooledBackboneForImageClassification, frozenset[str]]:
    """Return a loaded backbone with a new head.

    Args:
        backbone: The backbone with its weights.
        config: The configuration of the whole.
        new: The names of the backbone's tensors that were initialized.

    Returns:
        The network, and the names of all its tensors that are new.
    """
    with torch.device("meta"):
        model = PooledBackboneForImageClassification(config)
    model.backbone = backbone
    model.classifier = nn.Linear(model.classifier.in_features, model.classifier.out_features)
    names = {f"backbone.{name}" for name in new} | {"classifier.weight", "classifier.bias"}
    return model, frozenset(names)
