"""The keys of training that this package adds, or whose default, type or meaning it changes: a table of settings.

It needs neither torch nor Transformers, so that `hf-finetune train --help` answers at once. The keys of
`transformers.TrainingArguments` that are not here keep their own defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hf_finetune.config.loss_keys import ADJUSTED_AT, SAMPLINGS, is_own_loss
from hf_finetune.losses import LOSSES

FLOAT32, BF16, FP16 = "float32", "bf16", "fp16"  # the precisions
AUTO = "auto"  # leaves a key to the run; its field says with which value in place of a number until then
MULTISTEP, ONE_CYCLE = "multistep", "one_cycle"  # the schedules that Transformers lacks
SGD, MUON = "sgd", "muon"  # the optimizers that this package makes
WARM_UPS = ("linear", "constant", "exponential")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "passive")


def chosen_by(metric_for_best_model: str | None) -> str:
    """Return the name of the metric of validation that chooses the best weights."""
    return (metric_for_best_model or "loss").removeprefix("eval_")


def plain_word(choice: Any) -> str:
    """Return the word of a choice, which is one or a member of an enumeration of Transformers."""
    word: str = getattr(choice, "value", choice)
    return word


@dataclass
class TrainingKeys:
    """The keys of training with their defaults, help texts and choices.

    The defaults are the fine-tuning schedule of MMClassification's tutorial: SGD with learning rate 0.01 for a batch
    of 128, momentum 0.9, weight decay 1e-4, and a tenth of the rate from epoch 15 on.
    """

    # Output
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the result. Absent: in runs/, named after your data or the recipe."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the results of an earlier run in output_dir and start anew."}
    )

    # Batches and length
    global_batch_size: int = field(
        default=128,
        metadata={"help": "Images per optimizer step, over all processes. learning_rate is meant for this number."},
    )
    per_device_train_batch_size: int | None = field(
        default=None,
        metadata={"help": "Images per process and forward pass. Absent: the process's share of global_batch_size."},
    )
    gradient_accumulation_steps: int | None = field(
        default=None, metadata={"help": "Forward passes per optimizer step. Absent: what the batch sizes require."}
    )
    per_device_eval_batch_size: int = field(
        default=128, metadata={"help": "Images per process and forward pass of evaluation."}
    )
    num_train_epochs: float = field(
        default=200.0,
        metadata={
            "help": "Passes over the training split; auto: 300 by the root of the number of images, from 5 to 30; 0:"
            " only the head that head_init fits.",
            "auto": math.nan,
        },
    )
    time_budget: str | None = field(
        default=None,
        metadata={
            "help": "Time of the whole run, such as 90s, 10m or 1h30m: epochs and schedule follow from it. Absent:"
            " num_train_epochs counts."
        },
    )
    image_size_schedule: dict[Any, int] | None = field(
        default=None,
        metadata={
            "help": "Pixels of training images from a share of the epochs on, such as {0: 128, 0.5: 192, 0.8: 224}."
            " Absent: train_transforms decide."
        },
    )
    max_steps: int = field(
        default=-1, metadata={"help": "Optimizer steps in place of num_train_epochs; -1 counts in epochs."}
    )

    # Optimizer
    freeze_epochs: int | None = field(
        default=None,
        metadata={"help": "Epochs that train the head alone, before the others train everything. Absent: none."},
    )
    optim: str = field(default=SGD, metadata={"help": "Optimizer: sgd, muon, or any that Transformers knows."})
    learning_rate: float = field(
        default=0.01, metadata={"help": "Learning rate after the warm-up, for a batch of global_batch_size."}
    )
    momentum: float = field(default=0.9, metadata={"help": "Momentum of sgd and muon."})
    nesterov: bool = field(default=False, metadata={"help": "Nesterov momentum of sgd and muon."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay."})
    decay_norm_and_bias: bool = field(
        default=True, metadata={"help": "Apply weight decay to normalization layers and biases as well."}
    )
    no_decay: list[str] | None = field(
        default=None, metadata={"help": "Parameters, or modules, without weight decay, such as cls_token."}
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Factor on the learning rate from each block of the network to the one before it, such as 0.75; the"
            " head has the full rate. 1: one rate for all."
        },
    )
    head_lr_multiplier: float = field(
        default=1.0, metadata={"help": "Factor on the learning rate of the classification head."}
    )
    param_groups: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Patterns of parameters' names, such as '*.bias', each with its lr_multiplier, its weight_decay or"
            " both."
        },
    )
    max_grad_norm: float = field(
        default=0.0, metadata={"help": "Clip the norm of the gradient to this value; 0 does not clip."}
    )
    loss: str = field(
        default="cross_entropy",
        metadata={
            "help": "Loss of each image. A function or class of your own by its dotted name, such as my_losses.poly.",
            "choices": LOSSES,
            "or": is_own_loss,
        },
    )
    loss_args: dict[str, Any] | None = field(
        default=None, metadata={"help": "Settings of the loss, such as '{gamma: 1.5}' for focal."}
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "Trained model to learn from beside the labels: a folder or a Hub id. Absent: labels alone."},
    )
    distillation: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "How to learn from the teacher. Absent: '{temperature: 3, weight: 0.5}'."},
    )
    class_weights: str | list[float] | dict[str, float] | None = field(
        default=None,
        metadata={
            "help": "Weight of the loss by class: balanced, effective, such as '{rare: 5}' (1 for the others), or a"
            " list in the order of the classes. Absent: all alike."
        },
    )
    sampling: str = field(
        default="random",
        metadata={
            "help": "Which images an epoch shows: random each once, balanced all classes alike, sqrt in between,"
            " weighted in proportion to weight_column or class_weights.",
            "choices": SAMPLINGS,
        },
    )
    repeated_augmentation: int = field(
        default=1,
        metadata={
            "help": "How often a batch shows an image, each time augmented anew, such as 3; an epoch of the same length"
            " then shows as many times fewer images."
        },
    )
    logit_adjustment: float | None = field(
        default=None,
        metadata={
            "help": "Train on logits that are shifted by so many times the log of the share of each class, such as 1."
            " Absent: not shifted."
        },
    )
    logit_adjustment_at: str = field(
        default="training",
        metadata={
            "help": "When the logits are shifted: in training, so that the network learns without these shares, or at"
            " the end, in the bias of the trained head.",
            "choices": ADJUSTED_AT,
        },
    )
    label_smoothing_factor: float = field(default=0.0, metadata={"help": "Label smoothing; 0 does not smooth."})
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay per step of an exponential moving average of the weights, such as 0.9999. The averaged"
            " weights are evaluated and saved. Absent: no average."
        },
    )
    lookahead_steps: int | None = field(
        default=None,
        metadata={"help": "Steps between two updates of Lookahead's slow weights, such as 5. Absent: none are kept."},
    )
    on_nan: list[Any] = field(
        default_factory=lambda: ["stop"],
        metadata={"help": "On a non-finite loss (NaN or Inf): stop, or skip N to skip at most N optimizer steps."},
    )

    # Learning rate schedule
    lr_scheduler_type: str = field(
        default=MULTISTEP,
        metadata={"help": "Learning rate schedule: multistep, one_cycle, or any of Transformers, such as cosine."},
    )
    lr_milestones: list[float] = field(
        default_factory=lambda: [15.0],
        metadata={"help": "Epochs at which multistep multiplies the learning rate by lr_gamma."},
    )
    lr_gamma: float = field(default=0.1, metadata={"help": "Factor of multistep at each milestone."})
    lr_by_epoch: bool = field(
        default=False, metadata={"help": "Change the learning rate between epochs only, not at each step."}
    )
    lr_decay_epochs: float | None = field(
        default=None,
        metadata={"help": "Epochs from the start of the schedule to its end. Absent: all that are left."},
    )
    lr_reaches_end: bool = field(
        default=False,
        metadata={"help": "Reach the schedule's final rate at the last step, not one step after it."},
    )
    warmup_steps: float = field(
        default=0, metadata={"help": "Optimizer steps of warm-up; below 1, a fraction of the run."}
    )
    warmup_epochs: float | None = field(default=None, metadata={"help": "Epochs of warm-up, in place of warmup_steps."})
    warmup_start_factor: float | None = field(
        default=None,
        metadata={"help": "Fraction of the learning rate at which the warm-up starts. Absent: as the schedule has it."},
    )
    warmup_type: str = field(
        default="linear", metadata={"help": "Shape of the warm-up; constant holds its start.", "choices": WARM_UPS}
    )
    warmup_between_epochs: bool = field(
        default=False, metadata={"help": "Raise the rate between epochs only during the warm-up, not at each step."}
    )
    warmup_multiplies: bool = field(
        default=False, metadata={"help": "Run the schedule during the warm-up as well, instead of after it."}
    )

    # Evaluation, checkpoints and log
    eval_strategy: str = field(
        default="epoch", metadata={"help": "When to evaluate.", "choices": ("no", "steps", "epoch")}
    )
    save_strategy: str = field(
        default="epoch", metadata={"help": "When to save a checkpoint.", "choices": ("no", "steps", "epoch", "best")}
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints to keep; the best and the last are among them."}
    )
    save_on_signal: bool = field(
        default=True, metadata={"help": "On SIGTERM, SIGHUP and Ctrl-C finish the step, save a checkpoint and stop."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Keep the best checkpoint as the result, not the last."}
    )
    best_k_soup: int | None = field(
        default=None,
        metadata={
            "help": "Average the weights of this many of the best checkpoints, such as 5, and keep the average if"
            " validation finds it better than the best one. Absent: no average."
        },
    )
    calibrate: bool = field(
        default=False,
        metadata={"help": "After the training, fit the scores to the accuracy on the validation split (temperature)."},
    )
    metric_for_best_model: str | None = field(
        default="accuracy", metadata={"help": "Metric of the validation split that chooses the best checkpoint."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Evaluations without a better metric_for_best_model after which the run ends. Absent: no early end."
        },
    )
    logging_steps: float = field(
        default=100, metadata={"help": "Optimizer steps between two lines of the log; below 1, a fraction of the run."}
    )
    # The stock filter hides a NaN loss behind the running average; this package stops at the first one instead.
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave non-finite losses out of the average that the log shows."}
    )
    log_level: str = field(
        default="passive",
        metadata={
            "help": "Least severe messages to show. passive keeps the level as it is, which is info for the commands.",
            "choices": LOG_LEVELS,
        },
    )
    disable_tqdm: bool | None = field(default=None, metadata={"help": "Show no progress bars."})
    report_to: str | list[str] | None = field(
        default="none", metadata={"help": "Trackers to report to, such as tensorboard or wandb; none reports to none."}
    )
    license: str | None = field(
        default=None, metadata={"help": "License for the model card, such as apache-2.0. Absent: the checkpoint's."}
    )
    not_for: list[str] | None = field(
        default=None, metadata={"help": "What the model must not be used for: a list in the model card."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Push the result to the Hub at the end."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Repository on the Hub, OWNER/NAME. Absent: the name of output_dir."}
    )
    hub_private_repo: bool | None = field(
        default=None, metadata={"help": "Create that repository as private. Absent: as your account has it."}
    )

    # Hardware and processes
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is a GPU."})
    precision: str = field(
        default=AUTO,
        metadata={
            "help": "Of training passes; evaluation and saved weights are float32. auto: bf16 on a GPU that has it and"
            " on a CPU where a measurement shows a gain, else float32. fp16 is for GPUs without bfloat16.",
            "choices": (AUTO, FLOAT32, BF16, FP16),
        },
    )
    bf16: bool | None = field(default=None, metadata={"help": "Transformers' own flag for precision bf16."})
    fp16: bool | None = field(default=None, metadata={"help": "Transformers' own flag for precision fp16."})
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that load images, for each training process. Absent: 0 on a CPU; with a GPU its share"
            " of the cores less one, at most 8."
        },
    )
    seed: int = field(
        default=42, metadata={"help": "Seed of the new head, the held-out split, the order and the transforms."}
    )
    # The Trainer would drop the image column before the transform sees it.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns the model does not name."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Passed to DistributedDataParallel."}
    )
    ddp_timeout: int = field(
        default=600, metadata={"help": "Seconds that a step may wait for another process before the run fails."}
    )
    sync_batchnorm: bool = field(
        default=False, metadata={"help": "Compute BatchNorm over the images of all GPUs, not of each GPU alone."}
    )
