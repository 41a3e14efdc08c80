"""The network of a run and what prepares its images, loaded and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import BaseImageProcessor, PreTrainedConfig

from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.models.freeze import Frozen
from hf_finetune.models.given import adopt_model
from hf_finetune.models.head import head_linear
from hf_finetune.models.load import LoadedModel, check_num_labels, load_config, load_model
from hf_finetune.models.prepare import prepare_modules
from hf_finetune.models.processor import load_image_processor
from hf_finetune.training.plan import RunPlan
from hf_finetune.training.wiring import filling_the_cache

logger = get_logger(__name__)


@dataclass(frozen=True)
class Network:
    """A network that is ready for the Trainer.

    Attributes:
        loaded: The model, and which of its tensors are new.
        image_processor: What prepares images in evaluation.
        frozen: What is not trained.
        base: The name of the checkpoint that it starts from, None for random weights.
    """

    loaded: LoadedModel
    image_processor: BaseImageProcessor
    frozen: Frozen
    base: str | None


def load_network(plan: RunPlan, label_names: Sequence[str]) -> Network:
    """Load or adopt the network of a run, with a head for these classes.

    Raises:
        UserError: For a checkpoint that cannot be had or does not fit, and for settings that it cannot have.
    """
    arguments, given = plan.model, plan.given
    check_num_labels(arguments, label_names)
    if given.model is not None:
        loaded = adopt_model(given.model, label_names, plan.args.seed)
        base = given.model.name_or_path or None
        image_processor = _image_processor(plan, loaded.model.config)
    else:
        with filling_the_cache(plan.args, "weights"):  # an address is fetched once
            config = load_config(arguments, label_names)
        image_processor = _image_processor(plan, config)
        loaded = load_model(arguments, config, label_names, plan.args.seed)
        base = arguments.load_from or (arguments.model_name_or_path if arguments.pretrained else None)
    logger.info(f"Model: {loaded.report}")
    frozen = prepare_modules(loaded.model, arguments.freeze or (), plan.args.sync_batchnorm)
    log_lines(logger, *frozen.report)
    if arguments.head_init == "probe":
        if plan.data.streaming:
            raise UserError("head_init probe needs images of every class at hand; leave it out, or --streaming.")
        head_linear(loaded.model)  # a head that cannot be probed shows at once
    return Network(loaded, image_processor, frozen, base)


def _image_processor(plan: RunPlan, config: PreTrainedConfig) -> BaseImageProcessor:
    given, trusts = plan.given.image_processor, plan.model.trust_remote_code
    if isinstance(given, BaseImageProcessor):
        return given
    if given is not None:
        return load_image_processor(ModelArguments(given, trust_remote_code=trusts), config, plan.data)
    if plan.given.model is None:
        return load_image_processor(plan.model, config, plan.data)
    name = plan.given.model.name_or_path or None
    try:
        return load_image_processor(ModelArguments(name, trust_remote_code=trusts), config, plan.data)
    except UserError:
        if name is None:
            raise
    logger.warning(
        f"Note: the image processor of {name}, which the model object came from, cannot be had; images are prepared"
        " with ImageNet's figures and what the recipe says. Give finetune(image_processor=...) to be sure."
    )
    return load_image_processor(ModelArguments(trust_remote_code=trusts), config, plan.data)
