"""Initializes a network whose first weights depend on the training images."""

from __future__ import annotations

import numpy as np
import torch

from hf_finetune.data.batches import ImageBatches
from hf_finetune.models.load import LoadedModel
from hf_finetune.training.trainer import ImageClassificationTrainer

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
    if not hasattr(model, "initialize_from_images") or not set(model.state_dict()) <= loaded.initialized:
        return
    dataset = trainer.train_dataset
    if isinstance(dataset, ImageBatches):
        rows = np.unique(np.linspace(0, len(dataset) - 1, num=min(_IMAGES, len(dataset)), dtype=np.int64))
        batch = dataset.__getitems__(rows.tolist())
    else:
        batch = dataset.first(_IMAGES)
    images: torch.Tensor = trainer.prepare_batch(batch)["pixel_values"]
    model.initialize_from_images(images)  # type: ignore[operator]
