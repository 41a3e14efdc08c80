"""The dry run before the first step, so that what does not fit together shows at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from hf_finetune.config.training_keys import plain_word
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.errors import UserError, did_you_mean, first_line
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.models.adapters import has_adapters
from hf_finetune.models.batch_norm import computes_batch_norm
from hf_finetune.models.freeze import trains_backbone
from hf_finetune.models.head import head_parameter_names
from hf_finetune.training.extensions.first_pass import BATCH_ERRORS, batch_error, tells_of_first_pass
from hf_finetune.training.loaders import batch_sizes
from hf_finetune.training.optimization import build_schedule

if TYPE_CHECKING:
    from hf_finetune.config.training import FinetuneArguments
    from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

_Passed: TypeAlias = dict[tuple[Any, ...], Any]  # outputs of the network by names, shapes and dtypes of its inputs


def sanity_check(trainer: ImageClassificationTrainer) -> None:
    """Take two images of each split through all that a step needs, and make optimizer and schedule once.

    Batches of training images are tried in every size that will occur, made of these two. Where BatchNorm cannot
    compute with the one image that the last batch would have, the trainer is told to join it to the batch before it.
    Weights, statistics and random numbers stay as they are.

    Args:
        trainer: A trainer with training images.

    Raises:
        UserError: Something does not fit together.
    """
    _check_images(trainer)
    _check_settings(trainer)
    _check_image_sizes(trainer)
    if not trainer.is_sharded:  # sharded weights are not whole before the model is wrapped
        settle_lone_image(trainer)
        _check_batch_sizes(trainer)
    check_optimizer(trainer)


def _check_images(trainer: ImageClassificationTrainer) -> None:
    datasets = [dataset for dataset in (trainer.train_dataset, trainer.eval_dataset) if dataset is not None]
    passed: _Passed = {}
    sizes = [_check_batch(trainer, dataset.first(2), passed) for dataset in datasets]
    if len(set(sizes)) > 1:
        (height, width), (eval_height, eval_width) = sizes
        logger.warning(
            f"Note: train_transforms make images of {height} x {width} pixels, but evaluation, by image_size, of"
            f" {eval_height} x {eval_width}."
        )


def _check_batch(
    trainer: ImageClassificationTrainer, batch: dict[str, torch.Tensor], passed: _Passed
) -> tuple[int, int]:
    """Return the (height, width) in pixels that the network is given.

    Args:
        trainer: The trainer.
        batch: Images of a split.
        passed: What the network gave for inputs of some shapes, which it is not given again.
    """
    model = trainer.model
    model.train(False)
    of_size = ""
    try:
        # FSDP and DeepSpeed leave the weights on the CPU until the training begins; they are whole until then.
        inputs = {name: tensor.to(model.device) for name, tensor in trainer.prepare_batch(batch).items()}
        labels = inputs.pop("labels")
        height, width = inputs["pixel_values"].shape[-2:]
        of_size = f" of {height} x {width} pixels"
        shapes = tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())
        with torch.no_grad(), trainer.extensions.evaluating():
            if shapes not in passed:
                passed[shapes] = model(**inputs)
            trainer.compute_loss_func(passed[shapes], labels)
        return height, width
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"A first batch of images{of_size} does not go through {type(model).__name__}:"
            f" {first_line(error).rstrip('.')}; check image_size, train_transforms and model_config."
        ) from error


def _check_settings(trainer: ImageClassificationTrainer) -> None:
    args, model, count = trainer.args, trainer.model, len(trainer.train_dataset)
    if args.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(f"{type(model).__name__} does not support gradient_checkpointing; leave it out.")
    if args.gradient_checkpointing and has_adapters(model) and (_checkpoint_arguments(args) or {}).get("use_reentrant"):
        raise UserError("peft: with use_reentrant true adapters get no gradient; use use_reentrant false.")
    if args.freeze_epochs is not None and (not trains_backbone(model) or not head_parameter_names(model)):
        raise UserError(
            f"freeze_epochs trains the head of {type(model).__name__} before its backbone, of which nothing is trained;"
            " leave freeze_epochs out."
        )
    if args.train_sampling_strategy != "random" and isinstance(trainer.train_dataset, StreamedBatches):
        raise UserError("train_sampling_strategy is for images that are not streamed; leave --streaming out.")
    _check_compiler(args)
    parts = {part for name, _ in model.named_parameters() for part in name.split(".")}
    for name in args.no_decay or ():
        if name not in parts:
            logger.info(f"Note: no_decay: no parameter is called {name}.{did_you_mean(name, parts)}")
    if args.dataloader_drop_last and count < args.train_batch_size * args.world_size:
        raise UserError(
            f"dataloader_drop_last leaves none of the {count:,} training images, which do not"
            " fill one batch; use --dataloader_drop_last false."
        )


def _check_image_sizes(trainer: ImageClassificationTrainer) -> None:
    """Take training images of each size of `image_size_schedule` through the network."""
    schedule, stage, name = trainer.args.image_size_schedule, trainer.device_stage, type(trainer.model).__name__
    if schedule is None:
        return
    if not trains_backbone(trainer.model):
        raise UserError(
            f"image_size_schedule trains the backbone of {name} in less time, but it is frozen; leave it out."
        )
    batch = trainer.train_dataset.first(2)
    full = min(_check_batch(trainer, dict(batch), {}))
    for size in schedule.values():
        if size > full:
            raise UserError(f"image_size_schedule: {size} is more than the {full} pixels of training images; use less.")
        stage.training_size = size
        try:
            _check_batch(trainer, dict(batch), {})
        except UserError as error:
            reason = str(error).partition(": ")[2].partition("; check")[0]
            raise UserError(
                f"image_size_schedule: images of {size} pixels do not go through {name}: {reason}; use other sizes,"
                " or a network of convolutions, such as a ResNet."
            ) from error
        finally:
            stage.training_size = None


def settle_lone_image(trainer: ImageClassificationTrainer) -> None:
    """Decide what becomes of a last batch of one training image, which BatchNorm may not be able to compute with.

    Args:
        trainer: A trainer with training images; it is told to join the image to the batch before it where need be.

    Raises:
        UserError: There is no batch that it could join.
    """
    args, model, count = trainer.args, trainer.model, len(trainer.train_dataset)
    if batch_sizes(count, args)[0] > 1 or not (trains_backbone(model) or computes_batch_norm(model)):
        return
    with _trying_to_train(trainer):
        if _fits(trainer, trainer.train_dataset.first(2), 1):
            return
    name = type(model).__name__
    if count == 1:
        raise UserError(f"{name} has BatchNorm, which cannot compute with the one training image; add images.")
    if args.train_batch_size == 1:
        raise UserError(
            f"{name} has BatchNorm, which cannot compute with one image at a time; use"
            f" {_larger_batch(args)}, or --freeze backbone."
        )
    trainer.joins_lone_image = True
    logger.info(
        f"Note: {count:,} images in batches of {args.train_batch_size:,} leave one image alone; it joins the"
        " batch before it, because BatchNorm cannot compute with one."
    )


def _check_batch_sizes(trainer: ImageClassificationTrainer) -> None:
    """Try training batches of all sizes, or small ones in their place where the first step tells what goes wrong.

    A network that takes two images but not every number of them takes no odd number: three show it.
    """
    model = trainer.model
    if not (trains_backbone(model) or computes_batch_norm(model)):
        return  # the head is tried with the backbone, and it treats each image alone
    batch = trainer.train_dataset.first(2)
    with _trying_to_train(trainer):
        sizes = batch_sizes(len(trainer.train_dataset), trainer.args, trainer.joins_lone_image)
        if tells_of_first_pass(trainer.args):
            sizes = sorted({min(size, 2 + size % 2) for size in sizes})
        for size in sizes:
            _fits(trainer, batch, size)


def _larger_batch(args: FinetuneArguments) -> str:
    if args.global_batch_size < 2 * args.world_size:
        return f"--global_batch_size {2 * args.world_size} or more"
    return "--per_device_train_batch_size 2 or more"


def _fits(trainer: ImageClassificationTrainer, batch: dict[str, torch.Tensor], size: int) -> bool:
    """Take `size` images through the network in training mode, and return whether BatchNorm can compute with them."""
    rows = torch.arange(size) % len(batch["labels"])
    try:
        inputs = trainer.prepare_batch({key: values[rows] for key, values in batch.items()})
        labels = inputs.pop("labels")
        trainer.compute_loss_func(trainer.model(**inputs), labels)
    except BATCH_ERRORS as error:
        if "more than 1 value per channel" in str(error):
            return False
        raise batch_error(error, size, type(trainer.model).__name__, trainer.args) from error
    return True


@contextmanager
def _trying_to_train(trainer: ImageClassificationTrainer) -> Iterator[None]:
    """Surround forward passes in training mode after which statistics and random numbers are as before."""
    model, device = trainer.model, trainer.args.device
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    checkpointing = trainer.args.gradient_checkpointing
    random_numbers_stay = torch.random.fork_rng([device] if device.type == "cuda" else [])
    model.train()
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable(_checkpoint_arguments(trainer.args))
    try:
        with random_numbers_stay, torch.no_grad(), trainer.autocast_smart_context_manager():
            yield
    finally:
        if checkpointing:
            getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
        model.eval()
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])


def _checkpoint_arguments(args: FinetuneArguments) -> dict[str, Any] | None:
    """Return the arguments of `torch.utils.checkpoint.checkpoint`, for which Transformers may have two keys."""
    stated: Any = getattr(args, "activation_checkpointing_kwargs", None) or args.gradient_checkpointing_kwargs or {}
    return {key: value for key, value in stated.items() if key not in ("every_n_layers", "offload")} or None


def _check_compiler(args: FinetuneArguments) -> None:
    """Compile a small network as the large one will be: a compiler may be missing, or a mode unknown."""
    if not args.torch_compile:
        return
    small = nn.Linear(2, 2).to(args.device)
    try:
        compiled = torch.compile(small, backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)
        compiled(torch.zeros(1, 2, device=args.device)).sum().backward()
    except Exception as error:  # of any of the compilers
        raise UserError(f"torch_compile cannot be used here: {first_line(error)}; leave it out.") from error


def _check_optim_args(trainer: ImageClassificationTrainer, name: str, settings: dict[str, Any]) -> None:
    """Check that `optim_args` changes what an optimizer is given: most optimizers of Transformers do not read it."""
    without = copy.copy(trainer.args)
    without.optim_args = None
    if trainer.args.optim_args and trainer.get_optimizer_cls_and_kwargs(without, trainer.model)[1] == settings:
        raise UserError(
            f"optim_args {trainer.args.optim_args} is not read where optim is {name}; leave it out. Adam's settings are"
            " --adam_beta1, --adam_beta2 and --adam_epsilon."
        )


def check_optimizer(trainer: ImageClassificationTrainer) -> None:
    """Make optimizer and schedule once, of one made-up parameter.

    Raises:
        UserError: They cannot be made of these settings.
    """
    args = trainer.args
    log_lines(logger, *trainer.rates.report)
    if trainer.rates.by_name and trainer.is_deepspeed_enabled:
        plugin = trainer.accelerator.state.deepspeed_plugin
        if plugin is not None and "optimizer" in plugin.deepspeed_config:
            raise UserError(
                "layer_decay, head_lr_multiplier, param_groups and freeze_epochs need the optimizer of the recipe; take"
                " the optimizer out of the file of deepspeed."
            )
    # A parameter of its own, because some optimizers and schedules leave hooks on what they are made for.
    parameters = [nn.Parameter(torch.zeros(1))]
    name = plain_word(args.optim)
    try:
        if trainer.optimizer_cls_and_kwargs is None:
            optimizer_class, settings = trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
            if not {"params", "model", "optimizer_dict"} & settings.keys():
                optimizer_class(parameters, **settings)
                _check_optim_args(trainer, name, settings)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"optim {name} cannot be used: {first_line(error)}; use another --optim.") from error
    try:
        build_schedule(args, torch.optim.SGD(parameters), num_training_steps=1000, updates_per_epoch=1)
    except (TypeError, ValueError) as error:
        name = plain_word(args.lr_scheduler_type)
        raise UserError(
            f"lr_scheduler_type {name} cannot be used: {first_line(error)}; use what"
            " it needs as --lr_scheduler_kwargs '{name: value}', or another schedule."
        ) from error
