"""`predict` on files and folders, in its three formats, and what it says of files that are no images."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil

import PIL.Image
import pytest
from transformers import pipeline

from hf_finetune import predict
from hf_finetune.cli.main import main
from hf_finetune.data.image_list import find_images
from hf_finetune.data.sources.folder import read_class_folders
from hf_finetune.errors import UserError


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


def test_a_folder_gives_the_images_that_training_would_read(tmp_path):
    for name in (
        "cats/1.JPG",
        "dogs/2.png",
        "dogs/._2.png",
        ".ipynb_checkpoints/2.png",
        "__MACOSX/2.png",
        "dogs/a.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "cats" / "3.png")
    notes: list[str] = []
    images = list(find_images([tmp_path], notes))
    trained_on = read_class_folders(tmp_path)
    assert [str(path) for path in images] == [image["path"] for image in trained_on.splits["train"]["image"]]
    assert notes == [f"{tmp_path}: {note}" for note in trained_on.notes]
    assert notes[1] == f"{tmp_path}: Pipes, sockets and devices are not read: cats/3.png."


def test_what_is_left_out_is_said_beside_the_answers(finished_run, image_folder, tmp_path, capsys):
    shutil.copy(image_folder / "test" / "red" / "00.png", tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    capsys.readouterr()
    assert main(["predict", str(finished_run), str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    assert [answer["file"] for answer in json.loads(captured.out)] == [f"{tmp_path}/a.png"]
    assert f"hf-finetune: {tmp_path}: Pipes, sockets and devices are not read: b.png." in captured.err


@pytest.mark.parametrize("ending", ["json", "csv", "txt"])
def test_names_that_are_not_utf_8_are_escaped_in_a_file(finished_run, image_folder, tmp_path, ending):
    latin = os.fsencode(tmp_path) + b"/b\xe4d.png"
    shutil.copy(image_folder / "test" / "red" / "00.png", latin)
    output = tmp_path / f"answers.{ending}"
    assert main(["predict", str(finished_run), str(tmp_path), "--output", str(output)]) == 0
    text = output.read_text(encoding="utf-8")
    assert r"b\udce4d.png" in text
    if ending == "json":
        assert os.fsencode(json.loads(text)[0]["file"]) == latin


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "There is no file or folder"),
        ("empty", "holds no images"),
        ("pipe.png", "pipe.png is a pipe, a socket or a device"),
        ("", 'An empty path ("") is neither'),
        (" ", 'An empty path ("") is neither'),
    ],
)
def test_paths_that_lead_to_no_image(tmp_path, name, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=re.escape(message)):
        list(find_images([name], []))
    with pytest.raises(UserError, match=re.escape(message)):
        predict("resnet_small_cifar10", name)


def test_a_mistake_in_a_path_is_one_line(finished_run, capsys):
    capsys.readouterr()
    assert main(["predict", str(finished_run), ""]) == 2
    error = capsys.readouterr().err
    assert 'An empty path ("")' in error and error.count("\n") == 1


def test_pages_that_are_not_used_are_counted(finished_run, tmp_path, capsys, caplog):
    page = PIL.Image.new("RGB", (16, 16), (200, 50, 40))
    page.save(tmp_path / "one.png")
    page.save(tmp_path / "many.tif", save_all=True, append_images=[page, page])
    capsys.readouterr()
    assert main(["predict", str(finished_run), str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) == 2
    assert "hf-finetune: 1 of 2 images has more than one page or frame; the first is used." in printed.err
    with caplog.at_level("WARNING", "hf_finetune"):
        assert len(predict(finished_run, [tmp_path, page])) == 3
    assert caplog.messages == ["1 of 3 images has more than one page or frame; the first is used."]


def test_a_photo_whose_second_image_is_odd_alarms_nobody(finished_run, tmp_path, capsys, recwarn):
    page, photo = PIL.Image.new("RGB", (16, 16), (200, 50, 40)), io.BytesIO()
    page.save(photo, "MPO", save_all=True, append_images=[page])
    content = photo.getvalue()
    index = content.index(b"MPF\0")
    (tmp_path / "odd.jpg").write_bytes(content[: index + 4] + b"XX" + content[index + 6 :])
    assert main(["predict", str(finished_run), str(tmp_path)]) == 0
    assert "red" in capsys.readouterr().out and not [warning for warning in recwarn if "MPO" in str(warning.message)]
