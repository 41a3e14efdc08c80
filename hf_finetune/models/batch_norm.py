"""BatchNorm: whether a network computes it, and its statistics over the images of all processes."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import UserError


def computes_batch_norm(model: PreTrainedModel) -> bool:
    """Whether a network in training mode normalizes by the statistics of a batch; frozen modules do not."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in model.modules())


def synchronize_batch_norm(model: PreTrainedModel) -> None:
    """Turn every BatchNorm of a network into `torch.nn.SyncBatchNorm` with the same weights, statistics and names.

    Raises:
        UserError: The network has no BatchNorm.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise UserError(f"sync_batchnorm: {type(model).__name__} has no BatchNorm; leave it out.")
    if (
        model.config.model_type == "timm_wrapper"
    ):  # timm's layers contain their activation, which torch's function drops
        from timm.layers.norm_act import convert_sync_batchnorm  # timm is optional

        convert_sync_batchnorm(model)
    else:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
