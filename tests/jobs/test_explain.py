"""`explain` on files and objects: the files that it writes, its JSON, and the mistakes that people make."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from transformers import BitImageProcessor

from hf_finetune import explain, predict
from hf_finetune.cli.main import main
from hf_finetune.errors import UserError
from hf_finetune.jobs.explain import ExplainSettings
from tests.helpers.networks import make_model

LAYER = "resnet.encoder.stages.0"  # the second stage has 2 x 2 positions


def test_files_page_and_json(finished_run, image_folder, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for name, colour in (("a.png", "red"), ("A.jpg", "blue")):
        PIL.Image.open(image_folder / "test" / colour / "00.png").save(tmp_path / "images" / name)
    (tmp_path / "images" / "bad.png").write_text("no image")
    capsys.readouterr()
    output = tmp_path / "maps"
    assert main(["explain", str(finished_run), str(tmp_path / "images"), "--output", str(output), "--json"]) == 2
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert "bad.png cannot be read as an image" in captured.err and said["page"] == str(output / "index.html")
    second, first, bad = said["images"]
    assert first["label"] == first["explained"] == "red" and second["label"] == "blue" and "error" in bad
    assert first["layer"] == LAYER and first["method"] == "gradcam" and first["score"] == first["explained_score"]
    assert sorted(path.name for path in output.iterdir()) == ["A.png", "a-2.png", "index.html"]
    with PIL.Image.open(first["overlay"]) as image:  # 16 pixels, enlarged 14 times, twice beside each other
        assert image.size == (2 * 224 + 8, 224 + 22)
    page = (output / "index.html").read_text()
    assert re.search(r'<div class="gallery pairs">\s*<figure>\s*<img data-image="0"', page)
    assert f"2 images, Grad-CAM at the layer {LAYER}" in page and "% red" in page


def test_lines_and_another_class(finished_run, image_folder, tmp_path, capsys):
    image = str(image_folder / "test" / "red" / "00.png")
    capsys.readouterr()
    command = ["explain", str(finished_run), image, "--class", "blue", "--output", str(tmp_path / "maps")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"{image}: heat map: [\d.]+% blue; predicted: [\d.]+% red( \(nothing found\))?: .*00\.png", lines[0]
    )
    assert lines[1] == f"Written: {tmp_path / 'maps' / 'index.html'} (Grad-CAM at the layer {LAYER})."
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"hf-finetune: error: --output: {tmp_path / 'maps'} holds files; use another folder, or remove it.\n"
    )


def test_python_gives_the_map_and_what_the_network_saw(finished_run, image_folder):
    image = image_folder / "test" / "red" / "00.png"
    (found,) = explain(finished_run, image)
    (prediction,) = predict(finished_run, image)
    assert (found.label, found.score) == (prediction.label, pytest.approx(prediction.score, abs=1e-6))
    assert found.image == image and found.file is None and found.heat_map.dtype == np.float32
    assert np.array_equal(np.asarray(found.view), np.asarray(PIL.Image.open(image).convert("RGB").resize((16, 16))))
    assert found.overlay(line=False).size == (2 * 224 + 8, 224)
    with pytest.raises(UserError, match="class_name: the model has no class rod. It has blue, green, red"):
        explain(finished_run, image, class_name="rod")


def test_objects_and_rollout(tmp_path):
    processor = BitImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    found = explain(make_model("vit"), [pixels, pixels], image_processor=processor, output=tmp_path / "maps")
    assert [each.image for each in found] == [0, 1] and {each.method for each in found} == {"rollout"}
    assert found[0].layer is None and [each.file.name for each in found] == ["0.png", "1.png"]
    assert np.array_equal(np.asarray(found[0].view), pixels)
    page = (tmp_path / "maps" / "index.html").read_text()
    assert "2 images, attention rollout, which depends on no class" in page
    (asked,) = explain(make_model("vit"), pixels, image_processor=processor, class_name="2")
    assert asked.method == "gradcam" and asked.explained == "LABEL_2"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class", "blu"], '--class_name: the model has no class blu. Did you mean "blue"?'),
        (
            ["--layer", "resnet.encoder.stages.2"],
            'has no layer resnet.encoder.stages.2. Did you mean "resnet.encoder.stages.1"?',
        ),
        (["--method", "rollout"], "ResNetForImageClassification does not; use --method gradcam."),
        (
            ["--method", "rollout", "--class", "red"],
            "--class_name is for --method gradcam: rollout depends on no class.",
        ),
        (["--batch_size", "0"], "--batch_size is at least 1."),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(flags, message, finished_run, image_folder, tmp_path, capsys):
    capsys.readouterr()
    image = str(image_folder / "test" / "red" / "00.png")
    assert main(["explain", str(finished_run), image, "--output", str(tmp_path / "maps"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not Path(tmp_path / "maps").exists()


def test_an_onnx_file_is_refused():
    from hf_finetune.jobs.explain import Explainer

    classifier = type("Classifier", (), {"network": None})
    with pytest.raises(UserError, match="which an ONNX file does not give; use the folder of the run"):
        Explainer(classifier, ExplainSettings())
