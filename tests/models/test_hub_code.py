"""Models whose code is not in Transformers, pushed and loaded by name: the package's own, a stranger's, and timm's."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import (
    AutoModelForImageClassification,
    BitImageProcessor,
    PreTrainedConfig,
    TimmWrapperConfig,
    pipeline,
)

import hf_finetune.models
from hf_finetune import finetune
from hf_finetune.hub.push import push_folder
from hf_finetune.models import lenet5
from tests.helpers.hub_session import TOKEN, fresh_process
from tests.helpers.tiny import TINY_RESNET, write_recipe

TINY_CONVNEXT = {"hidden_sizes": [4, 8, 8, 16], "depths": [1, 1, 1, 1]}
OWN_CONFIGS = [
    value
    for value in vars(hf_finetune.models).values()
    if isinstance(value, type) and issubclass(value, PreTrainedConfig) and value.__module__.startswith("hf_finetune.")
]
SETTINGS = {
    "custom_head": {
        **{"vision_config": {"model_type": "resnet", **TINY_RESNET}, "layer": "classifier.1", "features": 16},
        "head": "cosine",
    },
    "pooled_backbone": {"vision_config": {"model_type": "dinov3_convnext", **TINY_CONVNEXT}},
}
# Prints for each model what the pipeline answers, first as it is and then with the code that comes with the weights.
LOAD = """
import json, sys
image, *names = sys.argv[1:]
sys.modules["hf_finetune"] = None  # an import of it fails
from transformers import pipeline
answers = {}
for name in names:
    answers[name] = []
    for trust in (False, True):
        try:
            classifier = pipeline("image-classification", model=name, device="cpu", trust_remote_code=trust)
            answers[name].append([(entry["label"], entry["score"]) for entry in classifier(image)])
        except ValueError as error:
            answers[name].append("refused" if "trust_remote_code=True" in str(error) else str(error))
print(json.dumps(answers))
"""


def save(config: PreTrainedConfig, folder: Path) -> str:
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return str(folder)


def answer_of(name: str, image: Path, trust_remote_code: bool) -> list:
    classifier = pipeline("image-classification", model=name, device="cpu", trust_remote_code=trust_remote_code)
    entries = classifier(str(image))
    return [[entry["label"], pytest.approx(entry["score"], abs=1e-6)] for entry in entries]


def stranger(folder: Path) -> Path:
    """Writes a checkpoint whose code nobody has: LeNet-5 by another name, in a module beside its weights."""
    save(lenet5.LeNet5Config(num_labels=7), folder)
    code = Path(inspect.getfile(lenet5)).read_text().replace("LeNet5", "TulipNet").replace('"lenet5"', '"tulipnet"')
    (folder / "lenet5.py").unlink()
    (folder / "tulipnet.py").write_text(code)
    config = (folder / "config.json").read_text().replace("LeNet5", "TulipNet").replace("lenet5", "tulipnet")
    (folder / "config.json").write_text(config)
    return folder


@pytest.mark.parametrize("config", OWN_CONFIGS, ids=lambda config: config.model_type)
def test_the_code_beside_the_weights_imports_nothing_of_this_package(config):
    """Only what a machine that runs Transformers models has: a relative import would be looked for in vain there."""
    tree = ast.parse(Path(inspect.getfile(config)).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert all(node.level == 0 for node in froms)
    roots = {name.split(".")[0] for name in imported | {node.module for node in froms}}
    assert roots <= {"torch", "transformers", *sys.stdlib_module_names}


def test_pushed_models_load_with_and_without_this_package(logged_in, image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    image = image_folder / "test" / "red" / "00.png"
    folders = {
        config.model_type: save(
            config(num_labels=5, **SETTINGS.get(config.model_type, {})), tmp_path / config.model_type
        )
        for config in OWN_CONFIGS
    }
    timm_config = TimmWrapperConfig(architecture="test_resnet", num_labels=5)
    timm_config.pretrained_cfg = {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bilinear"}
    folders["timm"] = save(timm_config, tmp_path / "timm")
    (tmp_path / "timm" / "preprocessor_config.json").unlink()  # the figures are in config.json
    recipe = write_recipe(
        tmp_path, model_type=None, model_config=None, model_name_or_path=str(stranger(tmp_path / "a"))
    )
    folders["tulip"] = str(tmp_path / "tulip")
    finetune(
        str(recipe), dataset=str(image_folder), output_dir=folders["tulip"], trust_remote_code=True,
        image_size=32, num_train_epochs=1, train_transforms=[{"Resize": {"size": 32}}],
    )  # fmt: skip
    assert f"pipeline('image-classification', '{tmp_path}/tulip', trust_remote_code=True) loads it" in (
        capsys.readouterr().out
    )
    card = (tmp_path / "tulip" / "README.md").read_text()
    assert 'pipeline("image-classification", model="tulip", trust_remote_code=True)' in card
    assert "The network's code, `tulipnet.py`, comes with the weights" in card and "hf_finetune.models" not in card
    for name, folder in folders.items():
        push_folder(Path(folder), f"me/{name}")

    assert logged_in.repositories["me/lenet5"].head.files.keys() >= {"lenet5.py", "model.safetensors", "config.json"}
    expected = {f"me/{name}": answer_of(folder, image, True) for name, folder in folders.items()}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for config in OWN_CONFIGS:
        assert answer_of(f"me/{config.model_type}", image, False) == expected[f"me/{config.model_type}"]
    (tmp_path / "home").mkdir()
    loaded = fresh_process(logged_in, tmp_path / "home", "-c", LOAD, str(image), *expected, token=TOKEN)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    answers = json.loads(loaded.stdout.splitlines()[-1])
    for name in expected:
        if name == "me/timm":
            assert answers[name] == [expected[name]] * 2
        else:
            assert answers[name] == ["refused", expected[name]]
