"""From rows of a dataset to what the network eats, in two stages that share one truth.

Stage one runs in the loader's workers (`set_transform`): decode, the transforms of single images, uint8 out.
Stage two runs once a batch on the device of the network: the transforms of batches and the normalization. Evaluation
goes through the image processor itself in both stages, so what is evaluated is what `pipeline` computes from the saved
processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from transformers import BaseImageProcessor
from transformers.image_processing_backends import TorchvisionBackend

from hf_finetune.data.images.decoding import decode_image
from hf_finetune.data.images.pixels import decode_pixels
from hf_finetune.data.transforms.build import TrainTransforms
from hf_finetune.data.transforms.randomness import draw_keys


class TrainingStage:
    """Stage one of training: decodes, transforms single images, and keys every sample's draws.

    Given to `Dataset.set_transform`. Where it is `shared` with workers, the epoch lives in shared memory, so that those
    that persist see it change.
    """

    def __init__(self, transforms: TrainTransforms, seed: int, shared: bool = True) -> None:
        self.transforms = transforms
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64)
        if shared:
            self.epoch.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, torch.Tensor]:
        """Returns pixel_values, uint8 (batch, 3, height, width), labels and draw_keys, int64 (batch,).

        `rows` has the columns `image` (encoded) or `pixels` (decoded: uint8 (batch, height, width, 3)), `label` and
        `sample_index`.
        """
        keys = draw_keys(self.seed, int(self.epoch), torch.as_tensor(rows["sample_index"]))
        if "pixels" in rows:
            images = torch.from_numpy(rows["pixels"]).permute(0, 3, 1, 2)
        else:
            images = self.transforms.decode(rows["image"], keys)
        if self.transforms.single:
            images = [
                self.transforms.apply_to_image(image, key) for image, key in zip(images, keys.tolist(), strict=True)
            ]
        return {"pixel_values": _stack(images), "labels": torch.as_tensor(rows["label"]), "draw_keys": keys}


class EvaluationStage:
    """Stage one of evaluation: decodes, and where images differ in size lets the processor resize and crop them.

    `uniform` says that all images have one size, and a small one; then they travel as they are and the processor gets
    whole batches. `class_ids` holds for each class id of the dataset the one that the model has for it, where they
    differ.
    """

    def __init__(
        self, image_processor: BaseImageProcessor, uniform: bool, class_ids: Sequence[int] | None = None
    ) -> None:
        self.image_processor = image_processor
        self.uniform = uniform
        self.class_ids = class_ids
        self.batched = isinstance(image_processor, TorchvisionBackend)

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, torch.Tensor]:
        """Returns pixel_values (batch, 3, height, width) and labels, int64 (batch,); `rows` as in `TrainingStage`."""
        if "pixels" in rows and self.batched:
            images = torch.from_numpy(rows["pixels"]).permute(0, 3, 1, 2)
        elif self.batched:
            images = [decode_pixels(image) for image in rows["image"]]
            if not self.uniform:
                images = self.image_processor(images, do_rescale=False, do_normalize=False)["pixel_values"]
        else:
            decoded = map(PIL.Image.fromarray, rows["pixels"]) if "pixels" in rows else map(decode_image, rows["image"])
            images = self.image_processor(list(decoded), return_tensors="pt")["pixel_values"]
        labels = rows["label"] if self.class_ids is None else [self.class_ids[label] for label in rows["label"]]
        return {"pixel_values": _stack(images), "labels": torch.as_tensor(labels)}


def _stack(images: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns images, (channels, height, width) each, as one batch with the channels last in memory."""
    if isinstance(images, torch.Tensor):
        return images
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
