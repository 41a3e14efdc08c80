"""hf-finetune convert, and training from a file of another library, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, pipeline

timm = pytest.importorskip("timm")

from hf_finetune import finetune  # noqa: E402
from hf_finetune.cli.main import main  # noqa: E402
from hf_finetune.config.model import ModelArguments  # noqa: E402
from hf_finetune.errors import UserError  # noqa: E402
from hf_finetune.models.load import load_config, load_model, load_trained  # noqa: E402
from tests.helpers.foreign_networks import CLASSES, as_mmpretrain, build  # noqa: E402
from tests.helpers.mistakes import refuse  # noqa: E402
from tests.helpers.tiny import write_recipe  # noqa: E402

NAMES = ["ant", "bee", "cow", "dog", "emu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of a tiny ViT (timm, safetensors) and a ResNet-18 (MMClassification's file)."""
    folder = tmp_path_factory.mktemp("weights")
    save_file(build("timm vit").state_dict(), folder / "vit.safetensors")
    state = as_mmpretrain("resnet", build("torchvision resnet18").state_dict())
    torch.save({"meta": {"CLASSES": tuple(NAMES)}, "state_dict": state}, folder / "resnet18.pth")
    return folder


def test_the_folder_is_a_model_of_transformers(folder, tmp_path, capsys):
    assert main(["convert", str(folder / "resnet18.pth"), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "122 tensors reused, the head kept." in printed and f"The model is in {tmp_path / 'out'}" in printed
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]

    network = build("torchvision resnet18")
    ours = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert [ours.config.id2label[position] for position in range(CLASSES)] == NAMES
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images).logits, network(images), rtol=1e-5, atol=1e-5)
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == pytest.approx([0.485, 0.456, 0.406])  # torchvision's figures
    assert processor["crop_size"] == {"height": 224, "width": 224} and processor["size"] == {"shortest_edge": 256}
    assert {answer["label"] for answer in pipeline("image-classification", str(tmp_path / "out"))(_image())} == {*NAMES}


def _image():
    import PIL.Image

    return PIL.Image.new("RGB", (300, 200), (200, 30, 60))


def test_what_the_file_does_not_say_may_be_said(folder, tmp_path):
    words = ["--model_config", "{num_attention_heads: 2}", "--image_mean", "10", "--crop_pct", "1.0"]
    assert main(["convert", str(folder / "vit.safetensors"), str(tmp_path / "out"), *words]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_attention_heads"], config["layer_norm_eps"], config["image_size"]) == (2, 1e-6, 64)
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == pytest.approx([10 / 255] * 3) and processor["image_std"] == [0.5] * 3  # timm's
    assert processor["size"] == {"shortest_edge": 64}


def test_weights_without_a_head_become_a_backbone(folder, tmp_path, capsys):
    state = {name: value for name, value in load_file(folder / "vit.safetensors").items() if "head" not in name}
    torch.save({"model": state, "args": None}, tmp_path / "backbone.pth")
    assert main(["convert", str(tmp_path / "backbone.pth"), str(tmp_path / "out")]) == 0
    assert "It has no trained head; fine-tune it with --model_name_or_path" in capsys.readouterr().out
    assert not any("classifier" in name for name in load_file(tmp_path / "out" / "model.safetensors"))
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "out"))
    loaded = load_model(arguments, load_config(arguments, NAMES), NAMES, seed=0)
    assert loaded.initialized == {"classifier.weight", "classifier.bias"}


def test_mistakes_are_one_line_and_leave_nothing(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(folder / "resnet18.pth")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "full is there already; use another name" in refuse(capsys, "convert", file, "full")
    assert "there is no file nowhere.pth" in refuse(capsys, "convert", "nowhere.pth", "out")
    assert "begins with" in refuse(capsys, "convert", file, "out", "--load_from_sha256", "00000000")
    assert "make a folder of it: hf-finetune convert" in refuse(capsys, "evaluate", file, "--dataset", "digits")
    assert 'no setting "depth"' in refuse(capsys, "convert", file, "out", "--model_config", "{depth: 3}")
    assert "does not fit: 12 of its tensors" in refuse(
        capsys, "convert", file, "out", "--model_config", "{depths: [2, 2, 2, 1]}"
    )
    assert "the following arguments are required: OUT" in refuse(capsys, "convert", file)
    assert 'There is no flag "--learning_rate"' in refuse(capsys, "convert", file, "out", "--learning_rate", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_training_from_a_file_takes_the_place_of_the_recipes_checkpoint(folder, image_folder, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, model_type=None, model_config=None, model_name_or_path="microsoft/resnet-50")
    monkeypatch.setattr("hf_finetune.models.checkpoint._hub_is_silent", lambda *names: pytest.fail("the Hub was asked"))
    file = str(folder / "resnet18.pth")
    settings = {"load_from": file, "dataset": str(image_folder), "num_train_epochs": 1, "max_train_samples": 16}
    result = finetune(str(recipe), output_dir=str(tmp_path / "run"), **settings)
    assert result.model.config.num_labels == 3 and result.model.config.model_type == "resnet"
    card = (tmp_path / "run" / "README.md").read_text()
    assert "the weights of" in card and "microsoft/resnet-50" not in card.split("---")[1]
    # A second run of this process begins with the file's weights, not with the trained ones.
    arguments = ModelArguments(load_from=file)
    again = load_model(arguments, load_config(arguments, ["a", "b", "c"]), ["a", "b", "c"], seed=0)
    name = "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"
    expected = build("torchvision resnet18").state_dict()["layer1.0.conv1.weight"]
    assert torch.equal(again.model.state_dict()[name], expected)
    assert not torch.equal(result.model.state_dict()[name].cpu(), expected)
    assert "120 tensors reused, 2 of the head initialized for 3 classes." in again.report


def test_the_file_keeps_its_head_for_its_own_classes(folder):
    arguments = ModelArguments(load_from=str(folder / "resnet18.pth"))
    assert not load_model(arguments, load_config(arguments, NAMES), NAMES, seed=0).initialized
    other = load_model(arguments, load_config(arguments, NAMES[::-1]), NAMES[::-1], seed=0)
    assert other.initialized == {"classifier.1.weight", "classifier.1.bias"}


def test_half_precision_becomes_float32(folder, tmp_path):
    state = torch.load(folder / "resnet18.pth", weights_only=True)["state_dict"]
    torch.save(
        {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
        tmp_path / "h.pth",
    )
    network = load_trained(ModelArguments(load_from=str(tmp_path / "h.pth")))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_settings_that_contradict_each_other(folder):
    with pytest.raises(UserError, match="load_from_sha256 is given without load_from"):
        ModelArguments(load_from_sha256="0" * 8)
    with pytest.raises(UserError, match="pretrained is false, so that load_from would not be read"):
        ModelArguments(load_from="x.pth", pretrained=False)
    arguments = ModelArguments(load_from=str(folder / "resnet18.pth"), model_type="vit")
    with pytest.raises(UserError, match="is of model_type resnet, but the recipe's is vit; use --model_type null"):
        load_config(arguments, NAMES)


def test_what_is_not_used_is_named(folder, tmp_path):
    state = load_file(folder / "vit.safetensors") | {"mask_token": torch.zeros(1, 1, 192)}
    save_file(state, tmp_path / "mae.safetensors")
    arguments = ModelArguments(load_from=str(tmp_path / "mae.safetensors"))
    report = load_model(arguments, load_config(arguments, NAMES), NAMES, seed=0).report
    assert report.endswith("2 of the head initialized for 5 classes, 1 of the checkpoint not used (mask_token).")
