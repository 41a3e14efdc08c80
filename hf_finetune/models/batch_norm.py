"""BatchNorm: whether a network computes it, and its statistics over the images of all processes."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import UserError


def computes_batch_norm(model: PreTrainedModel) -> bool:
    """Whether a network in training mode normalizes by the statistics of a batch; frozen modules do not."""
    return any(norm.training for _, norm in batch_norms(model))


def batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    """Yield every BatchNorm of a network with its name, those of timm that contain their activation among them."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield name, module


def synchronize_batch_norm(model: PreTrainedModel) -> None:
    """Turn every BatchNorm of a network into `torch.nn.SyncBatchNorm` with the same weights, statistics and names.

    Raises:
        UserError: The network has no BatchNorm, or one whose scale is fixed.
    """
    norms = [norm for _, norm in batch_norms(model)]
    if not norms:
        raise UserError(f"sync_batchnorm: {type(model).__name__} has no BatchNorm; leave it out.")
    if any(norm.affine and not isinstance(norm.weight, nn.Parameter) for norm in norms):
        raise UserError(
            f"sync_batchnorm: the BatchNorm of {type(model).__name__} has a fixed scale, which torch.nn.SyncBatchNorm"
            " would train; leave it out."
        )
    if (
        model.config.model_type == "timm_wrapper"
    ):  # timm's layers contain their activation, which torch's function drops
        from timm.layers.norm_act import convert_sync_batchnorm  # timm is optional

        convert_sync_batchnorm(model)
    else:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
