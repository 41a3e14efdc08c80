"""The collator of loaders whose datasets return whole batches."""

from __future__ import annotations

import torch


def pass_on(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a batch of `ImageBatches` unchanged: the collator of a loader whose dataset returns whole batches.

    A loader's worker moves the batch to shared memory here, so that the main process receives the error if there is too
    little. PyTorch would do it later in a thread of the queue, which would lose the batch and the error, and the main
    process would wait forever.
    """
    if torch.utils.data.get_worker_info() is not None:
        for tensor in batch.values():
            tensor.share_memory_()
    return batch
