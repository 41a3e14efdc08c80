"""Data room: from rows of a dataset to what the network eats, in two stages that share one truth.

Stage one runs in the loader's workers (`set_transform`): decode, the transforms of single pictures, uint8 out.
Stage two runs once a batch on the device of the network: the transforms of batches and the normalization. Evaluation
goes through the image processor itself in both stages, so what is evaluated is what `pipeline` computes from the saved
processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BaseImageProcessor
from transformers.image_processing_backends import TorchvisionBackend

from hf_finetune.data.decoding import decode_image
from hf_finetune.data.randomness import draw_keys
from hf_finetune.data.transforms import NO_TRANSFORMS, TrainTransforms


def _to_tensor(image: Any) -> torch.Tensor:
    """Returns a PIL picture as uint8 of shape (3, height, width), channels last in memory, without a second copy."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class TrainingStage:
    """Stage one of training: decodes, transforms single pictures, and keys every sample's draws.

    Given to `Dataset.set_transform`. The epoch lives in shared memory, so that workers that persist see it change.
    """

    def __init__(self, transforms: TrainTransforms, seed: int) -> None:
        self.transforms = transforms
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        keys = draw_keys(self.seed, int(self.epoch), torch.tensor(rows["sample_index"], dtype=torch.int64))
        images = [
            self.transforms.apply_to_picture(_to_tensor(decode_image(image)), key)
            for image, key in zip(rows["image"], keys.tolist(), strict=True)
        ]
        return {"pixel_values": images, "labels": rows["label"], "draw_keys": keys}


class EvaluationStage:
    """Stage one of evaluation: decodes, and where pictures differ in size lets the processor resize and crop them.

    `uniform` says that all pictures have one size; then they travel as they are and the processor gets whole batches.
    `class_ids` holds for each class id of the dataset the one that the model has for it, where they differ.
    """

    def __init__(
        self, image_processor: BaseImageProcessor, uniform: bool, class_ids: Sequence[int] | None = None
    ) -> None:
        self.image_processor = image_processor
        self.uniform = uniform
        self.class_ids = class_ids
        self.batched = isinstance(image_processor, TorchvisionBackend)

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        images = [decode_image(image) for image in rows["image"]]
        if self.batched:
            images = [_to_tensor(image) for image in images]
            if not self.uniform:
                images = self.image_processor(images, do_rescale=False, do_normalize=False)["pixel_values"]
        else:
            images = self.image_processor(images, return_tensors="pt")["pixel_values"]
        labels = rows["label"] if self.class_ids is None else [self.class_ids[label] for label in rows["label"]]
        return {"pixel_values": images, "labels": labels}


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stacks samples: pixel_values (batch, channels, height, width) in channels_last, labels int64 (batch,)."""
    images = torch.stack([sample["pixel_values"].permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)
    batch = {"pixel_values": images, "labels": torch.tensor([sample["labels"] for sample in samples])}
    if "draw_keys" in samples[0]:
        batch["draw_keys"] = torch.stack([sample["draw_keys"] for sample in samples])
    return batch


class DeviceStage:
    """Stage two, for both: turns a collated uint8 batch into normalized float32 pixel_values on the same device."""

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        uniform: bool,
        transforms: TrainTransforms = NO_TRANSFORMS,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (255.0, 255.0, 255.0),
    ) -> None:
        """`uniform` is as the `EvaluationStage`'s; `mean` and `std`, of training, are in pixel units, 0 to 255."""
        self.image_processor = image_processor
        self.uniform = uniform
        self.transforms = transforms
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        images = batch["pixel_values"]
        keys = batch.pop("draw_keys", None)
        if keys is not None:
            images = self._normalize(self.transforms.apply_to_batch(images, keys))
        elif images.dtype == torch.uint8:
            resize = {} if self.uniform else {"do_resize": False, "do_center_crop": False}
            images = self.image_processor(images, return_tensors="pt", **resize)["pixel_values"]
        return {**batch, "pixel_values": images.contiguous(memory_format=torch.channels_last)}

    def _normalize(self, images: torch.Tensor) -> torch.Tensor:
        self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return images.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])
