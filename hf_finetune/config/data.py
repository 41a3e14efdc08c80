"""Which images, which of them for what, and how they become tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_finetune.errors import UserError


@dataclass
class DataArguments:
    """Which images, which of them for what, and how they become tensors."""

    dataset: str | None = field(
        default=None,
        metadata={"help": "A named dataset, a Hub id, a folder of images, or a CSV, JSONL or Parquet table."},
    )
    dataset_path: str | None = field(
        default=None, metadata={"help": "Folder with a local copy of the named dataset, for machines without network."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration name of a Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images; found by its type."})
    label_column: str | None = field(default=None, metadata={"help": "Column of labels; found by its type."})
    train_split: str | None = field(default=None, metadata={"help": "Split to train on."})
    validation_split: str | None = field(default=None, metadata={"help": "Split that chooses the best checkpoint."})
    test_split: str | None = field(default=None, metadata={"help": "Split that reports the final figures."})
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Part of train held out, stratified, where there is no validation split; 0 holds out none."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on this many images at most."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on this many images of each split at most."}
    )
    on_bad_image: str = field(
        default="stop",
        metadata={"help": "Unreadable images: stop names them, skip leaves them out and counts them."},
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read Parquet or WebDataset shards while training; nothing of them is kept on the disk."},
    )
    shuffle_buffer_size: int = field(
        default=10_000,
        metadata={"help": "Streaming: images in memory, of each process that trains, from which it draws."},
    )
    decode_cache: str = field(
        default="auto",
        metadata={"help": "Decode small images of one size once, into a file in the cache: auto, always or never."},
    )
    train_transforms: list[Any] | None = field(
        default=None,
        metadata={"help": "torchvision.transforms.v2 names with their arguments, in order, for training images."},
    )
    image_size: int | None = field(default=None, metadata={"help": "Side in pixels of the image the network sees."})
    crop_pct: float | None = field(
        default=None,
        metadata={"help": "Evaluation resizes the short side to image_size / crop_pct and cuts out the centre."},
    )
    image_mean: list[float] | None = field(
        default=None, metadata={"help": "Mean of each channel in pixel units, 0 to 255."}
    )
    image_std: list[float] | None = field(
        default=None, metadata={"help": "Standard deviation of each channel in pixel units, 0 to 255."}
    )
    resample: str | None = field(
        default=None, metadata={"help": "Interpolation of resizing: nearest, bilinear, bicubic or lanczos."}
    )

    def __post_init__(self) -> None:
        if self.on_bad_image not in ("stop", "skip"):
            raise UserError(f'on_bad_image is "{self.on_bad_image}"; use stop or skip.')
        if self.decode_cache not in ("auto", "always", "never"):
            raise UserError(f'decode_cache is "{self.decode_cache}"; use auto, always or never.')
        if self.streaming and self.decode_cache == "always":
            raise UserError(
                "decode_cache is always, but with streaming no image is kept; use --decode_cache auto, or"
                " --streaming false."
            )
        if self.streaming:
            self.decode_cache = "never"
        for name in ("max_train_samples", "max_eval_samples"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise UserError(f"{name} is {limit}; use a number of images of at least 1.")
        if self.shuffle_buffer_size < 1:
            raise UserError(f"shuffle_buffer_size is {self.shuffle_buffer_size}; use a number of at least 1.")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"validation_fraction is {self.validation_fraction}; use a part of 1, such as 0.1.")
