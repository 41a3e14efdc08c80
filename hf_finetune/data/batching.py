"""Data room: from rows of a dataset to what the network eats, in two stages that share one truth.

Stage one runs in the loader's workers (`set_transform`): decode, the transforms of single pictures, uint8 out.
Stage two runs once a batch on the device of the network: the transforms of batches and the normalization. Evaluation
goes through the image processor itself in both stages, so what is evaluated is what `pipeline` computes from the saved
processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from hf_finetune.data.decoding import UnreadableImage, decode_image, image_name
from hf_finetune.data.pixels import decode_pixels
from hf_finetune.data.randomness import draw_keys
from hf_finetune.data.transforms import NO_TRANSFORMS, TrainTransforms
from hf_finetune.errors import UserError

NOT_COUNTED = -100  # cross_entropy's own mark of a label that does not count


class TrainingStage:
    """Stage one of training: decodes, transforms single pictures, and keys every sample's draws.

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

    `on_unreadable` is called with the error and the `sample_index` of each picture that cannot be read when its batch
    is due. If it returns, another picture stands in, under the label -100: no loss, gradient or figure counts it, and
    batches keep their size and order. Without it the error is raised.
    """

    def __init__(
        self,
        split: Dataset,
        stage: TrainingStage | EvaluationStage,
        decoded: DecodedPictures | None = None,
        on_unreadable: Callable[[UnreadableImage, int], None] | None = None,
    ) -> None:
        self.split = split.with_transform(stage)
        self.stage = stage
        self.decoded = decoded
        self.on_unreadable = on_unreadable
        self._shape: torch.Size | None = None  # of a picture in a batch

    @cached_property
    def labels(self) -> np.ndarray:
        """The class ids, int64 (pictures,)."""
        return arrow_column(self.split, "label").to_numpy().astype(np.int64)

    @cached_property
    def sample_index(self) -> np.ndarray:
        """The row numbers in the source's split, int64 (pictures,)."""
        return arrow_column(self.split, "sample_index").to_numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns what the stage makes of the rows, and their `sample_index`, int64 (batch,)."""
        try:
            batch = self._read(rows)
        except (UnreadableImage, RuntimeError):  # torch's, of pictures that differ in size and cannot be stacked
            if self.on_unreadable is None:
                raise
            batch = self._read_with_stand_ins(rows)
        self._shape = self._shape or batch["pixel_values"].shape[1:]
        return batch

    def _read(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        sample_index = self.sample_index[rows]
        if self.decoded is None:
            batch = self.split[rows]
        else:
            batch = self.stage(
                {"pixels": self.decoded[sample_index], "label": self.labels[rows], "sample_index": sample_index}
            )
        return {**batch, "sample_index": torch.from_numpy(sample_index)}

    def _read_with_stand_ins(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns a batch with, for each unreadable row, the next readable one of the batch or else of the split."""
        read = [self._read_one(row) for row in rows]
        if any(one is not None for one in read):
            return join_with_stand_ins(read)
        return join_with_stand_ins([*read, self._next_readable(rows[-1])], len(rows))

    def _read_one(self, row: int) -> dict[str, torch.Tensor] | None:
        """Returns a batch of one row, None where it cannot be read."""
        try:
            batch = self._read([row])
            shape = batch["pixel_values"].shape[1:]
            if self._shape is not None and shape != self._shape:
                name = image_name(self.split.with_format(None)[int(row)]["image"])
                raise UnreadableImage(
                    name, f"it is of {shape[1]} x {shape[2]} pixels now, not of {self._shape[1]} x {self._shape[2]}"
                )
        except UnreadableImage as error:
            self.on_unreadable(error, int(self.sample_index[row]))
            return None
        return batch

    def _next_readable(self, row: int) -> dict[str, torch.Tensor]:
        """Returns a batch of the first readable row after `row`. Raises `UserError` where there is none."""
        for step in range(1, len(self)):
            batch = self._read_one((row + step) % len(self))
            if batch is not None:
                return batch
        raise UserError("Not one picture of a split can be read any more; check that their folder is there.")

    def first(self, count: int) -> dict[str, torch.Tensor]:
        """Returns the first pictures, at most `count`, as a batch."""
        return self.__getitems__(range(min(count, len(self))))


def join_with_stand_ins(
    read: Sequence[dict[str, torch.Tensor] | None], count: int | None = None
) -> dict[str, torch.Tensor]:
    """Returns batches of one row as one batch, of which the first `count` rows, or all, are kept.

    In the place of None stands the next one that is there, or after the last the first, under a label that does not
    count.
    """
    good = [place for place, one in enumerate(read) if one is not None]
    rows = torch.from_numpy(np.searchsorted(good, np.arange(len(read))) % len(good))[:count]
    batch = {key: torch.cat([read[place][key] for place in good])[rows] for key in read[good[0]]}
    batch["labels"][[place for place, one in enumerate(read[:count]) if one is None]] = NOT_COUNTED
    return batch


def pass_on(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The collator of `PictureBatches`, whose batches are whole.

    A loader's worker moves its batch to shared memory here, where a lack of it is an error that the main process gets.
    Later it would be one of the queue's own thread, which loses the batch, and the main process would wait for ever.
    """
    if torch.utils.data.get_worker_info() is not None:
        for tensor in batch.values():
            tensor.share_memory_()
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
