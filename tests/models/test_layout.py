import logging

import pytest
import torch
from torch import nn

from hf_finetune.models.layout import crashes_in_channels_last, use_channels_last
from tests.helpers.launched import run_in

# Found with torch 2.14.1: these end with a signal in channels_last on a CPU with AVX-512.
CRASHES = [(8, 16, 1, 2, 56), (3, 8, 1, 2, 112), (12, 64, 1, 2, 112), (8, 16, 1, 4, 112), (15, 16, 1, 2, 224)]


@pytest.mark.parametrize(
    ("layer", "crashes"),
    [
        (nn.Conv2d(8, 16, 1, stride=2), True),
        (nn.Conv2d(15, 256, 1, stride=(1, 2), bias=False), True),
        (nn.Conv2d(3, 8, 1, stride=3), True),
        (nn.Conv2d(16, 16, 1, stride=2), False),
        (nn.Conv2d(8, 16, 1), False),
        (nn.Conv2d(8, 16, 3, stride=2), False),
        (nn.Conv2d(8, 16, 1, stride=2, groups=2), False),
        (nn.Conv2d(8, 16, 1, stride=2, device="meta"), False),
        (nn.Linear(8, 16), False),
    ],
)
def test_which_layers_crash(layer, crashes):
    assert crashes_in_channels_last(layer) is crashes


def test_such_a_layer_keeps_the_ordinary_layout_and_computes_the_same(caplog):
    narrow, wide = nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(16, 16, 3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), narrow, wide)
    images = torch.randn(2, 3, 20, 20).to(memory_format=torch.channels_last)
    before = model(images)
    seen = []
    with caplog.at_level(logging.INFO, "hf_finetune"):
        use_channels_last(model, is_trained=True)
    narrow.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].stride()))
    after = model(images)
    assert narrow.weight.stride() == (8, 1, 1, 1)
    assert wide.weight.is_contiguous(memory_format=torch.channels_last)
    assert seen == [(8 * 18 * 18, 18 * 18, 18, 1)]
    torch.testing.assert_close(after, before)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("Note: 1 convolution of 1 x 1") and "(1)" in line


def test_a_network_that_is_not_trained_is_left_in_channels_last(caplog):
    model = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2))
    with caplog.at_level(logging.INFO, "hf_finetune"):
        use_channels_last(model, is_trained=False)
    assert model[0].weight.stride() == (8, 1, 8, 8) and not caplog.records


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_backward_pass_ends_with_a_signal(dtype, tmp_path):
    script = tmp_path / "backward.py"
    script.write_text(f"""
import torch
from torch import nn
from hf_finetune.models.layout import use_channels_last
for narrow, wide, kernel, stride, size in {CRASHES}:
    for given in (torch.contiguous_format, torch.channels_last):
        model = nn.Sequential(nn.Conv2d(narrow, wide, kernel, stride=stride))
        use_channels_last(model, is_trained=True)
        images = torch.randn(4, narrow, size, size).to(memory_format=given).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled={dtype == "bfloat16"}):
            output = model(images)
        output.float().sum().backward()
""")
    ended = run_in(1, script)
    assert ended.returncode == 0, ended.stderr
