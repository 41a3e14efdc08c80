"""`compare` of models that give an image several labels: whole sets, F1 by class, paired figures and slices."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor, set_seed

from hf_finetune import compare, evaluate
from hf_finetune.cli.main import main
from tests.helpers.mistakes import refuse
from tests.helpers.tiny import TINY_RESNET

NAMES = ["cat", "dog", "sofa"]
SETTINGS: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True}
FLAGS = ["--use_cpu", "--disable_tqdm", "--log_level", "error"]


def save_model(folder: Path, names: list[str], thresholds: list[float], noise: float) -> Path:
    """Save a random network whose row of the head for a class depends on the name of the class, with some noise."""
    set_seed(0)
    config = ResNetConfig(
        **TINY_RESNET,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type="multi_label_classification",
        thresholds=thresholds,
    )
    model = ResNetForImageClassification(config)
    set_seed(0)  # again, because a head of more classes draws more
    rows = dict(zip([*NAMES, "tree"], torch.randn(4, 16) + noise * torch.randn(4, 16), strict=True))
    with torch.no_grad():
        model.classifier[1].weight.copy_(torch.stack([rows[name] for name in names]))
        model.classifier[1].bias.zero_()
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two networks; the second has its classes in another order, one more class, and other thresholds."""
    folder = tmp_path_factory.mktemp("models")
    return (
        save_model(folder / "first", NAMES, [0.33, 0.7, 0.734], 0),
        save_model(folder / "second", ["sofa", "tree", "cat", "dog"], [0.73, 0.999, 0.31, 0.72], 0.2),
    )


@pytest.fixture(scope="module")
def table(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that the first model mostly classifies correctly, some only the second, with the camera that took them."""
    folder = tmp_path_factory.mktemp("table")
    generator = np.random.default_rng(0)
    path = folder / "table.jsonl"
    rows: list[dict[str, Any]] = []
    for number in range(60):
        pixels = generator.integers(0, 256, 3) + generator.normal(0, 40, (16, 16, 3))
        PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        camera = "new" if number < 4 else "front" if number % 3 else "back"
        labels = [name for name, has in zip(NAMES, generator.random(3) < 0.5, strict=True) if has]
        rows.append({"image": f"{number}.png", "labels": labels or ["cat"], "camera": camera, "split": "test"})
    path.write_text("\n".join(map(json.dumps, rows)))
    evaluated = [evaluate(model, dataset=str(path), **SETTINGS) for model in models]
    for number, row in enumerate(rows):
        if number % 4 != 1:
            own = evaluated[number % 4 == 0]
            row["labels"] = sorted(own.names_of(own.predictions[number]))
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_whole_sets_are_counted_and_figures_are_those_of_scikit_learn(models: tuple[Path, Path], table: Path) -> None:
    result = compare(*models, dataset=str(table), **SETTINGS)
    evaluated = [evaluate(model, dataset=str(table), **SETTINGS) for model in models]
    truth = [set(json.loads(line)["labels"]) for line in table.read_text().splitlines()]
    given = [[set(own.names_of(row)) for row in own.predictions] for own in evaluated]
    correct = [np.array([one == labels for one, labels in zip(sets, truth, strict=True)]) for sets in given]
    counts = result.counts
    assert counts.both == (correct[0] & correct[1]).sum() and counts.only_second == (~correct[0] & correct[1]).sum()
    assert counts.only_first > counts.only_second > 0 and counts.images == 60
    assert result.accuracies == pytest.approx((correct[0].mean(), correct[1].mean()))
    assert result.p_value == pytest.approx(
        stats.binomtest(counts.only_first, counts.only_first + counts.only_second).pvalue
    )
    has = np.array([[name in labels for name in NAMES] for labels in truth])
    mapping = result.as_mapping()
    for number, own in enumerate(("first", "second")):
        columns = [evaluated[number].label_names.index(name) for name in NAMES]
        logits = evaluated[number].known.logits[:, columns]  # type: ignore[attr-defined]
        figures = {name: row[own] for name, row in mapping["figures"].items()}
        assert figures["mAP"] == pytest.approx(average_precision_score(has, logits))
        assert figures == pytest.approx({name: evaluated[number].metrics[name] for name in figures})
        answers = np.array([[name in one for name in NAMES] for one in given[number]])
        f1 = dict(zip(NAMES, f1_score(has, answers, average=None), strict=True))
        assert {row["name"]: row[own] for row in mapping["per_class"]} == pytest.approx(f1)
    assert {row["name"]: row["images"] for row in mapping["per_class"]} == dict(
        zip(NAMES, has.sum(axis=0), strict=True)
    )
    assert "exact match" in repr(result) and max(map(len, result.report().splitlines())) <= 80


def test_the_order_of_the_classes_changes_nothing(models: tuple[Path, Path], table: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", ["sofa", "cat", "dog"], [0.734, 0.33, 0.7], 0)
    result = compare(models[0], other, dataset=str(table), **SETTINGS)
    assert result.counts.only_first == result.counts.only_second == 0 < result.counts.neither
    assert all(row["difference"] == 0 for row in result.per_class())
    for figure in result.figures.values():
        assert figure["difference"] == pytest.approx(0) and figure["difference_interval"] == pytest.approx((0, 0))
    assert "Correct means all labels of the image and no other" in result.report()


def test_the_command_shows_slices_and_writes_what_one_model_alone_gives(
    models: tuple[Path, Path], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", *map(str, models), "--dataset", str(table), "--slice_columns", "camera", *FLAGS]
    assert main([*words, "--output", str(tmp_path / "differing.csv")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("exact match", "micro F1", "F1 of the classes with", "camera", "(1 other value)", "among twenty"):
        assert text in printed
    rows = list(csv.DictReader((tmp_path / "differing.csv").open()))
    labels = {Path(row["image"]).name: row for row in map(json.loads, table.read_text().splitlines())}
    for row in rows:
        truth = "|".join(labels[Path(row["image"]).name]["labels"])
        assert (
            row["label"] == truth == row[row["correct"]] != row[{"first": "second", "second": "first"}[row["correct"]]]
        )
    assert main([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(rows) == shown["correct"]["only_first"] + shown["correct"]["only_second"]
    assert set(shown["first"]) == {"model", "exact_match", "exact_match_interval"}
    slices = {row["value"]: row for row in shown["slices"]["camera"]}
    assert list(slices) == ["front", "back", "(1 other value)"] and slices["(1 other value)"]["images"] == 4
    for value in ("front", "back"):
        alone = [row["correct"] for row in rows if labels[Path(row["image"]).name]["camera"] == value]
        assert slices[value]["only_first"] == alone.count("first")
        assert slices[value]["only_second"] == alone.count("second")
        p_value = stats.binomtest(alone.count("first"), len(alone)).pvalue
        assert slices[value]["p_value"] == pytest.approx(p_value)
    assert sum(row["images"] * row["second"] for row in slices.values()) == pytest.approx(
        60 * shown["second"]["exact_match"]
    )


def test_models_of_different_tasks_are_refused_before_images_are_read(
    models: tuple[Path, Path],
    table: Path,
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = refuse(capsys, "compare", *map(str, models), "--dataset", str(table), "--slice_columns", "kamera", *FLAGS)
    assert 'has no column "kamera". Did you mean "camera"?' in line
    monkeypatch.setattr("hf_finetune.jobs.compare.evaluate_model", lambda *_, **__: pytest.fail("images are read"))
    for pair in ((models[0], finished_run), (finished_run, models[0])):
        line = refuse(capsys, "compare", *map(str, pair), "--dataset", str(table), *FLAGS)
        assert line.startswith(f"{models[0]} gives an image any number of classes, and {finished_run} gives it one; ")
