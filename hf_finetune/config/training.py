"""How the network is trained."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames
from transformers.utils import ExplicitEnum

from hf_finetune.distributed import all_see, group_is_ready, join_processes, main_process_first
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

MULTISTEP = "multistep"
WARM_UPS = ("linear", "constant", "exponential")

# `SchedulerType` is a closed enum, and parts of the Trainer call `.value` on the field, so a plain string will not do.
ScheduleType = ExplicitEnum(
    "ScheduleType", {**{member.name: member.value for member in SchedulerType}, "MULTISTEP": MULTISTEP}
)
_CHOICES = {
    "lr_scheduler_type": ScheduleType,
    "optim": OptimizerNames,
    "eval_strategy": IntervalStrategy,
    "logging_strategy": IntervalStrategy,
    "save_strategy": SaveStrategy,
}
# The least and the greatest value of numbers that would otherwise fail in mid-run, or be taken for another.
_RANGES = {
    "learning_rate": (0, math.inf),
    "momentum": (0, 1),
    "weight_decay": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "lr_gamma": (0, math.inf),
    "ema_decay": (0, 1),
    "label_smoothing_factor": (0, 1),
    "warmup_steps": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "warmup_start_factor": (0, 1),
    "per_device_eval_batch_size": (1, math.inf),
    "save_total_limit": (1, math.inf),
    "dataloader_num_workers": (0, math.inf),
    "ddp_timeout": (1, 365 * 24 * 3600),
    "seed": (0, 2**32 - 1),
}
_ABOVE_ZERO = ("num_train_epochs", "lr_decay_epochs", "logging_steps", "eval_steps", "save_steps")


@dataclass
class FinetuneArguments(TrainingArguments):
    """`transformers.TrainingArguments` with SGD, a step schedule, a global batch size and no gradient clipping.

    The defaults are the fine-tuning schedule of MMClassification's tutorial: SGD with learning rate 0.01 for a batch
    of 128, momentum 0.9, weight decay 1e-4, one step down at epoch 15.
    """

    output_dir: str | None = field(default=None, metadata={"help": "Folder of the result; runs/RECIPE when absent."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete an earlier run's results in output_dir and start anew."}
    )
    global_batch_size: int = field(
        default=128,
        metadata={"help": "Images per optimizer step over all processes; learning_rate is meant for this number."},
    )
    per_device_train_batch_size: int | None = field(
        default=None,
        metadata={"help": "Images per process and forward pass; fewer than its share means accumulation."},
    )
    gradient_accumulation_steps: int | None = field(
        default=None, metadata={"help": "Forward passes per optimizer step; follows from the batch sizes when absent."}
    )
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Images per process when evaluating."})
    num_train_epochs: float = field(default=200.0, metadata={"help": "Passes over the training split."})
    optim: str = field(default="sgd", metadata={"help": "Optimizer: sgd, or any name Transformers knows."})
    learning_rate: float = field(default=0.01, metadata={"help": "Peak learning rate, for the global batch size."})
    momentum: float = field(default=0.9, metadata={"help": "Momentum of SGD."})
    nesterov: bool = field(default=False, metadata={"help": "Nesterov momentum of SGD."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay."})
    decay_norm_and_bias: bool = field(
        default=True, metadata={"help": "Decay normalization layers and biases as well, as plain SGD does."}
    )
    no_decay: list[str] | None = field(
        default=None, metadata={"help": "Parameters, or modules, that are not decayed, such as cls_token."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Evaluate and keep a moving average of the weights, which keeps this part at each step."},
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clip the gradient to this norm; 0 clips nothing."})
    lr_scheduler_type: str = field(
        default=MULTISTEP, metadata={"help": "Schedule: multistep, or any name Transformers knows, such as cosine."}
    )
    lr_milestones: list[float] = field(
        default_factory=lambda: [15.0], metadata={"help": "Epochs at which multistep multiplies the rate by lr_gamma."}
    )
    lr_gamma: float = field(default=0.1, metadata={"help": "Factor of multistep at each milestone."})
    lr_by_epoch: bool = field(
        default=False, metadata={"help": "The schedule changes the rate between epochs only, not at each step."}
    )
    lr_decay_epochs: float | None = field(
        default=None,
        metadata={"help": "Epochs after which the schedule has come to its end; those that are left when absent."},
    )
    lr_reaches_end: bool = field(
        default=False, metadata={"help": "The schedule's last rate is that of the last step, not the one after it."}
    )
    warmup_epochs: float | None = field(default=None, metadata={"help": "Epochs of warm-up, in place of warmup_steps."})
    warmup_start_factor: float | None = field(
        default=None,
        metadata={"help": "Part of the rate that the warm-up begins with; its own first step when absent."},
    )
    warmup_type: str = field(
        default="linear", metadata={"help": "How the warm-up resumes from there: linear, constant or exponential."}
    )
    warmup_between_epochs: bool = field(
        default=False, metadata={"help": "The warm-up raises the rate between epochs only, not at each step."}
    )
    warmup_multiplies: bool = field(
        default=False, metadata={"help": "The schedule runs during the warm-up too, instead of beginning after it."}
    )
    logging_steps: float = field(default=100, metadata={"help": "Optimizer steps between two log lines."})
    # The stock filter hides a NaN loss behind the running average; this package stops at the first one instead.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN losses in the log."})
    on_nan: list[Any] = field(
        default_factory=lambda: ["stop"],
        metadata={"help": "Non-finite losses: stop, or skip N to leave out at most N steps."},
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept: the best and the last."})
    save_on_signal: bool = field(
        default=True, metadata={"help": "On SIGTERM and Ctrl-C finish the step, save a checkpoint and stop."}
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "The result is the best checkpoint."})
    metric_for_best_model: str | None = field(default="accuracy", metadata={"help": "Metric that chooses the best."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the result to the Hub at the end."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Its repository there, OWNER/NAME; named after output_dir when absent."}
    )
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Only you are to see that repository."})
    license: str | None = field(
        default=None, metadata={"help": "License for the model card, such as apache-2.0; the checkpoint's when absent."}
    )
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={"help": "Processes that load images, for each that trains; absent, some where there is a GPU."},
    )
    # The Trainer would drop the image column before the transform sees it.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns the model does not name."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Passed to DDP."})
    ddp_timeout: int = field(
        default=600, metadata={"help": "Seconds that a step may wait for another process before the run fails."}
    )
    sync_batchnorm: bool = field(
        default=False, metadata={"help": "BatchNorm over the images of all GPUs instead of each one's own."}
    )

    def __post_init__(self) -> None:
        if self.dataloader_num_workers is None:
            has_gpu = torch.accelerator.is_available() and not self.use_cpu
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            self.dataloader_num_workers = default_workers(os.cpu_count() or 1, processes) if has_gpu else 0
        self._check_values()
        schedule = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
        # The base class validates against its closed enum, and needs a number for the batch, which depends on the
        # number of devices that it is about to find.
        self.lr_scheduler_type = SchedulerType.CONSTANT if schedule == MULTISTEP else schedule
        stated = (self.per_device_train_batch_size, self.gradient_accumulation_steps)
        self.per_device_train_batch_size, self.gradient_accumulation_steps = 1, 1
        join_processes(self.use_cpu, timedelta(seconds=self.ddp_timeout))
        super().__post_init__()
        self.lr_scheduler_type = ScheduleType(schedule)
        self.per_device_train_batch_size, self.gradient_accumulation_steps = split_global_batch(
            self.global_batch_size, self.world_size * max(1, self.n_gpu), *stated
        )
        if any(milestone <= 0 for milestone in self.lr_milestones):
            raise UserError(f"lr_milestones is {self.lr_milestones}; use epochs above 0, such as [15].")
        for name in self.no_decay or ():
            if not isinstance(name, str):
                raise UserError(f"no_decay holds {name!r}; use names of parameters, such as [cls_token].")
        if any(not isinstance(name, str) for name in self.report_to):
            raise UserError(f"report_to is {self.report_to}; use names, such as [tensorboard], or none.")
        absent = set(self.report_to) - set(get_available_reporting_integrations() if self.report_to else ())
        if absent:
            raise UserError(
                f"report_to: {', '.join(sorted(absent))} is unknown or not installed; install it, or write none."
            )
        if self.fp16 and self.device.type == "cpu":
            raise UserError("fp16 needs a GPU, and this run is on the CPU; use --bf16, or leave it out.")
        if self.sync_batchnorm and self.device.type in ("cpu", "mps"):
            raise UserError("sync_batchnorm needs GPUs, and this run is on the CPU; leave it out.")
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and self.device.type == "cpu":
            raise UserError(
                "FSDP needs GPUs, and this run is on the CPU, where nothing would be divided; use"
                " --config_file scripts/accelerate/ddp.yaml."
            )
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != self.world_size:
            raise UserError(
                f"{launched} processes were launched but this one stands alone: they would write into one folder."
                f" On a machine without GPU write: torchrun --standalone --nproc_per_node {launched}"
                " scripts/run_finetune.py --use_cpu ..."
            )

    def _check_values(self) -> None:
        """Raises `UserError` for a word or a number that cannot be, and for settings that contradict each other."""
        for name, enumeration in _CHOICES.items():
            choices = [member.value for member in enumeration]
            value = getattr(getattr(self, name), "value", getattr(self, name))
            if value not in choices:
                longer = [choice for choice in choices if choice.startswith(value)]  # adam for adamw_torch
                near = f' Did you mean "{longer[0]}"?' if longer else did_you_mean(value, choices)
                raise UserError(f'{name} is "{value}", which it cannot be.{near} Use one of {", ".join(choices)}.')
        for name, (least, greatest) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= greatest:
                limits = f"of at least {least}" if greatest == math.inf else f"from {least} to {greatest}"
                raise UserError(f"{name} is {value}; use a number {limits}.")
        word, *count = self.on_nan or ["stop"]
        counted = len(count) == 1 and type(count[0]) is int and count[0] > 0
        if not (counted if word == "skip" else word == "stop" and not count):
            written = " ".join(map(str, self.on_nan))
            raise UserError(f'on_nan is "{written}"; use stop, or skip and a number of steps, such as skip 10.')
        for name in _ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} is {value}; use a number above 0.")
        if self.max_steps < 1 and self.max_steps != -1:
            raise UserError(f"max_steps is {self.max_steps}; use a number of at least 1, or null for whole epochs.")
        evaluates, saves = (getattr(value, "value", value) for value in (self.eval_strategy, self.save_strategy))
        if self.load_best_model_at_end and saves not in (evaluates, "best"):
            advice = "--load_best_model_at_end false" if evaluates == "no" else f"--save_strategy {evaluates}"
            raise UserError(
                f"eval_strategy is {evaluates} and save_strategy is {saves}, but only a checkpoint that was evaluated"
                f" can be chosen as the best; use {advice}."
            )
        if self.optim == "sgd" and self.optim_args:
            raise UserError("optim_args is not read where optim is sgd; use --momentum, --nesterov, --weight_decay.")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov needs a momentum, which is 0; use --momentum 0.9 or --nesterov false.")
        if not self.push_to_hub:
            for name in ("hub_model_id", "hub_private_repo"):
                if getattr(self, name) is not None:
                    raise UserError(f"{name} is set, but nothing is pushed; use --push_to_hub, or --{name} null.")
        if self.warmup_steps and self.warmup_epochs:
            raise UserError(
                f"warmup_steps is {self.warmup_steps:g} and warmup_epochs is {self.warmup_epochs:g}; use one of them."
            )
        if self.warmup_multiplies and self.warmup_start_factor is None:
            raise UserError(
                "warmup_multiplies needs to know where the warm-up begins; use --warmup_start_factor 0.001."
            )
        if self.warmup_type not in WARM_UPS:
            raise UserError(
                f'warmup_type is "{self.warmup_type}".{did_you_mean(self.warmup_type, WARM_UPS)} Use one of'
                f" {', '.join(WARM_UPS)}."
            )
        if (self.warmup_type != "linear" or self.warmup_between_epochs) and self.warmup_start_factor is None:
            name = "warmup_between_epochs" if self.warmup_between_epochs else "warmup_type"
            raise UserError(f"{name} needs to know where the warm-up begins; use --warmup_start_factor 0.1.")
        schedule = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
        for name in ("lr_decay_epochs", "lr_reaches_end"):
            if getattr(self, name) and schedule == MULTISTEP:
                raise UserError(f"{name} has no meaning for multistep; its lr_milestones say when it falls.")
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise UserError("dataloader_persistent_workers needs workers; use --dataloader_num_workers 2 or more.")

    @property
    def max_skipped_steps(self) -> int:
        """How many optimizer steps with a non-finite loss (NaN or Inf) may be skipped (`on_nan`)."""
        return self.on_nan[1] if self.on_nan and self.on_nan[0] == "skip" else 0

    @property
    def order_seed(self) -> int:
        """What decides in which order an epoch visits the training images."""
        return self.seed if self.data_seed is None else self.data_seed

    @contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """As in Transformers, but the others wait for as long as it takes, and not `ddp_timeout`."""
        if group_is_ready():
            with main_process_first(self.process_index, self.process_index - self.local_process_index if local else 0):
                yield
        else:
            with super().main_process_first(local, desc):
                yield

    def is_shared(self, folder: Path) -> bool:
        """Says, and all ranks agree, whether `folder` is one and the same on all machines of the run."""
        one_machine = self.world_size == int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        return one_machine or not group_is_ready() or all_see(folder, self.process_index, self.world_size)

    def prepare_for_run(self, has_validation: bool, metrics: Collection[str] = ()) -> None:
        """Adapts what evaluates and chooses to a run without validation split, and says what will never happen.

        Raises `UserError` where the metric that chooses the best checkpoint is none of `metrics`.
        """
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # it would warn that there is no device to pin for
        elif self.dataloader_pin_memory:
            self.accelerator_config.non_blocking = True  # a pinned batch is copied while the device still computes
        if not has_validation:
            self.eval_strategy = IntervalStrategy.NO
            self.load_best_model_at_end = False
        chosen_by = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if has_validation and chosen_by not in metrics:
            raise UserError(
                f'metric_for_best_model is "{chosen_by}", which is not measured.{did_you_mean(chosen_by, metrics)}'
                f" Use one of {', '.join(metrics)}."
            )
        beyond = [milestone for milestone in self.lr_milestones if milestone >= self.num_train_epochs]
        if beyond and self.lr_scheduler_type.value == MULTISTEP and self.max_steps < 0:
            logger.warning(
                f"Warning: lr_milestones {beyond} lie beyond the end at epoch {self.num_train_epochs:g};"
                " the learning rate is not lowered there."
            )


def default_workers(cores: int, processes: int) -> int:
    """Returns how many processes load images for each of the `processes` of a machine that feed a GPU.

    One core of its share is left to the process itself. More than eight rarely help: a core decodes and crops 500
    images of ImageNet's size a second (benchmarks/RESULTS.md).
    """
    return min(8, max(1, cores // processes - 1))


def split_global_batch(
    global_batch_size: int, devices: int, per_device: int | None, accumulation: int | None
) -> tuple[int, int]:
    """Splits a global batch into (images per device and forward pass, forward passes per optimizer step).

    `per_device` or `accumulation`, where stated, are kept; the other follows. Raises `UserError` where it does not
    divide, so that a learning rate is never applied to another batch than the one it was set for.
    """
    stated = {"global_batch_size": global_batch_size, "per_device_train_batch_size": per_device}
    stated["gradient_accumulation_steps"] = accumulation
    for name, value in stated.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; use a number of at least 1.")
    if per_device is not None and accumulation is None:
        accumulation = max(1, global_batch_size // (per_device * devices))
    accumulation = accumulation or 1
    per_device = per_device or max(1, global_batch_size // (devices * accumulation))
    if per_device * accumulation * devices != global_batch_size:
        nearest = max(1, round(global_batch_size / (per_device * accumulation * devices)))
        nearest *= per_device * accumulation * devices
        raise UserError(
            f"global_batch_size {global_batch_size} does not divide into {devices} device(s) x {per_device} images"
            f" x {accumulation} accumulation step(s); use --global_batch_size {nearest} or another per-device size."
        )
    return per_device, accumulation
