"""Which images, which of them for what, and how they become tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_finetune.config.validation import check_data

# The keys that say how evaluation prepares an image, in place of the checkpoint's image processor.
PROCESSOR_KEYS = ("image_size", "resize_mode", "crop_pct", "image_mean", "image_std", "resample")


@dataclass
class DataArguments:
    """Which images, which of them for what, and how they become tensors."""

    dataset: str | None = field(
        default=None,
        metadata={"help": "A named dataset, a Hub id, a folder of class folders, or a CSV, JSONL or Parquet table."},
    )
    dataset_path: str | None = field(
        default=None, metadata={"help": "Folder with a local copy of the named dataset, for machines without network."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration name of a Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images. Absent: found by its type."})
    label_column: str | list[str] | None = field(
        default=None,
        metadata={
            "help": "Column of labels, or several columns of 0 and 1, one for each class. Absent: found by the type."
        },
    )
    label_separator: str | None = field(
        default=None,
        metadata={"help": "What separates several labels in one text, such as '|'. Absent: a text is one label."},
    )
    label_from_name: str | None = field(
        default=None,
        metadata={
            "help": "The class is in the names of a folder's files: a regular expression whose one group is the class."
        },
    )
    label_strip: bool = field(
        default=False,
        metadata={"help": "Remove blanks around the names of classes, so that 'dog' and 'dog ' are one class."},
    )
    train_split: str | None = field(default=None, metadata={"help": "Split to train on. Absent: found by name."})
    validation_split: str | None = field(default=None, metadata={"help": "Split that chooses the best checkpoint."})
    test_split: str | None = field(default=None, metadata={"help": "Split of the final evaluation."})
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Fraction of each class of train that is held out if there is no validation split."},
    )
    group_column: str | None = field(
        default=None,
        metadata={"help": "Column whose equal values, such as a patient, are never in train and validation both."},
    )
    weight_column: str | None = field(
        default=None,
        metadata={"help": "Column of numbers in proportion to which images are drawn, with --sampling weighted."},
    )
    slice_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns such as a camera or hospital: the report has the accuracy of each of their values."},
    )
    fold: str | None = field(
        default=None,
        metadata={"help": "Validate on a fold of train, such as 2/5, and train on the others; kfold trains on each."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on this many images at most."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on this many images of each split at most."}
    )
    drop_duplicates: bool = field(
        default=False,
        metadata={"help": "Leave images out of train that validation or test has too."},
    )
    on_bad_image: str = field(
        default="stop",
        metadata={
            "help": "Unreadable images: stop ends the run and names them, skip leaves them out and counts them.",
            "choices": ("stop", "skip"),
        },
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read Parquet or WebDataset shards as they are needed, and keep nothing on the disk."},
    )
    shuffle_buffer_size: int = field(
        default=10_000,
        metadata={"help": "With streaming: images that each training process keeps in memory to shuffle them."},
    )
    decode_cache: str = field(
        default="auto",
        metadata={
            "help": "Decode small images of one size only once, into a file in the cache.",
            "choices": ("auto", "always", "never"),
        },
    )
    train_transforms: list[Any] | None = field(
        default=None,
        metadata={
            "help": "Transforms of training images, in order: names of torchvision.transforms.v2, or A.NAME of"
            " albumentations, with arguments."
        },
    )
    augmentation: str | None = field(
        default=None,
        metadata={
            "help": "A list of train_transforms by name, at the size of the network; the run shows it.",
            "choices": ("none", "light", "medium", "heavy"),
        },
    )
    image_size: int | list[int] | None = field(
        default=None,
        metadata={"help": "Side in pixels of what the network gets, or its height and width, such as 224 112."},
    )
    resize_mode: str | None = field(
        default=None,
        metadata={
            "help": "Images of another shape than image_size: crop cuts, squash distorts them, pad adds borders.",
            "choices": ("crop", "squash", "pad"),
        },
    )
    crop_pct: float | None = field(
        default=None,
        metadata={"help": "With crop, evaluation resizes the short side to image_size / crop_pct before it crops."},
    )
    image_mean: list[float] | None = field(
        default=None,
        metadata={"help": "Mean of each channel on the scale of 0 to 255, or of the file with image_channels."},
    )
    image_std: list[float] | None = field(
        default=None,
        metadata={"help": "Standard deviation of each channel on the same scale as image_mean."},
    )
    image_channels: int | None = field(
        default=None,
        metadata={
            "help": "Read images as they are stored, with this many channels, from TIFF files or arrays (.npy). Absent:"
            " RGB, or what such files show."
        },
    )
    value_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "Values that become black and white in images of more than 8 bits, two numbers. Absent: looked for."
        },
    )
    resample: str | None = field(
        default=None, metadata={"help": "Interpolation when images are resized: nearest, bilinear, bicubic or lanczos."}
    )

    @property
    def label_columns(self) -> list[str]:
        """The columns of labels that the user states, none where they are found."""
        stated = self.label_column
        return [] if stated is None else [stated] if isinstance(stated, str) else stated

    def __post_init__(self) -> None:
        check_data(self)
        if self.streaming:
            self.decode_cache = "never"
