"""`OnnxModel`: what an exported file knows of itself, `predict` on it, and files that are none."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import onnx
import pytest
import torch
from transformers import AutoModelForImageClassification, TimmWrapperConfig

from hf_finetune import UserError
from hf_finetune.cli.main import main
from hf_finetune.config.model import ModelArguments
from hf_finetune.exporters import base
from hf_finetune.exporters.base import LogitsOf
from hf_finetune.exporters.formats import FORMATS, ExportFormat
from hf_finetune.exporters.onnx_model import OnnxModel
from hf_finetune.jobs.export import export_model
from hf_finetune.models.load import load_trained
from hf_finetune.models.processor import load_image_processor
from tests.helpers.mistakes import refuse


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(str(finished_run), output=str(tmp_path_factory.mktemp("exported") / "colours.onnx"))


def test_the_file_holds_what_the_folder_holds(exported, finished_run):
    metadata = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert json.loads(metadata["id2label"]) == {"0": "blue", "1": "green", "2": "red"}
    for name in ("preprocessor_config.json", "config.json"):
        assert json.loads(metadata[name]).items() <= json.loads((finished_run / name).read_text()).items(), name
    assert json.loads(metadata["preprocessor_config.json"])["image_mean"] == [pytest.approx(110 / 255)] * 3
    model = OnnxModel(exported)
    assert model.id2label == {0: "blue", 1: "green", 2: "red"}
    assert (
        model.image_processor.to_dict()
        == load_image_processor(ModelArguments(model_name_or_path=str(finished_run)), None).to_dict()
    )


def test_predict_answers_as_it_does_from_the_folder(exported, finished_run, image_folder, tmp_path, capsys):
    """Also where the file was carried elsewhere, alone."""
    alone = tmp_path / "elsewhere.onnx"
    alone.write_bytes(exported.read_bytes())
    answers = []
    for model in (finished_run, alone):
        capsys.readouterr()
        assert main(["predict", str(model), str(image_folder / "test"), "--json", "--top_k", "3"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert len(answers[0]) == 24
    for by_folder, by_file in zip(*answers, strict=True):
        assert by_file == by_folder | {
            "predictions": [
                {"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-5)}
                for entry in by_folder["predictions"]
            ]
        }


def test_timms_processor_comes_out_of_the_file(tmp_path):
    """Its figures are in config.json, and it has no file of its own."""
    config = TimmWrapperConfig(architecture="test_resnet", num_labels=2, label_names=["a", "b"])
    config.pretrained_cfg = {"input_size": [3, 24, 24], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.4] * 3}
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "timm")
    model = OnnxModel(export_model(str(tmp_path / "timm")))
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "timm"))
    network = load_trained(arguments)
    original = load_image_processor(arguments, network.config)
    assert model.image_processor.data_config == original.data_config and model.id2label == {0: "a", 1: "b"}
    pixel_values = torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values), network(pixel_values).logits, atol=1e-5, rtol=1e-4)


def test_a_file_that_is_none(exported, image_folder, tmp_path, capsys):
    image = str(image_folder / "test" / "red" / "00.png")
    (tmp_path / "broken.onnx").write_bytes(exported.read_bytes()[:1000])
    foreign = onnx.load(exported)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    for name, message in (
        ("nowhere.onnx", f"There is no file {tmp_path}/nowhere.onnx; check the path."),
        ("broken.onnx", f"{tmp_path}/broken.onnx cannot be opened as an ONNX file; export it again."),
        ("foreign.onnx", "use a file that was written by: hf-finetune export"),
    ):
        assert message in refuse(capsys, "predict", str(tmp_path / name), image)


def test_a_missing_package_is_named_with_what_installs_it(exported, monkeypatch):
    monkeypatch.setattr(
        base, "find_spec", lambda name: None if name == "onnxruntime" else importlib.util.find_spec(name)
    )
    with pytest.raises(
        UserError, match=r'an ONNX file, the package onnxruntime is needed; .* `pip install "hf-finetune\[onnx\]"`'
    ):
        OnnxModel(exported)
    with pytest.raises(UserError, match="onnxruntime"):
        export_model("resnet_small_cifar10")


def test_a_new_format_costs_one_entry(finished_run, image_folder, tmp_path, monkeypatch, capsys):
    """`export` writes, checks and names a format of the table, and knows no other list."""

    def write(model, image_processor, pixel_values, path):
        torch.save(model.state_dict(), path)

    def load(path, arguments):
        network = load_trained(arguments)
        network.load_state_dict(torch.load(path, weights_only=True))
        return LogitsOf(network)

    monkeypatch.setitem(FORMATS, "toy", ExportFormat("toy", "a toy file", ".toy", write, load))
    output = str(tmp_path / "model.toy")
    assert (
        main(["export", str(finished_run), "--format", "toy", "--output", output, "--dataset", str(image_folder)]) == 0
    )
    printed = capsys.readouterr().out
    assert (
        "as toy.\nChecked on 24 images" in printed
        and "The same class on all; largest difference of logits 0" in printed
    )
    run = str(finished_run)
    assert "the name of a toy file ends in .toy" in refuse(capsys, "export", run, "--format", "toy", "--output", "y.pt")
    assert "Use one of onnx, safetensors, pt2, openvino, toy." in refuse(capsys, "export", run, "--format", "tyo3")
    assert "--quantize makes an ONNX file, and --format is toy" in refuse(
        capsys, "export", run, "--format", "toy", "--quantize", "int8"
    )
