"""Data, network and Trainer joined: what training, evaluation and export have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import datasets
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.data import DataArguments
from hf_finetune.config.loss_keys import is_own_loss
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.build import build_dataset
from hf_finetune.data.columns import label_array
from hf_finetune.data.dataset import EarlierImages, ImageDataset
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.image_channels import OtherChannelsThroughout
from hf_finetune.data.images.cache import DecodedImages, open_decoded_images
from hf_finetune.data.images.decoding import UnreadableImage
from hf_finetune.data.images.unreadable import BadImages
from hf_finetune.data.images.value_range import choose_range
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.stages import EvaluationStage, TrainingStage, decoding_of, padded_size
from hf_finetune.data.streaming.dataset import StreamedBatches, image_batches
from hf_finetune.data.transforms.build import TrainTransforms
from hf_finetune.data.transforms.letterbox import check_room
from hf_finetune.errors import UserError
from hf_finetune.evaluation.metrics import ClassificationMetrics, run_metrics
from hf_finetune.evaluation.multi_label import metrics_of, registry_of
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.models.adapters import has_adapters
from hf_finetune.models.processor import describe
from hf_finetune.models.source import ModelSource
from hf_finetune.training.balance import choose_balance
from hf_finetune.training.channels import as_trained, check_same_channels
from hf_finetune.training.given import Given
from hf_finetune.training.given_loss import check_loss
from hf_finetune.training.loader_errors import loader_errors_in_one_line
from hf_finetune.training.loss import BatchLoss, Loss
from hf_finetune.training.sharding import choose_units
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

Batches = ImageBatches | StreamedBatches


@contextmanager
def filling_the_cache(args: FinetuneArguments, description: str) -> Iterator[None]:
    """Let the first process of each machine go first, or the first of all where one cache serves all machines."""
    each_machine = not args.is_shared(Path(datasets.config.HF_DATASETS_CACHE))
    with args.main_process_first(local=each_machine, desc=description):
        yield


def load_data(
    arguments: DataArguments,
    args: FinetuneArguments,
    num_labels: int | None = None,
    require_train: bool = True,
    earlier: EarlierImages | None = None,
    given: RawDataset | None = None,
) -> ImageDataset:
    """Open a dataset, streamed or not.

    Args:
        arguments: Which dataset, and which of its splits.
        args: The seed, and which process this is.
        num_labels: What the user says of integer labels of a stream.
        require_train: Whether a dataset without a split to train on is a mistake.
        earlier: What a resumed run knows of its images.
        given: A dataset that is open already, in the place of the one that `arguments` names.

    Raises:
        UserError: For everything about it that the user can fix.
    """
    with filling_the_cache(args, "dataset"):
        return build_dataset(
            arguments, args.seed, dataset=given, num_labels=num_labels, require_train=require_train, earlier=earlier
        )


def load_data_as_trained(
    source: ModelSource,
    arguments: DataArguments,
    args: FinetuneArguments,
    num_labels: int | None = None,
    given: RawDataset | None = None,
) -> tuple[ImageDataset, DataArguments]:
    """Open a dataset whose images are read as they were when a model was trained, unless the arguments state it.

    Args:
        source: Where the model comes from.
        arguments: As in `load_data`.
        args: As in `load_data`.
        num_labels: As in `load_data`.
        given: As in `load_data`.

    Returns:
        The dataset, and the arguments by which it was read.

    Raises:
        UserError: For everything about it that the user can fix.
    """
    read = as_trained(source, arguments)
    try:
        return load_data(read, args, num_labels, require_train=False, given=given), read
    except OtherChannelsThroughout as error:
        if arguments.image_channels is not None:
            raise
        raise UserError(
            f"{error.found}, and the model takes {error.stated}; use another model, or another dataset."
        ) from error


@dataclass(frozen=True)
class PreparedImages:
    """The images of a dataset as an image processor prepares them for evaluation.

    Attributes:
        data: The dataset.
        image_processor: What prepares them.
        batches: By role, what a loader reads.
        decoded: By role, the images that are kept decoded.
        bad_images: What is done with unreadable ones.
    """

    data: ImageDataset
    image_processor: BaseImageProcessor
    batches: Mapping[str, Batches]
    decoded: Mapping[str, DecodedImages]
    bad_images: BadImages

    def to_train_on(self, stage: TrainingStage) -> Batches:
        """Return the training split as a stage of random transforms prepares it."""
        batches = image_batches(self.data.splits["train"], stage, self.decoded.get("train"))
        return _asking(self.bad_images, "train", batches)


def prepare_images(
    data: ImageDataset,
    image_processor: BaseImageProcessor,
    arguments: DataArguments,
    args: FinetuneArguments,
    class_ids: Sequence[int] | None = None,
    num_labels: int = 0,
) -> PreparedImages:
    """Return all splits of a dataset, prepared for evaluation.

    Args:
        data: The dataset.
        image_processor: What prepares its images.
        arguments: Whether decoded images are kept, and what is done with unreadable ones.
        args: Which process this is.
        class_ids: For each class id of the dataset the model's, where they differ.
        num_labels: The number of the model's classes, with `class_ids`.

    Raises:
        UserError: The image processor is for other channels, or padding leaves nothing of the images, which all have
            one size.
    """
    check_same_channels(decoding_of(image_processor).channels, data)
    _check_room(image_processor, data)
    image_processor = _with_value_range(image_processor, data, arguments.value_range)
    with args.main_process_first(desc="decoded images"):
        decoded = open_decoded_images(
            data, arguments.decode_cache, args.world_size, args.local_process_index, decoding_of(image_processor)
        )
    bad_images = BadImages(data, arguments.on_bad_image)
    stage = EvaluationStage(image_processor, data.uniform, class_ids, num_labels)
    batches = {
        role: _asking(bad_images, role, image_batches(split, stage, decoded.get(role)))
        for role, split in data.splits.items()
    }
    return PreparedImages(data, image_processor, batches, decoded, bad_images)


def _check_room(image_processor: BaseImageProcessor, data: ImageDataset) -> None:
    """Check images of one size at once: there are none that could be left out, and cached ones are not looked at."""
    size = padded_size(image_processor)
    if size is None or data.image_sizes is None:
        return
    try:
        check_room(None, *data.image_sizes, size)
    except UnreadableImage as error:
        raise UserError(
            f"{data.source}: all images have {error.reason}; use a model that is trained with resize_mode squash."
        ) from error


def _with_value_range(
    image_processor: BaseImageProcessor, data: ImageDataset, stated: Sequence[float] | None
) -> BaseImageProcessor:
    """Return the image processor with the range by which images of more than 8 bits are scaled, which is logged.

    What is stated counts, then what the model was trained with, then what the images show.
    """
    own = decoding_of(image_processor).value_range
    value_range, note = choose_range(data.wide_values, own if stated is None else (stated[0], stated[1]), data.source)
    if note:
        data.notes.append(note)
        logger.info(note)
    if value_range == own:
        return image_processor
    adapted: Any = copy(image_processor)
    adapted.value_range = None if value_range is None else list(value_range)
    return cast(BaseImageProcessor, adapted)


def _asking(bad_images: BadImages, role: str, batches: Batches) -> Batches:
    return bad_images.on_error(role, cast(ImageBatches, batches))  # those of a stream ask in the same way


def build_evaluator(
    network: PreTrainedModel, args: FinetuneArguments, images: PreparedImages, metrics: ClassificationMetrics
) -> ImageClassificationTrainer:
    """Return a Trainer that only evaluates."""
    return ImageClassificationTrainer(
        network,
        args,
        device_stage=DeviceStage(images.image_processor, images.data.uniform),
        image_processor=images.image_processor,
        compute_metrics=metrics,
        reduce_logits=metrics.reduce_logits,
        bad_images=images.bad_images,
    )


def build_trainer(
    network: PreTrainedModel,
    args: FinetuneArguments,
    images: PreparedImages,
    transforms: TrainTransforms,
    as_evaluated: bool,
    given: Given,
    alike: bool = False,
) -> ImageClassificationTrainer:
    """Return the Trainer of a run.

    Args:
        network: The network, with a head for the dataset's classes.
        args: How it is trained.
        images: What it is trained and evaluated on.
        transforms: Of training images.
        as_evaluated: Whether training images are prepared as in evaluation instead.
        given: The caller's own loss, metrics and callbacks.
        alike: Whether no key can weigh images.

    Raises:
        UserError: Where a loss or a metric cannot be used, or `metric_for_best_model` is none.
    """
    names = images.data.label_names
    task = images.data.task
    metrics = metrics_of(task, names, run_metrics(given.metrics, registry_of(task)))
    given.check_metrics(len(names), task.several)
    args.prepare_for_run(has_validation="validation" in images.data.splits, metrics=metrics.names)
    if args.load_best_model_at_end or args.early_stopping_patience is not None:
        args.greater_is_better = metrics.greater_is_better(args.chosen_by, args.greater_is_better)
    with loader_errors_in_one_line():  # the number of the epoch is in shared memory too
        stage = TrainingStage(
            transforms, args.seed, bool(args.dataloader_num_workers), decoding_of(images.image_processor)
        )
    if (value_range := decoding_of(images.image_processor).value_range) is not None:
        # Here too, because timm's image processors have no file of their own.
        network.config.value_range = list(value_range)
    figures = describe(images.image_processor)
    train = images.batches["train"]
    labels, row_weights = None, None
    if isinstance(train, ImageBatches):
        labels = label_array(train.split)  # not `train.labels`, which would keep them for the whole run
        if images.data.weights is not None:
            row_weights = images.data.weights[train.sample_index]
    balance = choose_balance(args, names, labels, row_weights, alike)
    log_lines(logger, *balance.notes)
    trainer = ImageClassificationTrainer(
        network,
        args,
        device_stage=DeviceStage(
            images.image_processor, images.data.uniform, transforms, figures.mean, figures.std, len(names)
        ),
        training_stage=stage,
        image_processor=images.image_processor,
        train_dataset=train if as_evaluated else images.to_train_on(stage),
        eval_dataset=images.batches.get("validation"),
        compute_metrics=metrics,
        reduce_logits=metrics.reduce_logits,
        bad_images=images.bad_images,
        callbacks=given.callbacks,
    )
    if trainer.is_sharded and has_adapters(network):
        raise UserError("peft needs whole weights in each process; leave it out with FSDP and DeepSpeed.")
    loss = _loss(trainer, given, images.data, transforms.mixing is not None)
    class_weights, offsets = balance.on(args.device)
    trainer.compute_loss_func = BatchLoss(loss, class_weights, offsets, task.several)
    trainer.quotas = balance.quotas
    if trainer.is_fsdp_enabled:
        choose_units(network, trainer.accelerator.state.fsdp_plugin)
    return trainer


def _loss(trainer: ImageClassificationTrainer, given: Given, data: ImageDataset, mixes: bool) -> Loss:
    """Return the loss of each image, the caller's or the trainer's; one of the user's own is tried out."""
    args = trainer.args
    if given.loss is not None and args.logit_adjustment:
        raise UserError(
            "logit_adjustment is for the loss cross_entropy; leave it out, or shift the logits in your loss."
        )
    loss = given.loss or trainer.compute_loss_func.loss
    if given.loss is not None or is_own_loss(args.loss):
        loss = loss.to(args.device) if hasattr(loss, "to") else loss
        check_loss(loss, len(data.label_names), mixes, args.device, data.task.several)
    return loss
