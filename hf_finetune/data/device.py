"""Stage two of preprocessing: all that runs on whole batches, on the training device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import BaseImageProcessor
from transformers.image_processing_backends import TorchvisionBackend

from hf_finetune.data.images.bands import shown_bands
from hf_finetune.data.transforms.build import NO_TRANSFORMS, TrainTransforms

# What the observer of the transforms is told of steps that are none of them.
NORMALIZED, REDUCED = "normalized", "reduced"


class DeviceStage:
    """Turn a batch of stage one, uint8 or as it is stored, into normalized float32 pixels on the same device.

    It serves training and evaluation.

    Attributes:
        channels: How many channels images have that are read as they are stored; None for RGB.
        training_size: The shorter side of training images in pixels, to which a batch is reduced at last; None leaves
            it as it is.
        observer: Called with each batch that is prepared, and whether it is one of training; it may take from the batch
            what it has added to it. None for nobody.
    """

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        uniform: bool,
        transforms: TrainTransforms = NO_TRANSFORMS,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (255.0, 255.0, 255.0),
        num_labels: int = 0,
    ) -> None:
        """Set the stage up.

        Args:
            image_processor: The model's image processor, for batches of evaluation.
            uniform: Whether all images have one small size, so that stage one has not resized them.
            transforms: The recipe's transforms, for batches of training.
            mean: The mean of each channel in units of the pixels, 0 to 255 in RGB, for batches of training.
            std: The standard deviation of each channel in these units, for batches of training.
            num_labels: The number of classes, for transforms that mix labels.
        """
        self.image_processor = image_processor
        self.uniform = uniform
        self.transforms = transforms
        self.num_labels = num_labels
        self.channels: int | None = getattr(image_processor, "image_channels", None)
        self.training_size: int | None = None
        self.observer: Callable[[dict[str, torch.Tensor], bool], None] | None = None
        deviation = torch.tensor(std)
        self.scale = 1 / deviation
        self.offset = -torch.tensor(mean) / deviation

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Prepare a batch for the model.

        Args:
            batch: `pixel_values` and `labels` as stage one returns them; `draw_keys` mark a batch of training.

        Returns:
            The batch without `draw_keys` and `sample_index`, with `pixel_values` as float32 of shape (batch, 3, height,
            width), channels last in memory. `labels` are class ids, int64 of shape (batch,), or, where images are
            mixed, float32 of shape (batch, num_labels).
        """
        images = batch["pixel_values"]
        keys = batch.pop("draw_keys", None)
        batch.pop("sample_index", None)
        if keys is not None:
            images = self._normalize(self.transforms.apply_to_batch(images, keys))
            self.transforms.tell(NORMALIZED, images)
            images, labels = self.transforms.apply_to_normalized(images, batch["labels"], keys, self.num_labels)
            images = self._reduce(images)
            batch = {**batch, "labels": labels}
        elif images.dtype == torch.uint8 or self.channels is not None:
            images = self._process(images)
        batch = {**batch, "pixel_values": images.contiguous(memory_format=torch.channels_last)}
        if self.observer is not None:
            self.observer(batch, keys is not None)
        return batch

    def _reduce(self, images: torch.Tensor) -> torch.Tensor:
        """Return normalized training images, float32 (batch, 3, height, width), in the size of this epoch."""
        sides = images.shape[-2:]
        if self.training_size is None or self.training_size == min(sides):
            return images
        scale = self.training_size / min(sides)
        size = [round(side * scale) for side in sides]
        reduced = functional.interpolate(images, size=size, mode="bilinear", antialias=True)
        self.transforms.tell(REDUCED, reduced)
        return reduced

    def levels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return normalized images, float32 (batch, 3, height, width), as uint8 that can be looked at, on the CPU.

        Images that are not RGB may have any number of channels, and are shown as `shown_bands` does.
        """
        if self.channels is not None:
            shown = [np.asarray(shown_bands(image)) for image in pixel_values.cpu().numpy()]
            return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
        scale, offset = (tensor.cpu()[:, None, None] for tensor in (self.scale, self.offset))
        return ((pixel_values.cpu() - offset) / scale).clamp(0, 255).round().to(torch.uint8)

    def _process(self, images: torch.Tensor) -> torch.Tensor:
        """Return a batch as the image processor prepares it; images of different sizes are already resized.

        A call of a processor splits the batch into images, which takes longer than a forward pass over small images.
        So where its class does not override the standard steps, they are called here on the whole batch.
        """
        processor: Any = self.image_processor  # its settings are attributes that its class does not declare
        if type(processor)._preprocess is not TorchvisionBackend._preprocess or getattr(processor, "do_pad", None):
            resize = {} if self.uniform else {"do_resize": False, "do_center_crop": False}
            pixels: torch.Tensor = processor(images, return_tensors="pt", **resize)["pixel_values"]
            return pixels
        if self.uniform and processor.do_resize:
            images = processor.resize(image=images, size=processor.size, resample=processor.resample)
        if self.uniform and processor.do_center_crop:
            images = processor.center_crop(images, processor.crop_size)
        normalized: torch.Tensor = processor.rescale_and_normalize(
            images,
            processor.do_rescale,
            processor.rescale_factor,
            processor.do_normalize,
            processor.image_mean,
            processor.image_std,
        )
        return normalized

    def _normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Return (images - mean) / std, float32, in one pass over rows of pixels whose channels alternate in memory."""
        self.scale, self.offset = self.scale.to(images.device), self.offset.to(images.device)
        pixels = images.permute(0, 2, 3, 1).contiguous()
        rows = pixels.flatten(2).float()
        scale, offset = self.scale.repeat(pixels.shape[2]), self.offset.repeat(pixels.shape[2])
        return torch.addcmul(offset, rows, scale, out=rows).view(pixels.shape).permute(0, 3, 1, 2)
