"""Preprocessing inside an ONNX file: the pixels of every image processor, the same answers, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import PIL.Image
import pytest
import torch
from transformers import BitImageProcessor, ConvNextImageProcessor, ViTImageProcessor, pipeline

from hf_finetune import UserError
from hf_finetune.cli.main import main
from hf_finetune.exporters.onnx_preprocessing import add_preprocessing, open_preprocessing
from hf_finetune.jobs.export import export_model
from hf_finetune.jobs.export_preprocessing import check_preprocessing
from tests.helpers.mistakes import refuse

_SIZES = ((150, 100), (100, 151), (41, 41), (20, 30), (300, 37))  # (width, height)


def smooth_images() -> list[PIL.Image.Image]:
    """Return images of several sizes whose levels change slowly, as those of photographs."""
    generator = np.random.default_rng(0)
    coarse = [PIL.Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)) for _ in _SIZES]
    return [image.resize(size, PIL.Image.Resampling.BICUBIC) for image, size in zip(coarse, _SIZES, strict=True)]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Write a network in the form of `write_onnx`: the mean of each channel."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
        network (float[batch, 3, height, width] pixel_values) => (float[batch, 3] logits)
        <int64[2] axes = {2, 3}> { logits = ReduceMean <keepdims = 0> (pixel_values, axes) }"""
    model = onnx.parser.parse_model(text)
    onnx.helper.set_model_props(model, {"id2label": "{}"})
    onnx.save(model, tmp_path / "network.onnx")
    return tmp_path / "network.onnx"


def channel_means(pixel_values: torch.Tensor) -> torch.Tensor:
    return pixel_values.mean(dim=(2, 3))


@pytest.mark.parametrize(
    "image_processor",
    [
        BitImageProcessor(size={"shortest_edge": 47}, crop_size={"height": 41, "width": 41}),
        BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 60}, resample=2),
        BitImageProcessor(size={"max_height": 48, "max_width": 48}, crop_size={"height": 48, "width": 48}),
        ConvNextImageProcessor(size={"shortest_edge": 40}, crop_pct=0.95),
        ConvNextImageProcessor(size={"shortest_edge": 384}),
        ViTImageProcessor(size={"height": 33, "width": 50}, image_mean=[0.1, 0.2, 0.3]),
    ],
    ids=["crop", "wide crop", "pad", "crop_pct", "squash from 384 on", "squash"],
)
def test_the_graph_prepares_images_as_the_processor_does(network, tmp_path, image_processor):
    add_preprocessing(network, tmp_path / "whole.onnx", image_processor)
    run = open_preprocessing(tmp_path / "whole.onnx")
    check = check_preprocessing(run, channel_means, image_processor, smooth_images())
    assert (check.images, check.same) == (5, 5) and check.largest < 0.1
    batch = torch.zeros(3, 3, 60, 60, dtype=torch.uint8)
    assert run(batch)[0].shape[0] == 3 and run(batch)[1].shape == (3, 3)
    assert [entry.key for entry in onnx.load(tmp_path / "whole.onnx").metadata_props] == ["id2label"]


def test_what_cannot_be_put_into_a_graph_is_refused(network, tmp_path):
    target = tmp_path / "whole.onnx"
    sides = {"size": {"shortest_edge": 47}, "crop_size": {"height": 41, "width": 41}}
    with pytest.raises(UserError, match="ONNX does not resize with lanczos; .* --resample bilinear or bicubic"):
        add_preprocessing(network, target, BitImageProcessor(**sides, resample=1))
    wide = BitImageProcessor(**sides)
    wide.value_range = (0, 4095)
    with pytest.raises(UserError, match="is for images of 8 bits"):
        add_preprocessing(network, target, wide)
    add_preprocessing(network, target, BitImageProcessor(**sides))
    other = BitImageProcessor(**sides | {"size": {"shortest_edge": 50}})
    with pytest.raises(UserError, match=r"an image of 150 x 100 would differ by [\d.]+ levels; leave the flag out"):
        check_preprocessing(open_preprocessing(target), channel_means, other, smooth_images())


@pytest.mark.slow
def test_images_of_any_size_go_into_the_file(finished_run, image_folder, tmp_path, capsys):
    """onnxruntime alone answers as the pipeline does on decoded images, and `predict` takes the file as any other."""
    path = tmp_path / "whole.onnx"
    words = ["export", str(finished_run), "--output", str(path), "--dataset", str(image_folder)]
    assert main([*words, "--with_preprocessing", "--opset", "18"]) == 0
    printed = capsys.readouterr().out
    assert "With its preprocessing, checked on 24 images" in printed and "the same class on 24." in printed
    assert [entry.version for entry in onnx.load(path).opset_import if not entry.domain] == [18]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    classifier = pipeline("image-classification", model=str(finished_run), device="cpu")
    names = json.loads(session.get_modelmeta().custom_metadata_map["id2label"])
    for image in smooth_images():
        logits = torch.from_numpy(session.run(["logits"], {"images": np.asarray(image)[None]})[0][0])
        best = classifier(image, top_k=1)[0]
        assert names[str(int(logits.argmax()))] == best["label"]
        assert logits.softmax(0).max().item() == pytest.approx(best["score"], abs=2e-3)

    answers = []
    for model in (finished_run, path):
        capsys.readouterr()
        assert main(["predict", str(model), str(image_folder / "test"), "--json"]) == 0
        answers.append([entry["predictions"][0]["label"] for entry in json.loads(capsys.readouterr().out)])
    assert answers[0] == answers[1] and len(answers[0]) == 24


def test_wishes_that_no_file_can_have(finished_run, capsys):
    run = str(finished_run)
    assert "--with_preprocessing makes an ONNX file, and --format is pt2" in refuse(
        capsys, "export", run, "--format", "pt2", "--with_preprocessing"
    )
    assert "--opset is for ONNX files, and --format is safetensors" in refuse(
        capsys, "export", run, "--format", "safetensors", "--opset", "18"
    )
    assert "--opset is 7; use 18 to 25." in refuse(capsys, "export", run, "--opset", "7")
    with pytest.raises(UserError, match="use 18 to 25"):
        export_model(run, opset=26)
