"""The buffers of a model, such as BatchNorm's statistics, are the same on all ranks in an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import broadcast

from hf_finetune.training.extensions.base import Extension


class SameBuffers(Extension):
    """Gives all ranks the main process's buffers before an evaluation.

    DistributedDataParallel refreshes the buffers of other ranks in training only, FSDP and DeepSpeed never, so that
    each rank would evaluate with its own BatchNorm statistics. Those of the main process are saved.
    """

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Broadcast the buffers. All ranks call it."""
        if self.loop.accelerator.num_processes > 1:
            for buffer in self.loop.model.buffers():
                if buffer.device.type == self.loop.accelerator.device.type:  # else the training has not begun
                    broadcast(buffer, src=0)
        yield
