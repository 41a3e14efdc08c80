"""The Trainer of Transformers with the faults fixed that would falsify a fine-tuning.

What is overridden, and why, stands at each method; the loop itself is the stock one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed import broadcast
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    BaseImageProcessor,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
)
from transformers.trainer_utils import EvalLoopOutput

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.batches import ImageBatches, pass_on
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.images.unreadable import BadImages
from hf_finetune.data.stages import TrainingStage
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.errors import UserError, did_you_mean, first_line
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.training.extensions.log_lines import EpochCallback, LogLineCallback, PlainLogLineCallback
from hf_finetune.training.loss import classification_loss
from hf_finetune.training.optimization import build_schedule
from hf_finetune.training.sampling import CountedOnce, EpochSampler
from hf_finetune.training.streaming_trainer import StreamingTrainer

logger = get_logger(__name__)


class ImageClassificationTrainer(StreamingTrainer):
    """Fine-tunes an image classifier on uint8 batches that a `DeviceStage` completes on the model's device.

    `reduce_logits` maps logits
    (batch, classes) and labels (batch,) to what `compute_metrics` needs of them, on the device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: FinetuneArguments,
        *,
        device_stage: DeviceStage,
        image_processor: BaseImageProcessor,
        training_stage: TrainingStage | None = None,
        train_dataset: ImageBatches | None = None,
        eval_dataset: ImageBatches | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        reduce_logits: Callable[[torch.Tensor, torch.Tensor], Any] | None = None,
        bad_images: BadImages | None = None,
    ) -> None:
        super().__init__(
            model,
            args,
            data_collator=pass_on,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=image_processor,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=reduce_logits,
            compute_loss_func=classification_loss(args.label_smoothing_factor),
            bad_images=bad_images,
        )
        if not self._is_sharded:  # DeepSpeed lays weights out itself
            # Convolutions are fastest in this layout; other layers do not mind.
            self.model.to(memory_format=torch.channels_last)
        if self.accelerator.ddp_handler is not None:
            self.accelerator.ddp_handler.gradient_as_bucket_view = True  # gradients are reduced where they lie
        self.device_stage = device_stage
        # The loss is divided in `classification_loss` alone, and no model is handed arguments it may misread.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        log_lines_callback = PlainLogLineCallback() if args.disable_tqdm else LogLineCallback()
        if isinstance(compute_metrics, ClassificationMetrics):
            log_lines_callback.metrics = compute_metrics.metrics
        self.add_callback(log_lines_callback)
        self._training_stage = training_stage
        self._sampler: EpochSampler | None = None
        self.add_callback(EpochCallback(self._set_epoch))

    # ---- optimizer and schedule ----

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All parameters, or without norms and biases those of two and more dimensions, as timm counts them.

        The stock rule goes by names and misses ResNet's `normalization`. Those that `no_decay` names are left out.
        """
        everything, left_out = self.args.decay_norm_and_bias, set(self.args.no_decay or ())
        return [
            name
            for name, parameter in model.named_parameters()
            if (everything or parameter.ndim > 1) and left_out.isdisjoint(name.split("."))
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """SGD with momentum; any other optimizer is the stock Trainer's."""
        if self.args.optim == "sgd":
            settings = {
                "lr": self.args.learning_rate,
                "momentum": self.args.momentum,
                "nesterov": self.args.nesterov,
                # One pass over each tensor instead of four; sharded parameters have no such kernel.
                "fused": self.args.device.type in ("cpu", "cuda") and not self._is_sharded,
            }
            self.optimizer_cls_and_kwargs = (torch.optim.SGD, settings)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """The step schedule and MMClassification's warm-ups, which Transformers lacks; else the stock Trainer's."""
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        schedule = build_schedule(self.args, optimizer or self.optimizer, num_training_steps, self._updates_per_epoch)
        self.lr_scheduler, self._created_lr_scheduler = schedule, True
        return schedule

    def _get_train_sampler(self, train_dataset: ImageBatches | None = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        args, count = self.args, len(train_dataset or self.train_dataset)
        fills_up = args.world_size > 1 and not args.dataloader_drop_last
        multiple = args.train_batch_size * args.world_size if fills_up else 1
        self._sampler = EpochSampler(count, args.order_seed, multiple)
        return self._sampler

    def _get_dataloader(self, dataset: Dataset, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        if is_training and self.args.world_size > 1 and not isinstance(dataset, StreamedBatches):
            dataset = CountedOnce(dataset)
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training  # an evaluation counts every image
        try:
            return super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _set_epoch(self, epoch: int) -> None:
        """Tells the draws and the order. Accelerate reaches neither in all configurations (DDP, after a resume)."""
        if self._training_stage is not None:
            self._training_stage.set_epoch(epoch)
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)

    # ---- before the first step ----

    def sanity_check(self) -> None:
        """Takes two images of each split through all that a step needs, so that what does not fit shows at once.

        Weights, statistics and random numbers stay as they are. Raises `UserError`.
        """
        sizes = [
            self._check_batch(dataset.first(2))
            for dataset in (self.train_dataset, self.eval_dataset)
            if dataset is not None
        ]
        if len(set(sizes)) > 1:
            (height, width), (eval_height, eval_width) = sizes
            logger.warning(
                f"Note: train_transforms make images of {height} x {width} pixels, but evaluation, by image_size, of"
                f" {eval_height} x {eval_width}."
            )
        if self.args.gradient_checkpointing and not self.model.supports_gradient_checkpointing:
            raise UserError(f"{type(self.model).__name__} does not support gradient_checkpointing; leave it out.")
        parts = {part for name, _ in self.model.named_parameters() for part in name.split(".")}
        log_lines(
            logger,
            *(
                f"Note: no_decay: no parameter is called {name}.{did_you_mean(name, parts)}"
                for name in self.args.no_decay or ()
                if name not in parts
            ),
        )
        images = self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and len(self.train_dataset) < images:
            raise UserError(
                f"dataloader_drop_last leaves none of the {len(self.train_dataset):,} training images, which do not"
                " fill one batch; use --dataloader_drop_last false."
            )
        # A parameter of its own, because some optimizers and schedules leave hooks on what they are made for.
        parameters = [nn.Parameter(torch.zeros(1))]
        try:
            if self.args.optim != "sgd":
                optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
                if not {"params", "model", "optimizer_dict"} & settings.keys():
                    optimizer_class(parameters, **settings)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"optim {self.args.optim.value} cannot be used: {first_line(error)}; use another --optim."
            ) from error
        try:
            self.create_scheduler(num_training_steps=1000, optimizer=torch.optim.SGD(parameters))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"lr_scheduler_type {self.args.lr_scheduler_type.value} cannot be used: {first_line(error)}; use what"
                " it needs as --lr_scheduler_kwargs '{name: value}', or another schedule."
            ) from error
        self.lr_scheduler, self._created_lr_scheduler = None, False

    def _check_batch(self, batch: dict[str, torch.Tensor]) -> tuple[int, int]:
        """Returns the (height, width) in pixels that the network is given."""
        self.model.eval()
        try:
            inputs = self._prepare_inputs(batch)
            labels = inputs.pop("labels")
            if not self._is_sharded:  # there it is not whole before it is wrapped
                with torch.no_grad():
                    self.compute_loss_func(self.model(**inputs), labels)
            return tuple(inputs["pixel_values"].shape[-2:])
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"A first batch of images does not go through {type(self.model).__name__}: {first_line(error)};"
                " check image_size, train_transforms and model_config."
            ) from error

    # ---- one step ----

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.device_stage(super()._prepare_inputs(inputs))

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        return 0  # the stock estimate is meant for language models and walks all parameters at each step

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor | float | None:
        """Measures the norm of the gradient for the steps that are logged; the stock Trainer does at every step."""
        if grad_norm is None and (self.state.global_step + 1) % self.state.logging_steps:
            return None
        return super()._get_grad_norm(model, grad_norm)

    # ---- evaluation ----

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluates with one set of BatchNorm statistics: DDP refreshes the buffers of other ranks only in training."""
        if self.args.world_size > 1 and not self._is_sharded:
            for buffer in self.model.buffers():
                broadcast(buffer, src=0)
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor | None]:
        """Returns logits, float32 (batch, classes), and labels, int64 (batch,).

        The loss is left to `reduce_logits`, which keeps it per image: the stock mean is wrong where the last batch is
        uneven over the processes.
        """
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels", None)
        with torch.inference_mode() if self.args.world_size == 1 else torch.no_grad():
            logits = model(**inputs).logits
        return None, logits.float(), labels

    def end(self) -> None:
        """Ends the process group without the abort that gloo jobs meet at random at exit (pytorch#190489)."""
        self.accelerator.free_memory()
        self.model_wrapped = self.model
        super().end()
