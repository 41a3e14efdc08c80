"""Loaders of streamed splits, and the resumption of a run in the midst of one.

The stock loader, asked for the rows of an epoch one after another, does the rest: shares out batches to processes and
workers, skips to where a run was interrupted, and counts every image of an evaluation once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.data.streaming.order import Arrangement
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.ema import AveragingTrainer

logger = get_logger(__name__)


class StreamingTrainer(AveragingTrainer):
    """A trainer whose splits may be `StreamedBatches`."""

    def _get_dataloader(
        self, dataset: Dataset, description: str, batch_size: int, *args: Any, is_training: bool = False, **kwargs: Any
    ) -> DataLoader:
        if isinstance(dataset, StreamedBatches):
            arrangement = arrange(len(dataset), batch_size, self.args, dataset.split.buffer_size, is_training)
            dataset.arrange(arrangement)
            # Accelerate fills up the last batches of an evaluation, and takes what it added away again.
            positions = range(arrangement.length)
            kwargs["sampler_fn"] = lambda _: SequentialSampler(positions)
            if is_training:
                self.pop_callback(StreamState)
                self.add_callback(StreamState(dataset, self.args.world_size))
        return super()._get_dataloader(dataset, description, batch_size, *args, is_training=is_training, **kwargs)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        resumed = self._resumed_from is not None
        position = super()._init_training_state(*args, **kwargs)
        if resumed and isinstance(self.train_dataset, StreamedBatches):
            saved = self.state.stateful_callbacks.get(StreamState.__name__)
            if saved:
                self._take_up(self.train_dataset, saved["args"])
        return position

    def _take_up(self, dataset: StreamedBatches, saved: dict[str, Any]) -> None:
        """Arranges the rest of the run as its beginning was. Raises `UserError` where that cannot be."""
        now = StreamState(dataset, self.args.world_size).state()["args"]
        anew = "or --overwrite_output_dir to start anew"
        if saved["shards"] != now["shards"]:
            raise UserError(
                f"The training shards, of {now['rows']:,} images, are not those with which the run was begun, of"
                f" {saved['rows']:,}, so it cannot resume; put the earlier ones there, {anew}."
            )
        if (saved["processes"], saved["batch_size"]) != (now["processes"], now["batch_size"]):
            raise UserError(
                f"A streamed run goes on with as many processes and images of each as it was begun with:"
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


class StreamState(TrainerCallback, ExportableState):
    """Keeps with each checkpoint what the order of a streamed epoch depends on, beside the seed."""

    def __init__(self, dataset: StreamedBatches, processes: int) -> None:
        self.dataset, self.processes = dataset, processes

    def state(self) -> dict[str, Any]:
        arrangement = self.dataset.arrangement
        arguments = {
            "rows": len(self.dataset),
            "shards": self.dataset.split.fingerprint,
            "processes": self.processes,
            "batch_size": arrangement.batch_size,
            "lanes": arrangement.lanes,
        }
        return {"args": arguments, "attributes": {}}


def arrange(count: int, batch_size: int, args: FinetuneArguments, buffer_size: int, is_training: bool) -> Arrangement:
    """Returns how a loader of `args` asks for `count` rows: a lane for each worker of each process.

    In training all processes must take as many steps: the last batches are filled up with rows of the beginning, which
    do not count, or left out with `dataloader_drop_last`.
    """
    workers = max(1, args.dataloader_num_workers)
    if not is_training:
        return Arrangement(count, batch_size, workers * args.world_size)
    images = batch_size * args.world_size
    if args.dataloader_drop_last:
        count = count // images * images
    elif args.world_size > 1:
        count = -(-count // images) * images
    return Arrangement(count, batch_size, workers * args.world_size, max(1, buffer_size // workers), args.order_seed)
