"""Heat maps of networks of every kind: the layer, the grid, where the maximum is, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    PreTrainedModel,
    ViTConfig,
    set_seed,
)

from benchmarks.heat_maps import PATCH, SIDE, peaks, train, with_patches
from hf_finetune.errors import UserError
from hf_finetune.evaluation.heat_maps import HeatMapper
from hf_finetune.exporters.base import LogitsOf
from hf_finetune.models.custom_head import CustomHeadConfig, CustomHeadForImageClassification
from hf_finetune.models.ensemble import Ensemble
from hf_finetune.models.fast_resnet import FastResNetConfig, FastResNetForImageClassification
from hf_finetune.models.lenet5 import LeNet5Config, LeNet5ForImageClassification
from hf_finetune.models.pooled_backbone import PooledBackboneConfig, PooledBackboneForImageClassification
from hf_finetune.models.resnet_cifar import ResNetCifarConfig, ResNetCifarForImageClassification
from tests.helpers.families import make_family
from tests.helpers.networks import make_model
from tests.helpers.tiny import TINY_RESNET, tiny_timm

VIT: dict[str, Any] = {
    **{"image_size": SIDE, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "intermediate_size": 64,
}


def images(count: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def own(name: str) -> PreTrainedModel:
    """A network that Transformers does not have."""
    set_seed(0)
    if name == "lenet5":
        return LeNet5ForImageClassification(LeNet5Config(num_labels=3))
    if name == "fast_resnet":
        return FastResNetForImageClassification(FastResNetConfig(hidden_sizes=[8, 8], num_labels=3))
    if name == "resnet_cifar":
        return ResNetCifarForImageClassification(ResNetCifarConfig(**TINY_RESNET, num_labels=3))
    if name == "pooled_backbone":
        return PooledBackboneForImageClassification(PooledBackboneConfig(ViTConfig(**VIT), num_labels=3))
    if name == "custom_head":
        config = CustomHeadConfig(ViTConfig(**VIT, num_labels=3), features=32, head="cosine", num_labels=3)
        return CustomHeadForImageClassification(config)
    return tiny_timm(3, architecture=name)


@pytest.mark.parametrize(
    ("name", "layer", "grid"),
    [
        ("vit", "vit.layers.1.layernorm_before", (4, 4)),  # behind it the head reads the class token alone
        ("deit", "deit.layers.1.layernorm_before", (4, 4)),  # two tokens are none of the image
        ("dinov2", "dinov2.layernorm", (4, 4)),  # its head takes the mean of the image's tokens as well
        ("siglip", "vision_model.post_layernorm", (4, 4)),
        ("swin", "swin.layernorm", (8, 8)),
        ("convnext", "convnext.encoder.stages.1", (8, 8)),
        ("resnet", "resnet.encoder.stages.1", (4, 4)),
        ("pvt_v2", "pvt_v2.encoder.layers.1.layer_norm", (4, 4)),  # the later stages have fewer than 4 x 4 positions
        ("lenet5", "features.5", (5, 5)),
        ("fast_resnet", "features.blocks.1", (7, 7)),
        ("resnet_cifar", "resnet.encoder.stages.1", (16, 16)),
        ("pooled_backbone", "backbone.layers.1.layernorm_before", (8, 8)),
        ("custom_head", "backbone.vit.layers.1.layernorm_before", (8, 8)),
        ("test_resnet", "timm_model.layer2", (4, 4)),
        ("test_vit", "timm_model.blocks.5.norm1", (2, 2)),
    ],
)
def test_the_last_map_on_which_the_class_depends_is_chosen(name, layer, grid):
    set_seed(0)
    network = make_family(name) if layer.split(".")[0] in (name, "vision_model") else own(name)
    mapper = HeatMapper(network, "gradcam")
    found = mapper(images())
    assert (mapper.layer, found.maps.shape) == (layer, (2, *grid))
    assert found.maps.dtype == torch.float32 and found.maps.min() >= 0
    assert all(peak in (0, 1) for peak in found.maps.amax(dim=(1, 2)).tolist())
    assert torch.equal(found.class_ids, found.logits.argmax(dim=1))
    with torch.inference_mode():
        torch.testing.assert_close(found.logits, network.eval()(pixel_values=images()).logits)


@pytest.mark.parametrize(("name", "grid"), [("vit", (4, 4)), ("deit", (4, 4)), ("clip", (4, 4)), ("beit", (4, 4))])
def test_rollout_of_networks_with_global_attention(name, grid):
    set_seed(0)
    network = make_family(name)
    before = network.config._attn_implementation
    found = HeatMapper(network, "rollout")(images())
    assert found.maps.shape == (2, *grid) and network.config._attn_implementation == before
    assert found.maps.amin(dim=(1, 2)).tolist() == [0, 0] and found.maps.amax(dim=(1, 2)).tolist() == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method", "tolerance"),
    [("resnet", "gradcam", PATCH), ("beit", "gradcam", PATCH / 2), ("vit", "rollout", PATCH / 2)],
)
def test_the_maximum_is_where_the_class_was_decided(family, method, tolerance):
    set_seed(0)
    network = make_family(family)
    train(network, steps=50)
    pixels, labels, centres = with_patches(64, seed=1000)
    mapper = HeatMapper(network, None if family == "vit" else method)
    found = mapper(pixels)
    assert mapper.method == method and (found.class_ids == labels).all()  # else there is nothing to explain
    hits = ((peaks(found.maps) - centres).abs() <= tolerance).all(dim=1).float().mean()
    assert hits > 0.9


def test_each_image_has_the_map_of_its_class_whatever_else_is_in_the_batch():
    network = make_model("resnet")
    mapper = HeatMapper(network)
    together = mapper(images(4), [0, 1, 2, 3])
    assert together.class_ids.tolist() == [0, 1, 2, 3]
    for place, image in enumerate(images(4)):
        alone = mapper(image[None], [place])
        torch.testing.assert_close(alone.maps[0], together.maps[place])
    assert not torch.allclose(mapper(images(1), [0]).maps, mapper(images(1), [1]).maps)


def test_grad_cam_is_what_its_formula_says():
    network = make_model("convnext").eval()
    found = HeatMapper(network)(images(1), [2])
    kept: list[torch.Tensor] = []
    hook = network.convnext.encoder.stages[1].register_forward_hook(lambda *of_pass: kept.append(of_pass[2]))
    network(pixel_values=images(1)).logits[0, 2].backward(inputs=kept[0].retain_grad() or [kept[0]])
    hook.remove()
    feature, gradient = kept[0].detach()[0], kept[0].grad[0]
    expected = torch.einsum("c,chw->hw", gradient.mean(dim=(1, 2)), feature).relu()
    torch.testing.assert_close(found.maps[0], expected / expected.max())


@pytest.mark.parametrize("method", ["gradcam", "rollout"])
def test_the_network_is_left_as_it_was(method):
    network = make_model("vit").train()
    network.vit.layers[0].eval()
    network.classifier.weight.requires_grad_(False)
    network.config._attn_implementation = "sdpa"
    modes = [module.training for module in network.modules()]
    with torch.inference_mode():
        HeatMapper(network, method)(torch.rand(2, 3, 16, 16))
    assert [module.training for module in network.modules()] == modes
    needs = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    assert needs == {"classifier.weight"} and all(weight.grad is None for weight in network.parameters())
    assert network.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("resnet", {"method": "gradcan"}, '--method: there is no method gradcan. Did you mean "gradcam"'),
        ("resnet", {"method": "rollout"}, "in which each layer attends to the whole image, as in ViT, and ResNet"),
        ("swin", {"method": "rollout"}, "SwinForImageClassification does not; use --method gradcam."),
        ("vit", {"method": "rollout", "layer": "vit"}, "--layer is for --method gradcam"),
        (
            "resnet",
            {"layer": "resnet.encoder.stage.1"},
            'no layer resnet.encoder.stage.1. Did you mean "resnet.encoder',
        ),
        ("resnet", {"layer": "zzz"}, "no layer zzz. Use one such as resnet.encoder.stages.1, resnet.encoder"),
        (
            "resnet",
            {"layer": "classifier.1"},
            "classifier.1 gives 3 for an image, which has no positions; use one such",
        ),
        ("vit", {"layer": "vit.layernorm"}, "behind vit.layernorm no position of the image counts for the class; use"),
    ],
)
def test_mistakes_are_one_line(family, arguments, message):
    set_seed(0)
    with pytest.raises(UserError) as error:
        HeatMapper(make_family(family), **arguments)(images(1))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_ensemble_and_a_network_without_positions_are_refused():
    with pytest.raises(UserError, match="An ensemble has a heat map for each of its members"):
        HeatMapper(Ensemble([make_model("resnet"), make_model("resnet")]))
    network = make_family("resnet")
    network.forward = lambda pixel_values: type("Output", (), {"logits": pixel_values.flatten(1)[:, :3]})
    with pytest.raises(UserError, match="gives no map of features for images of 32 x 32 pixels"):
        HeatMapper(network)(images(1))


@pytest.mark.parametrize("name", ["resnet", "convnext", "vit", "swin"])
def test_grad_cam_agrees_with_pytorch_grad_cam(name):
    """Measured with grad-cam 1.5.7: no position of a map differs by more than 1.8e-7."""
    package = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    set_seed(0)
    network = make_family(name).eval()
    mapper = HeatMapper(network, "gradcam")
    ours = mapper(images(), [0, 1]).maps
    found = mapper._feature_maps[images().shape[1:]]
    layer = network.get_submodule(found.layer)
    theirs = package.GradCAM(LogitsOf(network), [layer], reshape_transform=found.positions)
    classes = [targets.ClassifierOutputTarget(0), targets.ClassifierOutputTarget(1)]
    theirs(images(), classes)
    (features,), (gradients,) = theirs.activations_and_grads.activations, theirs.activations_and_grads.gradients
    raw = theirs.get_cam_image(images(), layer, classes, features.numpy(), gradients.numpy())
    maps = torch.from_numpy(raw).relu()  # before they are enlarged, which each program does in its own way
    difference = (ours - maps / maps.amax(dim=(1, 2), keepdim=True)).abs().max()
    assert ours.max() == 1 and difference < 1e-5
