"""Data room: from rows of a dataset to what the network eats, in two stages that share one truth.

Stage one runs in the loader's workers (`set_transform`): decode, the transforms of single pictures, uint8 out.
Stage two runs once a batch on the device of the network: the transforms of batches and the normalization. Evaluation
goes through the image processor itself in both stages, so what is evaluated is what `pipeline` computes from the saved
processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Dataset
from transformers import BaseImageProcessor
from transformers.image_processing_backends import TorchvisionBackend

from hf_finetune.data.columns import arrow_column
from hf_finetune.data.decode_cache import DecodedPictures
from hf_finetune.data.decoding import decode_image
from hf_finetune.data.pixels import decode_pixels
from hf_finetune.data.randomness import draw_keys
from hf_finetune.data.transforms import NO_TRANSFORMS, TrainTransforms


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
        if self.transforms.picture:
            images = [
                self.transforms.apply_to_picture(image, key) for image, key in zip(images, keys.tolist(), strict=True)
            ]
        return {"pixel_values": _stack(images), "labels": torch.as_tensor(rows["label"]), "draw_keys": keys}


class EvaluationStage:
    """Stage one of evaluation: decodes, and where pictures differ in size lets the processor resize and crop them.

    `uniform` says that all pictures have one size, and a small one; then they travel as they are and the processor gets
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
    """Returns pictures, (channels, height, width) each, as one batch with the channels last in memory."""
    if isinstance(images, torch.Tensor):
        return images
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


class PictureBatches(torch.utils.data.Dataset):
    """A split as a loader's dataset that hands over whole batches, which its stage has stacked already.

    Where the split's pictures are decoded already, they and the labels come from memory, past the split's table.
    """

    def __init__(
        self, split: Dataset, stage: TrainingStage | EvaluationStage, decoded: DecodedPictures | None = None
    ) -> None:
        self.split = split.with_transform(stage)
        self.stage = stage
        self.decoded = decoded

    @cached_property
    def labels(self) -> np.ndarray:
        """The class ids, int64 (pictures,)."""
        return arrow_column(self.split, "label").to_numpy().astype(np.int64)

    @cached_property
    def _sample_index(self) -> np.ndarray:
        return arrow_column(self.split, "sample_index").to_numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        if self.decoded is None:
            return self.split[rows]
        sample_index = self._sample_index[rows]
        return self.stage(
            {"pixels": self.decoded[sample_index], "label": self.labels[rows], "sample_index": sample_index}
        )

    def first(self, count: int) -> dict[str, torch.Tensor]:
        """Returns the first pictures, at most `count`, as a batch."""
        return self.__getitems__(range(min(count, len(self))))


def pass_on(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The collator of `PictureBatches`, whose batches are whole."""
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
        std = torch.tensor(std)
        self.scale, self.offset = 1 / std, -torch.tensor(mean) / std

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        images = batch["pixel_values"]
        keys = batch.pop("draw_keys", None)
        batch.pop("sample_index", None)
        if keys is not None:
            images = self._normalize(self.transforms.apply_to_batch(images, keys))
        elif images.dtype == torch.uint8:
            images = self._process(images)
        return {**batch, "pixel_values": images.contiguous(memory_format=torch.channels_last)}

    def _process(self, images: torch.Tensor) -> torch.Tensor:
        """Returns a batch as the image processor has it; where pictures differed in size, they are resized already.

        A processor takes a batch apart, and loses more time over it than the network takes for small pictures. Where it
        has no steps of its own, its own steps are taken here, on the batch as it is.
        """
        processor = self.image_processor
        if type(processor)._preprocess is not TorchvisionBackend._preprocess or getattr(processor, "do_pad", None):
            resize = {} if self.uniform else {"do_resize": False, "do_center_crop": False}
            return processor(images, return_tensors="pt", **resize)["pixel_values"]
        if self.uniform and processor.do_resize:
            images = processor.resize(image=images, size=processor.size, resample=processor.resample)
        if self.uniform and processor.do_center_crop:
            images = processor.center_crop(images, processor.crop_size)
        return processor.rescale_and_normalize(
            images,
            processor.do_rescale,
            processor.rescale_factor,
            processor.do_normalize,
            processor.image_mean,
            processor.image_std,
        )

    def _normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Returns (images - mean) / std in one pass over whole rows of pixels, whose channels alternate in memory."""
        self.scale, self.offset = self.scale.to(images.device), self.offset.to(images.device)
        pixels = images.permute(0, 2, 3, 1).contiguous()
        rows = pixels.flatten(2).float()
        scale, offset = self.scale.repeat(pixels.shape[2]), self.offset.repeat(pixels.shape[2])
        return torch.addcmul(offset, rows, scale, out=rows).view(pixels.shape).permute(0, 3, 1, 2)
