"""slice_columns: the accuracy of each camera, in the report, the model card, and of an evaluation."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from hf_finetune import compare, finetune
from hf_finetune.cli.main import main
from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.errors import UserError
from hf_finetune.jobs.evaluate import evaluate_model
from hf_finetune.reports.answers import read_answers
from tests.helpers.tiny import write_recipe


@pytest.fixture(scope="module")
def table(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of images with the columns camera and year; half of the second camera's test labels are wrong."""
    folder = tmp_path_factory.mktemp("table")
    shutil.copytree(image_folder, folder / "images")
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "split", "camera", "year"])
        for number, path in enumerate(sorted((folder / "images").rglob("*.png"))):
            split, label = path.relative_to(folder / "images").parts[:2]
            camera = "one" if number % 2 else "two"
            wrong = split == "test" and camera == "two" and number % 4 == 0
            writer.writerow(
                [path.relative_to(folder), "red" if wrong else label, split, camera, 2020 if number % 3 else ""]
            )
    return folder / "table.csv"


def test_values_of_columns_follow_the_rows_of_each_split(table):
    arguments = DataArguments(dataset=str(table), slice_columns=["camera", "year"], validation_fraction=0.25)
    data = load_image_dataset(arguments, 0)
    assert set(data.slices) == {"train", "validation", "test"}
    assert data.slices["validation"] is data.slices["train"]
    assert set(data.slices["test"]["camera"].to_pylist()) == {"one", "two"}
    assert set(data.slices["train"]["year"].to_pylist()) <= {"2020", "2020.0", "(none)"}
    assert data.label_names == ["blue", "green", "red"]  # the column of labels is still found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slice_columns": ["kamera"]}, 'slice_columns: .* has no column "kamera". Did you mean "camera"?'),
        (
            {"slice_columns": ["camera", "label"]},
            "slice_columns: label is the column of labels of .* --label_column NAME",
        ),
        ({"group_column": "label"}, "group_column: label is the column of labels of .*table.csv; use another column"),
        ({"slice_columns": ["camera"], "streaming": True}, "slice_columns are read before training"),
    ],
)
def test_what_cannot_be_a_slice_is_refused(table, settings, message):
    with pytest.raises(UserError, match=message.replace("?", "\\?")):
        load_image_dataset(DataArguments(dataset=str(table), **settings), 0)


def test_another_column_of_labels_may_be_named_beside_it(table):
    arguments = DataArguments(dataset=str(table), slice_columns=["label"], label_column="camera")
    data = load_image_dataset(arguments, 0)
    assert data.label_names == ["one", "two"] and set(data.slices["test"]["label"].to_pylist()) == {
        "blue",
        "green",
        "red",
    }


@pytest.mark.slow
def test_a_run_and_an_evaluation_have_the_figures_of_slices(table, tmp_path, capsys):
    output = tmp_path / "output"
    settings = {"dataset": str(table), "slice_columns": ["camera"]}
    finetune(str(write_recipe(tmp_path)), output_dir=str(output), **settings)
    answers = read_answers(output / "predictions.csv", ["blue", "green", "red"], several=False)
    evaluated = evaluate_model(str(output), use_cpu=True, **settings)
    rows = {row["value"]: row for row in evaluated.slices["camera"]}
    for camera, row in rows.items():
        correct = [
            is_correct
            for is_correct, value in zip(answers.correct, answers.slices["camera"], strict=True)
            if value == camera
        ]
        assert (row["images"], row["correct"]) == (len(correct), sum(correct))
    assert rows["one"]["accuracy"] > rows["two"]["accuracy"]
    assert "camera" in evaluated.report and f"{100 * rows['two']['accuracy']:.2f} %" in evaluated.report
    assert json.loads(json.dumps(evaluated.as_mapping()["slices"]))["camera"][0]["images"] == 12
    command = ["evaluate", str(output), "--dataset", str(table), "--slice_columns", "camera", "--use_cpu", "--json"]
    capsys.readouterr()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["slices"] == json.loads(json.dumps(evaluated.slices))
    compared = compare(str(output), str(output), use_cpu=True)  # by the columns of the recipe
    assert [(row["value"], row["images"]) for row in compared.slices()["camera"]] == [
        (row["value"], row["images"]) for row in evaluated.slices["camera"]
    ]
    assert "## Limits" in (output / "README.md").read_text()
    assert "Slices" in (output / "report.html").read_text()
