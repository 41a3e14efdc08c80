"""`--tta` in evaluate, beside the plain figures, and in predict, which says so."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_finetune import UserError, evaluate, export, predict
from hf_finetune.cli.main import main

SETTINGS = {"use_cpu": True, "disable_tqdm": True}


@pytest.mark.parametrize("kind", ["flip", "multicrop"])
def test_evaluate_reports_both_and_the_plain_figures_stay(finished_run, image_folder, kind):
    plain = evaluate(finished_run, dataset=image_folder, **SETTINGS)
    result = evaluate(finished_run, dataset=image_folder, tta=kind, **SETTINGS)
    assert plain.tta is None and "tta" not in plain.as_mapping() and "--tta" not in plain.report
    for name in ("accuracy", "loss", "ece", "samples"):
        assert result.metrics[name] == pytest.approx(plain.metrics[name], abs=1e-6)
    np.testing.assert_array_equal(result.predictions, plain.predictions)
    assert result.tta.metrics["loss"] != plain.metrics["loss"] and result.tta.metrics["samples"] == 24
    written = result.as_mapping()
    assert written["tta"]["loss"] == result.tta.metrics["loss"] and len(written["tta"]["accuracy_interval"]) == 2
    assert "24 images), --tta" in " ".join(result.report.split()) and max(map(len, result.report.splitlines())) <= 80


def test_evaluate_and_predict_give_the_same_means(finished_run, image_folder, tmp_path):
    images = sorted((image_folder / "test").rglob("*.png"))
    result = evaluate(finished_run, dataset=image_folder, tta="multicrop", **SETTINGS)
    answers = predict(finished_run, images, tta="multicrop", batch_size=5)
    assert [answer.score for answer in answers] == pytest.approx(result.tta.confidences.tolist(), abs=1e-5)
    plain = predict(finished_run, images)
    assert [answer.score for answer in answers] != [answer.score for answer in plain]
    pytest.importorskip("onnx")
    file = export(finished_run, output=tmp_path / "model.onnx")
    onnx = predict(file, images, tta="multicrop")
    assert [answer.score for answer in onnx] == pytest.approx([answer.score for answer in answers], abs=1e-4)


def test_a_model_object_is_as_it_was(finished_run, image_folder):
    model = AutoModelForImageClassification.from_pretrained(finished_run)
    evaluate(model, dataset=image_folder, tta="flip", **SETTINGS)
    assert "forward" not in vars(model)
    assert model(pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape == (1, 3)


def test_files_and_the_screen_say_that_it_was_on(finished_run, image_folder, tmp_path, capsys):
    flags = ["--dataset", str(image_folder), "--use_cpu", "--disable_tqdm", "--tta", "flip"]
    assert main(["evaluate", str(finished_run), *flags, "--output", str(tmp_path / "rows.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert len(rows) == 24 and all(row["tta_prediction"] for row in rows)
    capsys.readouterr()
    image = str(next((image_folder / "test").rglob("*.png")))
    assert main(["predict", str(finished_run), image, "--tta", "flip", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["tta"] == "flip"
    assert "means over each image and its mirror image (--tta flip)" in printed.err
    assert main(["predict", str(finished_run), image, "--json"]) == 0
    assert "tta" not in json.loads(capsys.readouterr().out)[0]
    assert main(["predict", str(finished_run), image, "--tta", "flop"]) == 2
    assert "--tta is flop; use flip or multicrop." in capsys.readouterr().err
    with pytest.raises(UserError, match="tta is flop"):
        evaluate(finished_run, dataset=image_folder, tta="flop")
