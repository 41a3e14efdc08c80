"""What the task of a dataset decides in a run: its loss and its metric, and which settings do not go with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_finetune.config.loss_keys import ClassWeights
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger
from hf_finetune.tasks import ONE_LABEL, Task
from hf_finetune.training.loss import Loss

logger = get_logger(__name__)

# Settings of a recipe for images of one class, each with why it has no meaning where they have several.
NOT_WITH_SEVERAL = {
    "calibrate": "scores the likeliest class, and thresholds for each class are fitted in its place",
    "logit_adjustment": "shifts logits by how frequent the one class of an image is",
    "sampling": "chooses images by their one class; for rare labels use --class_weights balanced or --loss asymmetric",
}
_UNSET = {"sampling": "random"}


def follow_task(args: FinetuneArguments, task: Task, stated: Mapping[str, Any], own_loss: Loss | None) -> None:
    """Set the loss and the metric of a task where nobody states them, and check what is stated.

    Args:
        args: The training keys, which are changed in place.
        task: What a label says of an image.
        stated: The values of the recipe.
        own_loss: A loss that a Python program gives.

    Raises:
        UserError: A setting does not go with the task.
    """
    if task is ONE_LABEL:
        return
    for key, reason in NOT_WITH_SEVERAL.items():
        value = getattr(args, key)
        by_image = key == "sampling" and stated.get("weight_column") is not None
        if value and value != _UNSET.get(key) and not by_image:
            raise UserError(f"{key} {reason}; the images have several labels, so leave it out.")
    if stated.get("loss") in (ONE_LABEL.loss, "arcface"):
        raise UserError(
            f"loss is {stated['loss']}, which has one class for each image, and the images have several labels; use"
            f" --loss {task.loss}, or leave it out."
        )
    if stated.get("loss") is None and own_loss is None:
        args.loss = task.loss
    if args.class_weights is not None:
        _check_weights(args.class_weights, args.loss if own_loss is None else "your own")
    if stated.get("metric_for_best_model") in (None, ONE_LABEL.chosen_by):  # which is what packaged recipes have
        args.metric_for_best_model = task.chosen_by
    loss = "your own" if own_loss is not None else args.loss
    unused = ""
    if args.label_smoothing_factor:  # packaged recipes have it
        unused = f" label_smoothing_factor {args.label_smoothing_factor:g} is for one class, and is not used."
        args.label_smoothing_factor = 0.0
    logger.info(
        f"Several labels for each image: the loss is {loss}, and {args.chosen_by} chooses the best weights.{unused}"
    )


def _check_weights(setting: ClassWeights, loss: str) -> None:
    if setting == "effective":
        raise UserError(
            "class_weights effective is for one class per image; the images have several labels, so use balanced."
        )
    if loss != "bce":
        raise UserError(
            f"class_weights weighs the labels that an image has in the loss bce, and loss is {loss}; leave one out."
        )
