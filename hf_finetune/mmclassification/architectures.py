"""Tables of MMClassification's backbones: what a type and a size are in Transformers or timm.

The sizes are those of the papers; MMClassification's own tables (`mmpretrain/models/backbones`) agree with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# ResNet (He et al. 2016): blocks of each stage by depth. Up to 34 layers the block is the basic one.
RESNET_DEPTHS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}

# ViT (Dosovitskiy et al. 2021): width, layers, heads, width of the feed-forward layer. MMClassification's `small` is
# not DeiT's small.
_VIT_SIZES = {
    ("s", "small"): (768, 8, 8, 2304),
    ("b", "base", "deit-b", "deit-base"): (768, 12, 12, 3072),
    ("l", "large"): (1024, 24, 16, 4096),
    ("h", "huge"): (1280, 32, 16, 5120),
    ("deit-t", "deit-tiny"): (192, 12, 3, 768),
    ("deit-s", "deit-small", "dinov2-s", "dinov2-small"): (384, 12, 6, 1536),
    ("eva-g", "eva-giant"): (1408, 40, 16, 6144),
}
VIT_SIZES = {name: size for names, size in _VIT_SIZES.items() for name in names}

# Swin (Liu et al. 2021): width, blocks of each stage, heads of each stage.
_SWIN_SIZES = {
    ("t", "tiny"): (96, [2, 2, 6, 2], [3, 6, 12, 24]),
    ("s", "small"): (96, [2, 2, 18, 2], [3, 6, 12, 24]),
    ("b", "base"): (128, [2, 2, 18, 2], [4, 8, 16, 32]),
    ("l", "large"): (192, [2, 2, 18, 2], [6, 12, 24, 48]),
}
SWIN_SIZES = {name: size for names, size in _SWIN_SIZES.items() for name in names}

# ConvNeXt (Liu et al. 2022) and V2 (Woo et al. 2023): blocks and width of each stage.
CONVNEXT_SIZES = {
    "atto": ([2, 2, 6, 2], [40, 80, 160, 320]),
    "femto": ([2, 2, 6, 2], [48, 96, 192, 384]),
    "pico": ([2, 2, 6, 2], [64, 128, 256, 512]),
    "nano": ([2, 2, 8, 2], [80, 160, 320, 640]),
    "tiny": ([3, 3, 9, 3], [96, 192, 384, 768]),
    "small": ([3, 3, 27, 3], [96, 192, 384, 768]),
    "base": ([3, 3, 27, 3], [128, 256, 512, 1024]),
    "large": ([3, 3, 27, 3], [192, 384, 768, 1536]),
    "xlarge": ([3, 3, 27, 3], [256, 512, 1024, 2048]),
    "huge": ([3, 3, 27, 3], [352, 704, 1408, 2816]),
}

# Backbones that Transformers has only through timm: timm's name by type and size. `{size}` is the image size.
TIMM_NAMES: Mapping[str, Mapping[Any, str]] = {
    "ResNetV1c": {50: "resnet50c", 101: "resnet101c", 152: "resnet152c"},
    "ResNetV1d": {50: "resnet50d", 101: "resnet101d", 152: "resnet152d"},
    "SEResNet": {50: "seresnet50", 101: "seresnet101"},
    "SEResNeXt": {50: "seresnext50_32x4d", 101: "seresnext101_32x4d"},
    "ResNeSt": {50: "resnest50d", 101: "resnest101e", 200: "resnest200e", 269: "resnest269e"},
    "Res2Net": {
        (50, 14, 8): "res2net50_14w_8s",
        (50, 26, 4): "res2net50_26w_4s",
        (50, 26, 6): "res2net50_26w_6s",
        (50, 26, 8): "res2net50_26w_8s",
        (50, 48, 2): "res2net50_48w_2s",
        (101, 26, 4): "res2net101_26w_4s",
    },
    "RegNet": {
        "regnetx_400mf": "regnetx_004",
        "regnetx_800mf": "regnetx_008",
        "regnetx_1.6gf": "regnetx_016",
        "regnetx_3.2gf": "regnetx_032",
        "regnetx_4.0gf": "regnetx_040",
        "regnetx_6.4gf": "regnetx_064",
        "regnetx_8.0gf": "regnetx_080",
        "regnetx_12gf": "regnetx_120",
    },
    "DenseNet": {depth: f"densenet{depth}" for depth in ("121", "161", "169", "201")},
    "MobileNetV2": {1.0: "mobilenetv2_100"},
    "MobileNetV3": {
        "large": "mobilenetv3_large_100",
        "small": "mobilenetv3_small_100",
        "small_075": "mobilenetv3_small_075",
        "small_050": "mobilenetv3_small_050",
    },
    "EfficientNet": {
        **{f"b{number}": f"tf_efficientnet_b{number}" for number in range(9)},
        "l2": "tf_efficientnet_l2",
        "es": "tf_efficientnet_es",
        "em": "tf_efficientnet_em",
        "el": "tf_efficientnet_el",
    },
    "EfficientNetV2": {name: f"tf_efficientnetv2_{name}" for name in ("s", "m", "l", "xl", "b0", "b1", "b2", "b3")},
    "HRNet": {f"w{width}": f"hrnet_w{width}" for width in (18, 30, 32, 40, 44, 48, 64)},
    "ConvMixer": {
        "768/32": "convmixer_768_32",
        "1024/20": "convmixer_1024_20_ks9_p14",
        "1536/20": "convmixer_1536_20",
    },
    "MlpMixer": {"b": "mixer_b16_224", "base": "mixer_b16_224", "l": "mixer_l16_224", "large": "mixer_l16_224"},
    "PoolFormer": {size: f"poolformer_{size}" for size in ("s12", "s24", "s36", "m36", "m48")},
    "PCPVT": {size: f"twins_pcpvt_{size}" for size in ("small", "base", "large")},
    "SVT": {size: f"twins_svt_{size}" for size in ("small", "base", "large")},
    "TNT": {"s": "tnt_s_patch16_224", "small": "tnt_s_patch16_224"},
    "RepVGG": {
        name: f"repvgg_{name.lower()}"
        for name in ("A0", "A1", "A2", "B0", "B1", "B1g4", "B2", "B2g4", "B3", "B3g4", "D2se")
    },
    "CSPDarkNet": {53: "cspdarknet53"},
    "CSPResNet": {50: "cspresnet50"},
    "CSPResNeXt": {50: "cspresnext50"},
    "InceptionV3": {None: "inception_v3"},
    "MViT": {size: f"mvitv2_{size}" for size in ("tiny", "small", "base", "large")},
    "EfficientFormer": {size: f"efficientformer_{size}" for size in ("l1", "l3", "l7")},
    "DaViT": {
        name: f"davit_{size}"
        for size in ("tiny", "small", "base", "large", "huge", "giant")
        for name in (size[0], size)
    },
    "EdgeNeXt": {
        "xxsmall": "edgenext_xx_small",
        "xsmall": "edgenext_x_small",
        "small": "edgenext_small",
        "base": "edgenext_base",
    },
    "LeViT": {size: f"levit_{size}" for size in ("128s", "128", "192", "256", "384")},
    "MobileOne": {f"s{number}": f"mobileone_s{number}" for number in range(5)},
    "MobileViT": {"small": "mobilevit_s", "x_small": "mobilevit_xs", "xx_small": "mobilevit_xxs"},
    "TinyViT": {size: f"tiny_vit_{size}_{{size}}" for size in ("5m", "11m", "21m")},
    "DistilledVisionTransformer": {
        f"deit-{size}": f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base")
    },
    "DeiT3": {
        "s": "deit3_small_patch16_224",
        "m": "deit3_medium_patch16_224",
        "b": "deit3_base_patch16_224",
        "l": "deit3_large_patch16_224",
        "h": "deit3_huge_patch14_224",
    },
    "BEiTViT": {"base": "beit_base_patch16_224", "b": "beit_base_patch16_224", "large": "beit_large_patch16_224"},
    "ViTEVA02": {
        "t": "eva02_tiny_patch14_336",
        "s": "eva02_small_patch14_336",
        "b": "eva02_base_patch14_448",
        "l": "eva02_large_patch14_448",
    },
    "VGG": {
        **{depth: f"vgg{depth}" for depth in (11, 13, 16, 19)},
        **{(depth, "BN"): f"vgg{depth}_bn" for depth in (11, 13, 16, 19)},
    },
}
