"""Opening a state dict: what it may be wrapped in, and what is no state dict."""

from __future__ import annotations

import argparse
import pathlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hf_finetune.errors import UserError
from hf_finetune.models.foreign.reading import read_state_dict

STATE = {"conv1.weight": torch.ones(2, 3), "fc.bias": torch.zeros(4)}


def wrapped(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


class Evil:
    """Would use a file if it were unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}, "param_groups": []}},
        {"model": {"state_dict": STATE}},
        {"state_dict": wrapped("module.")},
        {"model": wrapped("_orig_mod.module.")},
        {"state_dict": {**wrapped("model."), "metric.total": torch.zeros(1)}},
        {"state_dict": {"backbone.conv1.weight": STATE["conv1.weight"], "fc.bias": STATE["fc.bias"]}},
        {"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": STATE},
        {"model": {"a": torch.zeros(1)}, "model_ema": wrapped("module.")},
        {**STATE, "version": 2},
    ],
    ids=range(11),
)
def test_what_a_state_dict_may_be_wrapped_in(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    file = read_state_dict(str(tmp_path / "weights.pth"))
    assert {name: tensor for name, tensor in file.tensors.items() if name != "metric.total"}.keys() == STATE.keys()
    assert torch.equal(file.tensors["conv1.weight"], STATE["conv1.weight"])
    assert file.file_name == "weights.pth" and file.label_names is None


def test_safetensors(tmp_path):
    save_file(wrapped("module."), tmp_path / "weights.safetensors")
    assert read_state_dict(str(tmp_path / "weights.safetensors")).tensors.keys() == STATE.keys()


def test_the_old_format_of_torch_save(tmp_path):
    torch.save(STATE, tmp_path / "weights.pt", _use_new_zipfile_serialization=False)
    assert read_state_dict(str(tmp_path / "weights.pt")).tensors.keys() == STATE.keys()


@pytest.mark.parametrize(
    "meta", [{"CLASSES": ("cat", "dog")}, {"dataset_meta": {"classes": ["cat", "dog"]}, "experiment_name": "x"}]
)
def test_the_names_of_the_classes(tmp_path, meta):
    torch.save({"meta": meta, "state_dict": STATE}, tmp_path / "weights.pth")
    assert read_state_dict(str(tmp_path / "weights.pth")).label_names == ["cat", "dog"]


def test_what_training_programs_save_beside_the_weights_is_not_in_the_way(tmp_path):
    beside = {"args": argparse.Namespace(lr=0.1, path=pathlib.Path("a")), "best": np.float64(1), "curve": np.ones(3)}
    torch.save({"model": STATE, **beside}, tmp_path / "weights.pth")
    assert read_state_dict(str(tmp_path / "weights.pth")).tensors.keys() == STATE.keys()


def refusal(path: object, sha256: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_state_dict(str(path), sha256)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrap", [lambda evil: {"state_dict": STATE, "x": evil}, lambda evil: evil])
def test_code_in_a_pickle_is_not_run(tmp_path, wrap):
    torch.save(wrap(Evil(tmp_path / "written")), tmp_path / "weights.pth")
    line = refusal(tmp_path / "weights.pth")
    assert "weights.pth holds a Python object (" in line and "may run code and is not opened" in line, line
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(tmp_path / "written")))
    refusal(tmp_path / "plain.pth")
    assert not (tmp_path / "written").exists()


def test_a_whole_network_in_a_pickle_is_not_opened(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    assert "whole.pth holds a Python object (torch.nn.modules.linear.Linear)" in refusal(tmp_path / "whole.pth")


def test_what_is_no_state_dict(tmp_path):
    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "log.pth")
    assert "there is no state dict in log.pth; its keys are epoch, loss" in refusal(tmp_path / "log.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "there is no state dict in list.pth; save it" in refusal(tmp_path / "list.pth")
    for name, content in (("text.pth", b"hello " * 90), ("empty.pth", b""), ("text.safetensors", b"hello " * 90)):
        (tmp_path / name).write_bytes(content)
        assert f"{name} is neither safetensors nor a file of torch.save" in refusal(tmp_path / name)
    torch.save(STATE, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-200])
    assert "half.pth is neither safetensors nor a file of torch.save; it may be an incomplete" in refusal(
        tmp_path / "half.pth"
    )


def test_paths_that_lead_nowhere(tmp_path):
    torch.save(STATE, tmp_path / "resnet50.pth")
    assert refusal(tmp_path / "resnet5.pth").endswith('resnet5.pth. Did you mean "resnet50.pth"?')
    assert "is a folder; use the file with the weights" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert f"use --model_name_or_path {tmp_path}" in refusal(tmp_path)


def test_a_file_is_checked_by_the_hash_of_its_name_or_the_users(tmp_path):
    import hashlib

    torch.save(STATE, tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    for sha256 in (digest, digest[:8].upper()):
        assert read_state_dict(str(tmp_path / "weights.pth"), sha256)
    right = (tmp_path / "weights.pth").rename(tmp_path / f"weights-{digest[:8]}.pth")
    assert read_state_dict(str(right))
    wrong = right.rename(tmp_path / "weights-0123abcd.pth")
    line = refusal(wrong)
    assert f"begins with {digest[:8]}, but by its name it is 0123abcd" in line and "rename it" in line
    assert wrong.is_file()  # a user's file is not taken away
    assert read_state_dict(str(wrong), digest)  # the user's word comes before the name's
    assert "but load_from_sha256 is ffffffff" in refusal(wrong, "f" * 8)
    assert 'load_from_sha256 is "xyz"; use 8 to 64 hexadecimal digits' in refusal(wrong, "XYZ")
