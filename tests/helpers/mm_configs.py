"""Small configs of MMClassification 0.x and MMPretrain 1.x for the tests of the import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.recipe import Recipe, load_recipe
from hf_finetune.mmclassification.importer import import_config
from hf_finetune.mmclassification.recipe_text import packaged_bases, write_recipe
from hf_finetune.mmclassification.section import Draft

KNOWN_KEYS = set(argument_fields())
RESNET = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet", depth=50, num_stages=4, out_indices=(3,), style="pytorch"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead", num_classes=10, in_channels=2048, loss=dict(type="CrossEntropyLoss", loss_weight=1.0)
    ),
)
NORMALIZATION = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
OLD_TRAIN = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", size=224),
    dict(type="RandomFlip", flip_prob=0.5, direction="horizontal"),
    dict(type="Normalize", **NORMALIZATION, to_rgb=True),
    dict(type="ImageToTensor", keys=["img"]),
    dict(type="ToTensor", keys=["gt_label"]),
    dict(type="Collect", keys=["img", "gt_label"]),
]
OLD_TEST = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", size=(256, -1)),
    dict(type="CenterCrop", crop_size=224),
    dict(type="Normalize", **NORMALIZATION, to_rgb=True),
    dict(type="Collect", keys=["img"]),
]


def old_data(dataset_type: str = "ImageNet", train: Any = OLD_TRAIN, test: Any = OLD_TEST, **part: Any) -> dict:
    """Return `data` of 0.x, with 32 samples per GPU."""
    part = {"data_prefix": "data/imagenet/train", **part} if dataset_type == "ImageNet" else part
    return dict(
        samples_per_gpu=32,
        workers_per_gpu=2,
        train=dict(type=dataset_type, pipeline=train, **part),
        val=dict(type=dataset_type, pipeline=test, **part),
    )


def old_config(**changes: Any) -> dict[str, Any]:
    """Return a whole config of 0.x: ResNet-50 on ImageNet in 100 epochs. None removes a name."""
    config = dict(
        model=RESNET,
        data=old_data(),
        optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=0.0001),
        optimizer_config=dict(grad_clip=None),
        lr_config=dict(policy="step", step=[30, 60, 90]),
        runner=dict(type="EpochBasedRunner", max_epochs=100),
        checkpoint_config=dict(interval=1),
        log_config=dict(interval=100, hooks=[dict(type="TextLoggerHook")]),
        evaluation=dict(interval=1, metric="accuracy"),
    )
    return {key: value for key, value in {**config, **changes}.items() if value is not None}


def new_config(**changes: Any) -> dict[str, Any]:
    """Return a config of 1.x for the same run."""
    train = [
        dict(type="LoadImageFromFile"),
        dict(type="RandomResizedCrop", scale=224),
        dict(type="RandomFlip", prob=0.5, direction="horizontal"),
        dict(type="PackInputs"),
    ]
    test = [
        dict(type="LoadImageFromFile"),
        dict(type="ResizeEdge", scale=256, edge="short"),
        dict(type="CenterCrop", crop_size=224),
        dict(type="PackInputs"),
    ]

    def loader(pipeline: list, split: str) -> dict:
        dataset = dict(type="ImageNet", data_root="data/imagenet", split=split, pipeline=pipeline)
        return dict(batch_size=32, num_workers=2, dataset=dataset, sampler=dict(type="DefaultSampler", shuffle=True))

    config = dict(
        model=RESNET,
        data_preprocessor=dict(num_classes=10, **NORMALIZATION, to_rgb=True),
        train_dataloader=loader(train, "train"),
        val_dataloader=loader(test, "val"),
        val_evaluator=dict(type="Accuracy", topk=(1, 5)),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=0.0001)),
        param_scheduler=dict(type="MultiStepLR", by_epoch=True, milestones=[30, 60, 90], gamma=0.1),
        train_cfg=dict(by_epoch=True, max_epochs=100, val_interval=1),
        val_cfg=dict(),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=100), checkpoint=dict(type="CheckpointHook", interval=1)
        ),
        auto_scale_lr=dict(base_batch_size=256),
    )
    return {key: value for key, value in {**config, **changes}.items() if value is not None}


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in config.items()))
    return path


def imported(folder: Path, config: dict[str, Any], name: str = "net_8xb32_data.py") -> Draft:
    """Write a config to a folder and import it."""
    return import_config(write_config(folder / name, config))


def settings(folder: Path, config: dict[str, Any], name: str = "net_8xb32_data.py") -> dict[str, Any]:
    return imported(folder, config, name).settings


def remarks(draft: Draft) -> str:
    return "\n".join(map(str, draft.remarks))


def as_recipe(draft: Draft, folder: Path) -> Recipe:
    """Write the recipe of a draft and load it."""
    path = folder / "written.yaml"
    path.write_text(write_recipe(draft, packaged_bases(), "a test"))
    return load_recipe(path, KNOWN_KEYS)
