"""The dry run before the first step, so that what does not fit together shows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from hf_finetune.errors import UserError, did_you_mean, first_line
from hf_finetune.logs import get_logger
from hf_finetune.training.optimization import build_schedule

if TYPE_CHECKING:
    from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)


def sanity_check(trainer: ImageClassificationTrainer) -> None:
    """Take two images of each split through all that a step needs, and make optimizer and schedule once.

    Weights, statistics and random numbers stay as they are.

    Args:
        trainer: A trainer with training images.

    Raises:
        UserError: Something does not fit together.
    """
    _check_images(trainer)
    _check_settings(trainer)
    _check_optimizer(trainer)


def _check_images(trainer: ImageClassificationTrainer) -> None:
    datasets = [dataset for dataset in (trainer.train_dataset, trainer.eval_dataset) if dataset is not None]
    sizes = [_check_batch(trainer, dataset.first(2)) for dataset in datasets]
    if len(set(sizes)) > 1:
        (height, width), (eval_height, eval_width) = sizes
        logger.warning(
            f"Note: train_transforms make images of {height} x {width} pixels, but evaluation, by image_size, of"
            f" {eval_height} x {eval_width}."
        )


def _check_batch(trainer: ImageClassificationTrainer, batch: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Return the (height, width) in pixels that the network is given."""
    model = trainer.model
    model.train(False)
    try:
        inputs = trainer.prepare_batch(batch)
        labels = inputs.pop("labels")
        if not trainer.is_sharded:  # sharded weights are not whole before the model is wrapped
            with torch.no_grad(), trainer.extensions.evaluating():
                trainer.compute_loss_func(model(**inputs), labels)
        height, width = inputs["pixel_values"].shape[-2:]
        return height, width
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"A first batch of images does not go through {type(model).__name__}: {first_line(error)};"
            " check image_size, train_transforms and model_config."
        ) from error


def _check_settings(trainer: ImageClassificationTrainer) -> None:
    args, model, count = trainer.args, trainer.model, len(trainer.train_dataset)
    if args.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(f"{type(model).__name__} does not support gradient_checkpointing; leave it out.")
    parts = {part for name, _ in model.named_parameters() for part in name.split(".")}
    for name in args.no_decay or ():
        if name not in parts:
            logger.info(f"Note: no_decay: no parameter is called {name}.{did_you_mean(name, parts)}")
    if args.dataloader_drop_last and count < args.train_batch_size * args.world_size:
        raise UserError(
            f"dataloader_drop_last leaves none of the {count:,} training images, which do not"
            " fill one batch; use --dataloader_drop_last false."
        )


def _check_optimizer(trainer: ImageClassificationTrainer) -> None:
    args = trainer.args
    # A parameter of its own, because some optimizers and schedules leave hooks on what they are made for.
    parameters = [nn.Parameter(torch.zeros(1))]
    try:
        if args.optim != "sgd":
            optimizer_class, settings = trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
            if not {"params", "model", "optimizer_dict"} & settings.keys():
                optimizer_class(parameters, **settings)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        name = getattr(args.optim, "value", args.optim)
        raise UserError(f"optim {name} cannot be used: {first_line(error)}; use another --optim.") from error
    try:
        build_schedule(args, torch.optim.SGD(parameters), num_training_steps=1000, updates_per_epoch=1)
    except (TypeError, ValueError) as error:
        name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise UserError(
            f"lr_scheduler_type {name} cannot be used: {first_line(error)}; use what"
            " it needs as --lr_scheduler_kwargs '{name: value}', or another schedule."
        ) from error
