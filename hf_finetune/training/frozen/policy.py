"""When a frozen backbone's features are kept, and how a new head is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.logs import get_logger
from hf_finetune.models.load import LoadedModel
from hf_finetune.training.frozen.features import FeatureDataset, train_on_features
from hf_finetune.training.trainer import ImageClassificationTrainer
from hf_finetune.training.wiring import Batches

logger = get_logger(__name__)


@dataclass(frozen=True)
class FrozenPolicy:
    """What a frozen backbone allows.

    Attributes:
        keeps_features: Whether features are computed once and kept, where nothing of a training image is random.
        as_evaluated: Whether training images are prepared as in evaluation.
        transforms: The train_transforms that the caller stated, None where the default was left.
    """

    keeps_features: bool
    as_evaluated: bool
    transforms: Sequence[Any] | Callable[..., Any] | None

    def use_features(
        self, trainer: ImageClassificationTrainer, batches: Mapping[str, Batches]
    ) -> Mapping[str, Batches | FeatureDataset]:
        """Return what the trainer trains on: features where they are kept, else the images."""
        if not self.keeps_features:
            return batches
        stored = {role: split for role, split in batches.items() if isinstance(split, ImageBatches)}  # none streams
        return train_on_features(trainer, stored, self.transforms)


def frozen_policy(
    backbone_is_frozen: bool, streaming: bool, transforms: Sequence[Any] | Callable[..., Any] | None
) -> FrozenPolicy:
    """Return what a run with this backbone does.

    A stream is never kept. Without train_transforms, a frozen backbone is given each training image as in evaluation,
    so that nothing is random and no image is needed twice.
    """
    keeps = backbone_is_frozen and not streaming
    if keeps and transforms is None:
        logger.info("Without train_transforms, and the backbone frozen, training images are prepared as in evaluation.")
    return FrozenPolicy(keeps, keeps and transforms is None, transforms)


def start_head(
    head_init: str,
    trainer: ImageClassificationTrainer,
    loaded: LoadedModel,
    dataset: Batches | FeatureDataset,
    images: int | None = None,
) -> None:
    """Start a new head as `head_init` says, before the first step of a run that does not resume.

    Args:
        head_init: "random", as it was loaded, "probe", "class_means" or "knn".
        trainer: The trainer of the model.
        loaded: The model, and which of its tensors are new.
        dataset: Training images as in evaluation, or features of them.
        images: For how many there is time, None for no limit.
    """
    if head_init != "random":
        from hf_finetune.training.frozen.probe import IMAGES, fit_head  # scikit-learn: only where it is needed

        assert not isinstance(dataset, StreamedBatches)  # `load_network` has refused it
        logger.info(fit_head(head_init, trainer, loaded, dataset, IMAGES if images is None else min(images, IMAGES)))
