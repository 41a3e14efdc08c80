"""Imports the backbones that Transformers has only through timm, as `model_type: timm_wrapper`."""

from __future__ import annotations

from typing import Any

from hf_finetune.mmclassification.architectures import TIMM_NAMES
from hf_finetune.mmclassification.section import Draft, Section


def read_image_size(backbone: Section, default: int = 224) -> int:
    """Return the side in pixels of the images that a backbone is built for."""
    size: Any = backbone.take("img_size", default)
    side: int = size[0] if isinstance(size, (list, tuple)) else size
    return side


def set_timm_model(draft: Draft, architecture: str, **model_args: Any) -> None:
    """Set an architecture of timm, and those of its arguments that are neither 0 nor None."""
    model_args = {key: value for key, value in model_args.items() if value}
    draft.settings["model_type"] = "timm_wrapper"
    draft.settings["model_config"] = {
        "architecture": architecture,
        **({"model_args": model_args} if model_args else {}),
    }


def import_resnet(backbone: Section, draft: Draft, depth: int, deep_stem: bool, avg_down: bool, width: float) -> None:
    """Import a ResNet with a stem of three convolutions, or of twice the width, which Transformers' ResNet lacks."""
    name = f"resnet{depth}"
    if deep_stem:
        name = TIMM_NAMES["ResNetV1d" if avg_down else "ResNetV1c"].get(depth, name)
    elif width == 128:
        name = f"wide_resnet{depth}_2"
    else:
        raise draft.refusal(backbone.at("base_channels"), f"is {width}; the widths known here are 64 and 128.")
    backbone.skip("num_stages", "style", "stem_channels", "zero_init_residual", "expansion")
    set_timm_model(draft, name, drop_path_rate=backbone.number("drop_path_rate", 0.0))


def import_resnext(backbone: Section, draft: Draft) -> None:
    """Import a ResNeXt, which is timm's ResNet with grouped convolutions."""
    depth, groups = backbone.take("depth"), backbone.number("groups", 32)
    width = backbone.number("width_per_group", 4)
    backbone.skip("num_stages", "style")
    if depth not in (50, 101, 152):
        raise draft.refusal(backbone.at("depth"), f"is {depth!r}; the depths known here are 50, 101 and 152.")
    set_timm_model(draft, f"resnet{depth}", cardinality=groups, base_width=width)


def import_sized(backbone: Section, draft: Draft) -> None:
    """Import a backbone of `TIMM_NAMES`."""
    kind = backbone.values["type"]
    arch: Any = backbone.take("arch", backbone.take("depth"))
    if kind == "MobileNetV2":
        arch = float(backbone.number("widen_factor", 1.0))
    elif kind == "Res2Net":
        arch = (arch, backbone.number("base_width", 26), backbone.number("scales", 4))
    elif kind == "VGG" and backbone.take("norm_cfg"):
        arch = (arch, "BN")
    if kind in ("RepVGG", "MobileOne", "LeViT", "RepLKNet") and backbone.take("deploy", False):
        raise draft.refusal(
            backbone.at("deploy"), "is True, for a network that was trained and folded; import its training config."
        )
    backbone.skip(
        "num_stages", "style", "final_norm", "deep_stem", "avg_down", "stem_channels", "patch_size", "mlp_ratio"
    )
    sizes = TIMM_NAMES[kind]
    if not isinstance(arch, (str, int, float, tuple, type(None))) or arch not in sizes:
        known = ", ".join(str(size) for size in sizes)
        raise draft.refusal(backbone.place, f"is a {kind} of size {arch!r}; those known here are {known}.")
    image_size = read_image_size(backbone)
    name = sizes[arch].format(size=image_size)
    resizable = kind in ("DeiT3", "DistilledVisionTransformer", "BEiTViT", "ViTEVA02")
    frozen = int(backbone.number("frozen_stages", -1))
    if frozen >= 0:
        draft.remark(
            backbone.at("frozen_stages"),
            f"{frozen}; the names of timm's modules are not known here; set freeze yourself",
        )
    set_timm_model(
        draft,
        name,
        img_size=image_size if resizable and not name.endswith(f"_{image_size}") else None,
        drop_path_rate=backbone.number("drop_path_rate", 0.0),
    )


def import_xcit(backbone: Section, draft: Draft) -> None:
    """Import an XCiT, whose size follows from its width, depth and patch size."""
    width, depth, patch = (backbone.take(key) for key in ("embed_dims", "depth", "patch_size"))
    names = {128: "nano", 192: "tiny", 384: "small", 512: "medium", 768: "large"}
    if width not in names:
        raise draft.refusal(
            backbone.at("embed_dims"), f"is {width!r}; the widths known here are {', '.join(map(str, names))}."
        )
    backbone.skip("num_heads", "mlp_ratio", "qkv_bias", "layer_scale_init_value", "tokens_norm", "out_type")
    drop_path = backbone.number("drop_path_rate", 0.0)
    set_timm_model(draft, f"xcit_{names[width]}_{depth}_p{patch}_{read_image_size(backbone)}", drop_path_rate=drop_path)
