"""How the network is trained: the settings of training, checked and fitted to the machine."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from torch import distributed
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import IntervalStrategy, SchedulerType
from transformers.training_args import OptimizerNames
from transformers.utils import ExplicitEnum

from hf_finetune.config.device_checks import check_devices, check_processes, check_trackers
from hf_finetune.config.durations import parse_duration
from hf_finetune.config.precision import stated_precision
from hf_finetune.config.training_keys import (
    AUTO,
    BF16,
    FLOAT32,
    FP16,
    MULTISTEP,
    MUON,
    ONE_CYCLE,
    SGD,
    TrainingKeys,
    chosen_by,
    plain_word,
)
from hf_finetune.config.validation import check_choice, check_freeze_epochs, check_training
from hf_finetune.cores import default_workers, usable_cores
from hf_finetune.distributed import all_see, group_is_ready, join_processes, main_process_first
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.logs import get_logger, set_level

logger = get_logger(__name__)

# Both enums are closed, and parts of the Trainer call `.value` on the fields, so a plain string will not do.
ScheduleType: Any = ExplicitEnum(  # type: ignore[call-overload]  # the functional form of an enum
    "ScheduleType",
    {**{member.name: member.value for member in SchedulerType}, "MULTISTEP": MULTISTEP, "ONE_CYCLE": ONE_CYCLE},
)
OptimizerType: Any = ExplicitEnum(  # type: ignore[call-overload]  # as above
    "OptimizerType", {**{member.name: member.value for member in OptimizerNames}, "MUON": MUON}
)
_MOST_STEPS = 10**9  # of a run that ends by the clock
BY_METRIC = ("reduce_lr_on_plateau", "greedy")  # schedules that lower the rate where a metric no longer improves


@dataclass
class FinetuneArguments(TrainingKeys, TrainingArguments):  # type: ignore[misc]
    """`transformers.TrainingArguments` with the keys of `TrainingKeys`, checked and fitted to the machine.

    Raises:
        UserError: For a value that cannot be, and for settings that contradict each other or do not fit the machine.
    """

    seconds_to_use = None  # of time_budget; no field, since no recipe sets it

    def __post_init__(self) -> None:
        if self.dataloader_num_workers is None:
            has_gpu = torch.accelerator.is_available() and not self.use_cpu
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            self.dataloader_num_workers = default_workers(usable_cores(), processes) if has_gpu else 0
        backend = (self.torch_compile_backend or "inductor").lower()
        check_choice("torch_compile_backend", backend, [member.value.lower() for member in DynamoBackend])
        check_training(self)
        self.use_precision(stated_precision(self.precision, self.bf16, self.fp16))
        if self.log_level != "passive":
            set_level(self.log_level)
        if self.time_budget is not None:
            self._follow_the_clock()
        schedule = plain_word(self.lr_scheduler_type)
        optimizer = plain_word(self.optim)
        # The base class validates against its closed enums, and needs a number for the batch, which depends on the
        # number of devices that it is about to find.
        self.lr_scheduler_type = SchedulerType.CONSTANT if schedule in (MULTISTEP, ONE_CYCLE) else schedule
        self.optim = SGD if optimizer == MUON else optimizer
        stated = (self.per_device_train_batch_size, self.gradient_accumulation_steps)
        self.per_device_train_batch_size, self.gradient_accumulation_steps = 1, 1
        join_processes(self.use_cpu, timedelta(seconds=self.ddp_timeout))
        use_cpu = self.use_cpu
        if (self.bf16 or self.bf16_full_eval) and not torch.accelerator.is_available():
            check_processes(distributed.get_world_size() if distributed.is_initialized() else 1)
            self.use_cpu = True  # otherwise Transformers refuses
        super().__post_init__()
        self.use_cpu = use_cpu  # the recipe that is saved may train on a GPU elsewhere
        launched = self.mixed_precision  # by `accelerate launch` where no key says it
        self.use_precision(launched if self.precision == AUTO and launched != "no" else self.precision)
        self._use_one_gpu()
        self.lr_scheduler_type, self.optim = ScheduleType(schedule), OptimizerType(optimizer)
        self.per_device_train_batch_size, self.gradient_accumulation_steps = split_global_batch(
            self.global_batch_size, self.world_size, *stated
        )
        check_trackers(self, get_available_reporting_integrations() if self.report_to else ())
        check_devices(self)

    def _follow_the_clock(self) -> None:
        """Leave length, schedule, evaluations and checkpoints to the time budget (`training.budget`)."""
        self.seconds_to_use = parse_duration("time_budget", str(self.time_budget))
        self.max_steps, self.num_train_epochs = _MOST_STEPS, _MOST_STEPS
        self.lr_scheduler_type = SchedulerType.CONSTANT
        self.eval_strategy = self.save_strategy = IntervalStrategy.NO
        self.load_best_model_at_end = False

    def use_precision(self, precision: str) -> None:
        """Compute training passes in a precision.

        What Accelerate is told of it computes evaluations in it as well. So it is told only what it alone can do: the
        scaled losses of fp16, fp8, and the weights that FSDP and DeepSpeed divide.

        Args:
            precision: One of the choices of the key; "auto" is float32 until a measurement says otherwise.
        """
        own = precision in (AUTO, FLOAT32) or (precision == BF16 and not self.shards)
        self.precision, self.mixed_precision = precision, "no" if own else precision
        self.bf16, self.fp16 = precision == BF16, precision == FP16

    @property
    def takes_steps(self) -> bool:
        """Whether there is an epoch or a step to train."""
        return self.max_steps > 0 or self.num_train_epochs > 0

    @property
    def shifts_trained_head(self) -> bool:
        """Whether the logits are shifted in the trained head, and not in training."""
        return bool(self.logit_adjustment) and self.logit_adjustment_at == "end"

    @property
    def shards(self) -> bool:
        """Whether FSDP or DeepSpeed is asked to divide the weights over the ranks."""
        launched = (os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED"))
        return bool(self.fsdp or self.deepspeed) or any(launched)

    def _use_one_gpu(self) -> None:
        """Keep the stock Trainer from dividing batches over all GPUs of one process (`torch.nn.DataParallel`).

        It multiplies the loss and with it the gradient by their number there, and mixed precision has no effect.
        """
        count = self.n_gpu
        if count > 1:
            self._n_gpu = 1
            logger.info(
                f"Note: one process uses one of the {count} GPUs of this machine; to train on all of them use:"
                f" accelerate launch -q --num_processes {count} scripts/run_finetune.py ..."
            )

    @property
    def max_skipped_steps(self) -> int:
        """The number of optimizer steps with a non-finite loss (NaN or Inf) that may be skipped; 0 if none."""
        return self.on_nan[1] if self.on_nan and self.on_nan[0] == "skip" else 0

    def fit_to(self, images: int) -> dict[str, Any]:
        """Choose what the recipe leaves to the number of training images.

        Few images are seen more often than many (docs/defaults.md).

        Args:
            images: The number of training images.

        Returns:
            The keys that were chosen, with their values.

        Raises:
            UserError: The others of the recipe do not go with them.
        """
        if not math.isnan(self.num_train_epochs):
            return {}
        self.num_train_epochs = float(min(30, max(5, round(300 / math.sqrt(images)))))
        check_freeze_epochs(self)
        logger.info(f"Epochs: {self.num_train_epochs:g}, by the number of training images.")
        return {"num_train_epochs": self.num_train_epochs}

    @property
    def chosen_by(self) -> str:
        """The metric of validation that chooses the best weights."""
        return chosen_by(self.metric_for_best_model)

    @property
    def order_seed(self) -> int:
        """The seed of the order in which an epoch visits the training images."""
        return self.seed if self.data_seed is None else self.data_seed

    def get_process_log_level(self) -> int:
        """Return the level of Transformers' own logger, which the Trainer sets.

        It follows `log_level`, but for `info`, where Transformers keeps to its warnings: what it has to tell at that
        level, this package tells itself.
        """
        return logging.WARNING if self.log_level == "info" else int(super().get_process_log_level())

    @contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """Let the main process do the work of the block before the others do it.

        As in Transformers, but the others wait for as long as it takes, and not for `ddp_timeout`.

        Args:
            local: Whether each machine has a main process of its own.
            desc: What the work is called in Transformers' log.
        """
        if group_is_ready():
            with main_process_first(self.process_index, self.process_index - self.local_process_index if local else 0):
                yield
        else:
            with super().main_process_first(local, desc):
                yield

    def is_shared(self, folder: Path) -> bool:
        """Return whether `folder` is one and the same on all machines of the run; all ranks agree."""
        one_machine = self.world_size == int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        return one_machine or not group_is_ready() or all_see(folder, self.process_index, self.world_size)

    def prepare_for_run(self, has_validation: bool, metrics: Collection[str] = ()) -> None:
        """Fit the settings to the device and the splits, and warn of milestones that lie beyond the last epoch.

        Without a validation split, nothing is evaluated during training and the last checkpoint is the result.

        Args:
            has_validation: Whether there is a validation split.
            metrics: The names of the metrics that are measured on it.

        Raises:
            UserError: If the metric that chooses the best checkpoint is none of `metrics`.
        """
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # it would warn that there is no device to pin for
        elif self.dataloader_pin_memory:
            self.accelerator_config.non_blocking = True  # type: ignore[union-attr]  # a pinned batch is copied while the device still computes
        if self.freeze_epochs is not None:
            self.ddp_find_unused_parameters = True  # at first the backbone has no gradients to wait for
        if not has_validation and self.early_stopping_patience is not None:
            raise UserError(
                "early_stopping_patience needs a validation split, and there is none; use --validation_fraction 0.1."
            )
        if not has_validation and self.best_k_soup is not None:
            raise UserError("best_k_soup needs a validation split, and there is none; use --validation_fraction 0.1.")
        if not has_validation and self.calibrate:
            raise UserError("calibrate needs a validation split, and there is none; use --validation_fraction 0.1.")
        if not has_validation:
            self.eval_strategy = IntervalStrategy.NO
            self.load_best_model_at_end = self.eval_on_start = False
            schedule = ScheduleType(self.lr_scheduler_type).value
            if schedule in BY_METRIC:
                raise UserError(
                    f"lr_scheduler_type {schedule} goes by a metric of the validation split, and"
                    " there is none; use --validation_fraction 0.1, or another schedule."
                )
        chosen_by = self.chosen_by
        if has_validation and chosen_by not in metrics:
            raise UserError(
                f'metric_for_best_model is "{chosen_by}", which is not measured.{did_you_mean(chosen_by, metrics)}'
                f" Use one of {', '.join(metrics)}."
            )
        beyond = [milestone for milestone in self.lr_milestones if milestone >= self.num_train_epochs]
        by_epochs = self.max_steps < 0 < self.num_train_epochs
        if beyond and ScheduleType(self.lr_scheduler_type).value == MULTISTEP and by_epochs:
            logger.warning(
                f"Warning: lr_milestones {beyond} lie beyond the end at epoch {self.num_train_epochs:g};"
                " the learning rate is not lowered there."
            )


def split_global_batch(
    global_batch_size: int, devices: int, per_device: int | None, accumulation: int | None
) -> tuple[int, int]:
    """Split a global batch over devices and forward passes.

    Args:
        global_batch_size: Images per optimizer step.
        devices: Devices that train together.
        per_device: Images per device and forward pass, if stated; it is kept.
        accumulation: Forward passes per optimizer step, if stated; it is kept.

    Returns:
        Images per device and forward pass, and forward passes per optimizer step.

    Raises:
        UserError: If it does not divide. A learning rate is never applied to another batch than the one it was set
            for.
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
