"""A model of images with more than 8 bits: trained, saved, reopened, and evaluated with the same range of values."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
import yaml
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainerCallback, pipeline

from hf_finetune import evaluate, export, finetune, predict
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.hub.files import left_out, pushed_files
from hf_finetune.models.saved_form import save_for_pipeline
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


def test_the_recipe_of_the_run_has_the_range_that_was_found(scans, run, tmp_path):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["value_range"] == [0, 4095]
    brighter = write_scans(tmp_path / "brighter", offset=4000)  # whose own range is another
    finetune(str(run / "recipe.yaml"), dataset=str(brighter), output_dir=str(tmp_path / "again"), max_steps=1)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["value_range"] == [0, 4095]


def test_a_run_that_resumes_has_the_range_that_it_found(scans, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                signal.raise_signal(signal.SIGTERM)

    def start(*callbacks):
        settings = {"dataset": str(scans), "output_dir": str(tmp_path / "output"), "num_train_epochs": 1}
        return finetune(RECIPE, **settings, callbacks=list(callbacks))

    with pytest.raises(Interrupted):
        start(Stop())
    recipe = (tmp_path / "output" / "recipe.yaml").read_text()
    assert yaml.safe_load(recipe)["value_range"] == [0, 4095]
    start()
    assert json.loads((tmp_path / "output" / "config.json").read_text())["value_range"] == [0, 4095]
    assert (tmp_path / "output" / "recipe.yaml").read_text() == recipe


def test_the_pipeline_of_the_folder_gives_what_predict_gives(scans, run, tmp_path, caplog):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        pipeline("image-classification", model=str(run), device="cpu")
    assert "trust_remote_code=True" in (run / "README.md").read_text()
    PIL.Image.fromarray(np.full((16, 16), 70, np.uint8)).save(tmp_path / "8_bits.png")
    float_image = PIL.Image.fromarray(np.full((20, 16), 1200.4, np.float32))
    float_image.save(tmp_path / "float.tif", exif=_turned())
    paths = [str(path) for path in [*sorted((scans / "test").glob("*/*.png")), *tmp_path.glob("*.*")]]
    assert len(paths) == 18
    classifier = pipeline("image-classification", model=str(run), device="cpu", trust_remote_code=True)
    opened = [PIL.Image.open(path) for path in paths]
    for mine, theirs, same in zip(predict(str(run), paths), classifier(paths), classifier(opened), strict=True):
        assert theirs == same
        assert (mine.label, mine.score) == (theirs[0]["label"], pytest.approx(theirs[0]["score"], abs=1e-5))
    with pytest.raises(ValueError, match="takes paths of files and PIL images"):
        classifier("https://example.org/scan.png")


def _turned() -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    return exif


def test_the_code_is_pushed_with_the_model(run):
    names = {path.name for path in pushed_files(run)}
    assert {"wide_pipeline.py", "levels.py"} <= names
    assert left_out(run) == []


def test_a_model_of_8_bits_trained_further_needs_no_code(image_folder, finished_run, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(finished_run)
    model.config.custom_pipelines = {"image-classification": {"impl": "theirs.Pipeline", "pt": []}}
    save_for_pipeline(model, AutoImageProcessor.from_pretrained(finished_run), tmp_path / "saved")
    answer = pipeline("image-classification", model=str(tmp_path / "saved"), device="cpu")
    assert answer(str(image_folder / "test" / "red" / "00.png"))[0]["label"] == "red"


def test_exported_weights_have_the_code_too(run, tmp_path):
    export(str(run), format="safetensors", output=str(tmp_path / "exported"))
    assert (tmp_path / "exported" / "levels.py").is_file() and (tmp_path / "exported" / "wide_pipeline.py").is_file()


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
    assert 'add "value_range": [0, 4095], or what it is, to the config.json of the model' in caplog.text
