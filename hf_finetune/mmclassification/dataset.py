"""Imports the dataset, its paths and the batch size, from 0.x's `data` or 1.x's dataloaders."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from hf_finetune.mmclassification.evaluation_pipeline import import_normalization, import_test_pipeline
from hf_finetune.mmclassification.mixing import import_mixing
from hf_finetune.mmclassification.section import Draft, Section
from hf_finetune.mmclassification.train_pipeline import import_train_pipeline

_NAMED = {
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "MNIST": "mnist",
    "FashionMNIST": "fashion_mnist",
    "ImageNet": "imagenet",
}
_NATIVE_SIZES = {"cifar10": 32, "cifar100": 32, "mnist": 28, "fashion_mnist": 28}
_SEVERAL_LABELS = ("VOC", "MultiLabelDataset", "CocoCaption")
# Wrappers around a dataset, which repeat it or draw from it unevenly.
_WRAPPERS = ("RepeatDataset", "ClassBalancedDataset", "KFoldDataset")
# Keys of a data loader that change how fast a run is, and not its result.
_INVISIBLE = (
    "num_workers",
    "workers_per_gpu",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "collate_fn",
    "round_up",
)
# Keys of a dataset that are read elsewhere, or that only say how its files are found.
_OF_A_DATASET = (
    "type",
    "pipeline",
    "data_root",
    "data_prefix",
    "ann_file",
    "split",
    "classes",
    "metainfo",
    "test_mode",
    "with_label",
    "dataset",
    "times",
    "oversample_thr",
)
_ASSUMED_GPUS = 8  # of MMClassification's model zoo, where a file's name does not say
_BATCH_IN_NAME = re.compile(r"(\d+)xb(\d+)|b(\d+)x(\d+)")


def import_data(config: Section, draft: Draft) -> None:
    """Set the keys of the data, and `global_batch_size` without gradient accumulation.

    Raises:
        UserError: The config trains on nothing, or on a dataset that cannot be used here.
    """
    old = "train_dataloader" not in config
    if old:
        data = config.section("data")
        parts = {role: data.section(role) for role in ("train", "val", "test")}
        loader = data.section("train_dataloader")
        key, holder = ("samples_per_gpu", loader if "samples_per_gpu" in loader else data)
        data.skip("workers_per_gpu", "persistent_workers", "val_dataloader", "test_dataloader")
    else:
        loaders = {role: config.section(f"{role}_dataloader") for role in ("train", "val", "test")}
        parts = {role: loader.section("dataset") for role, loader in loaders.items()}
        loader, key, holder = loaders["train"], "batch_size", loaders["train"]
        for other in (loaders["val"], loaders["test"]):
            other.skip("batch_size", "sampler", "drop_last", *_INVISIBLE)
    loader.skip(*_INVISIBLE)
    if not parts["train"]:
        raise draft.refusal("data.train" if old else "train_dataloader", "is missing; this config trains on nothing.")
    if loader.take("drop_last") or holder.take("drop_last"):
        draft.settings["dataloader_drop_last"] = True
    for section in (loader.section("sampler"), config.section("sampler")):
        _import_sampler(section, draft)

    train = _unwrap(parts["train"], draft)
    evaluated = parts["val"] if parts["val"].values.get("pipeline") else parts["test"]
    name = _import_dataset(train, evaluated, draft)
    train_steps, test_steps = train.sections("pipeline"), evaluated.sections("pipeline")
    native = _NATIVE_SIZES.get(name or "")
    mixing = import_mixing(config.section("model").section("train_cfg"), draft)
    import_train_pipeline(train_steps, native is not None, mixing, draft)
    import_test_pipeline(test_steps, native, draft)
    processor = config.section("data_preprocessor")
    own = config.section("model").section("data_preprocessor")
    import_normalization([*train_steps, *test_steps], own or processor, name, draft)
    for section in (processor, own):
        section.skip_all()
    for part in (parts["train"], train, parts["val"], parts["test"]):
        part.skip(*_OF_A_DATASET)
    for step in [*train_steps, *test_steps]:
        if step.values.get("type") == "Normalize":
            step.skip_all()
    per_gpu = int(holder.number(key, 0)) or 32
    draft.settings["global_batch_size"] = _global_batch(config, per_gpu, holder.at(key), draft)


def _import_sampler(sampler: Section, draft: Draft) -> None:
    kind = sampler.take("type", "DefaultSampler")
    if kind == "RepeatAugSampler":
        draft.settings["repeated_augmentation"] = int(sampler.number("num_repeats", 3))
        sampler.skip("selected_round")  # an epoch there is shorter by the images that 256 does not divide
    elif kind != "DefaultSampler":
        draft.remark(sampler.at("type"), f"{kind} is not supported; each image is seen once in an epoch")
        sampler.skip_all()
    sampler.skip("shuffle")


def _unwrap(part: Section, draft: Draft) -> Section:
    while part.values.get("type") in _WRAPPERS or ("dataset" in part and "pipeline" not in part):
        kind = part.values.get("type")
        nearest = ", and sampling: sqrt comes nearest to it" if kind == "ClassBalancedDataset" else ""
        draft.remark(part.place, f"{kind} is not supported; the dataset inside is taken as it is{nearest}")
        part = part.section("dataset")
    return part


def _import_dataset(train: Section, evaluated: Section, draft: Draft) -> str | None:
    """Set dataset and the keys that go with it. Return the name of a named dataset, None for a folder."""
    kind = train.take("type")
    if kind in _SEVERAL_LABELS:
        raise draft.refusal(
            train.at("type"),
            f"is {kind}, with several labels for each image; write a table with a column of lists.",
        )
    path = _joined(train)
    name = _NAMED.get(kind)
    if name is not None and not _has_own_classes(train):
        draft.settings["dataset"] = name
        root = path
        if name == "imagenet" and root.name in ("train", ""):
            root = root.parent
        if root.parts and root.parts[0] != "data" and root != PurePosixPath("."):
            draft.settings["dataset_path"] = str(root)
        if name != "imagenet":
            draft.remark(
                evaluated.place, "there the test split chooses the checkpoint; here a tenth of train is held out"
            )
        return name
    if kind == "ConcatDataset" or not path.parts:
        raise draft.refusal(train.place, "names no folder of images; set data_root or data_prefix to one folder.")
    folder = path
    if folder.name in ("train", "training"):
        folder = folder.parent
    elif evaluated and _joined(evaluated).parent == folder.parent and _joined(evaluated) != folder:
        draft.settings["train_split"] = folder.name
        folder = folder.parent
    draft.settings["dataset"] = str(folder)
    if kind not in ("CustomDataset", "ImageNet"):
        draft.remark(train.at("type"), f"{kind}; arrange its images as {folder}/train/CLASS/ and {folder}/test/CLASS/")
    if train.take("ann_file"):
        draft.remark(
            train.at("ann_file"),
            f"{train.take('ann_file')}; list paths and labels in a CSV table and name it as dataset",
        )
    return None


def _has_own_classes(train: Section) -> bool:
    """Whether the type ImageNet is used for the user's own folder, as in MMClassification's tutorials."""
    if train.values.get("type") != "ImageNet":
        return False
    classes, path = train.take("classes"), str(_joined(train)).lower()
    return bool(classes) or (path != "." and "imagenet" not in path and "ilsvrc" not in path)


def _joined(part: Section) -> PurePosixPath:
    root, prefix = part.take("data_root") or "", part.take("data_prefix") or ""
    if isinstance(prefix, dict):
        prefix = prefix.get("img_path") or ""
    if not prefix and part.take("split"):
        prefix = part.take("split") if part.values.get("type") == "ImageNet" else ""
    return PurePosixPath(str(root)) / str(prefix)


def _global_batch(config: Section, per_gpu: int, place: str, draft: Draft) -> int:
    """Return the samples per GPU times the GPUs, from the file's name (8xb32 or b32x8) or else `auto_scale_lr`."""
    base = config.section("auto_scale_lr")
    stated: Any = base.take("base_batch_size")
    base.skip("enable")
    match = _BATCH_IN_NAME.search(Path(draft.file).name)
    if match:
        first, second = (int(match[1]), int(match[2])) if match[1] else (int(match[3]), int(match[4]))
        # Old names are of both orders; the samples per GPU in the file tell which is which.
        gpus = second if match[3] and per_gpu == first else first
        batch = gpus * per_gpu
        if batch == first * second or not stated:
            if batch != first * second:
                draft.remark(
                    place, f"{per_gpu}, but the file's name says {match[0]}; {gpus} GPUs of {per_gpu} are taken"
                )
            if stated and stated != batch:
                draft.remark(
                    base.at("base_batch_size"), f"{stated}, but the file's name says {match[0]}, which is taken"
                )
            return batch
    if stated:
        return int(base.number("base_batch_size", 0))
    draft.remark(place, f"{per_gpu} on an unknown number of GPUs; {_ASSUMED_GPUS} are taken")
    return per_gpu * _ASSUMED_GPUS
