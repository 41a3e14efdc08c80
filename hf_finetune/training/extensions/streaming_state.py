"""What the order of a streamed epoch depends on, kept with each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.base import Extension

logger = get_logger(__name__)


class StreamingState(Extension):
    """Resumes a streamed epoch where it was interrupted, in the order in which it was begun.

    The order depends on the seed, and on the shards, the number of ranks, the batch and the number of workers. A run
    resumes with the workers' share of the shards that it was begun with, and refuses to resume where anything else
    differs.
    """

    name = "streamed_data"

    def __init__(self, dataset: StreamedBatches, world_size: int) -> None:
        """Create the extension.

        Args:
            dataset: The training images; their loader is made before a state is taken or loaded.
            world_size: The number of ranks.
        """
        self.dataset = dataset
        self.world_size = world_size

    def state_dict(self) -> dict[str, Any]:
        """Return number and fingerprint of the rows, ranks, images of each batch and rank, and lanes."""
        arrangement = self.dataset.arrangement
        return {
            "rows": len(self.dataset),
            "shards": self.dataset.split.fingerprint,
            "processes": self.world_size,
            "batch_size": arrangement.batch_size,
            "lanes": arrangement.lanes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Arrange the rest of the run as its beginning was.

        Args:
            state: What `state_dict` returned; nothing is done where it is empty.

        Raises:
            UserError: The shards, the number of ranks or the batch differ.
        """
        if not state:
            return
        saved, now, dataset = state, self.state_dict(), self.dataset
        anew = "or --overwrite_output_dir to start anew"
        if saved["shards"] != now["shards"]:
            raise UserError(
                f"The training shards, of {now['rows']:,} images, are not those with which the run was begun, of"
                f" {saved['rows']:,}, so it cannot resume; put the earlier ones there, {anew}."
            )
        if (saved["processes"], saved["batch_size"]) != (now["processes"], now["batch_size"]):
            raise UserError(
                f"A streamed run resumes with as many processes and images of each as it was begun with:"
                f" {saved['processes']} x {saved['batch_size']}, not {now['processes']} x {now['batch_size']}; launch"
                f" it so, {anew}."
            )
        if saved["lanes"] != now["lanes"]:
            workers = saved["lanes"] // saved["processes"]
            logger.warning(
                f"Note: the shards stay shared out as when the run was begun, so that it resumes exactly; they are read"
                f" fastest with --dataloader_num_workers {workers}, as then."
            )
            block_size = max(1, dataset.split.buffer_size // workers)
            dataset.arrange(replace(dataset.arrangement, lanes=saved["lanes"], block_size=block_size))
