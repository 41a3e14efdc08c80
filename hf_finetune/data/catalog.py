"""The named datasets. To add one, add one entry to `CATALOG`; nothing else has to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DatasetEntry:
    """What a dataset's name stands for.

    `image_mean` and `image_std` are one figure a channel, over the pixels of the training split in units of 0 to 255;
    one figure alone is that of a grayscale dataset. `image_size` is the (height, width) in pixels that all its images
    have, None where they differ. `split_sizes` counts the images by the Hub's split names. A
    split that the Hub has not, or has without labels, is None. `label_names` is given where a copy exists that lacks
    them.
    """

    name: str
    hub_id: str | None
    recipe: str
    image_column: str
    label_column: str
    num_classes: int
    image_size: tuple[int, int] | None
    split_sizes: Mapping[str, int]
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = "test"
    config_name: str | None = None
    label_names: tuple[str, ...] | None = None
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    license: str | None = None
    citation: str = field(default="", repr=False)


_ENTRIES = (
    DatasetEntry(
        name="cifar10",
        hub_id="uoft-cs/cifar10",
        config_name="plain_text",
        recipe="resnet50_cifar10",
        image_column="img",
        label_column="label",
        num_classes=10,
        image_size=(32, 32),
        split_sizes={"train": 50_000, "test": 10_000},
        # MMClassification's figures for CIFAR-10.
        image_mean=(125.307, 122.961, 113.8575),
        image_std=(51.5865, 50.847, 51.255),
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
        # MMClassification's figures for CIFAR-100.
        image_mean=(129.304, 124.070, 112.434),
        image_std=(68.170, 65.392, 70.418),
        citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    DatasetEntry(
        name="mnist",
        hub_id="ylecun/mnist",
        config_name="mnist",
        recipe="lenet5_mnist",
        image_column="image",
        label_column="label",
        num_classes=10,
        image_size=(28, 28),
        split_sizes={"train": 60_000, "test": 10_000},
        label_names=tuple("0123456789"),
        # MMClassification's figures for MNIST.
        image_mean=(33.46,),
        image_std=(78.87,),
        license="mit",
        citation="Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-Based Learning Applied to Document"
        " Recognition, Proceedings of the IEEE, 1998",
    ),
    DatasetEntry(
        name="fashion_mnist",
        hub_id="zalando-datasets/fashion_mnist",
        config_name="fashion_mnist",
        recipe="resnet18_fashion_mnist",
        image_column="image",
        label_column="label",
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
        image_mean=(72.94,),
        image_std=(90.02,),
        license="mit",
        citation="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine"
        " Learning Algorithms, arXiv:1708.07747, 2017",
    ),
    DatasetEntry(
        name="imagenet",
        hub_id="ILSVRC/imagenet-1k",
        recipe="resnet50_imagenet",
        image_column="image",
        label_column="label",
        num_classes=1000,
        image_size=None,
        split_sizes={"train": 1_281_167, "validation": 50_000, "test": 100_000},
        validation_split="validation",
        test_split=None,  # the Hub's test split hides its labels: they are all -1
        image_mean=(123.675, 116.28, 103.53),
        image_std=(58.395, 57.12, 57.375),
        citation="O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, International Journal of"
        " Computer Vision, 2015",
    ),
    DatasetEntry(
        name="digits",
        hub_id=None,  # it comes with scikit-learn
        recipe="digits",
        image_column="image",
        label_column="label",
        num_classes=10,
        image_size=(8, 8),
        split_sizes={"train": 1_438, "test": 359},
        label_names=tuple("0123456789"),
        image_mean=(77.91,),
        image_std=(95.87,),
        license="cc-by-4.0",
        citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning"
        " Repository, 1998, doi:10.24432/C50P49",
    ),
)

CATALOG: dict[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}


def find_entry(dataset: str) -> DatasetEntry | None:
    """Returns the entry that a name or a Hub id stands for, or None."""
    by_hub_id = {entry.hub_id: entry for entry in _ENTRIES if entry.hub_id}
    return CATALOG.get(dataset) or by_hub_id.get(dataset)
