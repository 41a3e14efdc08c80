"""The catalog's entries hold together."""

from __future__ import annotations

from hf_finetune.data.catalog import CATALOG, find_entry


def test_names_and_recipes() -> None:
    assert {name: entry.recipe for name, entry in CATALOG.items()} == {
        "cifar10": "resnet50_cifar10",
        "cifar100": "resnet18_cifar100",
        "mnist": "lenet5_mnist",
        "fashion_mnist": "resnet18_fashion_mnist",
        "imagenet": "resnet50_imagenet",
        "digits": "digits",
    }


def test_entries_are_complete() -> None:
    for name, entry in CATALOG.items():
        assert entry.name == name
        assert entry.citation
        assert len(entry.image_mean) == len(entry.image_std) in (1, 3)
        assert all(0 < figure < 255 for figure in (*entry.image_mean, *entry.image_std))
        assert entry.label_names is None or len(entry.label_names) == len(set(entry.label_names)) == entry.num_classes
        splits = {entry.train_split, entry.validation_split, entry.test_split} - {None}
        assert splits <= set(entry.split_sizes)


def test_find_entry_by_name_or_hub_id() -> None:
    assert find_entry("cifar100") is find_entry("uoft-cs/cifar100") is CATALOG["cifar100"]
    assert find_entry("cifar100").label_column == "fine_label"
    assert find_entry("someone/cifar100") is None
    assert find_entry("") is None
