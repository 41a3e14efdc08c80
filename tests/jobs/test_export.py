"""`export`: the file answers as the model folder does, beside onnxruntime alone; what it refuses; and int8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import PIL.Image
import pytest
import torch
from datasets import Dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, BitImageProcessor, ViTConfig, pipeline

from hf_finetune import UserError
from hf_finetune.cli.main import main
from hf_finetune.exporters.base import Agreement
from hf_finetune.exporters.formats import FORMATS
from hf_finetune.jobs import export as job
from hf_finetune.jobs.export import export_model
from hf_finetune.models import LeNet5Config
from tests.helpers.mistakes import refuse


@pytest.fixture(scope="module")
def exported(finished_run: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "colours.onnx"
    return export_model(str(finished_run), output=str(path), dataset=str(image_folder))


@pytest.fixture(scope="module")
def quantized(finished_run: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "colours.onnx"
    return export_model(str(finished_run), output=str(path), dataset=str(image_folder), quantize="int8")


def small_vit(folder: Path) -> str:
    names = {class_id: name for class_id, name in enumerate(("blue", "green", "red"))}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(**sizes, image_size=16, patch_size=4, id2label=names, label2id={})
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    crop = {"height": 16, "width": 16}
    BitImageProcessor(size={"shortest_edge": 16}, crop_size=crop).save_pretrained(folder)
    return str(folder)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("batch", [1, 5, 24])
def test_onnxruntime_alone_gives_what_the_pipeline_gives(exported, finished_run, image_folder, batch):
    """Nothing of this package: the processor from the folder, the file in onnxruntime, batches of any size."""
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, taken.name, taken.shape) == (
        "pixel_values", ["batch", 3, 16, 16], "logits", ["batch", 3],
    )  # fmt: skip
    files = sorted((image_folder / "test").rglob("*.png"))
    processor = AutoImageProcessor.from_pretrained(finished_run)
    pixel_values = processor([PIL.Image.open(file) for file in files], return_tensors="np")["pixel_values"]
    parts = [pixel_values[start : start + batch] for start in range(0, len(files), batch)]
    logits = np.concatenate([session.run(None, {"pixel_values": part})[0] for part in parts])
    scores = torch.from_numpy(logits).softmax(dim=-1).numpy()
    classifier = pipeline("image-classification", model=str(finished_run), device="cpu")
    names = ["blue", "green", "red"]
    for answer, row in zip(classifier([str(file) for file in files], top_k=3), scores, strict=True):
        assert answer[0]["label"] == names[row.argmax()]
        for entry in answer:
            assert row[names.index(entry["label"])] == pytest.approx(entry["score"], abs=1e-5)


def test_it_says_what_it_was_checked_on(finished_run, image_folder, tmp_path, capsys):
    output = str(tmp_path / "new" / "colours.onnx")
    assert main(["export", str(finished_run), "--output", output, "--dataset", str(image_folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Writing ResNetForImageClassification as onnx.\nChecked on 24 images: ")
    assert f"{image_folder}, test: test.\nThe same class on all; largest difference of logits " in printed
    assert f"The model is in {output} ({Path(output).stat().st_size / 1e3:.0f} kB); hf-finetune predict" in printed
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["colours.onnx"]


def test_without_dataset_it_is_checked_on_noise_and_written_beside_the_weights(tmp_path, capsys):
    folder = small_vit(tmp_path / "vit")
    assert export_model(folder) == tmp_path / "vit" / "model.onnx"
    printed = capsys.readouterr().out
    assert "Checked on 16 images: noise; for real ones use --dataset, as for hf-finetune evaluate.\n" in printed
    assert "is there already; delete it, or use another --output" in refuse(capsys, "export", folder)


def test_a_file_that_answers_otherwise_is_not_left(finished_run, image_folder, tmp_path, monkeypatch):
    def write_another(model, *arguments):
        with torch.no_grad():
            model.classifier[1].weight.neg_()
        FORMATS["onnx"].write(model, *arguments)
        with torch.no_grad():
            model.classifier[1].weight.neg_()

    monkeypatch.setattr(job, "FORMATS", {**FORMATS, "onnx": replace(FORMATS["onnx"], write=write_another)})
    with pytest.raises(UserError, match="gives another class on [1-9].* of 24 images .*largest difference of logits"):
        export_model(str(finished_run), output=str(tmp_path / "colours.onnx"), dataset=str(image_folder))
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_exported_is_one_line(finished_run, tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise torch.onnx.OnnxExporterError("Failed to export\nlong story") from ValueError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match="ResNetForImageClassification cannot be exported to ONNX: no such operator"):
        export_model(str(finished_run), output=str(tmp_path / "colours.onnx"))
    assert not list(tmp_path.iterdir())


def test_a_tie_is_no_other_class():
    reference = torch.tensor([[1.0, 0.0], [0.5, 0.50005], [0.5, 0.6]])
    agreement = Agreement()
    agreement.add(reference[:2], reference[:2].flip(1) * torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]))
    assert (agreement.images, agreement.correct, agreement.same, agreement.ties, agreement.holds) == (2, 2, 1, 1, True)
    assert agreement.largest_difference == 1.0
    agreement.add(reference[2:], reference[2:].flip(1), torch.tensor([1]))
    assert (agreement.images, agreement.correct, agreement.same, agreement.ties, agreement.holds) == (3, 2, 1, 1, False)


def test_safetensors_writes_a_model_folder_with_its_code(tmp_path):
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(LeNet5Config(num_labels=4)).save_pretrained(tmp_path / "run")
    crop = {"height": 32, "width": 32}
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-5").mkdir()
    folder = export_model(str(tmp_path / "run"), "safetensors", str(tmp_path / "copy"))
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "lenet5.py", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()


# ---- int8 ----


def test_int8_is_smaller_work_and_says_its_accuracy(quantized, exported, finished_run, image_folder, tmp_path, capsys):
    """A convolutional network: weights and activations are integers, each output channel with its own scale."""
    capsys.readouterr()
    words = ["export", str(finished_run), "--output", str(tmp_path / "q.onnx"), "--dataset", str(image_folder)]
    assert main([*words, "--quantize", "int8"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (before,), (after,) = ([line for line in lines if line[:1] == [form]] for form in ("float32", "int8"))
    assert float(before[1]) > 90 and float(after[1]) > 90 and before[3] == "100.00"
    assert (tmp_path / "q.onnx").read_bytes() == quantized.read_bytes()  # the same images, the same ranges
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(quantized) and "Conv" in operators(quantized)
    kernels = [entry for entry in onnx.load(quantized).graph.initializer if len(entry.dims) == 4]
    assert kernels and all(entry.data_type == onnx.TensorProto.INT8 for entry in kernels)
    assert any(list(entry.dims) == [16] for entry in onnx.load(quantized).graph.initializer if "scale" in entry.name)
    metadata = [onnx.load(path).metadata_props for path in (quantized, exported)]
    kept = {entry.key: entry.value for entry in metadata[0]}
    assert {entry.key: entry.value for entry in metadata[1]}.items() <= kept.items()


def test_int8_of_a_transformer_takes_ranges_at_run_time(image_folder, tmp_path):
    path = export_model(small_vit(tmp_path / "vit"), quantize="int8", dataset=str(image_folder))
    assert path == tmp_path / "vit" / "model_int8.onnx"
    assert "DynamicQuantizeLinear" in operators(path) and "QuantizeLinear" not in operators(path)


def test_int8_is_calibrated_on_other_images_than_it_is_measured_on(logged):
    args = SimpleNamespace(seed=1)
    splits = {role: Dataset.from_dict({"row": [f"{role} {row}" for row in range(600)]}) for role in ("train", "test")}
    rows = job._calibration_split(SimpleNamespace(splits=splits), "test", args)["row"]
    assert len(set(rows)) == 512 and all(row.startswith("train") for row in rows) and not logged
    assert rows == job._calibration_split(SimpleNamespace(splits=splits), "test", args)["row"]
    rows = job._calibration_split(SimpleNamespace(splits={"train": splits["train"]}), "train", args)["row"]
    assert len(rows) == 512 and logged == [
        "Note: there is no other split than train, so int8 is calibrated on images that measure it."
    ]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "onx"), '--format is "onx". Did you mean "onnx"? Use one of onnx, safetensors, pt2, openvino.'),
        (("--format", "torchscript"), '--format is "torchscript". Use one of onnx, safetensors, pt2, openvino.'),
        (("--format", "safetensors"), "--format safetensors writes a folder; use --output FOLDER."),
        (("--quantize", "int4"), '--quantize is "int4"; use int8.'),
        (("--quantize", "int8"), "--quantize needs images"),
        (
            ("--quantize", "int8", "--format", "safetensors"),
            "--quantize makes an ONNX file, and --format is safetensors",
        ),
        (("--output", "colours.pb"), "the name of an ONNX file ends in .onnx; use colours.pb.onnx."),
        (("--output", "there.onnx"), "there.onnx is there already; delete it, or use another --output."),
        (("--output", "there.onnx/new.onnx"), "there.onnx; use another --output."),
        (("--quantise", "int8"), 'There is no flag "--quantise". Did you mean "--quantize"?'),
        (("--learning_rate", "1"), 'There is no flag "--learning_rate".'),
        (("--dataset", "digits"), "The model does not know 10 of the dataset's classes: 0, 1, 2, 3, 4 and 5 more."),
        (("--dataset", "nowhere"), 'dataset: "nowhere" is no named dataset'),
    ],
)
def test_what_cannot_be_exported(finished_run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").touch()
    before = sorted(finished_run.iterdir())
    assert message in refuse(capsys, "export", str(finished_run), *words)
    assert sorted(finished_run.iterdir()) == before and [path.name for path in tmp_path.iterdir()] == ["there.onnx"]


def test_a_model_that_is_none(capsys):
    assert 'there is no checkpoint "resnet_small_cifar". Did you mean' in refuse(capsys, "export", "resnet_small_cifar")


# ---- real images ----


def test_the_embedded_checkpoint_on_real_cifar10(shared, tmp_path, capsys):
    copy = str(shared / "hub" / "datasets" / "uoft-cs" / "cifar10")
    words = ["export", "resnet_small_cifar10", "--output", str(tmp_path / "q.onnx"), "--quantize", "int8"]
    assert main([*words, "--dataset", "cifar10", "--dataset_path", copy, "--max_eval_samples", "500"]) == 0
    printed = capsys.readouterr().out
    assert "Checked on 500 images: uoft-cs/cifar10, local copy, test: test (500 of 10,000).\nThe same class" in printed
    lines = [line.split() for line in printed.splitlines()]
    before, after = (next(float(line[1]) for line in lines if line[:1] == [form]) for form in ("float32", "int8"))
    assert before > 85 and abs(before - after) < 2
    assert (tmp_path / "q.onnx").stat().st_size < 1.2e6
