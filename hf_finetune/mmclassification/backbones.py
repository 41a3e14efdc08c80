"""Imports the backbone: `model_type` and `model_config`, and `frozen_stages` as `freeze`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_finetune.mmclassification import timm_backbones
from hf_finetune.mmclassification.architectures import CONVNEXT_SIZES, RESNET_DEPTHS, SWIN_SIZES, TIMM_NAMES, VIT_SIZES
from hf_finetune.mmclassification.section import Draft, Section, shown

# Settings with the values that all the networks here have anyway.
_COMMON_DEFAULTS = (
    ("norm_eval", False),
    ("drop_rate", 0),
    ("attn_drop_rate", 0),
    ("drop_path_rate", 0),
    ("qkv_bias", True),
    ("gap_before_final_norm", True),
    ("norm_cfg", {"type": "BN"}),
    ("norm_cfg", {"type": "BN", "requires_grad": True}),
)


def import_backbone(backbone: Section, draft: Draft) -> None:
    """Set model_type, model_config and freeze.

    Raises:
        UserError: Neither Transformers nor timm has the network, or not in this size.
    """
    kind = backbone.take("type")
    backbone.skip("out_indices", "with_cp", "init_cfg", "pretrained", "num_classes", "in_channels", "interpolate_mode")
    backbone.skip(*(key for key, value in _COMMON_DEFAULTS if key in backbone and backbone.values[key] == value))
    builder = _BUILDERS.get(kind, timm_backbones.import_sized if kind in TIMM_NAMES else None)
    if builder is None:
        raise draft.refusal(
            backbone.at("type"),
            f"is {kind}, which neither Transformers nor timm has; use another, such as ResNet.",
        )
    builder(backbone, draft)
    architecture = draft.settings.get("model_config", {}).get("architecture")
    network = f"timm's {architecture}" if architecture else f"Transformers' {kind}"
    for place, value in list(backbone.unread()):
        draft.remark(place, f"{shown(value)}; {network} keeps its own value")
    backbone.skip_all()


def _set_model(draft: Draft, model_type: str, **model_config: Any) -> None:
    draft.settings["model_type"] = model_type
    if model_config:
        draft.settings["model_config"] = model_config


def _size(backbone: Section, draft: Draft, sizes: dict[str, Any]) -> Any:
    arch = backbone.take("arch", "base")
    if not isinstance(arch, str) or arch not in sizes:
        raise draft.refusal(backbone.at("arch"), f"is {arch!r}; the sizes known here are {', '.join(sizes)}.")
    return sizes[arch]


def _frozen_stages(backbone: Section) -> int:
    return int(backbone.number("frozen_stages", -1))


def _freeze(draft: Draft, names: list[str], all_frozen: bool) -> None:
    if names:
        draft.settings["freeze"] = ["backbone"] if all_frozen else names


# ---- ResNet and its relatives ----


def _resnet(backbone: Section, draft: Draft, model_type: str = "resnet") -> None:
    depth = backbone.take("depth")
    if depth not in RESNET_DEPTHS:
        depths = ", ".join(map(str, RESNET_DEPTHS))
        raise draft.refusal(backbone.at("depth"), f"is {depth!r}; the depths known here are {depths}.")
    deep_stem, avg_down = backbone.take("deep_stem", False), backbone.take("avg_down", False)
    width = backbone.number("base_channels", 64)
    if model_type == "resnet" and (deep_stem or width != 64):
        timm_backbones.import_resnet(backbone, draft, depth, deep_stem, avg_down, width)
        return
    if avg_down:
        raise draft.refusal(backbone.at("avg_down"), "is True; Transformers' ResNet has no such shortcut.")
    if backbone.take("num_stages", 4) != 4 or tuple(backbone.take("strides", (1, 2, 2, 2))) != (1, 2, 2, 2):
        raise draft.refusal(backbone.place, "has other stages or strides than Transformers' ResNet; remove them.")
    basic = depth < 50
    config: dict[str, Any] = {
        "depths": RESNET_DEPTHS[depth],
        "hidden_sizes": [width * factor * (1 if basic else 4) for factor in (1, 2, 4, 8)],
        "layer_type": "basic" if basic else "bottleneck",
        "embedding_size": backbone.number("stem_channels", width),
    }
    if backbone.take("style", "pytorch") == "caffe" and not basic:
        config["downsample_in_bottleneck"] = True
    backbone.skip("zero_init_residual", "expansion")
    frozen = _frozen_stages(backbone)
    names = [] if frozen < 0 else ["resnet.embedder", *(f"resnet.encoder.stages.{stage}" for stage in range(frozen))]
    _freeze(draft, names, all_frozen=frozen >= 4)
    _set_model(draft, model_type, **config)


def _resnet_cifar(backbone: Section, draft: Draft) -> None:
    _resnet(backbone, draft, "resnet_cifar")


# ---- transformers, and ConvNeXt ----


def _vit(backbone: Section, draft: Draft) -> None:
    arch = backbone.take("arch", "base")
    if isinstance(arch, dict):
        keys = ("embed_dims", "num_layers", "num_heads", "feedforward_channels")
        if not all(key in arch for key in keys):
            raise draft.refusal(backbone.at("arch"), f"lacks one of {', '.join(keys)}.")
        width, layers, heads, feed_forward = (arch[key] for key in keys)
    else:
        width, layers, heads, feed_forward = _size(backbone, draft, VIT_SIZES)
    image_size, patch_size = timm_backbones.read_image_size(backbone), backbone.number("patch_size", 16)
    dropout, drop_path = backbone.number("drop_rate", 0.0), backbone.number("drop_path_rate", 0.0)
    out_type = backbone.take("out_type", "cls_token")
    frozen = _frozen_stages(backbone)
    average = out_type == "avg_featmap"
    if average or backbone.take("pre_norm", False):
        name = {768: "base", 1024: "large", 1280: "huge"}.get(width)
        clip = "_clip" if backbone.values.get("pre_norm") else ""
        if name is None or (width, patch_size) == (1280, 16):
            raise draft.refusal(
                backbone.at("out_type" if average else "pre_norm"), "asks for a ViT that timm does not have."
            )
        backbone.skip("final_norm", "out_type", "qkv_bias")
        timm_backbones.set_timm_model(
            draft,
            f"vit_{name}_patch{patch_size}{clip}_224",
            global_pool="avg" if average else None,
            img_size=image_size if image_size != 224 else None,
            drop_path_rate=drop_path,
            proj_drop_rate=dropout,
        )
        if frozen >= layers:
            draft.settings["freeze"] = ["backbone"]
        elif frozen >= 0:
            draft.remark(
                backbone.at("frozen_stages"), "the names of timm's modules are not known here; set freeze yourself"
            )
        return
    if out_type not in ("cls_token", "raw"):
        raise draft.refusal(
            backbone.at("out_type"), f"is {out_type!r}; Transformers' ViT classifies by its class token."
        )
    if drop_path:
        draft.remark(backbone.at("drop_path_rate"), f"{drop_path:g}; Transformers' ViT has no stochastic depth")
    names = [] if frozen < 0 else ["vit.embeddings", *(f"vit.layers.{layer}" for layer in range(frozen))]
    _freeze(draft, names, all_frozen=frozen >= layers)
    backbone.skip("final_norm" if backbone.values.get("final_norm", True) else "type")
    epsilon = backbone.section("norm_cfg").take("eps", 1e-6)
    _set_model(
        draft,
        "vit",
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        layer_norm_eps=epsilon,
        **({"hidden_dropout_prob": dropout} if dropout else {}),
        **({} if backbone.take("qkv_bias", True) else {"qkv_bias": False}),
    )


def _swin(backbone: Section, draft: Draft, model_type: str = "swin") -> None:
    width, depths, heads = _size(backbone, draft, SWIN_SIZES)
    window = backbone.take("window_size", 7 if model_type == "swin" else 8)
    if isinstance(backbone.values.get("stage_cfgs"), dict):
        window = backbone.section("stage_cfgs").section("block_cfgs").take("window_size", window)
    config: dict[str, Any] = {
        "image_size": timm_backbones.read_image_size(backbone, 224 if model_type == "swin" else 256),
        "embed_dim": width,
        "depths": depths,
        "num_heads": heads,
        # Where a stage's map is smaller than the window, Transformers narrows the window itself.
        "window_size": max(window) if isinstance(window, (list, tuple)) else window,
        "drop_path_rate": backbone.number("drop_path_rate", 0.1),
    }
    if model_type == "swinv2" and any(backbone.take("pretrained_window_sizes", ())):
        config["pretrained_window_sizes"] = list(backbone.take("pretrained_window_sizes"))
    frozen = _frozen_stages(backbone)
    # frozen_stages=k freezes the patch embedding and stages 0 to k.
    names = [f"{model_type}.encoder.layers.{stage}" for stage in range(frozen + 1)]
    _freeze(draft, [f"{model_type}.embeddings", *names] if names else [], all_frozen=frozen >= 3)
    backbone.skip("pad_small_map")
    _set_model(draft, model_type, **config)


def _swin_v2(backbone: Section, draft: Draft) -> None:
    _swin(backbone, draft, "swinv2")


def _convnext(backbone: Section, draft: Draft) -> None:
    depths, widths = _size(backbone, draft, CONVNEXT_SIZES)
    version_2 = bool(backbone.take("use_grn", False))
    scale = backbone.number("layer_scale_init_value", 1e-6)
    model_type = "convnextv2" if version_2 else "convnext"
    if backbone.take("gap_before_final_norm", True) is not True:
        draft.remark(backbone.at("gap_before_final_norm"), "False; Transformers' ConvNeXt normalizes after pooling")
    backbone.skip("linear_pw_conv")
    frozen = _frozen_stages(backbone)
    names = [f"{model_type}.encoder.stages.{stage}" for stage in range(frozen)]
    _freeze(draft, [f"{model_type}.embeddings", *names] if names else [], all_frozen=frozen >= 4)
    _set_model(
        draft,
        model_type,
        depths=depths,
        hidden_sizes=widths,
        drop_path_rate=backbone.number("drop_path_rate", 0.0),
        **({} if version_2 or scale == 1e-6 else {"layer_scale_init_value": scale}),
    )


def _lenet(backbone: Section, draft: Draft) -> None:
    _set_model(draft, "lenet5", num_channels=1)


_BUILDERS: dict[str, Callable[[Section, Draft], None]] = {
    "ResNet": _resnet,
    "ResNet_CIFAR": _resnet_cifar,
    "ResNeXt": timm_backbones.import_resnext,
    "VisionTransformer": _vit,
    "SwinTransformer": _swin,
    "SwinTransformerV2": _swin_v2,
    "ConvNeXt": _convnext,
    "LeNet5": _lenet,
    "XCiT": timm_backbones.import_xcit,
}
