"""The private members of `transformers.Trainer` on which this package depends.

Methods are overridden in `training.trainer`, and attributes are read and set here. No other module touches a private
member of the stock Trainer, and none is touched that the tables do not list. A test compares the tables with the
installed Transformers; the bounds in setup.cfg are the versions that pass it.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.accelerator import Accelerator
from torch import nn
from transformers import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.config.training_keys import BF16
from hf_finetune.models.layout import use_channels_last
from hf_finetune.training.checkpoints.resume import RunningLoss
from hf_finetune.training.optimization import own_optimizer

if TYPE_CHECKING:
    from hf_finetune.training.trainer import ImageClassificationTrainer

SUPPORTED = ">=5.20,<5.24"

# Methods that `ImageClassificationTrainer` overrides or calls, with the parameters that it relies on.
PRIVATE_METHODS: dict[str, tuple[str, ...]] = {
    "_get_dataloader": (
        "dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key",
    ),
    "_get_train_sampler": ("train_dataset",),
    "_prepare_inputs": ("inputs",),
    "_get_grad_norm": ("model", "grad_norm"),
    "_get_learning_rate": (),
    "_init_training_state": (
        "max_steps", "num_update_steps_per_epoch", "num_train_epochs", "resume_from_checkpoint", "trial",
    ),
    "_run_epoch": (
        "model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch", "trial",
        "ignore_keys_for_eval", "start_time", "resume_from_checkpoint", "epochs_trained",
        "steps_trained_in_current_epoch",
    ),
    "_maybe_log_save_evaluate": (
        "tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval", "start_time", "learning_rate",
    ),
    "_finalize_training": ("trial", "num_train_samples", "start_time"),
    "_get_output_dir": ("trial",),
    "_save_checkpoint": ("model", "trial"),
    "_save": ("output_dir", "state_dict"),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_load_best_model": (),
}  # fmt: skip

# Attributes that are read or set.
PRIVATE_ATTRIBUTES = (
    "_tr_loss",  # the sum of this rank's losses since the last log line, a tensor on the device
    "_total_loss_scalar",  # the sum of the mean losses before that line
    "_globalstep_last_logged",  # the optimizer step of that line
    "_created_lr_scheduler",  # whether `train` made the schedule, and makes it anew when it is called again
    "_eval_dataloaders",  # those whose workers persist
)


def missing_members(trainer: type) -> list[str]:
    """Compare a Trainer with what this package relies on.

    Args:
        trainer: `transformers.Trainer`, of any version.

    Returns:
        One sentence for each member that is gone or has other parameters; an empty list where all is well.
    """
    missing = []
    for name, expected in PRIVATE_METHODS.items():
        method = getattr(trainer, name, None)
        if method is None:
            missing.append(f"It lacks Trainer.{name}.")
        elif (found := tuple(inspect.signature(method).parameters)[1:]) != expected:
            missing.append(f"Trainer.{name} takes ({', '.join(found)}) instead of ({', '.join(expected)}).")
    source = inspect.getsource(trainer)
    missing += [f"It lacks Trainer.{name}." for name in PRIVATE_ATTRIBUTES if f"self.{name} " not in source]
    return missing


def adapt_stock_trainer(trainer: ImageClassificationTrainer) -> None:
    """Set what the stock Trainer's constructor decides otherwise, and remove its progress bars and printed lines."""
    args = trainer.args
    if not trainer.is_sharded:  # DeepSpeed lays weights out itself
        use_channels_last(trainer.model, is_trained=trainer.train_dataset is not None)
    trainer.optimizer_cls_and_kwargs = own_optimizer(args, trainer.model, trainer.is_sharded)
    if trainer.accelerator.ddp_handler is not None:
        trainer.accelerator.ddp_handler.gradient_as_bucket_view = True  # gradients are reduced where they lie
    # The loss is divided in `batch_loss` alone, and no model is handed arguments it may misread.
    trainer.model_accepts_loss_kwargs = False
    for stock in (ProgressCallback, PrinterCallback, DEFAULT_PROGRESS_CALLBACK):  # the last differs in a notebook
        trainer.remove_callback(stock)


def release_loaders(trainer: ImageClassificationTrainer) -> None:
    """Let go of the data loaders, so that workers that persist end at once.

    As part of a cycle they would hold their memory until a garbage collection, which then waits 5 s for each: by then
    the queue that tells them to end is closed.
    """
    trainer.accelerator.free_memory()
    trainer.callback_handler.train_dataloader = trainer.callback_handler.eval_dataloader = None
    if hasattr(trainer, "_eval_dataloaders"):
        trainer._eval_dataloaders.clear()


def training_context(args: FinetuneArguments, accelerator: Accelerator) -> AbstractContextManager[Any]:
    """Return the context in which a training pass is computed in the precision of the run.

    Args:
        args: How the run trains.
        accelerator: Its Accelerator, which computes in what it was told of (`FinetuneArguments.use_precision`).
    """
    if args.precision == BF16 and args.mixed_precision == "no":
        return torch.autocast(args.device.type, torch.bfloat16)
    return accelerator.autocast()


class TrainerLoop:
    """The `Loop` of a Trainer: what extensions may ask of it, and the sums of its losses.

    Attributes:
        restored_loss: The sums of losses of the checkpoint from which the run resumes, until the loop has begun.
    """

    def __init__(self, trainer: ImageClassificationTrainer) -> None:
        """Create the view.

        Args:
            trainer: The Trainer that runs the loop.
        """
        self._trainer = trainer
        self.restored_loss: RunningLoss | None = None

    @property
    def model(self) -> nn.Module:
        """The network that is trained, without the wrappers of Accelerate."""
        return self._trainer.model

    @property
    def accelerator(self) -> Accelerator:
        """What knows the device and talks to the other ranks."""
        return self._trainer.accelerator

    @property
    def state(self) -> TrainerState:
        """Position and history of the run."""
        return self._trainer.state

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed divides the weights over the ranks."""
        return self._trainer.is_sharded

    def set_epoch(self, epoch: int) -> None:
        """Tell the random draws and the order of the images which epoch begins, counted from 0."""
        self._trainer.set_epoch(epoch)

    def set_training_size(self, size: int | None) -> None:
        """Set the shorter side of training images in pixels, from the next batch on; None leaves them as they are."""
        self._trainer.device_stage.training_size = size

    def learning_rate(self) -> float:
        """Return the current learning rate of the first parameter group."""
        return float(self._trainer._get_learning_rate())

    def loss_since_log(self) -> torch.Tensor:
        """Return a copy of the sum of this rank's losses since the last log line, float32, a scalar."""
        return self._trainer._tr_loss.clone()

    def leave_out_step(self, loss_since_log: torch.Tensor) -> None:
        """Take the current optimizer step out of the mean losses.

        Args:
            loss_since_log: What `loss_since_log` returned at the beginning of the step.
        """
        self._trainer._tr_loss.copy_(loss_since_log)
        self._trainer._globalstep_last_logged += 1

    def total_loss(self) -> float:
        """Return the sum of the mean losses of all steps until the last log line."""
        return float(self._trainer._total_loss_scalar)

    def running_loss(self) -> RunningLoss:
        """Return the sums of losses of all ranks. All ranks call it."""
        losses = self.accelerator.gather(self._trainer._tr_loss.reshape(1)).tolist()
        return RunningLoss(losses, self._trainer._total_loss_scalar, self._trainer._globalstep_last_logged)

    def restore_running_loss(self) -> None:
        """Take up `restored_loss` once, so that the next log line is of the same steps as without the stop."""
        saved, self.restored_loss = self.restored_loss, None
        if saved is None:
            return
        args = self._trainer.args
        self._trainer._tr_loss.fill_(saved.of_rank(args.process_index, args.world_size))
        self._trainer._total_loss_scalar = saved.before
        self._trainer._globalstep_last_logged = saved.last_logged_step
