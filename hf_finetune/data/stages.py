"""Stage one of preprocessing, which runs in the loader's workers: from rows of a dataset to batches of uint8 pixels.

Stage two (`device`) runs once per batch on the training device: the transforms of batches, and normalization. In
evaluation both stages use the image processor itself, so an evaluation sees the pixels that `pipeline` computes from
the saved processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor
from transformers.image_processing_backends import PilBackend, TorchvisionBackend

from hf_finetune.data.images.decoding import AS_STORED, Decoding, decode_image
from hf_finetune.data.images.pixels import pixels_reader
from hf_finetune.data.transforms.build import TrainTransforms
from hf_finetune.data.transforms.letterbox import check_room
from hf_finetune.data.transforms.randomness import alternating_keys, draw_keys


def decoding_of(image_processor: BaseImageProcessor) -> Decoding:
    """Return how images must be decoded to be what `pipeline` makes of them with this image processor.

    `pipeline` hands it images in RGB, in which only a transparent colour is left of transparency. The processor itself
    is tried, because not every version of Transformers fills it with white.
    """
    channels = getattr(image_processor, "image_channels", None)
    if channels is not None:
        return Decoding(channels=channels)
    value_range = getattr(image_processor, "value_range", None)
    as_stored = AS_STORED if value_range is None else Decoding(value_range=tuple(value_range))
    of_transformers = isinstance(image_processor, TorchvisionBackend | PilBackend)
    if not (of_transformers and getattr(image_processor, "do_convert_rgb", None)):
        return as_stored
    black = PIL.Image.new("RGB", (1, 1))
    black.info["transparency"] = (0, 0, 0)
    converted = image_processor.process_image(black, do_convert_rgb=True)
    return replace(as_stored, on_white=bool(np.asarray(converted).any()))


def padded_size(image_processor: BaseImageProcessor) -> tuple[int, int] | None:
    """Return the (height, width) in pixels that an image processor pads images to, None where it does not."""
    size = getattr(image_processor, "size", None) or {}
    config = getattr(image_processor, "data_config", {})  # timm's
    if config.get("crop_mode") == "border":
        height, width = config["input_size"][-2:]
    elif dict(size).get("max_height"):
        height, width = size["max_height"], size["max_width"]
    else:
        return None
    return height, width


class TrainingStage:
    """Stage one of training: decode, apply the transforms of single images, and derive each example's draw key.

    Attributes:
        transforms: The recipe's transforms.
        seed: The run's seed, which the draw keys depend on.
        decoding: What decides the pixels beside the files.
        epoch: The current epoch, an int64 scalar that the draw keys depend on.
    """

    def __init__(
        self, transforms: TrainTransforms, seed: int, shared: bool = True, decoding: Decoding = AS_STORED
    ) -> None:
        """Set the stage up.

        Args:
            transforms: The recipe's transforms.
            seed: The run's seed.
            shared: Whether to keep the epoch in shared memory, where persistent workers see it change.
            decoding: What decides the pixels beside the files, see `decoding_of`.
        """
        self.transforms = transforms
        self.seed = seed
        self.decoding = decoding
        self.epoch = torch.zeros((), dtype=torch.int64)
        if shared:
            self.epoch.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next batches belong to."""
        self.epoch.fill_(epoch)

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Prepare a batch.

        Args:
            rows: The columns `image` (encoded, see `OpenImage`) or `pixels` (decoded, uint8 of shape (batch, height,
                width, 3)), `label` and `sample_index`.

        Returns:
            `pixel_values`, uint8 of shape (batch, 3, height, width), or float32 with the channels of images that are
            read as they are stored; `labels` (see `as_labels`), and `draw_keys`, int64
            of shape (batch,).

        Raises:
            UnreadableImage: An image cannot be decoded.
        """
        epoch, sample_index = int(self.epoch), torch.as_tensor(rows["sample_index"])
        keys = draw_keys(self.seed, epoch, sample_index)
        if self.transforms.alternates:
            keys = alternating_keys(keys, self.seed, epoch, sample_index)
        images: torch.Tensor | Sequence[torch.Tensor]
        if "pixels" in rows:
            images = torch.from_numpy(rows["pixels"]).permute(0, 3, 1, 2)
        else:
            images = self.transforms.decode(rows["image"], keys, self.decoding)
        if self.transforms.single:
            images = [
                self.transforms.apply_to_image(image, key) for image, key in zip(images, keys.tolist(), strict=True)
            ]
        return {"pixel_values": _stack(images), "labels": as_labels(rows["label"]), "draw_keys": keys}


class EvaluationStage:
    """Stage one of evaluation: decode, and where images differ in size, resize and crop with the image processor."""

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        uniform: bool,
        class_ids: Sequence[int] | None = None,
        num_labels: int = 0,
    ) -> None:
        """Set the stage up.

        Args:
            image_processor: The model's image processor.
            uniform: Whether all images have one small size (`ImageDataset.uniform`). If so they are passed on
                unchanged, and stage two resizes whole batches.
            class_ids: For each class id of the dataset the model's id of that class; None where they are the same.
            num_labels: The number of the model's classes, needed with `class_ids` where images have several.
        """
        self.image_processor = image_processor
        self.uniform = uniform
        self.class_ids = class_ids
        self.num_labels = num_labels
        self.batched = isinstance(image_processor, TorchvisionBackend)
        self.decoding = decoding_of(image_processor)
        self._padded_size = padded_size(image_processor)

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Prepare a batch; see `TrainingStage`.

        Returns:
            `pixel_values` of shape (batch, channels, height, width), uint8; or float32, of images that are read as they
            are stored, and where the processor has normalized them already; and `labels` (see `as_labels`).

        Raises:
            UnreadableImage: An image cannot be decoded, or is so long that padding leaves nothing of it.
        """
        images: torch.Tensor | Sequence[torch.Tensor]
        if "pixels" in rows and self.batched:
            images = torch.from_numpy(rows["pixels"]).permute(0, 3, 1, 2)
        elif self.batched:
            images = list(map(pixels_reader(self.decoding), rows["image"]))
            self._check_room(rows, [(image.shape[1], image.shape[2]) for image in images])
            if not self.uniform:
                images = self.image_processor(
                    images, do_rescale=False, do_normalize=False, input_data_format="channels_first"
                )["pixel_values"]
        else:
            if "pixels" in rows:
                decoded = [PIL.Image.fromarray(pixels) for pixels in rows["pixels"]]
            else:
                decoded = [decode_image(image, self.decoding) for image in rows["image"]]
                self._check_room(rows, [(image.height, image.width) for image in decoded])
            images = self.image_processor(decoded, return_tensors="pt")["pixel_values"]
        return {"pixel_values": _stack(images), "labels": self._of_model(as_labels(rows["label"]))}

    def _of_model(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels of the dataset's classes as those of the model's."""
        if self.class_ids is None:
            return labels
        class_ids = torch.tensor(self.class_ids)
        if labels.ndim == 1:
            return class_ids[labels]
        mapped = labels.new_zeros(len(labels), self.num_labels)
        mapped[:, class_ids[class_ids >= 0]] = labels[:, class_ids >= 0]
        return mapped

    def _check_room(self, rows: Mapping[str, Any], sizes: Sequence[tuple[int, int]]) -> None:
        if self._padded_size is not None:
            for value, (height, width) in zip(rows["image"], sizes, strict=True):
                check_room(value, height, width, self._padded_size)


def as_labels(labels: Any) -> torch.Tensor:
    """Return labels as a loss takes them: class ids, int64 (batch,), or 1 for each class that an image has, float32
    (batch, classes), and 0 for the others.
    """
    tensor = torch.as_tensor(np.asarray(labels))
    return tensor.float() if tensor.ndim == 2 else tensor.long()


def _stack(images: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Return images, each (channels, height, width), as one batch with the channels last in memory."""
    if isinstance(images, torch.Tensor):
        return images
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
