"""A model of images with more than 8 bits: trained, saved, reopened, and evaluated with the same range of values."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_finetune import evaluate, finetune, predict
from hf_finetune.errors import UserError
from tests.helpers.tiny import TINY_RECIPE

pytestmark = pytest.mark.slow

LEVELS = {"high": 1240, "low": 1100}


def write_scans(folder: Path, offset: int = 0, dtype: type = np.uint16, suffix: str = "png") -> Path:
    """Write classes that differ by 140 of 4096 levels, which have one high byte."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for name, level in LEVELS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = (generator.normal(level, 20, (16, 16)) + offset).astype(dtype)
                PIL.Image.fromarray(pixels).save(folder / split / name / f"{number}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans"))


RECIPE = {
    **TINY_RECIPE,
    "train_transforms": ["RandomHorizontalFlip"],
    "image_mean": [70],
    "image_std": [10],
    "global_batch_size": 8,
    "num_train_epochs": 10,
    "lr_milestones": [8],
}


@pytest.fixture(scope="module")
def run(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "output"
    result = finetune(RECIPE, dataset=str(scans), output_dir=str(folder))
    assert result.metrics["test_accuracy"] > 0.9
    return folder


def test_the_range_is_saved_and_evaluated_with(scans, run, caplog):
    assert json.loads((run / "config.json").read_text())["value_range"] == [0, 4095]
    assert "scaled as --value_range 0 4095" in (run / "README.md").read_text()
    with caplog.at_level(logging.INFO, "hf_finetune"):
        assert evaluate(str(run), dataset=str(scans), use_cpu=True).metrics["accuracy"] > 0.9
    assert "scaled as --value_range 0 4095" in caplog.text
    images = sorted((scans / "test").glob("*/*.png"))
    predictions = predict(str(run), images)
    assert np.mean([answer.label == path.parent.name for answer, path in zip(predictions, images, strict=True)]) > 0.9


def test_another_range_can_be_stated(scans, run):
    figures = evaluate(str(run), dataset=str(scans), use_cpu=True, value_range=[0, 65535]).metrics
    assert figures["accuracy"] == 0.5  # both classes are 4 of 256


def test_training_from_the_model_keeps_its_range(scans, run, tmp_path):
    brighter = write_scans(tmp_path / "brighter", offset=4000)
    recipe = {**RECIPE, "model_type": None, "model_config": None, "model_name_or_path": str(run), "max_steps": 1}
    finetune(recipe, dataset=str(brighter), output_dir=str(tmp_path / "again"))
    assert json.loads((tmp_path / "again" / "config.json").read_text())["value_range"] == [0, 4095]
    assert "values outside are clipped" in (tmp_path / "again" / "README.md").read_text()


def test_negative_values_need_a_stated_range(tmp_path):
    scans = write_scans(tmp_path / "ct", offset=-2000, dtype=np.int32, suffix="tif")
    with pytest.raises(UserError, match=r"values -9\d\d to -6\d\d found in .* use value_range="):
        finetune(RECIPE, dataset=str(scans), output_dir=str(tmp_path / "output"))
    assert not (tmp_path / "output").exists()
    result = finetune(RECIPE, dataset=str(scans), output_dir=str(tmp_path / "output"), value_range=[-1000, 400])
    assert result.metrics["test_accuracy"] > 0.9


def test_predict_says_that_the_model_knows_no_range(finished_run, tmp_path, caplog):
    PIL.Image.fromarray(np.full((16, 16), 1000, np.uint16)).save(tmp_path / "scan.png")
    predict(str(finished_run), [tmp_path / "scan.png", tmp_path / "scan.png"])
    assert caplog.text.count("has more than 8 bits") == 1
