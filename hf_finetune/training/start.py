"""How a network begins: from the images where it asks for them, and with a probed head."""

from __future__ import annotations

from hf_finetune.config.training_keys import AUTO
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger
from hf_finetune.models.choose_head import is_neighbors
from hf_finetune.models.freeze import trains_backbone
from hf_finetune.models.head import head_linear
from hf_finetune.models.load import LoadedModel
from hf_finetune.training.extensions.probed_start import ProbedStart
from hf_finetune.training.plan import RunPlan
from hf_finetune.training.speed import evenly_spaced
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

_IMAGES = 1_000  # their patches of a few pixels are a million examples


def start_from_images(trainer: ImageClassificationTrainer, loaded: LoadedModel) -> None:
    """Show training images to a network with random weights whose `initialize_from_images` asks for them.

    Images from all of the dataset are taken, at equal distances; of a stream the first ones. All processes take the
    same.

    Args:
        trainer: The trainer of the model.
        loaded: The model, and which of its tensors are new.
    """
    model = loaded.model
    if hasattr(model, "initialize_from_images") and set(model.state_dict()) <= loaded.initialized:
        images = trainer.prepare_batch(evenly_spaced(trainer.train_dataset, _IMAGES))["pixel_values"]
        model.initialize_from_images(images)  # type: ignore[operator]


def choose_head_init(plan: RunPlan, loaded: LoadedModel) -> str:
    """Return how the head starts: what the recipe says or, for "auto", "probe" wherever it can be made, else "random".

    A head that keeps training images starts with them, "knn".
    A run with a time budget whose recipe does not say it goes by "auto" too.
    """
    if is_neighbors(loaded.model.config):
        return "knn"
    stated = "head_init" in plan.recipe.values
    if plan.model.head_init != AUTO and (stated or plan.args.time_budget is None):
        return plan.model.head_init
    pretrained = not set(loaded.model.state_dict()) <= loaded.initialized
    if plan.data.streaming or not (pretrained and loaded.initialized):
        return "random"
    try:
        head_linear(loaded.model)
    except UserError:
        return "random"
    return "probe"


def watch_start(trainer: ImageClassificationTrainer, loaded: LoadedModel) -> None:
    """Have the weights of a network whose head was probed kept, where the training may spoil them.

    Args:
        trainer: The trainer of the model.
        loaded: The model, and which of its tensors are new.
    """
    start = trainer.extensions.find(ProbedStart)
    if start is not None and loaded.initialized and trainer.eval_dataset is not None and trains_backbone(trainer.model):
        start.watches = True
