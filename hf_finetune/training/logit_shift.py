"""Takes the share of each class out of a trained head: logit adjustment after the training."""

from __future__ import annotations

import torch

from hf_finetune.errors import UserError
from hf_finetune.models.head import logits_layer
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


def shift_logits(trainer: ImageClassificationTrainer) -> None:
    """Subtract the trainer's `end_offsets` from the bias of the head, in place.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv:2007.07314, equation 9.
    """
    layer = logits_layer(trainer.model)
    assert layer is not None and trainer.end_offsets is not None  # `check_logit_shift`
    with torch.no_grad():
        offsets = torch.from_numpy(trainer.end_offsets).to(layer.bias.device)
        layer.bias.copy_((layer.bias.double() - offsets).to(layer.bias.dtype))
