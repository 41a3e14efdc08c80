"""`compare`: the same images for both, classes by name, and one line where there is nothing to compare."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_finetune import Comparison, UserError, compare, evaluate
from hf_finetune.cli.main import main
from hf_finetune.evaluation.paired import PairedCounts

SETTINGS = {"use_cpu": True, "disable_tqdm": True}


def changed(run: Path, folder: Path, order: list[int], lost: int | None = None, **recipe: str) -> Path:
    """Copy a run with the rows of its head, and its classes, in another order; `lost` is never predicted."""
    shutil.copytree(run, folder)
    weights = load_file(folder / "model.safetensors")
    head = [name for name in weights if name.startswith("classifier.")]
    assert len(head) == 2
    if lost is not None:
        bias = next(name for name in head if name.endswith("bias"))
        weights[bias] = weights[bias].clone()
        weights[bias][lost] = -1e4
    for name in head:
        weights[name] = weights[name][torch.tensor(order)].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    names = [config["id2label"][str(place)] for place in order]
    config["id2label"] = {str(place): name for place, name in enumerate(names)}
    config["label2id"] = {name: place for place, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    text = (folder / "recipe.yaml").read_text()
    for key, value in recipe.items():
        text += f"{key}: {value}\n"
    (folder / "recipe.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def worse(finished_run, tmp_path_factory) -> Path:
    """The run with its classes in another order, which never says "red" (class id 2)."""
    return changed(finished_run, tmp_path_factory.mktemp("worse") / "run", [2, 0, 1], lost=2)


def test_two_runs_are_compared_on_the_images_of_their_recipes(finished_run, worse, image_folder):
    first = evaluate(finished_run, dataset=image_folder, **SETTINGS)
    second = evaluate(worse, dataset=image_folder, **SETTINGS)
    assert first.label_names != second.label_names
    result = compare(finished_run, worse, **SETTINGS)
    names_1 = np.array(first.label_names)[first.predictions]
    names_2 = np.array(second.label_names)[second.predictions]
    truth = np.array(first.label_names)[first.labels]
    right_1, right_2 = names_1 == truth, names_2 == truth
    assert result.counts == PairedCounts(
        int((right_1 & right_2).sum()), int((right_1 & ~right_2).sum()),
        int((~right_1 & right_2).sum()), int((~right_1 & ~right_2).sum()),
    )  # fmt: skip
    assert result.counts.only_first >= 7 and result.split == "test"
    assert result.accuracies == (first.metrics["accuracy"], second.metrics["accuracy"])
    assert result.intervals[0] == first.intervals["accuracy"]
    assert result.difference == pytest.approx(second.metrics["accuracy"] - first.metrics["accuracy"])
    assert result.difference_interval[0] < result.difference < result.difference_interval[1] < 0
    assert result.p_value < 0.05
    assert result.per_class()[0]["name"] == "red" and result.per_class()[0]["second"] == 0.0
    assert "\n" not in repr(result) and "24 images of test" in repr(result)
    assert max(map(len, result.report().splitlines())) <= 80


def test_the_differing_images_are_listed_by_name(finished_run, worse, image_folder, tmp_path, capsys):
    flags = ["--use_cpu", "--disable_tqdm", "--dataset", str(image_folder), "--log_level", "error"]
    assert main(["compare", str(finished_run), str(worse), *flags, "--output", str(tmp_path / "differing.csv")]) == 0
    printed = capsys.readouterr().out
    assert "McNemar" in printed and "B - A, points" in printed
    rows = list(csv.DictReader((tmp_path / "differing.csv").open()))
    assert rows and {row["label"] for row in rows if row["correct"] == "first"} == {"red"}
    assert all((image_folder / row["image"]).is_file() and f"/{row['label']}/" in row["image"] for row in rows)
    assert main(["compare", str(finished_run), str(worse), *flags, "--json", "--output", str(tmp_path / "a.json")]) == 0
    shown, written = json.loads(capsys.readouterr().out), json.loads((tmp_path / "a.json").read_text())
    assert shown["mcnemar"]["test"] == "exact binomial" and "disagreements" not in shown
    assert written.pop("disagreements") == [{**row, "row": int(row["row"])} for row in rows] and written == shown


def test_runs_with_other_images_are_refused_in_one_line(finished_run, image_folder, tmp_path):
    other = changed(finished_run, tmp_path / "other", [0, 1, 2], test_split="validation")
    with pytest.raises(
        UserError,
        match=r'^The runs have other images \(test_split: null and "validation"\); use dataset',
    ):
        compare(finished_run, other)
    figures = json.loads((other / "metrics.json").read_text())
    (other / "recipe.yaml").write_text((finished_run / "recipe.yaml").read_text())
    figures["splits"]["test"] = "10 % of train, stratified, seed 1"
    (other / "metrics.json").write_text(json.dumps(figures))
    with pytest.raises(
        UserError, match=r"^The runs have no split in common \(test: test and 10 % of train, stratified"
    ):
        compare(finished_run, other)
    with pytest.raises(UserError, match=r"resnet_small_cifar10 is no folder of a finished run, .*; use dataset"):
        compare(finished_run, "resnet_small_cifar10")
    with pytest.raises(UserError, match="does not know|has no class"):
        compare(finished_run, "resnet_small_cifar10", dataset=image_folder, **SETTINGS)


def test_the_same_folder_by_another_path_is_the_same_dataset(finished_run, image_folder, tmp_path, monkeypatch):
    other = changed(finished_run, tmp_path / "other", [0, 1, 2])
    text = (other / "recipe.yaml").read_text()
    assert str(image_folder) in text
    monkeypatch.chdir(image_folder.parent)
    (other / "recipe.yaml").write_text(text.replace(str(image_folder), f"./{image_folder.name}"))
    result = compare(finished_run, other, **SETTINGS)
    assert isinstance(result, Comparison) and result.counts.only_first == result.counts.only_second == 0
    assert result.p_value == 1.0 and "may be chance" in result.report()


def test_figures_on_validation_that_chose_a_checkpoint_are_said_to_be_too_good(finished_run, image_folder, tmp_path):
    result = compare(finished_run, finished_run, split="validation", **SETTINGS)
    assert result.split == "validation" and "also chose the checkpoint" in result.report()
    assert result.counts.images == json.loads((finished_run / "metrics.json").read_text())["metrics"]["eval_samples"]
