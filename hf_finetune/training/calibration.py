"""Fits a temperature on the validation images and folds it into the head, so that scores are what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import Subset

from hf_finetune.data.batches import NOT_COUNTED
from hf_finetune.data.splits import random_subset
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.errors import UserError
from hf_finetune.evaluation.calibration import expected_calibration_error, fit_temperature, temperature_helps
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.logs import get_logger
from hf_finetune.models.head import logits_layer
from hf_finetune.training.frozen.features import module_inputs
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

_MOST_LOGITS = 5_000_000  # that are kept: 5,000 images of 1,000 classes; one number needs no more
_FEWEST_IMAGES = 1_000  # that are used, however many classes there are


def check_calibration(trainer: ImageClassificationTrainer) -> None:
    """Check that the temperature can be folded into the head.

    Raises:
        UserError: The weights are divided over processes, the images are streamed, or the logits are not the output of
            one linear layer.
    """
    if trainer.is_sharded:
        raise UserError("calibrate needs whole weights in each process; leave it out with FSDP and DeepSpeed.")
    if isinstance(trainer.eval_dataset, StreamedBatches):
        raise UserError(
            "calibrate draws validation images, which a stream does not give; leave it out, or --streaming."
        )
    layer = logits_layer(trainer.model)
    if layer is None or not gives_logits(trainer, layer, trainer.eval_dataset):
        raise UserError(
            "calibrate needs a head whose logits are the output of one linear layer, which"
            f" {type(trainer.model).__name__} has not; leave it out."
        )


def gives_logits(trainer: ImageClassificationTrainer, layer: nn.Linear, images: Any) -> bool:
    """Return whether the logits of the first images are the output of a layer, unchanged."""
    outputs: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model = trainer.model.eval()
    try:
        inputs = trainer.prepare_batch(images.first(2))
        inputs.pop("labels")
        with torch.inference_mode():
            logits = model(**inputs).logits
    finally:
        hook.remove()
    return len(outputs) == 1 and outputs[0].shape == logits.shape and torch.equal(outputs[0], logits)


def calibrate_head(trainer: ImageClassificationTrainer, validation: Any) -> float:
    """Divide the head's last layer by the temperature that suits the validation images, in place.

    All ranks call it; the first one fits. No prediction changes.

    Args:
        trainer: A trainer that has trained, with the weights of the result.
        validation: The validation images, or features of them.

    Returns:
        The temperature; 1 where the images tell none.
    """
    layer = logits_layer(trainer.model)
    assert layer is not None  # `check_calibration`
    temperature = _fit(trainer, validation, layer) if trainer.args.process_index == 0 else 1.0
    if trainer.args.world_size > 1:
        temperature = broadcast_object_list([temperature])[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_((parameter.double() / temperature).to(parameter.dtype))
    return temperature


def _fit(trainer: ImageClassificationTrainer, validation: Any, layer: nn.Linear) -> float:
    limit = max(_FEWEST_IMAGES, _MOST_LOGITS // layer.out_features)
    sample = Subset(validation, random_subset(len(validation), limit, trainer.args.seed).tolist())
    weight = layer.weight.detach().float().cpu().numpy()
    bias = 0.0 if layer.bias is None else layer.bias.detach().float().cpu().numpy()
    parts = [
        (inputs @ weight.T + bias, labels) for inputs, labels in module_inputs(trainer, sample, layer, "Calibration")
    ]
    logits, labels = map(np.concatenate, zip(*parts, strict=True))
    logits, labels = logits[labels != NOT_COUNTED], labels[labels != NOT_COUNTED]
    correct = logits.argmax(axis=1) == labels
    if not np.isfinite(logits).all() or correct.all():
        reason = "every validation image is classified correctly" if correct.all() else "some logits are not finite"
        logger.warning(f"Note: the scores are not calibrated, because {reason}.")
        return 1.0
    if not temperature_helps(logits, labels, trainer.args.seed):
        logger.warning(
            "Note: the scores are not calibrated, because a temperature that fits a part of the"
            f" {len(labels):,} validation images, {np.count_nonzero(~correct):,} of them classified wrongly, does not"
            " fit the rest better."
        )
        return 1.0
    from scipy.special import softmax  # scipy imports for a moment, and only this needs it

    temperature = fit_temperature(logits, labels)
    before, after = (
        expected_calibration_error(softmax(scaled, axis=1).max(axis=1), correct)
        for scaled in (logits, logits / temperature)
    )
    logger.info(
        f"Calibrated on {len(labels):,} validation images: temperature {temperature:.3f}; their calibration error"
        f" changes from {as_percent(before)} to {as_percent(after)}."
    )
    return temperature
