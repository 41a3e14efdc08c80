"""The reports of 21,841 classes on 50,000 images, the size of ImageNet-21k, fit 2 GB with all libraries loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.launched import run_in

CLASSES, IMAGES = 21_841, 50_000
LIMIT = 2_000_000_000  # bytes

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np, torch
from transformers import EvalPrediction
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.jobs.evaluate import EvaluationResult
from hf_finetune.evaluation.report import format_report
from hf_finetune.hub.model_card import ModelCardContext, write_model_card
from hf_finetune.training.given import Given

classes, images, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
names = [f"class {number:05d}" for number in range(classes)]
Given().check_metrics(classes)
metrics, batches = ClassificationMetrics(names), []
labels = torch.arange(images) % classes
for start in range(0, images, 128):
    part = labels[start : start + 128]
    logits = torch.zeros(len(part), classes)
    logits[torch.arange(len(part)), (part + (part % 3 == 0)) % classes] = 5.0
    batches.append([array.numpy() for array in metrics.reduce_logits(logits, part)])
arrays = tuple(np.concatenate(column) for column in zip(*batches))
figures = metrics(EvalPrediction(arrays, labels.numpy()))
result = EvaluationResult(figures, arrays[0], labels.numpy(), arrays[2], names, confidences=arrays[3])
result.save(folder / "figures.json")
result.save(folder / "figures.csv")
(folder / "report.txt").write_text(format_report({"test": figures}, result.per_class(), "test"))
context = ModelCardContext("m", classes, "d", {"test": "test"}, {"test": figures}, "", "", 0, {},
                           per_class=result.per_class(), per_class_split="test")
write_model_card(context, folder)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"bytes": int(peak.split()[1]) * 1024, "accuracy": figures["accuracy"]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of memory is read from /proc")
def test_the_reports_fit_two_gigabytes(tmp_path, record_property):
    (tmp_path / "program.py").write_text(PROGRAM)
    finished = run_in(1, tmp_path / "program.py", CLASSES, IMAGES, tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]
    measured = json.loads(finished.stdout.splitlines()[-1])
    record_property("peak_bytes", measured["bytes"])
    print(f"peak of memory: {measured['bytes'] / 1e9:.2f} GB")
    assert measured["bytes"] < LIMIT and 0.6 < measured["accuracy"] < 0.7

    assert len((tmp_path / "report.txt").read_text().splitlines()) < 40
    assert (tmp_path / "README.md").stat().st_size < 20_000
    assert (tmp_path / "figures_confusion_matrix.png").stat().st_size > 1_000
    written = json.loads((tmp_path / "figures.json").read_text())
    assert "confusion_matrix" not in written and len(written["per_class"]) == CLASSES
    assert sum(pair["images"] for pair in written["confusions"]) == round(IMAGES * (1 - measured["accuracy"]))
    assert len((tmp_path / "figures.csv").read_text().splitlines()) == IMAGES + 1
