"""Puts the head that a recipe names in place of a network's own."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import UserError
from hf_finetune.models import is_own_architecture
from hf_finetune.models.channels import channels_of
from hf_finetune.models.custom_head import CustomHeadConfig, CustomHeadForImageClassification, with_head
from hf_finetune.models.head import logits_layer
from hf_finetune.models.load import LoadedModel

OWN = "linear"  # the head that a network of Transformers has


def with_chosen_head(loaded: LoadedModel, head: str | None, sides: tuple[int, int]) -> LoadedModel:
    """Return a network with the head that a recipe names; as it is where it has that one, or none is named.

    Args:
        loaded: The network, and which of its tensors are new.
        head: "linear", "mlp", "cosine" or "knn"; None for the network's own.
        sides: Height and width of the images that it sees, in pixels.

    Raises:
        UserError: The network's own head cannot be replaced.
    """
    model = loaded.model
    own = model.config.head if isinstance(model, CustomHeadForImageClassification) else OWN
    if head in (None, own):
        return loaded
    if own != OWN:
        raise UserError(f"head is {head}, and the checkpoint has the head {own}; use --head {own}, or leave it out.")
    below = model.config
    below.architectures = [type(model).__name__]  # Transformers looks there where a family has several classifiers
    layer, features = _layer(model, str(head))
    config = CustomHeadConfig(
        below, layer, features, str(head), problem_type=below.problem_type,
        id2label=below.id2label, label2id=below.label2id,
    )  # fmt: skip
    new = frozenset(f"backbone.{name}" for name in loaded.initialized if not name.startswith(f"{layer}."))
    made = with_head(model, config)
    _check(made, sides)
    names = frozenset(f"head.{name}" for name in made.head.state_dict())
    return replace(loaded, model=made, initialized=new | names, report=f"{loaded.report} Its head is replaced: {head}.")


def is_neighbors(config: PreTrainedConfig) -> bool:
    """Return whether a network's head keeps training images, and has nothing to train."""
    return isinstance(config, CustomHeadConfig) and config.head == "knn"


def _layer(model: PreTrainedModel, head: str) -> tuple[str, int]:
    """Return the name of the layer that the head replaces, and how many features it is given."""
    layer = logits_layer(model)
    if layer is None or is_own_architecture(model.config.model_type):
        raise UserError(
            f"head {head} takes the place of one linear layer of a network of Transformers or timm, which"
            f" {type(model).__name__} has not; leave head out."
        )
    return next(name for name, module in model.named_modules() if module is layer), layer.in_features


def _check(model: CustomHeadForImageClassification, sides: tuple[int, int]) -> None:
    """Check that what is below the head gives one vector for each image."""
    model.backbone.eval()
    with torch.no_grad():  # some networks keep what they compute in it for training
        features = model.backbone(pixel_values=torch.zeros(1, channels_of(model.config), *sides)).logits
    if features.shape != (1, model.config.features):
        raise UserError(
            f"head {model.config.head}: {type(model.backbone).__name__} does more with the output of its last layer"
            " than to return it; leave head out."
        )
