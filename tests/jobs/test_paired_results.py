"""Two evaluations of which each leaves out other images: only images that both classified are compared."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from hf_finetune import compare, finetune
from hf_finetune.errors import UserError
from hf_finetune.evaluation.paired import PairedCounts
from hf_finetune.jobs.evaluation_result import EvaluationResult
from hf_finetune.jobs.paired_results import PairedResults
from tests.helpers.mistakes import refuse
from tests.helpers.tiny import TINY_RECIPE

SETTINGS: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True}


def evaluation(rows: list[int], predictions: list[int], labels: list[int]) -> EvaluationResult:
    return EvaluationResult(
        {}, np.array(predictions), np.array(labels), np.zeros(len(rows)), ["a", "b"], rows=np.array(rows),
        slice_values={"camera": [f"of {row}" for row in rows]}, image_name="place {}".format,
    )  # fmt: skip


def test_images_are_matched_by_their_rows_of_the_source() -> None:
    # As many images of each, of which two are the same; row 3 could not be read when its batch was due.
    first = evaluation([7, 5, 3, 1], [0, 1, 0, 1], [0, 1, -100, 0])
    second = evaluation([7, 1, 3, 2], [1, 0, 1, 1], [0, 0, 1, 1])
    results = PairedResults.of(first, second)
    assert [places.tolist() for places in results.places] == [[0, 3], [0, 1]] and results.only == (1, 2)
    assert results.counts() == PairedCounts(0, 1, 1, 0)
    assert [list(row.values()) for row in results.disagreements()] == [
        [0, "place 0", "a", "a", "b", "first"],
        [3, "place 3", "a", "b", "a", "second"],
    ]
    assert results.per_class() == [{"name": "a", "images": 2, "first": 0.5, "second": 0.5, "difference": 0.0}]
    ((name, rows),) = results.slices().items()
    assert name == "camera" and [(row["value"], row["images"]) for row in rows] == [("(2 other values)", 2)]


def test_models_that_read_no_image_in_common_are_refused() -> None:
    with pytest.raises(UserError, match="^No image of test can be read by both models"):
        PairedResults.of(evaluation([0, 1], [0, 0], [0, -100]), evaluation([1, 0], [0, 0], [1, -100]))


def test_a_model_of_one_channel_and_one_of_three(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first cannot read RGB files, which the second can: half of the test images."""
    generator = np.random.default_rng(0)
    for split, name, value in (
        (split, *one) for split in ("train", "test") for one in {"blue": 60, "green": 130, "red": 200}.items()
    ):
        folder = tmp_path / "images" / split / name
        folder.mkdir(parents=True)
        for number in range(6):
            shape = (16, 16, 3) if split == "test" and number % 2 else (16, 16)
            pixels = np.clip(value + generator.normal(0, 20, shape), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    recipe = {key: value for key, value in TINY_RECIPE.items() if key not in ("image_mean", "image_std")}
    grey, dataset = str(tmp_path / "grey"), str(tmp_path / "images")
    training = {"on_bad_image": "skip", "image_channels": 1, "num_train_epochs": 1, "lr_milestones": []}
    finetune({**recipe, **training}, dataset=dataset, output_dir=grey)
    settings = {**SETTINGS, "dataset": dataset, "on_bad_image": "skip"}
    differing = tmp_path / "differing.csv"
    result = compare(grey, str(finished_run), output=str(differing), **settings)
    assert len(result.first.labels) == 9 and len(result.second.labels) == 18 and result.counts.images == 9
    assert result.notes == ("Note: 9 images are left out: the first model could not read 9 of them, the second 0.",)
    again = compare(str(finished_run), grey, **settings)
    assert again.counts == PairedCounts(
        result.counts.both, result.counts.only_second, result.counts.only_first, result.counts.neither
    )
    rows = list(csv.DictReader(differing.open()))
    assert rows and all(int(Path(row["image"]).stem) % 2 == 0 for row in rows)
    assert all(f"/{row['label']}/" in row["image"] and row[row["correct"]] == row["label"] for row in rows)
    line = refuse(capsys, "compare", grey, str(finished_run), "--dataset", dataset, "--use_cpu")
    assert "--on_bad_image skip" in line
