"""The private members of `transformers.Trainer` on which this package depends.

No module but `training.trainer` touches a private member of the stock Trainer, and it touches none that is not listed
here. A test compares the tables with the installed Transformers; the bounds in setup.cfg are the versions that pass it.
"""

from __future__ import annotations

import inspect

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
    "_load_best_model": (),
}  # fmt: skip

# Attributes that `ImageClassificationTrainer` reads or sets.
PRIVATE_ATTRIBUTES = (
    "_tr_loss",  # the sum of this rank's losses since the last log line, a tensor on the device
    "_total_loss_scalar",  # the sum of the mean losses before that line
    "_globalstep_last_logged",  # the optimizer step of that line
    "_created_lr_scheduler",  # whether `train` made the schedule, and makes it anew when it is called again
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
