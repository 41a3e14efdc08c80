"""Images of thirteen channels through the whole road: training, evaluation, prediction, export, and their mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
import torch
import yaml
from transformers import ResNetConfig, ResNetForImageClassification

from hf_finetune import dataset_stats, evaluate, explain, export, finetune, predict
from hf_finetune.cli.main import main
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.errors import Interrupted, UserError
from tests.helpers.interrupting import StopAfterAStep
from tests.helpers.tiny import TINY_RECIPE, TINY_RESNET

CHANNELS = 13
RECIPE: dict[str, Any] = {
    **{key: value for key, value in TINY_RECIPE.items() if key not in ("image_mean", "image_std")},
    "global_batch_size": 8,
    "num_train_epochs": 6,
    "lr_milestones": [5],
}


def make_folder(folder: Path, suffix: str = ".npy", channels: int = CHANNELS) -> Path:
    """Two classes that differ in channels 5 and 9 alone, of 12 bits in uint16."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 6)):
        for name in ("field", "water"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = generator.normal(1500, 100, (16, 16, channels))
                image[..., 4 % channels] += 700 * (name == "water")
                image[..., 8 % channels] -= 900 * (name == "water")
                image = image.clip(0, 4095).astype(np.uint16)
                file = folder / split / name / f"{number}{suffix}"
                if suffix == ".npy":
                    np.save(file, image)
                else:
                    settings = {"planarconfig": "contig", "photometric": "minisblack"}
                    pytest.importorskip("tifffile").imwrite(file, image, **settings)
    return folder


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def run(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on them, from random weights of three channels that it adapts."""
    folder = tmp_path_factory.mktemp("run")
    finetune(RECIPE, dataset=str(arrays), output_dir=str(folder / "output"))
    return folder / "output"


def test_a_run_records_what_it_found_and_answers_alike_everywhere(run: Path, arrays: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["image_channels"] == CHANNELS and len(recipe["image_mean"]) == CHANNELS
    config = json.loads((run / "config.json").read_text())
    assert config["image_channels"] == config["num_channels"] == CHANNELS
    processor = json.loads((run / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == recipe["image_mean"] and not processor["do_rescale"]
    result = evaluate(str(run), dataset=str(arrays))
    files = sorted((arrays / "test").rglob("*.npy"))
    answers = predict(str(run), [str(file) for file in files])
    assert result.metrics["accuracy"] == 1
    assert [answer.label for answer in answers] == [file.parent.name for file in files]
    for name in ("augmented.jpg", "report.html"):
        assert (run / name).is_file()
    card = (run / "README.md").read_text()
    assert "from hf_finetune import predict" in card and "`pipeline` opens no such images" in card
    assert "pipeline(" not in card


def test_the_figures_of_a_run_are_those_of_stats(run: Path, arrays: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    stats = dataset_stats(str(arrays), split="train", validation_fraction=0)
    pixels = np.stack([np.load(file) for file in (arrays / "train").rglob("*.npy")])
    np.testing.assert_allclose(stats.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(stats.std, pixels.std(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(recipe["image_mean"], stats.mean, rtol=0.05)  # of train without what is held out
    text = stats.text()
    assert f"image_channels: {CHANNELS}" in text
    pasted = yaml.safe_load(text.split("In a recipe:")[1])
    assert pasted["image_mean"] == stats.image_mean and len(pasted["image_std"]) == CHANNELS


def test_a_checkpoint_of_three_channels_is_adapted_and_trained_on_tiffs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tifffile")
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET)).save_pretrained(tmp_path / "base")
    settings = {**RECIPE, "model_type": None, "model_config": None, "model_name_or_path": str(tmp_path / "base")}
    folder = make_folder(tmp_path / "tiffs", ".tif")
    with caplog.at_level("INFO", "hf_finetune"):
        result = finetune(settings, dataset=str(folder), output_dir=str(tmp_path / "output"))
    assert "adapted from 3 to 13 channels, its kernels repeated and scaled by 3/13" in caplog.text
    assert "Images have 13 channels of uint16" in caplog.text
    assert re.search(r"Measured on \d+ training images, seed 42, in the units of the files: image_mean: ", caplog.text)
    assert result.metrics["test_accuracy"] == 1
    # What was trained brings its own figures, and nothing is measured or adapted again.
    caplog.clear()
    again = {**settings, "model_name_or_path": str(tmp_path / "output"), "train_transforms": ["RandomGrayscale"]}
    with caplog.at_level("INFO", "hf_finetune"), pytest.raises(UserError, match="RandomGrayscale is for RGB"):
        finetune(again, dataset=str(folder), output_dir=str(tmp_path / "again"))
    assert "Model: " in caplog.text and "Measured" not in caplog.text and "adapted" not in caplog.text


def test_one_channel_a_frozen_backbone_and_a_head_of_its_own(tmp_path: Path) -> None:
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET)).save_pretrained(tmp_path / "base")
    settings = {**RECIPE, "model_type": None, "model_config": None, "model_name_or_path": str(tmp_path / "base")}
    folder = make_folder(tmp_path / "one", channels=1)
    output = str(tmp_path / "output")
    finetune(settings, dataset=str(folder), output_dir=output, freeze="backbone", head="mlp", num_train_epochs=1)
    saved = json.loads((tmp_path / "output" / "config.json").read_text())
    assert saved["image_channels"] == saved["vision_config"]["num_channels"] == 1 and "custom_pipelines" not in saved
    files = [str(file) for file in sorted((folder / "test").rglob("*.npy"))]
    answers = evaluate(output, dataset=str(folder))
    assert [answer.label for answer in predict(output, files)] == [
        answers.label_names[class_id] for class_id in answers.predictions
    ]


def test_an_onnx_file_classifies_the_same_files(run: Path, arrays: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="with_preprocessing is for RGB of 8 bits"):
        export(str(run), output=str(tmp_path / "model.onnx"), with_preprocessing=True)
    export(str(run), output=str(tmp_path / "model.onnx"))
    files = [str(file) for file in sorted((arrays / "test").rglob("*.npy"))[::3]]
    ours, theirs = (predict(model, files) for model in (str(run), str(tmp_path / "model.onnx")))
    for own, other in zip(ours, theirs, strict=True):
        assert own.label == other.label and own.score == pytest.approx(other.score, abs=1e-4)


def test_heat_maps_are_drawn_over_three_of_the_channels(run: Path, arrays: Path, tmp_path: Path) -> None:
    (explanation,) = explain(str(run), str(arrays / "test" / "water" / "0.npy"), output=str(tmp_path / "maps"))
    assert explanation.label == "water" and explanation.view.mode == "RGB"


def test_a_table_of_paths_and_a_wrong_number_of_channels(run: Path, arrays: Path, tmp_path: Path) -> None:
    rows = [f"{file},{file.parent.name}" for file in sorted((arrays / "test").rglob("*.npy"))]
    table = tmp_path / "test.csv"
    table.write_text("\n".join(["image,label", *rows]))
    assert evaluate(str(run), dataset=str(table)).metrics["accuracy"] == 1
    other = make_folder(tmp_path / "four", channels=4)
    with pytest.raises(UserError, match=r": images have 4 channels \(train/field/0.npy\), and the model takes 13; use"):
        evaluate(str(run), dataset=str(other))
    np.save(other / "train" / "water" / "0.npy", np.zeros((16, 16, 5), np.uint8))
    with pytest.raises(UserError, match="1 image cannot be read: train/water/0.npy"):
        finetune(RECIPE, dataset=str(other), output_dir=str(tmp_path / "a"))
    (answer,) = predict(str(run), str(other / "train" / "water" / "1.npy"))
    assert answer.error is not None and "it has 4 channels instead of 13" in answer.error


def test_models_and_images_of_other_channels_do_not_go_together(
    run: Path, arrays: Path, image_folder: Path, tmp_path: Path
) -> None:
    names = {0: "field", 1: "water"}
    of_rgb = ResNetForImageClassification(
        ResNetConfig(**TINY_RESNET, id2label=names, label2id={"field": 0, "water": 1})
    )
    with pytest.raises(UserError, match="The model takes images of RGB, and those of .* are read as 13 channels"):
        evaluate(of_rgb, dataset=str(arrays))


def test_a_folder_of_other_channels_is_told_in_one_line(
    run: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever states the number of channels is named: the user, the model, or the network that is trained again."""
    told = f"{image_folder}: images have 3 channels (train/blue/00.png), and "
    again = {**RECIPE, "model_type": None, "model_config": None, "model_name_or_path": str(run)}
    stated = "image_channels is 13; leave image_channels out, or use another dataset."
    taken = "the model takes 13; use another model, or another dataset."
    folder = {"dataset": str(image_folder)}
    for call, end in (
        (lambda: finetune(RECIPE, **folder, output_dir=str(tmp_path / "a"), image_channels=13), stated),
        (lambda: evaluate(str(run), **folder, image_channels=13), stated),
        (lambda: evaluate(str(run), **folder), taken),
        (lambda: export(str(run), **folder, output=str(tmp_path / "model.onnx")), taken),
        (
            lambda: finetune(again, **folder, output_dir=str(tmp_path / "a")),
            "the network was trained on 13; use another network, or another dataset.",
        ),
    ):
        with pytest.raises(UserError) as refused:
            call()
        assert str(refused.value) == told + end
    photo = image_folder / "train" / "blue" / "00.png"
    for words in ([], ["--output", str(tmp_path / "tables"), "--format", "csv"]):
        assert main(["predict", str(run), str(image_folder / "train"), *words]) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line == (
            f"hf-finetune: error: Images have 3 channels ({photo}), and the model takes 13; use another model, or other"
            " images."
        )
    assert not list((tmp_path / "tables").glob("part-*"))


def test_some_images_of_other_channels_are_named(run: Path, arrays: Path, image_folder: Path, tmp_path: Path) -> None:
    photo = image_folder / "train" / "blue" / "00.png"
    table = tmp_path / "mixed.csv"
    table.write_text(f"image,label\n{photo},field\n{arrays / 'test' / 'water' / '0.npy'},water\n")
    with pytest.raises(UserError, match="1 image cannot be read: .*00.png .it has 3 channels instead of 13."):
        evaluate(str(run), dataset=str(table))
    turned = PIL.Image.new("RGB", (8, 8))
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    answers = predict(str(run), [str(tmp_path / "turned.jpg"), str(arrays / "test" / "water" / "0.npy")])
    assert "it has 3 channels instead of 13" in str(answers[0].error) and answers[1].label == "water"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_transforms": [{"RandomCrop": {"size": 16}}, "ColorJitter"]}, "ColorJitter is for RGB of 8 bits"),
        ({"train_transforms": [{"RandomApply": {"transforms": ["RandomEqualize"]}}]}, "RandomEqualize is for RGB"),
        ({"augmentation": "medium", "train_transforms": None}, "TrivialAugmentWide is for RGB of 8 bits"),
        ({"image_mean": [1, 2, 3]}, "image_mean has 3 figures; use one for each of the 13 channels"),
        ({"image_std": [0.0]}, "image_std is .0.0.; use figures above 0, in the units of the files"),
        ({"image_channels": 0}, "image_channels is 0; use a number of at least 1"),
        ({"image_channels": 13, "streaming": True}, "image_channels is for images that are not streamed"),
        ({"image_channels": 13, "value_range": [0, 4095]}, "value_range makes 8 bits of more"),
        ({"decode_cache": "always"}, "decode_cache keeps RGB"),
    ],
)
def test_mistakes_are_told_in_one_line(settings: dict[str, Any], message: str, arrays: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        finetune({**RECIPE, **settings}, dataset=str(arrays), output_dir=str(tmp_path / "a"))


def test_an_array_that_does_not_show_its_channels_needs_their_number(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            np.save(tmp_path / name / f"{number}.npy", np.zeros((9, 9, 9), np.uint8))
    with pytest.raises(UserError, match="has the shape 9 x 9 x 9, which does not show .* use image_channels N"):
        dataset_stats(str(tmp_path))
    assert dataset_stats(str(tmp_path), image_channels=9).image_channels == 9


def test_transforms_of_geometry_and_mixing_keep_the_units() -> None:
    steps: list[Any] = [
        {"RandomResizedCrop": {"size": 16, "scale": [0.5, 1.0]}},
        {"RandomRotation": {"degrees": 20, "fill": 3000}},
        "RandomVerticalFlip",
        {"GaussianBlur": {"kernel_size": 3}},
        {"RandomErasing": {"p": 0.5, "value": "random"}},
        "MixUp",
    ]
    transforms = build_train_transforms(steps, uniform=True, channels=CHANNELS)
    images = torch.full((4, CHANNELS, 20, 20), 3000.0) + torch.arange(CHANNELS)[:, None, None]
    keys = torch.arange(4)
    single = torch.stack(
        [transforms.apply_to_image(image, key) for image, key in zip(images, [0, 1, 2, 3], strict=True)]
    )
    changed = transforms.apply_to_batch(single, keys)
    assert changed.dtype == torch.float32 and changed.shape == (4, CHANNELS, 16, 16)
    assert changed.min() >= 3000 - 1e-2 and changed.max() <= 3012 + 1e-2  # no level is clipped to 255
    mixed, labels = transforms.apply_to_normalized(changed - 3006, torch.arange(4), keys, 4)
    assert mixed.shape == changed.shape and labels.shape == (4, 4)


@pytest.mark.slow
def test_adapters_resume_merge_and_answer_alike(run: Path, arrays: Path, tmp_path: Path, datasets_cache: Path) -> None:
    pytest.importorskip("peft")
    settings = {**RECIPE, "model_type": None, "model_config": None, "model_name_or_path": str(run), "peft": {"r": 2}}
    settings |= {"num_train_epochs": 2, "dataset": str(arrays), "head_init": "random"}
    whole = finetune(settings, output_dir=str(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        finetune(settings, output_dir=str(tmp_path / "resumed"), callbacks=[StopAfterAStep()])
    resumed = finetune(settings, output_dir=str(tmp_path / "resumed"))
    own, other = ({**result.model.state_dict()} for result in (whole, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())
    files = [str(file) for file in sorted((arrays / "test").rglob("*.npy"))[::4]]
    merged = export(tmp_path / "whole", format="safetensors", output=tmp_path / "merged")
    for answer, same in zip(predict(tmp_path / "whole", files), predict(merged, files), strict=True):
        assert answer.label == same.label and answer.score == pytest.approx(same.score, abs=1e-5)
