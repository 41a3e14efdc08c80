"""Each `resize_mode`, square or not, on long images of both orientations: a pipeline gives what was evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from datasets import load_dataset
from transformers import BitImageProcessor, pipeline

from hf_finetune import UserError, evaluate, export, finetune, predict
from tests.helpers.tiny import write_recipe

pytestmark = pytest.mark.slow


def write_long_images(folder: Path, shapes: list[tuple[int, int]], suffix: str) -> Path:
    """Write images whose class shows at their ends only, whichever way they are flipped."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for label in ("marked", "plain"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                height, width = shapes[number % len(shapes)]
                pixels = generator.normal(60, 10, (height, width, 3))
                long = pixels if height > width else pixels.swapaxes(0, 1)
                edge = len(long) // 8
                if label == "marked":
                    long[:edge] += 150
                    long[-edge:] += 150
                image = PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(folder / split / label / f"{number}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def long_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shapes = [(300, 60), (60, 300), (49, 49), (33, 200)]
    return write_long_images(tmp_path_factory.mktemp("long"), shapes, "jpg")


@pytest.fixture(scope="module")
def uniform_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_images(tmp_path_factory.mktemp("uniform"), [(24, 160)], "png")


def log_probabilities_of(output: Path, files: list[Path]) -> tuple[np.ndarray, float]:
    """Return what `pipeline` gives for each image, (images, 2), and the cross entropy of that."""
    classifier = pipeline("image-classification", model=str(output), device="cpu", function_to_apply="none")
    assert type(classifier.image_processor) is BitImageProcessor
    logits = [{entry["label"]: entry["score"] for entry in answer} for answer in classifier(list(map(str, files)))]
    array = np.array([[row["marked"], row["plain"]] for row in logits])
    rows = array - np.logaddexp(array[:, 0], array[:, 1])[:, None]
    truth = [row[int(file.parent.name == "plain")] for row, file in zip(rows, files, strict=True)]
    return rows, -float(np.mean(truth))


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [16, [16, 40]])
@pytest.mark.parametrize("kind", ["long_images", "uniform_images"])
def test_pipeline_evaluate_and_predict_agree_with_the_run(kind, size, mode, tmp_path, request):
    images = request.getfixturevalue(kind)
    changes: dict[str, Any] = {"train_transforms": None, "crop_pct": None, "image_size": size, "num_train_epochs": 1}
    recipe = write_recipe(tmp_path, **changes, resize_mode=mode)
    output = tmp_path / "output"
    result = finetune(str(recipe), dataset=str(images), output_dir=str(output))

    files = sorted((images / "test").rglob("*.*"))
    log_probabilities, loss = log_probabilities_of(output, files)
    assert loss == pytest.approx(result.metrics["test_loss"], abs=1e-5)
    assert evaluate(str(output), dataset=str(images), use_cpu=True).metrics["loss"] == pytest.approx(loss, abs=1e-5)
    for row, answer in zip(log_probabilities, predict(str(output), files, top_k=2), strict=True):
        scores = dict(answer.classes)
        assert np.log([scores["marked"], scores["plain"]]) == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("way", ["features of a frozen backbone", "a stream"])
@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_features_and_streams_are_prepared_in_the_same_way(mode, way, long_images, tmp_path):
    dataset = str(long_images)
    changes: dict[str, Any] = {"train_transforms": None, "crop_pct": None, "image_size": [16, 40], "resize_mode": mode}
    if way == "a stream":
        folder = load_dataset("imagefolder", data_dir=dataset, cache_dir=str(tmp_path / "cache"))
        for split, rows in folder.items():
            rows.to_parquet(str(tmp_path / "shards" / f"{split}-00000-of-00001.parquet"))
        changes |= {"streaming": True, "num_train_epochs": 1, "shuffle_buffer_size": 20}
        dataset = str(tmp_path / "shards")
    else:
        changes |= {"freeze": ["backbone"]}
    output = tmp_path / "output"
    result = finetune(str(write_recipe(tmp_path, **changes)), dataset=dataset, output_dir=str(output))
    _, loss = log_probabilities_of(output, sorted((long_images / "test").rglob("*.*")))
    assert loss == pytest.approx(result.metrics["test_loss"], abs=1e-5)


@pytest.mark.parametrize("cache", ["always", "never"])
def test_images_of_one_size_of_which_padding_leaves_nothing_end_in_one_line(cache, tmp_path):
    images = write_long_images(tmp_path / "images", [(1, 200)], "png")
    ordinary = write_long_images(tmp_path / "ordinary", [(24, 24)], "png")
    changes: dict[str, Any] = {"train_transforms": None, "crop_pct": None, "image_size": 32, "num_train_epochs": 1}
    recipe = str(write_recipe(tmp_path, **changes, resize_mode="pad", on_bad_image="skip", decode_cache=cache))
    told = r"^[^\n]*images: all images have 1 x 200 pixels, of which padding leaves nothing; [^\n]*squash\.$"
    with pytest.raises(UserError, match=told):
        finetune(recipe, dataset=str(images), output_dir=str(tmp_path / "output"))
    finetune(recipe, dataset=str(ordinary), output_dir=str(tmp_path / "output"))
    with pytest.raises(UserError, match=told):
        evaluate(str(tmp_path / "output"), dataset=str(images), use_cpu=True, on_bad_image="skip", decode_cache=cache)


def test_an_exported_rectangle_answers_as_the_folder_does(long_images, tmp_path):
    changes: dict[str, Any] = {"train_transforms": None, "crop_pct": None, "image_size": [16, 40], "resize_mode": "pad"}
    recipe = write_recipe(tmp_path, **changes, num_train_epochs=1)
    output = tmp_path / "output"
    finetune(str(recipe), dataset=str(long_images), output_dir=str(output))
    export(str(output), format="onnx", output=str(tmp_path / "model.onnx"))
    files = sorted((long_images / "test").rglob("*.*"))
    log_probabilities, _ = log_probabilities_of(output, files)
    for row, answer in zip(log_probabilities, predict(str(tmp_path / "model.onnx"), files, top_k=2), strict=True):
        scores = dict(answer.classes)
        assert np.log([scores["marked"], scores["plain"]]) == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize(("mode", "learns"), [("crop", False), ("squash", True), ("pad", True)])
def test_what_shows_at_the_ends_is_learned_where_they_are_seen(mode, learns, uniform_images, tmp_path):
    changes = {"train_transforms": None, "crop_pct": None, "image_size": 32, "num_train_epochs": 12}
    recipe = write_recipe(tmp_path, **changes, resize_mode=mode, lr_milestones=[11])
    result = finetune(str(recipe), dataset=str(uniform_images), output_dir=str(tmp_path / "output"), seed=1)
    assert (result.metrics["test_accuracy"] > 0.9) is learns


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("vit", {"image_size": [16, 40], "patch_size": 8}),
        (
            "swin",
            {
                "image_size": [16, 40],
                "patch_size": 4,
                "window_size": 2,
                "embed_dim": 8,
                "depths": [1],
                "num_heads": [2],
            },
        ),
    ],
)
def test_a_transformer_that_is_built_for_a_rectangle_trains_on_it(model_type, settings, uniform_images, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = {**(sizes if model_type == "vit" else {}), **settings}
    changes = {"train_transforms": None, "crop_pct": None, "image_size": [16, 40], "num_train_epochs": 1}
    recipe = write_recipe(tmp_path, **changes, resize_mode="squash", model_type=model_type, model_config=config)
    result = finetune(str(recipe), dataset=str(uniform_images), output_dir=str(tmp_path / "output"))
    assert result.metrics["test_samples"] == 12


@pytest.mark.parametrize(
    ("model_type", "config", "reason"),
    [
        (
            "vit",
            {
                "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                "patch_size": 8,
            },
            r"\(16\*40\) doesn't match model \(16\*16\)",
        ),
        (
            "swin",
            {"patch_size": 2, "window_size": 8, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]},
            "The size of tensor a",
        ),
    ],
)  # fmt: skip
def test_a_transformer_that_does_not_take_the_size_is_refused(model_type, config, reason, uniform_images, tmp_path):
    changes = {"train_transforms": None, "crop_pct": None, "image_size": [16, 40], "model_type": model_type}
    recipe = write_recipe(tmp_path, **changes, model_config={**config, "image_size": 16 if model_type == "vit" else 40})
    refusal = rf"^A first batch of images of 16 x 40 pixels does not go through [^\n]*{reason}[^\n]*model_config\.$"
    with pytest.raises(UserError, match=refusal):
        finetune(str(recipe), dataset=str(uniform_images), output_dir=str(tmp_path / "output"))
