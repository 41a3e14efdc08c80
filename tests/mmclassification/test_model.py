"""Networks, heads, losses, initial weights and frozen stages of configs, against the networks that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.errors import UserError
from hf_finetune.mmclassification.architectures import TIMM_NAMES
from tests.helpers.mm_configs import RESNET, imported, new_config, old_config, remarks, settings


def with_backbone(head: dict[str, Any] | None = None, **backbone: Any) -> dict[str, Any]:
    head = dict(type="LinearClsHead", num_classes=1000, in_channels=8) | (head or {})
    return new_config(model=dict(type="ImageClassifier", backbone=backbone, head=head))


# Backbone, parameters in millions as MMClassification's model zoo states them for 1,000 classes.
NETWORKS = [
    (dict(type="ResNet", depth=18), 11.69),
    (dict(type="ResNet", depth=50, style="caffe"), 25.56),
    (dict(type="ResNet", depth=50, base_channels=128, stem_channels=64), 68.88),
    (dict(type="ResNetV1d", depth=50), 25.58),
    (dict(type="ResNeXt", depth=50, groups=32, width_per_group=4), 25.03),
    (dict(type="VisionTransformer", arch="b", img_size=224, patch_size=16), 86.57),
    (dict(type="VisionTransformer", arch="deit-tiny"), 5.72),
    (dict(type="SwinTransformer", arch="tiny", drop_path_rate=0.2), 28.29),
    (dict(type="SwinTransformerV2", arch="tiny", window_size=[16, 16, 16, 8]), 28.35),
    (dict(type="ConvNeXt", arch="tiny", drop_path_rate=0.1), 28.59),
    (dict(type="ConvNeXt", arch="atto", use_grn=True, layer_scale_init_value=0.0), 3.71),
    (dict(type="VGG", depth=11, norm_cfg=dict(type="BN")), 132.87),
    (dict(type="EfficientNet", arch="b0"), 5.29),
    (dict(type="MobileNetV2", widen_factor=1.0), 3.5),
    (dict(type="XCiT", patch_size=16, embed_dims=192, depth=12), 6.72),
]


@pytest.mark.parametrize(("backbone", "millions"), NETWORKS, ids=lambda value: str(value)[:60])
def test_the_network_has_the_parameters_of_the_model_zoo(tmp_path: Path, backbone: dict, millions: float) -> None:
    values = settings(tmp_path, with_backbone(**backbone))
    if values["model_type"] == "timm_wrapper":
        pytest.importorskip("timm")
    config = AutoConfig.for_model(values["model_type"], **values["model_config"])
    config.num_labels = values["num_labels"]
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_the_names_of_timm_are_timms() -> None:
    known = set(pytest.importorskip("timm").list_models())
    names = [name.format(size=224) for sizes in TIMM_NAMES.values() for name in sizes.values()]
    assert set(names) <= known


def test_lenet_and_the_resnet_of_cifar(tmp_path: Path) -> None:
    head = dict(type="ClsHead", num_classes=None)
    lenet = settings(tmp_path, with_backbone(head, type="LeNet5", num_classes=10))
    assert (lenet["model_type"], lenet["model_config"], lenet["num_labels"]) == ("lenet5", {"num_channels": 1}, 10)
    small = settings(tmp_path, with_backbone(type="ResNet_CIFAR", depth=18))
    assert small["model_type"] == "resnet_cifar"
    assert small["model_config"] == {
        "depths": [2, 2, 2, 2],
        "hidden_sizes": [64, 128, 256, 512],
        "layer_type": "basic",
        "embedding_size": 64,
    }


STAGES = [f"resnet.encoder.stages.{stage}" for stage in range(4)]
FROZEN = [
    (dict(type="ResNet", depth=18, frozen_stages=-1), None),
    (dict(type="ResNet", depth=18, frozen_stages=0), ["resnet.embedder"]),
    (dict(type="ResNet", depth=18, frozen_stages=2), ["resnet.embedder", *STAGES[:2]]),
    (dict(type="ResNet", depth=18, frozen_stages=4), ["backbone"]),
    (dict(type="VisionTransformer", arch="b", frozen_stages=1), ["vit.embeddings", "vit.layers.0"]),
    (dict(type="VisionTransformer", arch="b", frozen_stages=12), ["backbone"]),
    (dict(type="SwinTransformer", arch="tiny", frozen_stages=0), ["swin.embeddings", "swin.encoder.layers.0"]),
    (dict(type="ConvNeXt", arch="tiny", frozen_stages=1), ["convnext.embeddings", "convnext.encoder.stages.0"]),
]


@pytest.mark.parametrize(("backbone", "names"), FROZEN, ids=lambda value: str(value)[:70])
def test_frozen_stages_are_modules_of_the_network(tmp_path: Path, backbone: dict, names: list[str] | None) -> None:
    values = settings(tmp_path, with_backbone(**backbone))
    assert values.get("freeze") == names
    config = AutoConfig.for_model(values["model_type"], **values["model_config"])
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(config)
    assert set(names or []) - {"backbone"} <= {name for name, _ in model.named_modules()}


URL = "https://download.example/net.pth"
WEIGHTS = [
    (dict(load_from=URL), URL),
    (dict(load_from=None), None),
    (dict(model={**RESNET, "init_cfg": dict(type="Pretrained", checkpoint=URL)}), URL),
    (dict(model={**RESNET, "init_cfg": [dict(type="Kaiming"), dict(type="Pretrained", checkpoint=URL)]}), URL),
    (dict(model={**RESNET, "pretrained": URL}), URL),
    (
        dict(model={**RESNET, "pretrained": "torchvision://resnet50"}),
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    ),
    (
        dict(
            model={
                **RESNET,
                "backbone": {
                    **RESNET["backbone"],
                    "init_cfg": dict(type="Pretrained", checkpoint=URL, prefix="backbone"),
                },
            }
        ),
        URL,
    ),
]


@pytest.mark.parametrize(("changes", "address"), WEIGHTS, ids=range(len(WEIGHTS)))
def test_initial_weights(tmp_path: Path, changes: dict, address: str | None) -> None:
    draft = imported(tmp_path, old_config(**changes))
    assert draft.settings.get("load_from") == address and not draft.remarks
    assert draft.settings["model_type"] == "resnet"


def test_load_from_wins_over_init_cfg_and_says_so(tmp_path: Path) -> None:
    model = {**RESNET, "init_cfg": dict(type="Pretrained", checkpoint="a.pth")}
    draft = imported(tmp_path, old_config(model=model, load_from="b.pth"))
    assert draft.settings["load_from"] == "b.pth"
    assert remarks(draft) == "model.init_cfg: a.pth; load_from is loaded over it"


@pytest.mark.parametrize(("depth", "hub"), [(18, "microsoft/resnet-18"), (152, "microsoft/resnet-152")])
def test_a_placeholder_of_weights_becomes_the_hubs_of_the_same_network(tmp_path: Path, depth: int, hub: str) -> None:
    model = {**RESNET, "backbone": dict(type="ResNet", depth=depth)}
    values = settings(tmp_path, old_config(model=model, load_from="https://x.example/models/tbd.pth"))
    assert values["model_name_or_path"] == hub and values["pretrained"] is True
    assert not {"load_from", "model_type", "model_config"} & values.keys()


BCE = {"loss": "bce"}
LOSSES: list[tuple[dict, dict, str]] = [
    (dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"), {"label_smoothing_factor": 0.1}, ""),
    (dict(type="LabelSmoothLoss", label_smooth_val=0.1, num_classes=10), {"label_smoothing_factor": 0.1}, ""),
    (
        dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="classy_vision"),
        {"label_smoothing_factor": round(1 / 11, 12)},
        "",
    ),
    (
        dict(type="LabelSmoothLoss", label_smooth_val=0.1, use_sigmoid=True),
        {"label_smoothing_factor": 0.1, **BCE},
        "",
    ),
    (dict(type="CrossEntropyLoss", loss_weight=1.0), {}, ""),
    (dict(type="CrossEntropyLoss", use_sigmoid=True), BCE, ""),
    (dict(type="CrossEntropyLoss", loss_weight=2.0), {}, "loss_weight: 2; the loss here has weight 1"),
    (dict(type="CrossEntropyLoss", class_weight=[1, 0.5]), {"class_weights": [1, 0.5]}, ""),
    (dict(type="CrossEntropyLoss", class_weight="w.json"), {}, "class_weight: 'w.json'; set class_weights to a list"),
    (
        dict(type="CrossEntropyLoss", use_sigmoid=True, class_weight=[1, 2]),
        BCE,
        "class_weight: is there of each class's",
    ),
    (dict(type="CrossEntropyLoss", use_sigmoid=True, pos_weight=[1, 2]), BCE, "pos_weight"),
    (dict(type="FocalLoss"), {"loss": "focal"}, ""),
    (dict(type="FocalLoss", gamma=3), {"loss": "focal", "loss_args": {"gamma": 3}}, ""),
    (dict(type="AsymmetricLoss"), {"loss": "asymmetric", "loss_args": {"gamma_positive": 0.0}}, ""),
    (
        dict(type="AsymmetricLoss", gamma_pos=1.0, gamma_neg=2.0, clip=None, use_sigmoid=True),
        {"loss": "asymmetric", "loss_args": {"gamma_negative": 2.0, "clip": 0.0}},
        "",
    ),
    (dict(type="AsymmetricLoss", use_sigmoid=False), {}, "AsymmetricLoss; the loss here is cross entropy"),
    (dict(type="SeesawLoss"), {}, "SeesawLoss; the loss here is cross entropy"),
]
KEYS_OF_THE_LOSS = ("loss", "loss_args", "class_weights", "label_smoothing_factor")


@pytest.mark.parametrize(("loss", "values", "remark"), LOSSES, ids=lambda value: str(value)[:70])
def test_the_loss(tmp_path: Path, loss: dict, values: dict, remark: str) -> None:
    draft = imported(tmp_path, old_config(model={**RESNET, "head": {**RESNET["head"], "loss": loss}}))
    assert {key: value for key, value in draft.settings.items() if key in KEYS_OF_THE_LOSS} == values
    assert remark in remarks(draft) and bool(remark) == bool(draft.remarks)
    FinetuneArguments(output_dir=str(tmp_path), use_cpu=True, **values)


def test_the_loss_of_a_librarys_model_is_a_mean_there(tmp_path: Path) -> None:
    model = dict(type="TimmClassifier", model_name="resnet10t", num_classes=2, loss=dict(type="FocalLoss"))
    draft = imported(tmp_path, old_config(model=model))
    assert draft.settings["loss"] == "focal"
    assert "model.loss.type: FocalLoss; there it is the mean over the classes, here the sum" in remarks(draft)


def test_smoothing_as_classy_vision_has_pytorchs_targets(tmp_path: Path) -> None:
    head = {**RESNET["head"], "loss": dict(type="LabelSmoothLoss", label_smooth_val=0.3, mode="classy_vision")}
    epsilon = settings(tmp_path, old_config(model={**RESNET, "head": head}))["label_smoothing_factor"]
    target = torch.eye(4)[1]
    assert torch.allclose((1 - epsilon) * target + epsilon / 4, (target + 0.3 / 4) / 1.3)


MIXUP, CUTMIX = {"MixUp": {"alpha": 0.8}}, {"CutMix": {"alpha": 1.0}}
MIXINGS: list[tuple[dict, list, str]] = [
    (dict(augments=[dict(type="Mixup", alpha=0.8)]), [MIXUP], ""),
    (dict(augments=dict(type="BatchMixup", alpha=0.8, num_classes=10, prob=1.0)), [MIXUP], ""),
    (
        dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
        [{"RandomChoice": {"transforms": [MIXUP, CUTMIX]}}],
        "",
    ),
    (
        dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)], probs=[0.1, 0.5]),
        [{"RandomChoice": {"transforms": [MIXUP, CUTMIX, "Identity"], "p": [0.1, 0.5, 0.4]}}],
        "",
    ),
    (
        dict(augments=[dict(type="BatchMixup", alpha=0.8, num_classes=10, prob=0.3)]),
        [{"RandomChoice": {"transforms": [MIXUP, "Identity"], "p": [0.3, 0.7]}}],
        "",
    ),
    (
        dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="ResizeMix", alpha=1.0)]),
        [{"RandomChoice": {"transforms": [MIXUP, "Identity"]}}],
        "augments.ResizeMix: ResizeMix is not supported; 0.5 of the batches are not mixed by it",
    ),
    (
        dict(augments=dict(type="CutMix", alpha=1.0, cutmix_minmax=[0.2, 0.8], correct_lam=False)),
        [CUTMIX],
        "augments.CutMix.cutmix_minmax: is not supported",
    ),
]


@pytest.mark.parametrize(("train_cfg", "last", "remark"), MIXINGS, ids=lambda value: str(value)[:70])
def test_mixing_ends_the_training_transforms(tmp_path: Path, train_cfg: dict, last: list, remark: str) -> None:
    draft = imported(tmp_path, old_config(model={**RESNET, "train_cfg": train_cfg}))
    items = draft.settings["train_transforms"]
    assert items[-1:] == last and len(items) == 3
    assert build_train_transforms(items, uniform=True).mixing is not None
    assert remark in remarks(draft) and bool(remark) == bool(draft.remarks)


def test_adapters_and_necks_become_remarks(tmp_path: Path) -> None:
    model = {**RESNET, "neck": dict(type="GeneralizedMeanPooling")}
    lines = remarks(imported(tmp_path, old_config(model=model)))
    assert "model.neck.GeneralizedMeanPooling: is not supported" in lines
    vit = dict(type="VisionTransformer", arch="b", drop_path_rate=0.1)
    adapted = dict(type="LoRAModel", module=vit, alpha=16)
    draft = imported(tmp_path, with_backbone(**adapted))
    assert draft.settings["model_type"] == "vit"
    assert "for adapters add peft" in remarks(draft) and "no stochastic depth" in remarks(draft)


def test_a_setting_of_the_backbone_that_is_not_followed_is_told(tmp_path: Path) -> None:
    draft = imported(tmp_path, with_backbone(type="ResNet", depth=50, norm_eval=True, drop_path_rate=0.05))
    assert "model.backbone.norm_eval: True; Transformers' ResNet keeps its own value" in remarks(draft)
    assert "model.backbone.drop_path_rate: 0.05; Transformers' ResNet" in remarks(draft)


def test_models_of_other_libraries(tmp_path: Path) -> None:
    head = dict(type="TimmClassifier", model_name="resnet18", num_classes=5, pretrained=True)
    values = settings(tmp_path, new_config(model=head))
    assert (values["model_name_or_path"], values["pretrained"], values["num_labels"]) == ("timm/resnet18", True, 5)
    head = dict(type="HuggingFaceClassifier", model_name="microsoft/resnet-50", num_classes=5)
    values = settings(tmp_path, new_config(model=head))
    assert (values["model_name_or_path"], values["pretrained"]) == ("microsoft/resnet-50", False)


@pytest.mark.parametrize(
    "backbone",
    [
        dict(type="RepVGG", arch="A0", deploy=True),
        dict(type="VisionTransformer", arch="xxl"),
        dict(type="VisionTransformer", arch=dict(embed_dims=8)),
        dict(type="DenseNet", arch="122"),
        dict(type="ResNet", depth=50, num_stages=3),
        dict(type="ResNet", depth=50, base_channels=32),
        dict(type="XCiT", embed_dims=100),
    ],
)
def test_an_unsupported_network_is_refused(tmp_path: Path, backbone: dict) -> None:
    with pytest.raises(UserError, match="model.backbone"):
        imported(tmp_path, with_backbone(**backbone))
