"""Programs of torch.export and OpenVINO's folders answer as the model does, without this package or its networks."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor, pipeline

from hf_finetune.errors import UserError
from hf_finetune.exporters.torch_program import program_of
from hf_finetune.jobs.export import export_model
from hf_finetune.models import LeNet5Config, LeNet5ForImageClassification

RUN = """
import sys, torch
sys.modules["hf_finetune"] = sys.modules["transformers"] = None  # an import of them fails
print(torch.export.load(sys.argv[1]).module()(torch.load(sys.argv[2], weights_only=True)).softmax(-1).tolist())
"""


def prepared(folder: Path, files: list[Path]) -> torch.Tensor:
    processor = AutoImageProcessor.from_pretrained(folder)
    return processor([PIL.Image.open(file) for file in files], return_tensors="pt")["pixel_values"]


def expected(folder: Path, files: list[Path]) -> list[dict[str, float]]:
    classifier = pipeline("image-classification", model=str(folder), device="cpu")
    return [
        {entry["label"]: entry["score"] for entry in answer} for answer in classifier([str(file) for file in files])
    ]


def test_a_pt2_file_needs_torch_alone(finished_run, image_folder, tmp_path, capsys):
    path = export_model(str(finished_run), "pt2", tmp_path / "colours.pt2", dataset=str(image_folder))
    printed = capsys.readouterr().out
    assert "Checked on 24 images" in printed and "The same class on all; largest difference of logits" in printed
    assert f"torch.export.load('{path}').module() runs it on prepared images." in printed
    files = sorted((image_folder / "test").rglob("*.png"))[:5]
    torch.save(prepared(finished_run, files), tmp_path / "images.pt")
    words = [sys.executable, "-c", RUN, str(path), str(tmp_path / "images.pt")]
    rows = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    for row, answer in zip(rows, expected(finished_run, files), strict=True):
        scores = dict(zip(("blue", "green", "red"), row, strict=True))
        assert answer == {name: pytest.approx(scores[name], abs=1e-5) for name in answer}
    with zipfile.ZipFile(path) as archive:  # what prepares images, and the names of the classes
        held = {Path(name).name: name for name in archive.namelist()}
        assert json.loads(archive.read(held["preprocessor_config.json"])) == json.loads(
            (finished_run / "preprocessor_config.json").read_text()
        )
        assert json.loads(archive.read(held["config.json"]))["id2label"] == {"0": "blue", "1": "green", "2": "red"}


def test_openvino_runs_the_folder(finished_run, image_folder, tmp_path, capsys):
    openvino = pytest.importorskip("openvino")
    folder = export_model(str(finished_run), "openvino", tmp_path / "colours", dataset=str(image_folder))
    assert "The same class on all" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {
        "openvino_model.xml", "openvino_model.bin", "config.json", "preprocessor_config.json",
    }  # fmt: skip
    files = sorted((image_folder / "test").rglob("*.png"))[:3]
    model = openvino.compile_model(folder / "openvino_model.xml", "CPU")
    rows = torch.from_numpy(model({"pixel_values": prepared(folder, files).numpy()})["logits"]).softmax(-1).tolist()
    for row, answer in zip(rows, expected(finished_run, files), strict=True):
        scores = dict(zip(("blue", "green", "red"), row, strict=True))
        assert answer == {name: pytest.approx(scores[name], abs=1e-4) for name in answer}


def test_a_network_that_cannot_be_traced_is_one_line(monkeypatch):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values if pixel_values.sum() > 0 else -pixel_values

    monkeypatch.setattr(LeNet5ForImageClassification, "forward", forward)
    network = LeNet5ForImageClassification(LeNet5Config(num_labels=2))
    with pytest.raises(UserError, match=r"^LeNet5ForImageClassification cannot be exported to OpenVINO: \S.*\.$"):
        program_of(network, torch.zeros(2, 3, 32, 32), "OpenVINO")
