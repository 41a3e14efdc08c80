"""The named datasets. To add one, add one entry to `CATALOG`; nothing else has to change.

Messages, the choice of a recipe, the documentation's table and the tests read the names from here. How the images of a
dataset are prepared (size, mean, standard deviation, transforms) belongs to its recipe, which is optional: a dataset
without one is trained by the recipe `finetune`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_RECIPE = "finetune"


@dataclass(frozen=True)
class DatasetEntry:
    """A named dataset.

    Attributes:
        name: What `--dataset` calls it.
        hub_id: Its repository on the Hub; None for a dataset that a source of this package builds itself.
        num_classes: The number of classes, for a note where a copy has another number.
        image_column: The column that holds the images, where the source has it.
        label_column: The column that holds the labels, where the source has it.
        image_size: The (height, width) in pixels that all its images have; None where they differ.
        split_sizes: The number of images of each split, by the Hub's split names.
        train_split: The split to train on.
        validation_split: The split that chooses the checkpoint; None where there is none.
        test_split: The split that reports the final figures; None where there is none, or its labels are hidden.
        config_name: The configuration of a Hub dataset that has several.
        label_names: The class names in the order of their ids, for copies that store only numbers.
        recipe: The packaged recipe that trains on it where the user names none.
        license: The SPDX identifier of the licence, in lower case as on the Hub.
        citation: The publication to cite.
    """

    name: str
    hub_id: str | None
    num_classes: int
    image_column: str = "image"
    label_column: str = "label"
    image_size: tuple[int, int] | None = None
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = "test"
    config_name: str | None = None
    label_names: tuple[str, ...] | None = None
    recipe: str = DEFAULT_RECIPE
    license: str | None = None
    citation: str = field(default="", repr=False)

    def split_of(self, role: str) -> str | None:
        """Return the name of the split for a role: "train", "validation" or "test"."""
        return {"train": self.train_split, "validation": self.validation_split, "test": self.test_split}[role]


_ENTRIES = (
    DatasetEntry(
        name="cifar10",
        hub_id="uoft-cs/cifar10",
        config_name="plain_text",
        recipe="resnet50_cifar10",
        image_column="img",
        num_classes=10,
        image_size=(32, 32),
        split_sizes={"train": 50_000, "test": 10_000},
        citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    DatasetEntry(
        name="cifar100",
        hub_id="uoft-cs/cifar100",
        config_name="cifar100",
        recipe="resnet18_cifar100",
        image_column="img",
        label_column="fine_label",
        num_classes=100,
        image_size=(32, 32),
        split_sizes={"train": 50_000, "test": 10_000},
        citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    DatasetEntry(
        name="mnist",
        hub_id="ylecun/mnist",
        config_name="mnist",
        recipe="lenet5_mnist",
        num_classes=10,
        image_size=(28, 28),
        split_sizes={"train": 60_000, "test": 10_000},
        label_names=tuple("0123456789"),
        license="mit",
        citation="Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-Based Learning Applied to Document"
        " Recognition, Proceedings of the IEEE, 1998",
    ),
    DatasetEntry(
        name="fashion_mnist",
        hub_id="zalando-datasets/fashion_mnist",
        config_name="fashion_mnist",
        recipe="resnet18_fashion_mnist",
        num_classes=10,
        image_size=(28, 28),
        split_sizes={"train": 60_000, "test": 10_000},
        label_names=(
            "T - shirt / top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        license="mit",
        citation="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine"
        " Learning Algorithms, arXiv:1708.07747, 2017",
    ),
    DatasetEntry(
        name="imagenet",
        hub_id="ILSVRC/imagenet-1k",
        recipe="resnet50_imagenet",
        num_classes=1000,
        image_size=None,
        split_sizes={"train": 1_281_167, "validation": 50_000, "test": 100_000},
        validation_split="validation",
        test_split=None,  # the Hub's test split hides its labels: they are all -1
        citation="O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, International Journal of"
        " Computer Vision, 2015",
    ),
    DatasetEntry(
        name="digits",
        hub_id=None,  # scikit-learn contains it
        recipe="digits",
        num_classes=10,
        image_size=(8, 8),
        split_sizes={"train": 1_438, "test": 359},
        label_names=tuple("0123456789"),
        license="cc-by-4.0",
        citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning"
        " Repository, 1998, doi:10.24432/C50P49",
    ),
)

CATALOG: dict[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}


def find_entry(dataset: str) -> DatasetEntry | None:
    """Return the entry with a name or a Hub id, or None."""
    by_hub_id = {entry.hub_id: entry for entry in CATALOG.values() if entry.hub_id}
    return CATALOG.get(dataset) or by_hub_id.get(dataset)
