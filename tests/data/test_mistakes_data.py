"""Mistakes in the data and in the model, each answered with one line before training, through the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTModel,
)

from hf_finetune.cli.main import main
from tests.helpers.mistakes import refuse
from tests.helpers.tiny import TINY_RESNET, write_recipe

Refused = Callable[..., str]

NO_RECIPE_MODEL = ("--model_type", "null", "--model_config", "null", "--model_name_or_path")
TINY_VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
TINY_VIT_OF_16 = {**TINY_VIT, "image_size": 16, "patch_size": 8}


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path)


def write_table(path: Path, labels: list[object]) -> str:
    """Writes a CSV table of one image that is there, named once for each label."""
    write_image(path.parent / "one.png")
    path.write_text("image,class\n" + "".join(f"one.png,{label}\n" for label in labels))
    return str(path)


# ---- the dataset ----


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifra10", ['"cifra10" is no named dataset', 'Did you mean "cifar10"?']),
        ("nowhere", ['"nowhere" is no named dataset', "cifar10, cifar100", "uoft-cs/cifar10"]),
        ("./empti", ["there is no file or folder ./empti", 'Did you mean "empty"?', "Use a folder of class folders"]),
        ("~/no such folder", ["there is no file or folder ~/no such folder"]),
        ("resnet50_cifar10", ["resnet50_cifar10 is a recipe", "use --recipe resnet50_cifar10"]),
        ("empty", ["empty has no images", "empty/cats/1.jpg"]),
        ("hollow", ["hollow has no images: it holds cats, dogs", "Use a folder of class folders"]),
        ("gappy", ["gappy has a class folder without images: dogs", "put images there or remove the folder"]),
        ("loose", ["loose has images outside class folders", "put them into class folders"]),
        ("alone", ["alone has only one class folder, cats", "needs two at least"]),
        ("loose/1.png", ["loose/1.png is neither a folder nor a table", ".csv"]),
        ("tiny.yaml", ["tiny.yaml is neither a folder nor a table"]),
        ("", ["--dataset is empty", "give it a value"]),
        ("null", ["no dataset; use --dataset"]),
        ("dangling", ["dangling is a link to gone, which does not exist"]),
        ("'alone'", ["use --dataset alone."]),
        ("file://loose", ["use --dataset loose."]),
    ],
)
def test_a_dataset_that_is_none(refused: Refused, tmp_path: Path, name: str, words: list[str]):
    for folder in ("empty", "hollow/cats", "hollow/dogs", "gappy/dogs"):
        (tmp_path / folder).mkdir(parents=True)
    for image in ("gappy/cats/1.png", "gappy/emus/1.png", "loose/1.png", "alone/cats/1.png"):
        write_image(tmp_path / image)
    (tmp_path / "dangling").symlink_to("gone")
    line = refused("--dataset", name)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--label_column", "klass"), 'label_column: table.csv has no column "klass"'),
        (("--image_column", "imag"), 'has no column "imag" in split train. Did you mean "image"?'),
        (("--train_split", "trian"), 'train_split: table.csv has no split "trian". Did you mean "train"?'),
        (("--dataset_path", "."), "dataset_path is for a copy of a named dataset"),
        (("--dataset", "cifar10", "--dataset_path", "nowhere"), "dataset_path: there is no folder nowhere; use the"),
        (("--dataset", "null", "--dataset_path", "."), "use --dataset NAME --dataset_path ."),
        (("--max_train_samples", "0"), "max_train_samples is 0; use a number of at least 1"),
        (
            ("--validation_fraction", "10"),
            "validation_fraction is 10; use a fraction of at least 0 and below 1",
        ),
        (("--on_bad_image", "ignore"), 'on_bad_image is "ignore". Use one of stop, skip'),
        (("--num_labels", "10"), "num_labels is 10 but the dataset has 2 classes (cat, dog); use --num_labels 2"),
    ],
)
def test_a_dataset_asked_for_what_it_has_not(refused: Refused, tmp_path: Path, words: tuple[str, ...], message: str):
    write_table(tmp_path / "table.csv", ["cat", "dog"] * 4)
    line = refused("--dataset", "table.csv", *words)
    assert message in line


def test_a_table_of_files_that_are_not_there(refused: Refused, tmp_path: Path):
    (tmp_path / "table.csv").write_text("image,class\ncats/1.png,cat\ndogs/1.png,dog\n")
    line = refused("--dataset", "table.csv", "--validation_fraction", "0")
    assert "2 images cannot be read: cats/1.png (no such file, row 0 of train), dogs/1.png (no such file" in line
    assert line.endswith('Relative paths start at the folder ".".')


def test_a_table_without_images_or_with_uneven_lines(refused: Refused, tmp_path: Path):
    (tmp_path / "numbers.csv").write_text("width,class\n1,cat\n2,dog\n")
    assert "no column of split train holds images" in refused("--dataset", "numbers.csv")
    (tmp_path / "uneven.csv").write_text("image,class\n1.png,cat\n2.png,dog,black\n")
    line = refused("--dataset", "uneven.csv")
    assert "uneven.csv, line 3: 3 values where the first line names 2 columns" in line


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-1, -1, -1, -1], "split train has no labels (all are -1); nothing can be learned from it"),
        ([0, 1, -1, 1], "1 of 4 labels of split train are missing (empty or -1), the first in row 2"),
        ([0, 0, 0, 0], "split train has 1 class (0); a classifier needs two at least"),
        ([0.5, 1, 0, 1], "are not whole numbers; a label is a class, written as a name or an integer"),
    ],
)
def test_labels_that_are_none(refused: Refused, tmp_path: Path, labels: list[float], message: str):
    assert message in refused("--dataset", write_table(tmp_path / "table.csv", labels), "--label_column", "class")


def test_labels_outside_the_range(refused: Refused, tmp_path: Path, image_folder: Path):
    image = {"bytes": (image_folder / "train/red/00.png").read_bytes(), "path": None}
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=["cat", "dog"])})
    rows = Dataset.from_dict({"image": [image] * 4, "label": [0, 1, 0, 1]}, features=features)
    table = rows.with_format("arrow")[:].set_column(1, "label", pa.array([0, 1, 7, 1]))
    pyarrow.parquet.write_table(table.cast(features.arrow_schema), tmp_path / "train.parquet")
    line = refused("--dataset", "train.parquet")
    assert "1 of 4 labels of split train are outside the range 0 to 1 of its 2 classes, the first in row 2" in line


def test_a_test_split_with_a_class_that_train_has_not(refused: Refused, image_folder: Path, tmp_path: Path):
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images/test/red").rename(tmp_path / "images/test/violet")
    line = refused("--dataset", "images")
    assert "split test has a label that split train does not have: violet; remove these images or add the class" in line


def test_an_unreadable_image_stops_before_training(refused: Refused, image_folder: Path, tmp_path: Path):
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images/train/red/05.png").write_text("no image")
    cut = tmp_path / "images/test/blue/01.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    line = refused("--dataset", "images")
    assert "2 images cannot be read" in line and "--on_bad_image skip" in line
    assert "train/red/05.png (not an image)" in line and "test/blue/01.png" in line


def test_unreadable_images_are_counted_and_listed_where_skipped(image_folder, tmp_path, capsys):
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images/test/red/05.png").write_text("no image")
    shutil.rmtree(tmp_path / "images/test/blue")  # and a split without some of the classes, which is said
    recipe = str(write_recipe(tmp_path, num_train_epochs=1))
    words = ["--recipe", recipe, "--dataset", str(tmp_path / "images"), "--on_bad_image", "skip"]
    assert main(["train", *words, "--output_dir", str(tmp_path / "output")]) == 0
    out = capsys.readouterr().out
    assert "1 image cannot be read and is left out: test/red/05.png (not an image)." in out
    assert "test has no image of 1 of 3 classes: blue." in out
    assert "lr_milestones [2] lie beyond the end at epoch 1; the learning rate is not lowered there" in out
    content = json.loads((tmp_path / "output/metrics.json").read_text())
    assert content["unreadable_images"] == ["test/red/05.png (not an image)"]
    assert content["metrics"]["test_samples"] == 15
    assert {row["name"]: row["support"] for row in content["per_class"]} == {"blue": 0, "green": 8, "red": 7}


# ---- the model ----


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that hold no image classifier, or not a whole one."""
    folder = tmp_path_factory.mktemp("checkpoints")
    BertForSequenceClassification(BertConfig(**TINY_VIT, vocab_size=10)).save_pretrained(folder / "bert")
    ViTModel(ViTConfig(**TINY_VIT_OF_16)).save_pretrained(folder / "headless")
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET)).save_pretrained(folder / "resnet")
    named = ResNetConfig(**TINY_RESNET, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    ResNetForImageClassification(named).save_pretrained(folder / "named")
    for name in ("weightless", "cut", "pickled", "garbled", "uneven"):
        shutil.copytree(folder / "resnet", folder / name)
    (folder / "exported.onnx").write_bytes(b"")
    (folder / "weightless/model.safetensors").unlink()
    weights = (folder / "resnet/model.safetensors").read_bytes()
    (folder / "cut/model.safetensors").write_bytes(weights[: len(weights) // 2])
    (folder / "pickled/model.safetensors").rename(folder / "pickled/pytorch_model.bin")
    (folder / "garbled/config.json").write_text('{"model_type": "resnet",')
    (folder / "uneven/preprocessor_config.json").write_text('{"size":')
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert", "is a bert model, which is not an image classifier; use one that is, such as"),
        ("weightless", "does not hold a whole checkpoint (Error no file named model.safetensors"),
        ("cut", "does not hold a whole checkpoint (Error while deserializing header"),
        ("pickled", "has its weights as a pickle (.bin), which may run code and is not opened"),
        ("garbled", "is not a valid JSON file); use one with config.json and model.safetensors"),
        ("uneven", "uneven/preprocessor_config.json cannot be read"),
        ("empty", "does not hold a whole checkpoint"),
        ("nothing", "there is no checkpoint"),
        ("resnet/config.json", "resnet/config.json is a file; use the folder that it is in"),
        ("exported.onnx", "exported.onnx is an exported file, which hf-finetune predict runs; use the model's own"),
    ],
)
def test_a_checkpoint_that_is_no_image_classifier(refused: Refused, checkpoints: Path, name: str, message: str):
    line = refused(*NO_RECIPE_MODEL, str(checkpoints / name))
    assert message in line and name in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model_type", "resnett"), 'no architecture "resnett". Did you mean "resnet"?'),
        (("--model_type", "bert", "--model_config", "null"), "which is not an image classifier"),
        (("--model_name_or_path", "a/b"), "model_type resnet and model_name_or_path a/b exclude each other; keep one"),
        (("--model_type", "null", "--model_config", "null"), "There is no model; use --model_name_or_path"),
        (("--model_config", "{hiden_sizes: [8]}"), 'no setting "hiden_sizes". Did you mean "hidden_sizes"?'),
        (("--model_config", "{hidden_sizes: big}"), "model_config: no network can be built from it"),
        (("--model_config", "{layer_type: basik}"), "layer_type=basik is not one of basic,bottleneck"),
        (("--model_config", "resnet"), "'resnet' does not fit, in --model_config; use a mapping"),
        (("--model_config", "{depths: [1]}"), "does not go through ResNetForImageClassification: mat1 and mat2 shapes"),
        (("--model_type", "lenet5", "--model_config", "null"), "Kernel size can't be greater than actual input size"),
        ((*NO_RECIPE_MODEL[:-1], "--model_name_or_path", "resnet51"), 'there is no checkpoint "resnet51"'),
        (("--pretrained", "maybe"), "pretrained: 'maybe' is neither true nor false, in --pretrained"),
    ],
)
def test_a_network_that_cannot_be(refused: Refused, words: tuple[str, ...], message: str):
    line = refused(*words)
    assert message in line


def test_a_timm_checkpoint_without_timm(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = {"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {}}
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm/config.json").write_text(json.dumps(config))

    def absent(*args: object, **kwargs: object) -> None:
        raise ImportError("TimmWrapperConfig requires the timm library")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", absent)
    assert 'needs the package timm; install it with `pip install "hf-finetune[timm]"`' in refused(
        *NO_RECIPE_MODEL, "timm"
    )


# ---- the Hub ----


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is asked, at an address where nobody listens."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", "http://127.0.0.1:9")
    # The client waits between its retries; nobody here waits with it.
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"a wait of {seconds} seconds"))


def test_no_network_for_a_dataset(refused: Refused, no_network: None):
    line = refused("--dataset", "uoft-cs/cifar10")
    assert "uoft-cs/cifar10 cannot be fetched: the Hub at http://127.0.0.1:9 cannot be reached" in line
    assert "use a local copy: --dataset uoft-cs/cifar10 --dataset_path DIR" in line


def test_no_network_for_a_checkpoint(refused: Refused, no_network: None):
    line = refused(*NO_RECIPE_MODEL, "microsoft/no-such-resnet")
    assert 'no folder "microsoft/no-such-resnet", and the Hub at http://127.0.0.1:9 cannot be reached' in line
    assert "use a local copy" in line and "--model_name_or_path DIR" in line


# ---- evaluate and predict ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate",), "the following arguments are required: MODEL; its use is shown by: hf-finetune evaluate"),
        (("evaluate", "MODELS/resnet"), "no dataset; use --dataset"),
        (("evaluate", "MODELS/resnet", "--datset", "x"), 'no flag "--datset". Did you mean "--dataset"?'),
        (("evaluate", "MODELS/resnet", "IMAGES"), "belongs to no flag; use --dataset"),
        (("evaluate", "nowhere", "--dataset", "IMAGES"), 'there is no checkpoint "nowhere"'),
        (("evaluate", "MODELS/cut", "--dataset", "IMAGES"), "does not hold a whole checkpoint"),
        (("evaluate", "MODELS/headless", "--dataset", "IMAGES"), "has no trained head; fine-tune it first"),
        (
            ("evaluate", "MODELS/named", "--dataset", "IMAGES", "--use_cpu"),
            "does not know 3 of the dataset's classes",
        ),
        (("evaluate", "MODELS/resnet", "--dataset", "IMAGES", "--use_cpu"), "classes have no names (LABEL_0, LABEL_1)"),
        (("predict",), "the following arguments are required: MODEL, IMAGES"),
        (("predict", "MODELS/resnet"), "There are no images; use files or folders after MODEL, or --dataset."),
        (("predict", "MODELS/resnet", "nowhere.png"), "There is no file or folder nowhere.png"),
        (("predict", "MODELS/resnet", "MODELS/empty"), "holds no images; use a folder that does"),
        (("predict", "MODELS/resnet", "IMAGES", "--top_k", "two"), "invalid int value: 'two'"),
        (("predict", "MODELS/resnet", "IMAGES", "--top_k", "0"), "at least 1"),
        (("predict", "MODELS/resnet", "IMAGES", "--json", "--csv"), "--csv: not allowed with argument --json"),
        (("predict", "MODELS/bert", "IMAGES"), "is not an image classifier"),
        (("predict", "MODELS/cut", "IMAGES"), "does not hold a whole checkpoint"),
    ],
)
def test_evaluate_and_predict(
    capsys: pytest.CaptureFixture[str], checkpoints: Path, image_folder: Path, words: tuple[str, ...], message: str
):
    places = {"MODELS": str(checkpoints), "IMAGES": str(image_folder)}
    words = tuple("/".join(places.get(part, part) for part in word.split("/")) for word in words)
    assert message in refuse(capsys, *words)


def test_an_unreadable_file_among_good_ones_is_named_and_the_rest_predicted(
    capsys: pytest.CaptureFixture[str], checkpoints: Path, image_folder: Path, tmp_path: Path
):
    shutil.copy(image_folder / "test/red/00.png", tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    assert main(["predict", str(checkpoints / "resnet"), str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path / 'good.png'}: ") and captured.out.count("\n") == 1
    assert captured.err == f"hf-finetune: {tmp_path / 'bad.png'} cannot be read as an image: not an image.\n"


def test_one_line_and_nothing_else_from_the_installed_command(tmp_path: Path):
    """The same in a process of its own, where libraries may warn as they are imported."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ["train", "--dataset", "./nowhere", "--use_cpu", "--output_dir", str(tmp_path / "output")]
    completed = subprocess.run(
        [sys.executable, "-m", "hf_finetune", *words], env=environment, capture_output=True, text=True, timeout=300
    )
    assert completed.returncode == 2 and completed.stderr.count("\n") == 1
    assert completed.stderr.startswith("hf-finetune: error: dataset: there is no file or folder ./nowhere.")
    assert not (tmp_path / "output").exists()
