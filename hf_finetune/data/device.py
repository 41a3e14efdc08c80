"""Stage two: what runs on a whole batch, on the device of the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import BaseImageProcessor
from transformers.image_processing_backends import TorchvisionBackend

from hf_finetune.data.transforms.build import NO_TRANSFORMS, TrainTransforms


class DeviceStage:
    """Stage two, for both: turns a collated uint8 batch into normalized float32 pixel_values on the same device."""

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        uniform: bool,
        transforms: TrainTransforms = NO_TRANSFORMS,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (255.0, 255.0, 255.0),
        num_labels: int = 0,
    ) -> None:
        """`uniform` is as the `EvaluationStage`'s; `mean` and `std`, of training, are in pixel units, 0 to 255.

        `num_labels`, the number of classes, is for transforms that mix labels.
        """
        self.image_processor = image_processor
        self.uniform = uniform
        self.transforms = transforms
        self.num_labels = num_labels
        std = torch.tensor(std)
        self.scale, self.offset = 1 / std, -torch.tensor(mean) / std

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        images = batch["pixel_values"]
        keys = batch.pop("draw_keys", None)
        batch.pop("sample_index", None)
        if keys is not None:
            images = self._normalize(self.transforms.apply_to_batch(images, keys))
            images, labels = self.transforms.apply_to_normalized(images, batch["labels"], keys, self.num_labels)
            batch = {**batch, "labels": labels}
        elif images.dtype == torch.uint8:
            images = self._process(images)
        return {**batch, "pixel_values": images.contiguous(memory_format=torch.channels_last)}

    def _process(self, images: torch.Tensor) -> torch.Tensor:
        """Returns a batch as the image processor has it; where images differed in size, they are resized already.

        A processor takes a batch apart, and loses more time over it than the network takes for small images. Where it
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
