"""The Trainer of Transformers, with exact resumption and without the faults that would falsify a fine-tuning.

Most of what a run adds to the loop is an extension (`training.extensions`). Here is what only a subclass can do: orders
and loaders, batches that are completed on the device, and checkpoints that are whole or not there. The loop itself is
the stock one. Each method that is overridden says why.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence, Sized
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import BaseImageProcessor, EvalPrediction, PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.collate import pass_on
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.images.unreadable import BadImages
from hf_finetune.data.stages import TrainingStage
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.errors import Interrupted
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.models.saved_form import save_for_pipeline, save_whole
from hf_finetune.training.checkpoints.resume import RESUME_FILE, ResumeState
from hf_finetune.training.checkpoints.usable import find_best_again, misfits_told
from hf_finetune.training.checkpoints.weights import reload_whole
from hf_finetune.training.checkpoints.writer import CheckpointWriter
from hf_finetune.training.extensions.base import Extension, gather_names
from hf_finetune.training.extensions.build import build_extensions
from hf_finetune.training.extensions.list import Extensions
from hf_finetune.training.loaders import epoch_sampler, in_order, start_workers_alike
from hf_finetune.training.loss import BatchLoss, classification_loss
from hf_finetune.training.optimization import build_schedule, decayed_parameters
from hf_finetune.training.rates import Rates, parameter_rates
from hf_finetune.training.sampling import EpochSampler, Quotas
from hf_finetune.training.stock_trainer import TrainerLoop, adapt_stock_trainer, release_loaders, training_context


class ImageClassificationTrainer(Trainer):
    """Fine-tunes an image classifier on uint8 batches that a `DeviceStage` completes on the model's device.

    Attributes:
        extensions: What is added to the loop, in the order in which it sees each event.
        rates: How the learning rates of the parameters differ.
        is_sharded: Whether FSDP or DeepSpeed divides the weights over the ranks.
        joins_lone_image: Whether a last batch of one training image joins the batch before it.
        quotas: Which training images an epoch shows; None for each once.
    """

    args: FinetuneArguments
    model: PreTrainedModel
    train_dataset: Any
    eval_dataset: Any
    compute_loss_func: BatchLoss

    def __init__(
        self,
        model: PreTrainedModel,
        args: FinetuneArguments,
        *,
        device_stage: DeviceStage,
        image_processor: BaseImageProcessor,
        training_stage: TrainingStage | None = None,
        train_dataset: ImageBatches | StreamedBatches | None = None,
        eval_dataset: ImageBatches | StreamedBatches | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        reduce_logits: Callable[[torch.Tensor, torch.Tensor], Any] | None = None,
        bad_images: BadImages | None = None,
        extensions: Sequence[Extension] | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
    ) -> None:
        """Create a trainer.

        Args:
            model: The network; its `forward` takes `pixel_values`, float32 (batch, 3, height, width).
            args: How it is trained.
            device_stage: Turns a batch from a loader into what the model takes, on the model's device.
            image_processor: Saved with the model.
            training_stage: What prepares training images in the workers; it is told which epoch begins.
            train_dataset: The training images; None for a trainer that only evaluates.
            eval_dataset: The validation images, if there are any.
            compute_metrics: Computes figures from what `reduce_logits` returns for all images.
            reduce_logits: Maps logits (batch, classes) and labels (batch,), on the device, to what `compute_metrics`
                needs of them.
            bad_images: The list of unreadable images.
            extensions: What is added to the loop; by default what the arguments ask for.
            callbacks: Callbacks of Transformers, called after the extensions.

        Raises:
            UserError: The arguments contradict each other.
        """
        super().__init__(
            model,
            args,
            data_collator=cast("Callable[[list[Any]], dict[str, Any]]", pass_on),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=image_processor,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=reduce_logits,
            compute_loss_func=classification_loss(args.label_smoothing_factor, args.loss, args.loss_args),
        )
        self.is_sharded: bool = self.is_fsdp_enabled or self.is_deepspeed_enabled
        adapt_stock_trainer(self)
        self.joins_lone_image = False
        self.quotas: Quotas | None = None
        self.bad_images = bad_images
        self.device_stage = device_stage
        self._training_stage = training_stage
        self._sampler: EpochSampler | None = None
        self._updates_per_epoch, self._seen_step = 1, -1
        self._resumed_from: Path | None = None
        self._stopped_by: signal.Signals | None = None
        self.rates = parameter_rates(self.model, args) if train_dataset is not None else Rates({})
        if extensions is None:
            extensions = build_extensions(args, train_dataset, bad_images, self.is_sharded, compute_metrics)
        self.extensions = Extensions(extensions)
        self._loop = TrainerLoop(self)
        self._checkpoints = CheckpointWriter(args, self._loop, self.extensions)
        self.extensions.attach(self._loop)
        for callback in (*self.extensions, *callbacks):
            self.add_callback(callback)

    # ---- what extensions ask of a run, and know of it ----

    def set_epoch(self, epoch: int) -> None:
        """Tell the random draws and the order of the images which epoch begins, counted from 0."""
        if self._training_stage is not None:
            self._training_stage.set_epoch(epoch)
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)

    @property
    def skipped_steps(self) -> list[dict[str, Any]]:
        """The optimizer steps that changed nothing: `step`, `learning_rate` and the names of their `images`."""
        return self.extensions.skipped_steps

    def unreadable_images(self) -> list[str]:
        """Return the unreadable images that all ranks have met, sorted, each with the reason. All ranks call it."""
        return sorted(set(gather_names(self.extensions.unreadable_images(), self.accelerator)))

    # ---- optimizer and schedule ----

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the parameters with weight decay; the stock rule goes by names and misses ResNet's `normalization`."""
        return decayed_parameters(model, self.args.decay_norm_and_bias, self.args.no_decay or ())

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Make the stock optimizer, whose groups have one rate, and divide its groups by layer, head and name."""
        is_new, optimizer = self.optimizer is None, super().create_optimizer(model)
        if is_new:
            self.rates.apply(optimizer, (self.model if model is None else model).named_parameters())
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Make an extension's schedule, the step schedule or MMClassification's warm-ups; else the stock schedule."""
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        used = optimizer if optimizer is not None else cast(Optimizer, self.optimizer)
        own = self.extensions.schedule(used)
        schedule = own or build_schedule(self.args, used, num_training_steps, self._updates_per_epoch)
        self.lr_scheduler, self._created_lr_scheduler = schedule, True  # type: ignore[assignment]
        return schedule

    def set_initial_training_values(self, args: Any, dataloader: DataLoader[Any]) -> tuple[Any, ...]:
        """Note how many optimizer steps an epoch has, which the schedule and the checkpoints need."""
        values: tuple[Any, ...] = super().set_initial_training_values(args, dataloader)
        self._updates_per_epoch = values[1]
        return values

    # ---- loaders ----

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[Any] | None:
        """Make the order that fills up without counting an image twice; the stock one is a list of Python numbers."""
        if self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        dataset = cast(Sized, self.train_dataset if train_dataset is None else train_dataset)
        self._sampler = epoch_sampler(len(dataset), self.args, self.quotas)
        return self._sampler

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader[Any]:  # fmt: skip
        """Arrange streams, count every image once and start workers alike, which the stock loader does not."""
        joins = self.joins_lone_image
        dataset, sampler_fn = in_order(dataset, batch_size, sampler_fn, self.args, is_training, joins)
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training  # an evaluation counts every image
        try:
            loader = super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, dataloader_key)
        finally:
            self.args.dataloader_drop_last = drop_last
        return start_workers_alike(loader, self.args.seed, self.extensions.worker_inits)

    # ---- one step ----

    def prepare_batch(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a loader's batch as the model takes it, on the model's device, with its `labels`."""
        return self._prepare_inputs(batch)

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Complete a batch on the device, in training and in evaluation."""
        return self.device_stage(super()._prepare_inputs(inputs))

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Compute a training pass in the precision of the run; the stock method leaves it to Accelerate alone."""
        return training_context(self.args, self.accelerator)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Show each forward pass to the extensions; callbacks are called once for an optimizer step only."""
        sample_index = inputs.pop("sample_index", None)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.extensions.after_pass(loss, sample_index)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: the stock estimate is meant for language models and walks all parameters at each step."""
        return 0

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor | float | None:
        """Measure the norm of the gradient for the steps that are logged; the stock Trainer does at every step."""
        if grad_norm is None and (self.state.global_step + 1) % self.state.logging_steps:
            return None
        return cast("torch.Tensor | float | None", super()._get_grad_norm(model, grad_norm))

    # ---- evaluation ----

    def evaluation_loop(self, dataloader: DataLoader[Any], *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate within the contexts of the extensions; callbacks are called afterwards only."""
        with self.extensions.evaluating(), self.extensions.loading():
            return super().evaluation_loop(dataloader, *args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, torch.Tensor, torch.Tensor | None]:
        """Return None, logits, float32 (batch, classes), and labels, int64 (batch,).

        The loss is left to `reduce_logits`, which keeps it per image: the stock mean is wrong where the last batch is
        uneven over the ranks.
        """
        leave_if_interrupted()
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels", None)
        with torch.inference_mode() if self.args.world_size == 1 else torch.no_grad():
            logits = model(**inputs).logits
        return None, logits.float(), labels

    # ---- the loop ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train to the end.

        Args:
            resume_from_checkpoint: The folder of the checkpoint from which the run resumes, or None.
            *args: Passed to the stock method, as are `kwargs`.
            **kwargs: See there.

        Returns:
            The number of optimizer steps, the mean loss of the whole run and its figures.

        Raises:
            Interrupted: SIGTERM, SIGINT or SIGHUP stopped the run, and everything is saved.
            UserError: Images cannot be loaded, a loss is not finite or the disk is full.
        """
        self._resumed_from = Path(str(resume_from_checkpoint)) if resume_from_checkpoint else None
        if self._resumed_from is not None:
            self.args.eval_on_start = False  # the run was evaluated when it did start
        self._checkpoints.remove_unfinished()
        with self.extensions.loading(), self.extensions.training():
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Restore what the stock Trainer forgets: place of the best checkpoint, losses, states of extensions."""
        position = super()._init_training_state(*args, **kwargs)
        if self._resumed_from is not None:
            find_best_again(self.state, self._resumed_from, self.args.load_best_model_at_end)
            saved = ResumeState.load(self._resumed_from)
            self._loop.restored_loss = saved.running_loss
            with misfits_told(self._resumed_from, RESUME_FILE):
                self.extensions.load_state_dicts(saved.extensions)
            self._checkpoints.saved_step = self.state.global_step
        return position

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Run an epoch unless the run is complete: it may have been stopped between its last step and its result."""
        self._loop.restore_running_loss()
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: Any, model: nn.Module, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Do what is due, in an order that a resumed run can repeat, and stop where an extension asks for it.

        The stock loop calls it after each step, and again at the end of each epoch and of a run that is stopped in one.
        """
        if self._stopped_by is not None:
            return  # what is due at the end of an epoch is not due in the middle of one
        step = self.state.global_step
        after_step, self._seen_step = step != self._seen_step, step
        if after_step and (step % self._updates_per_epoch == 0 or step >= self.state.max_steps):
            # The call at the end of the epoch follows. What is logged and evaluated there belongs in the checkpoint of
            # the epoch's last step, because a run that resumes from it does not make that call again.
            return
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        self._save_if_asked_to_stop(model, trial)

    def _save_if_asked_to_stop(self, model: nn.Module, trial: Any) -> None:
        self._stopped_by = self.extensions.stop_requested()
        if self._stopped_by is not None:
            if self._checkpoints.saved_step != self.state.global_step:
                self._save_checkpoint(model, trial)
            self.control.should_training_stop = True

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any) -> TrainOutput:
        """End with `Interrupted` where the run was stopped; else keep the checkpoint that a limit of 1 would remove."""
        self._loop.restore_running_loss()  # if not one step was left
        if self._stopped_by is None:  # it may have been asked to since the last step was evaluated and saved
            self._save_if_asked_to_stop(self.model, trial)
        if self._stopped_by is not None:
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise Interrupted(self._stopped_by, self.state.global_step)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return cast(TrainOutput, super()._finalize_training(trial, *args, **kwargs))
        finally:
            self.args.save_total_limit = limit

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log an entry, with the mean loss of the whole run; the stock figure leaves out what was before a resume."""
        self.extensions.before_log()
        if "train_loss" in logs:
            logs["train_loss"] = self._loop.total_loss() / max(1, self.state.global_step - len(self.skipped_steps))
        super().log(logs, start_time)

    def end(self) -> None:
        """End the process group without the abort that gloo jobs meet at random at exit (pytorch#190489)."""
        release_loaders(self)
        self.model_wrapped = self.model
        super().end()

    # ---- checkpoints ----

    def _get_output_dir(self, trial: Any) -> str:
        """Return the folder in which a checkpoint is being written, or the folder of the run."""
        return self._checkpoints.folder_in_use or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint into a hidden folder and rename it when it is complete, then remove the surplus ones.

        The stock method writes into the final folder, where a kill leaves half a checkpoint.
        """
        folder = Path(super()._get_output_dir(trial))
        self._checkpoints.write(folder, self.control.should_save, partial(super()._save_checkpoint, model, trial))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Save weights, config and processor, without the stock pickle of the arguments: the recipe says it all."""
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            save = save_for_pipeline if folder == Path(str(self.args.output_dir)) else save_whole
            save(self._unwrapped, self.processing_class, folder, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights strictly, which the stock method does not (`reload_whole`)."""
        if self.is_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            reload_whole(self._unwrapped, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load what belongs to the same network; else torch tells it by a traceback."""
        with misfits_told(Path(str(checkpoint)), "optimizer.pt and scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        """Load the best checkpoint's weights strictly, and what the extensions keep of them."""
        if self.is_sharded:
            super()._load_best_model()
            return
        best = Path(str(self.state.best_model_checkpoint))
        reload_whole(self._unwrapped, best)
        self.extensions.load_best(ResumeState.load(best).extensions)

    @property
    def _unwrapped(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
