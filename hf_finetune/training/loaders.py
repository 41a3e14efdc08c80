"""How the Trainer's loaders visit the images: orders, lanes of streams, and the start of their workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.data.streaming.order import Arrangement
from hf_finetune.training.sampling import CountedOnce, EpochSampler, LastTwoTogether, Quotas, Repetition, Unpaired


def epoch_sampler(count: int, args: FinetuneArguments, quotas: Quotas | None) -> EpochSampler:
    """Return the random order of `count` training images, filled up so that all ranks take as many steps."""
    fills_up = args.world_size > 1 and not args.dataloader_drop_last
    multiple = args.train_batch_size * args.world_size if fills_up else 1
    return EpochSampler(count, args.order_seed, multiple, quotas, repetition_of(args))


def repetition_of(args: FinetuneArguments) -> Repetition | None:
    """Return how often a batch shows an image; None for once."""
    times = args.repeated_augmentation
    return Repetition(times, args.global_batch_size) if times > 1 else None


def batch_sizes(count: int, args: FinetuneArguments, joins_lone_image: bool = False) -> list[int]:
    """Return the numbers of images that a rank's batches of an epoch have, ascending.

    Args:
        count: The number of training images.
        args: Images per batch, ranks, and whether an uneven last batch is left out.
        joins_lone_image: Whether a last batch of one image joins the batch before it, where there is one.
    """
    size = args.train_batch_size
    rest = count % size
    if rest == 0 or args.world_size > 1 or args.dataloader_drop_last:  # several ranks fill up the last batch
        return [size]
    if count < size:
        return [count]
    if rest == 1 and joins_lone_image:
        return [size, size + 1] if count > size + 1 else [size + 1]
    return [rest, size]


def in_order(
    dataset: Any,
    batch_size: int,
    sampler_fn: Callable[[Any], Sampler[Any] | None] | None,
    args: FinetuneArguments,
    is_training: bool,
    joins_lone_image: bool,
) -> tuple[Any, Callable[[Any], Sampler[Any] | None] | None]:
    """Return the dataset that a loader asks, and what makes the loader's sampler of it.

    A stream is arranged, and the last batch of training images is one that every rank and the network can take.

    Args:
        dataset: The images.
        batch_size: Images of a batch on one rank.
        sampler_fn: Makes the sampler of images that are not streamed.
        args: Seed, ranks and workers.
        is_training: Whether the images are shuffled.
        joins_lone_image: Whether a last batch of one training image joins the batch before it.
    """
    if isinstance(dataset, StreamedBatches):
        sampler_fn = _stream_order(dataset, batch_size, args, is_training)
    elif is_training and args.world_size > 1:
        dataset = CountedOnce(dataset)
    if not (is_training and joins_lone_image):
        return dataset, sampler_fn
    make: Any = sampler_fn
    return Unpaired(dataset), lambda _: LastTwoTogether(make(dataset))


def arrange(count: int, batch_size: int, args: FinetuneArguments, buffer_size: int, is_training: bool) -> Arrangement:
    """Return how a loader asks for the rows of a stream: one lane for each worker of each rank.

    In training all ranks must take as many steps. The last batches are filled up with rows from the beginning, which do
    not count, or are left out with `dataloader_drop_last`.

    Args:
        count: The number of rows.
        batch_size: Images of a batch on one rank.
        args: Seed, ranks and workers.
        buffer_size: Rows that a rank's workers together keep for shuffling.
        is_training: Whether the rows are shuffled and filled up.
    """
    workers = max(1, args.dataloader_num_workers or 0)
    if not is_training:
        return Arrangement(count, batch_size, workers * args.world_size)
    images = batch_size * args.world_size
    if args.dataloader_drop_last:
        count = count // images * images
    elif args.world_size > 1:
        count = -(-count // images) * images
    return Arrangement(count, batch_size, workers * args.world_size, max(1, buffer_size // workers), args.order_seed)


def _stream_order(
    dataset: StreamedBatches, batch_size: int, args: FinetuneArguments, is_training: bool
) -> Callable[[object], SequentialSampler]:
    """Arrange a stream for a loader, and return what makes the loader's sampler.

    The stock loader, asked for the rows of an epoch one after another, does the rest: it shares out batches to ranks
    and workers, skips to where a run was interrupted, and counts every image of an evaluation once, because Accelerate
    takes away again what it has filled up.

    Args:
        dataset: The stream, whose arrangement is set.
        batch_size: Images of a batch on one rank.
        args: Seed, ranks and workers.
        is_training: Whether the rows are shuffled and filled up.
    """
    dataset.arrange(arrange(len(dataset), batch_size, args, dataset.split.buffer_size, is_training))
    positions = range(dataset.arrangement.length)
    return lambda _: SequentialSampler(positions)


class WorkerInit:
    """A loader's `worker_init_fn` that calls several functions, in order."""

    def __init__(self, stock: Callable[[int], None] | None, others: Sequence[Callable[[], None]]) -> None:
        """Create the function.

        Args:
            stock: What the loader would call, which is given the worker's number; called first.
            others: What is called after it.
        """
        self.stock = stock
        self.others = tuple(others)

    def __call__(self, worker: int) -> None:
        """Start a worker.

        Args:
            worker: Its number, from 0.
        """
        if self.stock is not None:
            self.stock(worker)
        for other in self.others:
            other()


def start_workers_alike(
    loader: DataLoader[object], seed: int, worker_inits: Sequence[Callable[[], None]]
) -> DataLoader[object]:
    """Let a loader's workers start the same way after a resume.

    The stock loader draws the seed of its workers from the generator of the process, but only once where workers
    persist. Dropout after a resume would then not be what it is without one. The loader gets a generator of its own.

    Args:
        loader: The loader as Accelerate has prepared it; what it wraps is changed.
        seed: The seed of the generator.
        worker_inits: What each worker calls when it starts, after what the loader calls already.

    Returns:
        The loader.
    """
    wrapped = getattr(loader, "base_dataloader", loader)  # Accelerate's wrapper passes no attribute on
    wrapped.generator = torch.Generator().manual_seed(seed)
    wrapped.worker_init_fn = WorkerInit(wrapped.worker_init_fn, worker_inits)
    return loader
