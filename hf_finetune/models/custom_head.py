"""An image classifier with another head than the linear layer that its family has: an MLP, cosines, or the votes
of training images. The file imports nothing of this package, since it is saved beside its weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

SCALE = 30.0  # of cosines: `hf_finetune.losses.COSINE_SCALE`
NEIGHBORS, TEMPERATURE = 20, 0.07  # of votes, as DINO evaluates
_LEAST = 1e-6  # the share of a class without votes, whose logarithm is finite


class CustomHeadConfig(PreTrainedConfig):
    """Configuration of the network.

    Args:
        vision_config: The configuration of the classifier below, or its keys with its `model_type` among them.
        layer: The name of its linear layer that is left out.
        features: The features that this layer was given.
        head: What takes its place, "mlp", "cosine" or "knn".
        images: The training images that "knn" keeps.
    """

    model_type = "custom_head"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig}

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        layer: str = "classifier",
        features: int = 1,
        head: str = "mlp",
        images: int = 0,
        **kwargs: Any,
    ) -> None:
        if isinstance(vision_config, dict):
            keys = dict(vision_config)
            vision_config = AutoConfig.for_model(keys.pop("model_type"), **keys)
        self.vision_config = vision_config
        self.layer = layer
        self.features = features
        self.head = head
        self.images = images
        super().__init__(**kwargs)


class CosineHead(nn.Module):
    """Logits that are cosines between features and a vector for each class, times `SCALE`.

    Gidaris and Komodakis, "Dynamic few-shot visual learning without forgetting", CVPR 2018, arXiv:1804.09458.

    Args:
        features: Features of an image.
        classes: Logits of an image.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, float (batch, classes), of features, float (batch, features)."""
        directions = functional.normalize(self.weight, dim=-1)
        return SCALE * functional.linear(functional.normalize(features, dim=-1), directions)


class NeighborHead(nn.Module):
    """Logits that are logarithms of the votes of the nearest training images, which are kept with the weights.

    Each of the 20 images with the greatest cosine to the features votes for its class with exp(cosine / 0.07): Wu et
    al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018, arXiv:1805.01978, with
    the numbers of Caron et al., "Emerging properties in self-supervised vision transformers" (DINO), ICCV 2021,
    arXiv:2104.14294. Probabilities of these logits are the shares of the votes.

    Args:
        features: Features of an image.
        classes: Logits of an image.
        images: Training images that are kept.
    """

    features: torch.Tensor
    labels: torch.Tensor

    def __init__(self, features: int, classes: int, images: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("features", torch.zeros(images, features))
        self.register_buffer("labels", torch.zeros(images, dtype=torch.int64))

    def remember(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Keep the features of training images, float (images, features), and their class ids, int64 (images,)."""
        self.labels = labels.to(self.labels.device)
        self.features = functional.normalize(features.to(self.features), dim=-1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, float (batch, classes), of features, float (batch, features)."""
        if not len(self.labels):
            return features.new_zeros(len(features), self.classes)
        cosines = functional.linear(functional.normalize(features, dim=-1), self.features)
        nearest, rows = cosines.topk(min(NEIGHBORS, len(self.labels)))
        votes = torch.softmax(nearest / TEMPERATURE, dim=-1)
        shares = (votes[..., None] * functional.one_hot(self.labels[rows], self.classes)).sum(dim=1)
        return shares.clamp(min=_LEAST).log()


def new_head(config: CustomHeadConfig) -> nn.Module:
    """Return the head of a configuration: cosines, votes, or an MLP whose hidden layer is as wide as the features."""
    classes = int(config.num_labels or 0)
    if config.head == "cosine":
        return CosineHead(config.features, classes)
    if config.head == "knn":
        return NeighborHead(config.features, classes, config.images)
    hidden = nn.Linear(config.features, config.features)
    return nn.Sequential(hidden, nn.GELU(), nn.Linear(config.features, classes))


class CustomHeadForImageClassification(PreTrainedModel):
    """A classifier without its last linear layer, and a head on the features that this layer was given."""

    config_class = CustomHeadConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: CustomHeadConfig) -> None:
        super().__init__(config)
        self.backbone = without_layer(AutoModelForImageClassification.from_config(config.vision_config), config.layer)
        self.head = new_head(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        of_head = any(module is own for own in self.head.modules())  # the rest has initialized itself
        if of_head and isinstance(module, (nn.Linear, CosineHead)):
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
        logits = self.head(self.backbone(pixel_values=pixel_values).logits)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


def without_layer(classifier: PreTrainedModel, layer: str) -> PreTrainedModel:
    """Return a classifier that gives features as its `logits`: its layer of this name does nothing, in place."""
    classifier.set_submodule(layer, nn.Identity())
    return classifier


def with_head(classifier: PreTrainedModel, config: CustomHeadConfig) -> CustomHeadForImageClassification:
    """Return a loaded classifier with a new head in place of its last layer.

    Args:
        classifier: The classifier with its weights, which is changed.
        config: The configuration of the whole.
    """
    with torch.device("meta"):
        model = CustomHeadForImageClassification(config)
    model.backbone = without_layer(classifier, config.layer)
    model.head = new_head(config)
    return model
