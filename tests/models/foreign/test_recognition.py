"""Weights from elsewhere: the same logits as the network they are from, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision
from torch import nn

timm = pytest.importorskip("timm")

from transformers import AutoConfig  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING  # noqa: E402

import hf_finetune.models  # noqa: E402, F401 - registers resnet_cifar
from hf_finetune.errors import UserError  # noqa: E402
from hf_finetune.models.foreign.reading import StateDict  # noqa: E402
from hf_finetune.models.foreign.recognition import ForeignWeights, recognize  # noqa: E402
from hf_finetune.models.quiet import quiet_transformers  # noqa: E402
from tests.helpers.foreign_networks import CLASSES, NETWORKS, CifarResNet, as_mmpretrain, build, randomized  # noqa: E402

OF_MMPRETRAIN = [name for name in NETWORKS if name.split()[-1] in ("resnet18", "resnet50", "vit", "convnext", "swin")]
OF_MMPRETRAIN = [name for name in OF_MMPRETRAIN if "resnet" in name or name.startswith("timm")]


def read(state: dict[str, torch.Tensor], file_name: str = "weights.pth") -> ForeignWeights:
    """Recognizes a state dict as `load_from` does: without MMPretrain's prefix."""
    return recognize(StateDict(file_name, {k.removeprefix("backbone."): v for k, v in state.items()}, None))


def rebuilt(foreign: ForeignWeights, **settings: object) -> nn.Module:
    """Builds the network and loads it; every tensor must be there, in its shape, and none left."""
    config = AutoConfig.for_model(foreign.model_type, **{**foreign.settings, **settings})
    with quiet_transformers():
        network, info = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=foreign.state_dict, output_loading_info=True
        )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return network.eval()


def assert_same_logits(network: nn.Module, ours: nn.Module, size: int) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network(images)
        assert expected.std() > 0.01  # images or weights of no effect would prove nothing
        torch.testing.assert_close(ours(images).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_those_of_the_library(name):
    network = build(name)
    foreign = read(network.state_dict())
    assert not foreign.unused and foreign.settings["num_labels"] == CLASSES
    assert_same_logits(network, rebuilt(foreign), NETWORKS[name][1])


@pytest.mark.parametrize("name", OF_MMPRETRAIN)
def test_the_logits_survive_mmpretrains_names(name):
    network = build(name)
    foreign = read(as_mmpretrain(name, network.state_dict()))
    assert "MMPretrain" in foreign.description
    assert_same_logits(network, rebuilt(foreign), NETWORKS[name][1])


@pytest.mark.parametrize(("block", "layers"), [("BasicBlock", [2, 2, 2, 2]), ("Bottleneck", [1, 1, 1, 1])])
def test_a_small_stem_is_the_resnet_for_small_images(block, layers):
    torch.manual_seed(0)
    network = randomized(CifarResNet(getattr(torchvision.models.resnet, block), layers))
    foreign = read(as_mmpretrain("resnet", network.state_dict()))
    assert foreign.model_type == "resnet_cifar"
    assert_same_logits(network, rebuilt(foreign), 32)


def test_the_authors_names_of_convnext_and_swin():
    network = build("timm convnext of linear layers")
    names = {"head.norm.": "norm.", "head.fc.": "head.", "blocks.": "", "conv_dw": "dwconv", "mlp.fc": "pwconv"}
    names |= {"stem.": "downsample_layers.0."}
    names |= {f"stages.{stage}.downsample.": f"downsample_layers.{stage}." for stage in (1, 2, 3)}
    state = network.state_dict()
    for old, new in names.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    assert_same_logits(network, rebuilt(read(state)), 64)

    network = build("timm swin")
    state = {
        re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key): value
        for key, value in network.state_dict().items()
    }
    state = {key.replace("head.fc.", "head."): value for key, value in state.items()}
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)  # buffers that are computed
    state["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    foreign = read(state)
    assert "Swin's authors" in foreign.description and not foreign.unused
    assert_same_logits(network, rebuilt(foreign), 224)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_small_patch16_224", "vit_large_patch32_224", "vit_giant_patch14_224"]
)
def test_the_number_of_heads_is_timms(name):
    with torch.device("meta"):
        network = timm.create_model(name)
    assert read(network.state_dict()).settings["num_attention_heads"] == network.blocks[0].attn.num_heads


@pytest.mark.parametrize(
    ("file_name", "library", "size", "mean"),
    [
        ("vit_tiny.pth", "timm", 64, 127.5),
        ("deit_tiny-a1311bcf.pth", "timm", 64, None),
        ("vit.pth", "MMPretrain", 64, None),
        ("vit.pth", "MMPretrain", 384, 127.5),
        ("deit-base_ft-16xb32_in1k-384px.pth", "MMPretrain", 384, None),
    ],
)
def test_the_figures_of_a_vits_images(file_name, library, size, mean):
    network = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=size)
    state = network.state_dict() if library == "timm" else as_mmpretrain("vit", network.state_dict())
    figures = read(state, file_name).preprocessing
    assert figures["image_size"] == size and figures.get("mean") == figures.get("std")
    assert figures.get("mean") == (None if mean is None else (mean,) * 3)


@pytest.mark.parametrize(
    "between", ["head.layers.pre_logits.weight", "neck.decoder_embed.weight", "head.predictor.fc0.bias"]
)
def test_what_stands_before_the_head_leaves_the_head_out(between):
    state = as_mmpretrain("vit", build("timm vit").state_dict())
    state[between] = torch.zeros(7, 192)
    foreign = read(state)
    assert sorted(foreign.unused) == sorted(["head.layers.head.bias", "head.layers.head.weight", between])
    assert not any(name.startswith("classifier") for name in foreign.state_dict)
    assert "num_labels" not in foreign.settings


def test_what_stands_beside_the_network_is_named():
    state = build("timm vit").state_dict()
    state |= {"mask_token": torch.zeros(1, 1, 192), "decoder_pred.weight": torch.zeros(3, 3)}
    assert read(state).unused == ["mask_token", "decoder_pred.weight"]


def refusal(state: dict[str, torch.Tensor]) -> str:
    with pytest.raises(UserError) as caught:
        read(state)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("load_from: weights.pth ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "resnet26d",
            "is a ResNet with a stem of several convolutions (ResNet-C or -D), which cannot be loaded: 155 of",
        ),
        ("seresnet18", "is a ResNet with attention over its channels (SE-ResNet and the like), which cannot be loaded"),
        ("regnetx_002", "is of no network that is known here"),
        ("resnet50_gn", "is a ResNet without running statistics (GroupNorm), which cannot be loaded: 161 of its 161"),
        ("deit_tiny_distilled_patch16_224", "is a ViT with a distillation token (distilled DeiT)"),
        ("deit3_small_patch16_224", "is a ViT with layer scale"),
        ("vit_small_patch14_reg4_dinov2", "is a ViT with register tokens"),
        ("vit_base_patch32_clip_224", "is a ViT with a normalization before its first block (CLIP's)"),
        ("vit_base_patch16_gap_224", "is a ViT without a class token"),
        ("convnextv2_atto", "is a ConvNeXt with global response normalization (ConvNeXt V2)"),
        ("vit_relpos_small_patch16_224", "is a ViT whose head sees the average of all patches"),
        ("resnetv2_50", "is of no network that is known here; the closest is "),
        ("densenet121", "is of no network that is known here (ResNet, ResNeXt or Wide ResNet, ViT, ConvNeXt, Swin)."),
    ],
)
def test_a_relative_is_refused_with_what_it_is(name, reason):
    with torch.device("meta"):
        network = timm.create_model(name)
    line = refusal(network.state_dict())
    assert line.startswith(reason), line


def test_a_resnet_with_groups_of_another_width_is_refused():
    state = build("torchvision resnet50").state_dict()
    state["layer2.0.conv2.weight"] = state["layer2.0.conv2.weight"][:, :4]
    state["layer1.0.conv3.weight"] = state["layer1.0.conv3.weight"][:128]  # as MMPretrain's RegNet
    assert refusal(state).startswith("is a ResNet with ")


def test_a_swin_of_version_2_is_refused():
    state = build("timm swin").state_dict() | {"layers.0.blocks.0.attn.logit_scale": torch.zeros(1, 1, 1)}
    assert refusal(state).startswith("is a Swin of version 2 (Swin V2), which cannot be loaded: ")


def test_a_detector_is_refused_with_the_closest_match():
    with torch.device("meta"):
        detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = {name.replace("backbone.body.", "backbone."): value for name, value in detector.state_dict().items()}
    line = refusal(state)
    assert line.startswith("is of no network that is known here; the closest is ResNet by the names of torchvision")
    assert re.search(r": 318 of its 348 tensors fit, but not fpn\.inner_blocks\.0\.0\.weight", line), line


def test_half_a_network_is_refused():
    state = build("torchvision resnet18").state_dict()
    del state["conv1.weight"]
    assert refusal(state).startswith("is a ResNet without resnet.embedder.embedder.convolution.weight")
    state = as_mmpretrain("swin", build("timm swin").state_dict())
    state["backbone.stages.0.downsample.norm.weight"] = torch.zeros(7)
    assert "whose stages.0.downsample.norm.weight is of shape (7,)" in refusal(state)
