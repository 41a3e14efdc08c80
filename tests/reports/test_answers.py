"""predictions.csv holds what was evaluated, whatever classes and files are called, and is read back as it was."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from transformers.trainer_utils import PredictionOutput

from hf_finetune.errors import UserError
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.evaluation.multi_label import MultiLabelMetrics
from hf_finetune.reports.answers import Answers, answers_of, read_answers, write_answers
from hf_finetune.reports.history import read_history, write_history

HOSTILE = ["=1+1", 'a "quoted", name', "two\nlines", "<b>", "猫", "1", "p(x)", "a|b"]


def answers(classes: int, images: int = 12, several: bool = False) -> Answers:
    """Return answers of random logits; the last image could not be read."""
    draws = torch.Generator().manual_seed(classes)
    names = [*HOSTILE, *(f"class {number}" for number in range(classes))][:classes]
    logits = 2 * torch.randn(images, classes, generator=draws)
    if several:
        labels = torch.randint(2, (images, classes), generator=draws).float()
        labels[0], labels[-1] = 0, -100
        computed = MultiLabelMetrics(names, thresholds=np.linspace(0.3, 0.7, classes))
    else:
        labels = torch.randint(classes, (images,), generator=draws)
        labels[-1] = -100
        computed = ClassificationMetrics(names)
    reduced = tuple(tensor.numpy() for tensor in computed.reduce_logits(logits, labels))
    output = PredictionOutput(reduced, labels.numpy(), None)
    files = [f"=file {number}.jpg" for number in range(images)]
    slices = {"camera": ["-1", "b\n"] * (images // 2), "label": [""] * images}
    return answers_of(computed, output, names, np.arange(images), files, np.arange(images) + 7, slices)


@pytest.mark.parametrize(("classes", "several"), [(1, False), (8, False), (130, False), (8, True), (130, True)])
def test_the_file_gives_back_what_was_written(tmp_path, classes, several):
    written = answers(classes, several=several)
    path = tmp_path / "predictions.csv"
    write_answers(written, path)
    read = read_answers(path, written.label_names, several)
    assert np.array_equal(read.labels, written.labels) and np.array_equal(read.rows, written.rows)
    known = written.known
    assert np.array_equal(read.predictions[known], written.predictions[known])
    assert np.array_equal(read.classes[known], written.classes[known])
    assert np.allclose(read.probabilities[known], written.probabilities[known], atol=1e-6)
    assert np.allclose(read.losses[known], written.losses[known], rtol=1e-5)
    assert read.slices == {"camera": ["'-1", "b\n"] * 6, "label": [""] * 12}
    assert read.names[0] == "'=file 0.jpg" and len(read) == 12
    assert np.array_equal(read.correct[known], written.correct[known])


def test_no_cell_is_a_formula_and_the_unreadable_image_has_no_answer(tmp_path):
    path = tmp_path / "predictions.csv"
    write_answers(answers(8), path)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert rows[0][:7] == ["image", "row", "slice: camera", "slice: label", "label", "prediction", "loss"]
    assert rows[0][7:] == [f"p({name})" for name in HOSTILE]
    assert all(abs(sum(map(float, row[7:])) - 1) < 1e-5 for row in rows[1:-1])
    assert rows[-1][:2] == ["'=file 11.jpg", "18"] and set(rows[-1][4:]) == {""}


def test_of_many_classes_the_five_likeliest_are_written(tmp_path):
    path = tmp_path / "predictions.csv"
    written = answers(130)
    write_answers(written, path)
    with open(path, encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    assert len(first) == 7 + 10 and first["class 1"] == first["prediction"]
    assert float(first["probability 1"]) == pytest.approx(written.confidences[0], abs=1e-6)


def test_the_probabilities_of_a_network_without_sense_are_kept(tmp_path):
    computed = ClassificationMetrics(["a", "b"])
    logits = torch.tensor([[float("nan"), 0.0], [1.0, 0.0]])
    reduced = tuple(tensor.numpy() for tensor in computed.reduce_logits(logits, torch.tensor([1, 0])))
    output = PredictionOutput(reduced, np.array([1, 0]), None)
    path = tmp_path / "predictions.csv"
    write_answers(answers_of(computed, output, ["a", "b"], np.arange(2), ["x", "y"], np.arange(2), {}), path)
    assert read_answers(path, ["a", "b"], False).labels.tolist() == [1, 0]


@pytest.mark.parametrize("text", ["", "image,row\n", "image,row,label,prediction,loss,p(a),p(b)\nx,1,z,a,1,1,0\n"])
def test_another_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="predictions.csv cannot be read .*; restore the file, or train again"):
        read_answers(path, ["a", "b"], False)


def test_the_history_has_a_line_for_each_entry(tmp_path):
    log = [
        {"loss": 1.5, "epoch": 0.5, "step": 1, "=x": 1},
        {"eval_loss": 1.0, "epoch": 1.0, "step": 2, "note": "=a"},
        {"train_runtime": 3.0, "epoch": 1.0, "step": 2},
    ]
    path = tmp_path / "history.csv"
    write_history(log, path)
    assert path.read_text().splitlines()[:2] == ["epoch,step,loss,eval_loss,'=x,note,train_runtime", "0.5,1,1.5,,1,,"]
    assert read_history(path)[1] == {"eval_loss": 1.0, "epoch": 1.0, "step": 2.0, "note": "'=a"}
    assert read_history(tmp_path / "absent.csv") == []
