"""Imports `model` and `load_from`: network, head, loss and initial weights."""

from __future__ import annotations

import re
from typing import Any

from hf_finetune.mmclassification.architectures import RESNET_DEPTHS
from hf_finetune.mmclassification.backbones import import_backbone
from hf_finetune.mmclassification.section import Draft, Section, shown

# Heads that are one linear layer on pooled features, or that timm's network has itself.
_HEADS = (
    "ClsHead",
    "LinearClsHead",
    "VisionTransformerClsHead",
    "StackedLinearClsHead",
    "DeiTClsHead",
    "EfficientFormerClsHead",
    "LeViTClsHead",
    "MultiLabelLinearClsHead",
)
_NECKS = ("GlobalAveragePooling", "HRFuseScales")
# The files that `torchvision://NAME` refers to.
_TORCHVISION_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
}
# Of each loss its name here, and for its keys the name, the default there and the default here. Heads sum a loss over
# the classes and divide it by the images, as here.
_LOSSES: dict[str, tuple[str, dict[str, tuple[str, float, float]]]] = {
    "FocalLoss": ("focal", {"gamma": ("gamma", 2.0, 2.0), "alpha": ("alpha", 0.25, 0.25)}),
    "AsymmetricLoss": (
        "asymmetric",
        {
            "gamma_pos": ("gamma_positive", 0.0, 1.0),
            "gamma_neg": ("gamma_negative", 4.0, 4.0),
            "clip": ("clip", 0.05, 0.05),
        },
    ),
}
_PLACEHOLDER = re.compile(r"(^|/)tbd\.pth$")


def import_model(config: Section, draft: Draft) -> None:
    """Set model_type, model_config, num_labels, the keys of the loss, freeze and load_from.

    Raises:
        UserError: The model does not classify images into one class each, or has no counterpart here.
    """
    model = config.section("model")
    kind = model.take("type")
    if kind in ("TimmClassifier", "HuggingFaceClassifier"):
        _import_library_model(model, draft, kind)
        return
    if kind != "ImageClassifier":
        what = f"is {kind!r}, which is no image classifier" if model else "is missing"
        raise draft.refusal(
            "model.type" if model else "model",
            f"{what}; only configs with one label for each image (ImageClassifier) can be imported.",
        )
    backbone = model.section("backbone")
    if backbone.values.get("type") == "LoRAModel":
        draft.remark(
            backbone.at("type"), "LoRAModel; all weights are trained here; for adapters add peft (docs/lora.md)"
        )
        backbone.skip_all()
        backbone = backbone.section("module")
    import_backbone(backbone, draft)
    _import_head(model, backbone, draft)
    _import_weights(config, model, backbone, draft)
    for neck in model.sections("neck"):
        if neck.take("type") not in _NECKS:
            draft.remark(neck.place, "is not supported; the network here pools by the mean")
        neck.skip_all()
    model.skip("data_preprocessor", "train_cfg")  # import_data reads them


def _import_library_model(model: Section, draft: Draft, kind: str) -> None:
    name = model.take("model_name")
    draft.settings["model_name_or_path"] = f"timm/{name}" if kind == "TimmClassifier" else name
    draft.settings["pretrained"] = bool(model.take("pretrained", False))
    num_classes = model.take("num_classes") or model.section("head").take("num_classes")
    if num_classes:
        draft.settings["num_labels"] = num_classes
    _import_loss(model.section("loss"), draft)
    model.skip("with_cp", "data_preprocessor", "train_cfg")


def _import_head(model: Section, backbone: Section, draft: Draft) -> None:
    head = model.section("head")
    kind = head.take("type")
    if kind is None:
        raise draft.refusal("model.head", "is missing: this config only makes features; add a head to import it.")
    loss = head.section("loss")
    if kind not in _HEADS or (kind.startswith("MultiLabel") and not loss.values.get("use_soft")):
        several = "MultiLabel" in kind or kind == "CSRAClsHead"
        reason = "with several labels for each image" if several else "which is no linear classifier"
        raise draft.refusal(head.at("type"), f"is {kind}, {reason}; use LinearClsHead and the loss CrossEntropyLoss.")
    head.skip("in_channels", "topk", "cal_acc", "init_cfg", "mid_channels", "act_cfg", "dropout_rate", "distillation")
    if head.take("hidden_dim"):
        draft.remark(
            head.at("hidden_dim"), f"{head.take('hidden_dim')}; the head here is one linear layer, without tanh layer"
        )
    num_classes = head.take("num_classes") or backbone.values.get("num_classes")
    if num_classes:
        draft.settings["num_labels"] = num_classes
    _import_loss(loss, draft)


def _import_loss(loss: Section, draft: Draft) -> None:
    kind = loss.take("type", "CrossEntropyLoss")
    settings: dict[str, float] = {}
    if kind == "LabelSmoothLoss":
        smoothing, mode = loss.number("label_smooth_val", 0.0), loss.take("mode", "original")
        if mode == "classy_vision":
            smoothing = smoothing / (1 + smoothing)  # the same target, written in PyTorch's form
        elif mode != "original":
            raise draft.refusal(loss.at("mode"), f"is {mode!r}, for several labels for each image; use 'original'.")
        draft.settings["label_smoothing_factor"] = round(smoothing, 12)
    elif kind in _LOSSES and loss.take("use_sigmoid", True):
        name, keys = _LOSSES[kind]
        for theirs, (ours, default, our_default) in keys.items():
            value = loss.number(theirs, default) if loss.values.get(theirs, default) is not None else 0.0
            if value != our_default:
                settings[ours] = value
        draft.settings["loss"] = name
        if settings:
            draft.settings["loss_args"] = settings
    elif kind != "CrossEntropyLoss":
        draft.remark(loss.at("type"), f"{kind}; the loss here is cross entropy")
        loss.skip_all()
    if kind in ("CrossEntropyLoss", "LabelSmoothLoss") and loss.take("use_sigmoid"):
        draft.settings["loss"] = "bce"
    _import_class_weight(loss, draft)
    if "loss" in draft.settings and not loss.place.startswith("model.head"):
        draft.remark(loss.at("type"), f"{kind}; there it is the mean over the classes, here the sum, with larger steps")
    weight = loss.number("loss_weight", 1.0)
    if weight != 1:
        draft.remark(loss.at("loss_weight"), f"{weight:g}; the loss here has weight 1, multiply learning_rate instead")
    loss.skip("num_classes", "reduction", "use_soft", "eps")


def _import_class_weight(loss: Section, draft: Draft) -> None:
    weights = loss.take("class_weight")
    if weights is None:
        return
    if draft.settings.get("loss") == "bce":
        draft.remark(loss.at("class_weight"), "is there of each class's yes or no, and here of images; not imported")
    elif not isinstance(weights, list | tuple):
        draft.remark(loss.at("class_weight"), f"{shown(weights)}; set class_weights to a list of numbers")
    else:
        draft.settings["class_weights"] = list(weights)


def _import_weights(config: Section, model: Section, backbone: Section, draft: Draft) -> None:
    stated = []
    for section in (model, backbone):
        stated.append((section.at("pretrained"), section.take("pretrained")))
        init = section.take("init_cfg")
        for entry in init if isinstance(init, list) else [init]:
            if isinstance(entry, dict) and entry.get("type") == "Pretrained":
                stated.append((section.at("init_cfg"), entry.get("checkpoint")))
    stated.append(("load_from", config.take("load_from")))  # MMEngine loads it last, over what init_cfg gave
    weights = [(place, address) for place, address in stated if isinstance(address, str) and address]
    for place, address in weights[:-1]:
        draft.remark(place, f"{address}; {weights[-1][0]} is loaded over it")
    if weights:
        _set_weights(*weights[-1], draft)


def _set_weights(place: str, address: str, draft: Draft) -> None:
    settings = draft.settings
    if _PLACEHOLDER.search(address):
        counterpart = _hub_counterpart(settings)
        draft.remark(
            place,
            f"{address} is a placeholder, no weights are there"
            + ("; the Hub's weights of the same network are taken" if counterpart else ""),
        )
        if counterpart:
            del settings["model_type"], settings["model_config"]
            settings.update({"model_name_or_path": counterpart, "pretrained": True})
        return
    name = address.removeprefix("torchvision://")
    if name != address:
        if name not in _TORCHVISION_FILES:
            raise draft.refusal(place, f"is {address}; use the address of the .pth file itself.")
        address = f"https://download.pytorch.org/models/{_TORCHVISION_FILES[name]}"
    settings["load_from"] = address


def _hub_counterpart(settings: dict[str, Any]) -> str | None:
    """Return the Hub's ImageNet checkpoint of a plain ResNet, for a config whose weights are a placeholder."""
    config = settings.get("model_config", {})
    plain = settings.get("model_type") == "resnet" and not config.get("downsample_in_bottleneck")
    for depth, depths in RESNET_DEPTHS.items():
        layer_type = "basic" if depth < 50 else "bottleneck"
        if plain and (config.get("depths"), config.get("layer_type")) == (depths, layer_type):
            return f"microsoft/resnet-{depth}"
    return None
