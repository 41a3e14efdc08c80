"""Takes the share of each class out of a trained head: logit adjustment after the training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hf_finetune.errors import UserError
from hf_finetune.models.head import class_names, logits_layer
from hf_finetune.training.balance import ClassCounts, logit_offsets
from hf_finetune.training.calibration import gives_logits
from hf_finetune.training.trainer import ImageClassificationTrainer


def check_logit_shift(trainer: ImageClassificationTrainer) -> None:
    """Check that the shift can be put into the bias of the head.

    Raises:
        UserError: The weights are divided over processes, or the logits are not the output of one linear layer that
            has a bias.
    """
    if trainer.is_sharded:
        raise UserError(
            "logit_adjustment_at end needs whole weights in each process; use training with FSDP and DeepSpeed."
        )
    layer = logits_layer(trainer.model)
    if layer is None or layer.bias is None or not gives_logits(trainer, layer, trainer.train_dataset):
        raise UserError(
            "logit_adjustment_at end needs a head whose logits are the output of one linear layer with a bias, which"
            f" {type(trainer.model).__name__} has not; use --logit_adjustment_at training."
        )


def shift_logits(trainer: ImageClassificationTrainer, labels: npt.NDArray[np.int64]) -> None:
    """Subtract what `logit_offsets` adds in training from the bias of the head, in place.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv:2007.07314, equation 9.

    Args:
        trainer: A trainer that has trained, with the weights of the result.
        labels: Of the training images, as in `ClassCounts.of`.
    """
    layer, tau = logits_layer(trainer.model), trainer.args.logit_adjustment
    assert layer is not None and tau is not None  # `check_logit_shift`
    counts = ClassCounts.of(class_names(trainer.model.config), labels)
    with torch.no_grad():
        offsets = torch.from_numpy(logit_offsets(tau, counts)).to(layer.bias.device)
        layer.bias.copy_((layer.bias.double() - offsets).to(layer.bias.dtype))
