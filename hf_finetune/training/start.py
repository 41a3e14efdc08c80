"""How a network begins: from the images where it asks for them, and with a probed head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from hf_finetune.errors import UserError
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.logs import get_logger
from hf_finetune.models.head import head_linear
from hf_finetune.models.load import LoadedModel
from hf_finetune.training.budget import evenly_spaced
from hf_finetune.training.extensions.probed_start import ProbedStart
from hf_finetune.training.plan import RunPlan
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
    """Return "probe" or "random": what the recipe says or, under a time budget, the probe wherever it can be made."""
    pretrained = not set(loaded.model.state_dict()) <= loaded.initialized
    stated = "head_init" in plan.recipe.values
    if stated or plan.args.time_budget is None or plan.data.streaming or not (pretrained and loaded.initialized):
        return plan.model.head_init
    try:
        head_linear(loaded.model)
    except UserError:
        return plan.model.head_init
    return "probe"


def keep_better_start(trainer: ImageClassificationTrainer, figures: Mapping[str, float]) -> bool:
    """Take the network of the start back where validation finds it better than the trained one, and say so.

    Args:
        trainer: A trainer that has trained.
        figures: The trained network's figures on validation.

    Returns:
        Whether it was taken back.
    """
    start = trainer.extensions.find(ProbedStart)
    if start is None or start.score is None:
        return False
    trained = figures[f"eval_{start.metric}"]
    metrics = cast(ClassificationMetrics, trainer.compute_metrics)
    sign = 1 if metrics.greater_is_better(start.metric, None) else -1
    if sign * start.score <= sign * trained:
        return False
    start.restore()
    logger.info(
        f"The training made it worse: {start.metric} on validation was {start.score:.4f} with the probed head alone and"
        f" is {trained:.4f} after the training. The network with the probed head is kept."
    )
    return True
