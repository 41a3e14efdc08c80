"""The parts of a run joined: images, network, transforms and trainer, before anything is tried, measured or trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from hf_finetune.config.recipe import override
from hf_finetune.config.resize_mode import training_mode
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.fingerprint import check_same_data
from hf_finetune.data.images.unreadable import earlier_images
from hf_finetune.data.stages import decoding_of
from hf_finetune.data.transforms.build import TrainTransforms, build_train_transforms
from hf_finetune.data.transforms.given import transforms_of_function
from hf_finetune.errors import UserError
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.models.augmentation import augmentation_transforms
from hf_finetune.models.processor import default_train_transforms, describe
from hf_finetune.training.frozen.features import random_transforms
from hf_finetune.training.frozen.policy import FrozenPolicy, frozen_policy
from hf_finetune.training.loaders import repetition_of
from hf_finetune.training.network import Network, load_network
from hf_finetune.training.plan import RunPlan
from hf_finetune.training.resizing import report_resizing
from hf_finetune.training.task_keys import follow_task
from hf_finetune.training.trainer import ImageClassificationTrainer
from hf_finetune.training.wiring import PreparedImages, build_trainer, load_data, prepare_images

logger = get_logger(__name__)


@dataclass(frozen=True)
class Assembly:
    """The parts of a run.

    Attributes:
        plan: What the run does.
        images: The images, as evaluation prepares them.
        network: The network.
        items: The list of training transforms, as in a recipe; empty where the caller gave a function.
        policy: What a frozen backbone allows.
        resizing: What becomes of images of another shape, in sentences.
        trainer: The trainer of images and network.
    """

    plan: RunPlan
    images: PreparedImages
    network: Network
    items: list[Any]
    policy: FrozenPolicy
    resizing: list[str]
    trainer: ImageClassificationTrainer


def assemble(plan: RunPlan) -> Assembly:
    """Load images and network, and join them in a trainer.

    Args:
        plan: The plan of the run.

    Raises:
        UserError: For whatever the caller can fix.
    """
    # ---- data ----
    earlier = earlier_images(plan.folder) if plan.checkpoint else None
    raw = plan.given.dataset.raw if plan.given.dataset else None
    data = load_data(plan.data, plan.args, plan.model.num_labels, earlier=earlier, given=raw)
    if plan.checkpoint is not None and plan.args.process_index == 0:
        check_same_data(plan.folder, data, earlier.unreadable if earlier else ())
    logger.info(f"Data: {data.source}, {len(data.label_names)} classes.")
    log_lines(logger, *(f"  {role}: {name}" for role, name in data.split_names.items()), *data.notes)
    follow_task(plan.args, data.task, plan.recipe.values, plan.given.loss)
    plan = with_found(plan, plan.args.fit_to(len(data.splits["train"])), "by the number of images")

    # ---- model ----
    leave_if_interrupted()
    network = load_network(plan, data)
    items = _transform_list(plan, network)
    transforms = _train_transforms(plan, items, data)
    images = prepare_images(data, network.image_processor, plan.data, plan.args)
    plan = with_found(plan, _found_range(plan, images), "found in the images")
    plan = with_found(plan, _found_channels(plan, images), "found in the images")

    # ---- trainer ----
    leave_if_interrupted()
    augmented = plan.data.augmentation not in (None, "none")
    stated = items if augmented else plan.given.train_transforms or plan.data.train_transforms
    learns_alone = plan.args.teacher is None  # a teacher needs the images
    policy = frozen_policy(network.frozen.backbone and learns_alone, plan.data.streaming, stated)
    _check_repetition(plan, None if policy.as_evaluated else plan.given.train_transforms or items, data)
    mode = training_mode(items)
    resizing = report_resizing(mode, network.image_processor, data, plan.data, policy.as_evaluated)
    log_lines(logger, *resizing)
    trainer = build_trainer(
        network.loaded.model, plan.args, images, transforms, policy.as_evaluated, plan.given, network.alike
    )
    return Assembly(plan, images, network, items, policy, resizing, trainer)


def _check_repetition(plan: RunPlan, transforms: Sequence[Any] | Callable[..., Any] | None, data: ImageDataset) -> None:
    """Check that copies of an image can be shown and differ, and say what an epoch shows.

    Args:
        plan: The plan of the run.
        transforms: What changes training images; None where they are prepared as in evaluation.
        data: The images.
    """
    repetition = repetition_of(plan.args)
    if repetition is None:
        return
    times = f"repeated_augmentation {repetition.times}"
    if plan.data.streaming:
        raise UserError(f"{times} needs images in random order, and they are streamed; leave one out.")
    if not random_transforms(transforms or ()):
        raise UserError(
            f"{times} shows copies of an image that differ by what is random in train_transforms, where nothing is;"
            " use --augmentation light or stronger, or leave it out."
        )
    count = len(data.splits["train"])
    logger.info(
        f"Repeated augmentation: a step of {repetition.batch:,} images shows {repetition.images:,}, each up to"
        f" {repetition.times} times; an epoch shows {repetition.shown(count):,} of {count:,}."
    )


def with_found(plan: RunPlan, found: Mapping[str, Any], origin: str) -> RunPlan:
    """Return the plan with what a run finds itself, to be saved with its recipe."""
    return replace(plan, recipe=override(plan.recipe, found, origin)) if found else plan


def _found_range(plan: RunPlan, images: PreparedImages) -> dict[str, Any]:
    """Return the range of values that was found in images of more than 8 bits."""
    value_range = decoding_of(images.image_processor).value_range
    if images.data.wide_values is None or plan.data.value_range is not None or value_range is None:
        return {}
    return {"value_range": list(value_range)}


def _found_channels(plan: RunPlan, images: PreparedImages) -> dict[str, Any]:
    """Return how many channels images have that are read as they are stored, and what they are scaled by."""
    if images.data.channels is None:
        return {}
    figures = describe(images.image_processor)
    found = {"image_channels": figures.channels, "image_mean": list(figures.mean), "image_std": list(figures.std)}
    return {key: value for key, value in found.items() if getattr(plan.data, key) is None}


def _transform_list(plan: RunPlan, network: Network) -> list[Any]:
    """Return the list of training transforms, empty where the caller gave a function."""
    if plan.given.train_transforms is not None:
        return []
    if plan.data.train_transforms is not None:
        return plan.data.train_transforms
    preprocessing, name = describe(network.image_processor), plan.data.augmentation
    if name is None:
        return default_train_transforms(preprocessing, plan.data.resize_mode)
    items = augmentation_transforms(name, preprocessing, plan.data.resize_mode)
    shown = yaml.safe_dump(items, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    logger.info(f"Augmentation {name}, which is train_transforms: {shown}")
    return items


def _train_transforms(plan: RunPlan, items: list[Any], data: ImageDataset) -> TrainTransforms:
    if plan.given.train_transforms is not None:
        return transforms_of_function(plan.given.train_transforms, data.channels)
    return build_train_transforms(items, data.uniform, data.channels)
