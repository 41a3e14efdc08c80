"""Depths of parameters follow from the structure of a network, for every family."""

from __future__ import annotations

import pytest
from torch import nn

from hf_finetune.models.depth import parameter_depths
from hf_finetune.models.head import head_parameter_names
from tests.helpers.families import FAMILIES, TIMM, make_family

# Blocks as the papers count them, where the number is not that of the configuration alone.
BLOCKS = {
    **dict.fromkeys(("vit", "deit", "vit_msn", "ijepa", "beit", "dinov2", "swin", "swinv2", "clip", "siglip"), 2),
    **dict.fromkeys(("resnet", "bit", "convnext", "convnextv2", "focalnet"), 3),
    **dict.fromkeys(("regnet", "poolformer", "pvt", "pvt_v2", "segformer"), 5),
    **{"cvt": 6, "mobilenet_v1": 26, "mobilenet_v2": 16, "resnet18": 8, "resnet50": 16, "densenet121": 58},
    **dict.fromkeys(("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"), 12),
    **{"tf_efficientnet_lite0": 16, "mobilenetv3_small_050": 11, "regnety_002": 13, "vgg11": 10, "mixer_s16_224": 8},
    "beit_base_patch16_224": 12,
}


@pytest.mark.parametrize("family", [*FAMILIES, *TIMM])
def test_depths_rise_from_the_stem_to_the_head_in_every_family(family: str) -> None:
    if family in TIMM:
        pytest.importorskip("timm")
    model = make_family(family)
    head = head_parameter_names(model)
    names = [name for name, _ in model.named_parameters()]
    tells_head = len(head) < len(names)
    depths = parameter_depths(model, head if tells_head else set())
    assert list(depths) == names
    deepest = max(depths.values())
    assert {depths[name] for name in (head if tells_head else names[-1:])} == {deepest}
    found = sorted(set(depths.values()))
    assert found in (list(range(deepest + 1)), list(range(1, deepest + 1)))  # without a stem, the first block has it
    assert deepest - 1 == BLOCKS.get(family, deepest - 1) and deepest >= 3
    by_number: dict[str, int] = {}  # blocks of one list come in the order of their numbers
    for name, depth in depths.items():
        place, number = numbered(name)
        if number is not None and name not in head:
            assert by_number.get(place, 0) <= depth, name
            by_number[place] = depth


def numbered(name: str) -> tuple[str, int | None]:
    """The part of a name before its first number, and the number."""
    parts = name.split(".")
    first = next((position for position, part in enumerate(parts) if part.isdigit()), None)
    return (name, None) if first is None else (".".join(parts[:first]), int(parts[first]))


def test_parts_around_blocks_have_the_depths_of_their_neighbours() -> None:
    def block() -> nn.Module:
        return nn.ModuleDict({"conv1": nn.Conv2d(1, 1, 1), "conv2": nn.Conv2d(1, 1, 1)})

    stage = nn.ModuleDict({"reduce": nn.Conv2d(1, 1, 1), "blocks": nn.ModuleList([block(), block()])})
    stage["norm"] = nn.BatchNorm2d(1)
    network = nn.ModuleDict(
        {
            **{"stem": nn.Conv2d(1, 1, 1), "bn1": nn.BatchNorm2d(1), "stages": nn.Sequential(stage, block())},
            **{"conv_head": nn.Conv2d(1, 1, 1), "bn2": nn.BatchNorm2d(1), "fc": nn.Linear(1, 1)},
        }
    )
    depths = parameter_depths(network, {"fc.weight", "fc.bias"})
    expected = {"stem": 0, "bn1": 0, "stages.0.reduce": 1, "stages.0.blocks.0": 1, "stages.0.blocks.1": 2}
    expected |= {"stages.0.norm": 2, "stages.1": 3, "conv_head": 4, "bn2": 4, "fc": 4}
    for name, depth in depths.items():
        assert [expected[part] for part in expected if name.startswith(f"{part}.")] == [depth], name


def test_a_network_without_blocks_has_no_depths() -> None:
    network = nn.ModuleDict({"first": nn.Linear(1, 1), "last": nn.Linear(1, 1)})
    assert set(parameter_depths(network, {"last.weight", "last.bias"}).values()) == {0}
