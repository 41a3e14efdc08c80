"""Reports are made of the folder of a run alone, keep within their size, and show names as text."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import hf_finetune
from hf_finetune.cli.main import main
from hf_finetune.errors import UserError
from hf_finetune.jobs.report import report_run
from hf_finetune.pages.page import MOST_BYTES
from hf_finetune.reports.answers import read_answers
from hf_finetune.reports.choice import choose_images
from hf_finetune.reports.heat_maps import HeatMapsOfPage
from hf_finetune.reports.network import RunNetwork
from hf_finetune.reports.page import write_report
from tests.helpers.reported import noise, random_answers, write_run

HOSTILE = ["<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", "=1+1", '"&amp;', "猫"]


class Text(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def images_of(path: Path) -> dict[str, list[str]]:
    """Return the images of a page with their lines, by key."""
    return json.loads(re.search(r'id="images">(.*?)</script>', path.read_text(encoding="utf-8"))[1])


def test_names_of_classes_and_files_are_text(tmp_path):
    run = write_run(tmp_path, random_answers(HOSTILE, 60), notes=HOSTILE, command=HOSTILE[0], title=HOSTILE[1])
    write_report(run, run / "report.html", noise)
    page = Text(run / "report.html")
    assert page.tags.count("script") == 2 and "<script>alert(1)</script> taken for" not in page.text[:100]
    assert page.text.count(HOSTILE[0]) > 5 and page.text.count(HOSTILE[1]) > 5 and "猫" in page.text
    assert 30 < page.tags.count("img") < 35  # 10 mistakes and 24 least sure, but for the one that cannot be read


@pytest.mark.parametrize(
    ("classes", "images"), [(1, 3), (30, 3_000), pytest.param(1_200, 6_000, marks=pytest.mark.slow)]
)
def test_the_page_is_bounded_whatever_the_dataset_is(tmp_path, classes, images):
    names = [f"{'a long name of a class ' * 8}{number}" for number in range(classes)]
    run = write_run(tmp_path, random_answers(names, images))
    write_report(run, run / "report.html", lambda places: noise(places, side=160))
    text = (run / "report.html").read_bytes()
    assert len(text) < MOST_BYTES / 2
    assert (b'<table class="matrix">' in text) == (classes <= 30)


def test_the_figures_of_the_page_are_those_of_the_answers(tmp_path):
    names = ["ant", "bee", "cat"]
    answers = random_answers(names, 400)
    run = write_run(tmp_path, answers, warnings=["Warning: look."])
    write_report(run, run / "report.html", noise)
    text = " ".join(Text(run / "report.html").text.split())
    assert f"{100 * answers.correct.mean():.2f} %" in text and "Warning: look." in text
    wrong = int((~answers.correct).sum())
    assert f"{wrong} of 400 images were given another class" in text
    of_camera = np.arange(400) % 3 == 0
    assert f"{100 * answers.correct[of_camera].mean():.2f} %" in text  # a slice
    assert "75.0 s" in text and "2 h 0 min" in text
    choice = choose_images(answers)
    assert answers.confidences[choice.worst[0]] == answers.confidences[~answers.correct].max()
    assert answers.confidences[choice.least_sure[0]] == answers.confidences.min()
    for (label, prediction), places in choice.cells.items():
        assert len(places) <= 6
        assert all(answers.labels[place] == label and answers.predictions[place] == prediction for place in places)
    keys = images_of(run / "report.html")
    assert keys[str(choice.worst[0])][1] == answers.names[choice.worst[0]]


def test_a_run_s_files_say_what_was_evaluated(finished_run):
    record = json.loads((finished_run / "metrics.json").read_text())
    answers = read_answers(finished_run / "predictions.csv", ["blue", "green", "red"], several=False)
    assert len(answers) == record["metrics"]["test_samples"] == 24
    assert answers.correct.mean() == pytest.approx(record["metrics"]["test_accuracy"])
    assert answers.losses.mean() == pytest.approx(record["metrics"]["test_loss"], abs=1e-5)
    assert all(
        f"test/{answers.label_names[label]}/" in name for name, label in zip(answers.names, answers.labels, strict=True)
    )
    with open(finished_run / "history.csv", newline="") as file:
        assert len([row for row in csv.DictReader(file) if row["eval_accuracy"]]) == 3
    assert record["settings_from"]["num_train_epochs"].endswith("tiny.yaml")
    assert set(record["seconds"]) == {"prepare", "train", "evaluate"}


def test_the_report_of_a_run_is_made_again_from_its_folder(finished_run, image_folder, tmp_path, capsys):
    assert main(["report", str(finished_run), "--output", str(tmp_path / "new" / "page.html")]) == 0
    assert capsys.readouterr().out == f"Written: {tmp_path / 'new' / 'page.html'}.\n"
    again = report_run(finished_run, tmp_path / "once_more.html")
    assert (tmp_path / "new" / "page.html").read_bytes() == again.read_bytes()
    text = Text(finished_run / "report.html").text
    assert "finetune(num_train_epochs=...)" not in text and "tiny.yaml" in text and "hf-finetune train" in text
    assert hf_finetune.report(finished_run, tmp_path / "again.html") == tmp_path / "again.html"


def test_without_the_images_the_earlier_thumbnails_stay_and_the_page_says_so(finished_run, tmp_path, logged):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("checkpoint-*"))
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(re.sub("(?m)^dataset: .*$", "dataset: /no/such/folder", recipe))
    before = {key: value for key, value in images_of(run / "report.html").items() if not key.startswith("map-")}
    report_run(run)
    assert "Note: the images cannot be had any more" in logged[0] and images_of(run / "report.html") == before
    assert "so the thumbnails are those of the report that was here." in Text(run / "report.html").text
    (run / "report.html").write_text("a page of mine")
    report_run(run)
    sources = {key: image[0] for key, image in images_of(run / "report.html").items()}
    assert sources.pop("batch") and not any(sources.values())  # the training batch is a file of the folder
    assert "so there are none." in Text(run / "report.html").text


@pytest.fixture
def with_mistakes(finished_run, tmp_path) -> Path:
    """A run of which the answers for the first three images were wrong."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("checkpoint-*"))
    lines = (run / "predictions.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines[1:4]]
    wrong = [",".join([name, row, label, "red", *rest]) for name, row, label, _, *rest in cells]
    (run / "predictions.csv").write_text("\n".join([lines[0], *wrong, *lines[4:]]) + "\n")
    return run


def test_the_worst_mistakes_have_their_heat_maps_which_stay_without_the_images(with_mistakes):
    report_run(with_mistakes)
    page, text = images_of(with_mistakes / "report.html"), Text(with_mistakes / "report.html").text
    maps = {key: value for key, value in page.items() if key.startswith("heat-")}
    assert len(maps) == 3 and all(value[0].startswith("data:image/jpeg") for value in maps.values())
    assert "beside 3 of them, where the network finds the class of its mistake (Grad-CAM at the layer resnet" in text
    assert all(key in page and page[key.removeprefix("heat-")][1:] == value[1:4] for key, value in maps.items())
    recipe = (with_mistakes / "recipe.yaml").read_text()
    (with_mistakes / "recipe.yaml").write_text(re.sub("(?m)^dataset: .*$", "dataset: /no/such/folder", recipe))
    report_run(with_mistakes)
    again = images_of(with_mistakes / "report.html")
    kept = {key: value[0] for key, value in page.items() if not key.startswith("map-")}
    assert {key: value[0] for key, value in again.items()} == kept


def test_a_map_of_no_class_is_not_called_one_of_a_class():
    sentence = HeatMapsOfPage([3, 5], "attention rollout, which depends on no class").sentence
    assert sentence.startswith("beside 2 of them, what the network attends to (attention rollout,")
    assert "where the network finds the class of its mistake;" in HeatMapsOfPage([3]).sentence


def test_a_network_without_heat_maps_costs_one_line(with_mistakes, monkeypatch):
    monkeypatch.setattr("hf_finetune.reports.network.load_trained", lambda _: 1 / 0)
    report_run(with_mistakes)
    assert (
        "There are no heat maps of the mistakes: ZeroDivisionError: division by zero."
        in Text(with_mistakes / "report.html").text
    )
    (with_mistakes / "model.safetensors").unlink()
    monkeypatch.undo()
    report_run(with_mistakes)
    text = Text(with_mistakes / "report.html").text
    assert "There are no heat maps of the mistakes: " in text and "3 of 24 images" in text


@pytest.mark.parametrize("questions", [0, 1])
def test_heat_maps_stop_when_their_time_is_over(with_mistakes, monkeypatch, questions):
    late = iter([False] * questions + [True] * 1000)
    monkeypatch.setattr(RunNetwork, "late", property(lambda _: next(late)))
    report_run(with_mistakes)
    assert not any(key.startswith("heat-") for key in images_of(with_mistakes / "report.html"))
    assert (
        "There are no heat maps of the mistakes, because there was no time; hf-finetune report RUN draws them."
        in Text(with_mistakes / "report.html").text
    )


def test_images_with_other_labels_are_not_shown(finished_run, image_folder, tmp_path, logged):
    run, images = tmp_path / "run", tmp_path / "images"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("checkpoint-*"))
    shutil.copytree(image_folder, images)
    lines = (run / "predictions.csv").read_text().splitlines()
    (run / "predictions.csv").write_text(
        "\n".join([lines[0], lines[1].replace(",blue,", ",red,", 1), *lines[2:]]) + "\n"
    )
    (run / "recipe.yaml").write_text(
        re.sub("(?m)^dataset: .*$", f"dataset: {images}", (run / "recipe.yaml").read_text())
    )
    report_run(run)
    assert any("has other labels than the run had" in line for line in logged)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("metrics.json", "has no metrics.json; use the folder of a finished run"),
        ("predictions.csv", "has no predictions.csv, which runs of earlier versions did not write"),
        ("config.json", "config.json cannot be read (.*); restore the file"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, lost, message):
    run = write_run(tmp_path / "run", random_answers(["a", "b"], 8))
    (run / lost).unlink()
    with pytest.raises(UserError, match=message):
        report_run(run)
    with pytest.raises(UserError, match="is a folder; use the name of a file"):
        report_run(run, tmp_path)


def test_a_report_that_fails_does_not_cost_the_run(monkeypatch, tmp_path, logged):
    from hf_finetune.training import result

    monkeypatch.setattr("hf_finetune.reports.page.write_report", lambda *arguments: 1 / 0)
    record = SimpleNamespace(predictions={}, recipe=SimpleNamespace(values={}), seconds={})
    result._report(tmp_path, record)
    assert logged == [
        f"Note: report.html could not be written (ZeroDivisionError: division by zero); to try again: hf-finetune"
        f" report {tmp_path}"
    ]
