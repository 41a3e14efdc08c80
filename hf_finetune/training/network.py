"""The network of a run and what prepares its images, loaded and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import BaseImageProcessor, PreTrainedConfig

from hf_finetune.config.model import FITTED_HEADS, ModelArguments
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.models.choose_head import is_neighbors
from hf_finetune.models.dropout import set_drop_path
from hf_finetune.models.ensemble import EnsembleSource
from hf_finetune.models.freeze import Frozen
from hf_finetune.models.image_size import match_image_size, stated_sides
from hf_finetune.models.load import LoadedModel, check_num_labels, load_config, open_source
from hf_finetune.models.prepare import prepare_model
from hf_finetune.models.processor import describe, load_image_processor
from hf_finetune.models.source import ModelSource
from hf_finetune.training.channels import check_object, settle_channels
from hf_finetune.training.plan import RunPlan
from hf_finetune.training.sharding import built_whole
from hf_finetune.training.wiring import filling_the_cache

logger = get_logger(__name__)

_ALIKE = "and no epoch all training images count alike"


@dataclass(frozen=True)
class Network:
    """A network that is ready for the Trainer.

    Attributes:
        loaded: The model, and which of its tensors are new.
        image_processor: What prepares images in evaluation.
        frozen: What is not trained.
        base: The name of the checkpoint that it starts from, None for random weights.
        alike: Whether all training images count alike: without an epoch, the head keeps them, the means of
            classes, or what it was.
    """

    loaded: LoadedModel
    image_processor: BaseImageProcessor
    frozen: Frozen
    base: str | None
    alike: bool = False


def load_network(plan: RunPlan, data: ImageDataset) -> Network:
    """Load the network of a run, or take the caller's, with a head for the classes and the task of a dataset.

    Raises:
        UserError: For a checkpoint that cannot be had or does not fit, and for settings that it cannot have.
    """
    arguments, given, label_names = plan.model, plan.given.model, data.label_names
    check_num_labels(arguments, label_names)
    if arguments.head_init in FITTED_HEADS and plan.data.streaming:
        raise UserError(
            f"head_init {arguments.head_init} needs images of every class at hand; leave it out, or --streaming."
        )
    with filling_the_cache(plan.args, "weights"):  # an address is fetched once
        source = open_source(arguments if given is None else given)
        if isinstance(source, EnsembleSource):
            raise UserError(f"{source.name} is an ensemble; fine-tune one of its members, {source.members[0].name}.")
        config = load_config(source, label_names, data.task)
    alike = arguments.head_init == "class_means" and not plan.args.takes_steps
    if arguments.head_init == "class_means":
        _check_class_means(plan, data)
    if arguments.head == "knn" or is_neighbors(config):
        _check_neighbors(plan, data)
        alike = True
        arguments = replace(arguments, freeze=None)  # nothing is trained in any case
    sides = _wanted_sides(plan)
    if given is None and sides is not None:
        match_image_size(config, sides, arguments.model_config or {})
    if arguments.drop_path is not None:
        if given is not None:
            raise UserError("drop_path is for a network that is built here; build the model object with its rate.")
        set_drop_path(config, arguments.drop_path, arguments.model_config or {})
    if given is not None and data.channels is not None:
        check_object(config, data.channels)
    plan = replace(plan, data=settle_channels(config, data, plan.data, plan.args.seed))
    image_processor = _image_processor(plan, source, config)
    with built_whole(plan.args):
        sees = describe(image_processor).sides
        prepared = prepare_model(source, config, arguments, label_names, plan.args.seed, sees, plan.args.sync_batchnorm)
    if not (alike or plan.args.takes_steps or prepared.loaded.initialized):
        why = "num_train_epochs is 0 and the checkpoint's own head is kept, so nothing is trained"
        _check_alike(plan.args, why, "--num_train_epochs 1 or more")
        alike = True
    if data.channels is not None:
        prepared.loaded.model.config.image_channels = data.channels  # a chosen head has a configuration of its own
    if plan.args.loss == "arcface" and getattr(prepared.loaded.model.config, "head", None) != "cosine":
        raise UserError("loss arcface is for logits that are cosines; use --head cosine as well.")
    log_lines(logger, *prepared.report)
    if given is not None:
        base: str | None = given.name_or_path or None
    else:
        base = arguments.load_from or (arguments.model_name_or_path if arguments.pretrained else None)
    return Network(prepared.loaded, image_processor, prepared.frozen, base, alike)


def _check_class_means(plan: RunPlan, data: ImageDataset) -> None:
    """Check the settings of a run whose head starts with the means of classes."""
    if data.task.several:
        raise UserError("head_init class_means is for one class per image; use --head_init probe.")
    if not plan.args.takes_steps:
        _check_alike(plan.args, f"with head_init class_means {_ALIKE}", "--head_init probe")


def _check_neighbors(plan: RunPlan, data: ImageDataset) -> None:
    """Check the settings of a run whose head keeps training images, and which trains nothing."""
    if plan.args.takes_steps:
        raise UserError("head knn keeps training images and has nothing to train; use --num_train_epochs 0.")
    if data.task.several:
        raise UserError("head knn is for one class per image; use --head_init probe.")
    if plan.data.streaming:
        raise UserError("head knn needs images of every class at hand; leave it out, or --streaming.")
    if plan.model.peft is not None:
        raise UserError("peft says what is trained, and with head knn nothing is; use --peft null.")
    _check_alike(plan.args, f"with head knn {_ALIKE}", "--head linear and --head_init probe")


def _check_alike(args: FinetuneArguments, why: str, instead: str) -> None:
    """Check that no key weighs images, in a run whose head does not depend on it.

    Args:
        args: How the run trains.
        why: What is the reason, for the message.
        instead: The flags of a run in which weights have an effect.
    """
    weighing = {
        "class_weights": args.class_weights is not None,
        "sampling": args.sampling != "random",
        "logit_adjustment": bool(args.logit_adjustment) and not args.shifts_trained_head,
    }
    keys = [key for key, is_set in weighing.items() if is_set]
    if keys:
        raise UserError(
            f"{' and '.join(keys)} would have no effect: {why}; use {instead}, or leave"
            f" {'it' if len(keys) == 1 else 'them'} out."
        )


def _wanted_sides(plan: RunPlan) -> tuple[int, int] | None:
    """Return the height and the width of images where the caller states them, in pixels."""
    if isinstance(plan.given.image_processor, BaseImageProcessor):
        return describe(plan.given.image_processor).sides
    return stated_sides(plan.data.image_size)


def _image_processor(plan: RunPlan, source: ModelSource, config: PreTrainedConfig) -> BaseImageProcessor:
    given = plan.given.image_processor
    if isinstance(given, BaseImageProcessor):
        return given
    if given is not None:
        named = ModelArguments(given, trust_remote_code=plan.model.trust_remote_code)
        return load_image_processor(named, config, plan.data)
    if plan.given.model is not None and source.load_processor() is None:
        logger.info(
            "No image processor is known for the model object; images are prepared with ImageNet's figures and what the"
            " recipe says. Give finetune(image_processor=...) for others."
        )
    return load_image_processor(source, config, plan.data)
