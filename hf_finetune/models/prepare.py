"""What is done to a network between its loading and its training."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from hf_finetune.models.batch_norm import synchronize_batch_norm
from hf_finetune.models.freeze import Frozen, freeze_modules


def prepare_modules(model: PreTrainedModel, freeze: Sequence[str], sync_batchnorm: bool) -> Frozen:
    """Synchronize BatchNorm over the processes and freeze modules, in the order that both need.

    Args:
        model: The network, changed in place.
        freeze: "backbone" or names of modules.
        sync_batchnorm: Whether BatchNorm takes its statistics over all processes.

    Returns:
        What was frozen.

    Raises:
        UserError: For a name that no module has.
    """
    if sync_batchnorm:
        synchronize_batch_norm(model)  # before freezing, which binds to the modules as they are
    return freeze_modules(model, freeze)
