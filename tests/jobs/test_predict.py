"""`predict` on files and folders, in its three formats, and what it says of files that are no images."""

from __future__ import annotations

import csv
import io
import json

import pytest
from transformers import pipeline

from hf_finetune.cli.main import main


def test_json_agrees_with_the_pipeline(finished_run, image_folder, capsys):
    capsys.readouterr()
    assert main(["predict", str(finished_run), str(image_folder / "test"), "--json", "--top_k", "2"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 24 and all(len(answer["predictions"]) == 2 for answer in answers)
    classifier = pipeline("image-classification", model=str(finished_run), device="cpu")
    for answer in answers[::5]:
        for mine, theirs in zip(answer["predictions"], classifier(answer["file"], top_k=2), strict=True):
            assert mine["label"] == theirs["label"] and mine["score"] == pytest.approx(theirs["score"], abs=1e-4)


def test_csv_has_a_line_for_each_rank(finished_run, image_folder, capsys):
    capsys.readouterr()
    image = image_folder / "test" / "red" / "00.png"
    assert main(["predict", str(finished_run), str(image), "--csv", "--top_k", "9"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rank"] for row in rows] == ["1", "2", "3"] and {row["file"] for row in rows} == {str(image)}
    assert rows[0]["label"] == "red" and sum(float(row["score"]) for row in rows) == pytest.approx(1, abs=1e-5)


def test_text_names_the_class(finished_run, image_folder, capsys):
    capsys.readouterr()
    assert main(["predict", str(finished_run), str(image_folder / "test" / "blue" / "01.png")]) == 0
    assert capsys.readouterr().out.startswith(f"{image_folder}/test/blue/01.png: blue ")


def test_an_unreadable_file_is_named_and_the_others_are_classified(finished_run, image_folder, tmp_path, capsys):
    (tmp_path / "a.png").write_text("no image")
    (tmp_path / "b.png").write_bytes((image_folder / "test" / "red" / "00.png").read_bytes())
    capsys.readouterr()
    assert main(["predict", str(finished_run), str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path}/b.png: red ") and captured.out.count("\n") == 1
    assert f"{tmp_path}/a.png cannot be read as an image" in captured.err


@pytest.mark.parametrize(("name", "message"), [("nowhere", "There is no file or folder"), (".", "holds no images")])
def test_paths_that_lead_to_no_image(finished_run, tmp_path, name, message, capsys):
    capsys.readouterr()
    assert main(["predict", str(finished_run), str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
