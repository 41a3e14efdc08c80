"""Two processes on the CPU: the same gradient, schedule and evaluation as one, and a launch that falls apart."""

from __future__ import annotations

import csv
import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import two_balanced
from tests.helpers.launched import run_in
from tests.helpers.networks import TINY_VIT
from tests.helpers.processes import REPOSITORY, TWO_PROCESSES, run_command
from tests.helpers.tiny import write_recipe
from tests.helpers.two_processes import main


@pytest.mark.parametrize("family", ["resnet", "vit_lora", "convnext_taught"])
def test_two_processes_make_the_gradient_of_one(tmp_path, family):
    main(str(tmp_path), family)
    completed = run_in(2, REPOSITORY / "tests" / "helpers" / "two_processes.py", tmp_path, family)
    assert completed.returncode == 0, completed.stderr[-2000:]
    one, two = (load_file(tmp_path / f"gradient_{count}.safetensors") for count in (1, 2))
    assert max(gradient.abs().max() for gradient in one.values()) > 1e-3
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=0)


def test_two_processes_see_the_images_of_one_where_classes_have_quotas_and_weights(tmp_path):
    two_balanced.main(str(tmp_path))
    completed = run_in(2, REPOSITORY / "tests" / "helpers" / "two_balanced.py", tmp_path)
    assert completed.returncode == 0, completed.stderr[-2000:]
    seen = {name: json.loads((tmp_path / f"seen_{name}.json").read_text()) for name in ("1_0", "2_0", "2_1")}
    one = [sorted(batch) for batch in seen["1_0"]]
    assert one == [sorted(first + second) for first, second in zip(seen["2_0"], seen["2_1"], strict=True)]
    for epoch in (one[:4], one[4:]):
        keys = [key for batch in epoch for key in batch]
        assert len(keys) == two_balanced.IMAGES == len(set(keys))  # repetitions have draws of their own
    alone, together = (load_file(tmp_path / f"weights_{name}.safetensors") for name in ("1_0", "2_0"))
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=1e-5, rtol=0)


def test_two_processes_run_the_same_job(image_folder, tmp_path):
    """The uneven splits, 7 held out and 24 for test, are counted once; the schedule and the accuracy are the same."""
    recipe = write_recipe(tmp_path, lr_milestones=[1, 2], validation_fraction=0.1)
    words = ["--recipe", str(recipe), "--dataset", str(image_folder), "--per_device_eval_batch_size", "4"]
    script = REPOSITORY / "scripts" / "run_finetune.py"
    rates, metrics = {}, {}
    for count in (1, 2):
        output = tmp_path / f"output_{count}"
        cache = tmp_path / f"cache_{count}"
        completed = run_in(count, script, *words, "--output_dir", output, HF_DATASETS_CACHE=str(cache))
        assert completed.returncode == 0, completed.stderr[-2000:]

        for beginning in ("Recipe ", "Data: ", "Model: ", "epoch   1.00  step 5/15  loss", "The model is in "):
            assert completed.stdout.count(beginning) == 1  # one process speaks
        assert len(list((cache / "hf_finetune").glob("decoded-*.npy"))) == 2  # train and test, and nothing unfinished
        assert not [path for path in cache.rglob("*") if path.suffix in (".unfinished", ".marks", ".partial")]
        last = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        history = json.loads((last / "trainer_state.json").read_text())["log_history"]
        rates[count] = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
        metrics[count] = json.loads((output / "metrics.json").read_text())["metrics"]
    assert rates[1] == rates[2] and rates[1][-1] == pytest.approx(0.0005)
    for name in ("eval_samples", "test_samples"):
        assert metrics[1][name] == metrics[2][name]
    assert metrics[1]["eval_samples"] == 7 and metrics[1]["test_samples"] == 24
    assert metrics[2]["test_accuracy"] == pytest.approx(metrics[1]["test_accuracy"], abs=0.05)


@pytest.mark.slow
def test_two_processes_cross_validate_as_one(image_folder, tmp_path):
    """The network has no BatchNorm, whose figures are those of a process's part of the batch."""
    recipe = write_recipe(
        tmp_path, model_type="vit", model_config={**TINY_VIT, "image_size": 16, "patch_size": 4}, num_train_epochs=2,
        global_batch_size=24,
    )  # fmt: skip
    words = ["kfold", "--folds", "2", "--recipe", recipe, "--dataset", image_folder]
    command, tables, weights = REPOSITORY / "hf_finetune" / "__main__.py", {}, {}
    for count in (1, 2):
        output = tmp_path / f"output_{count}"
        completed = run_in(count, command, *words, "--output_dir", output)
        assert completed.returncode == 0, completed.stderr[-2000:]
        assert completed.stdout.count("Fold 2 of 2:") == 1  # one process speaks
        with open(output / "out_of_fold.csv", newline="") as file:
            tables[count] = list(csv.DictReader(file))
        weights[count] = load_file(output / "fold-2" / "model.safetensors")
        assert json.loads((output / "ensemble.json").read_text())["members"] == ["fold-1", "fold-2"]
    assert len(tables[2]) == 72
    for together, alone in zip(tables[2], tables[1], strict=True):
        assert [together[name] for name in ("row", "image", "fold", "label")] == [*alone.values()][:4]
        for name in ("p_blue", "p_green", "p_red"):
            assert float(together[name]) == pytest.approx(float(alone[name]), abs=1e-3)
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[2][name], tensor, atol=1e-4, rtol=0)


def test_processes_that_do_not_find_each_other_stop(image_folder, tmp_path):
    """Launched as two but without --use_cpu on a machine without GPU, each process would train alone."""
    if torch.cuda.is_available():
        pytest.skip("with a GPU the processes do find each other")
    recipe = write_recipe(tmp_path, use_cpu=False)
    words = ["--recipe", recipe, "--dataset", image_folder, "--output_dir", tmp_path / "output"]
    completed = run_in(2, REPOSITORY / "scripts" / "run_finetune.py", *words)
    assert completed.returncode != 0
    assert completed.stderr.count("hf-finetune: error: 2 processes were launched, but they do not train together") == 1
    assert "torchrun --standalone --nproc_per_node 2" in completed.stderr
    assert not (tmp_path / "output").exists()


def test_accelerate_launch_is_the_same_job(image_folder, tmp_path):
    recipe = write_recipe(tmp_path, num_train_epochs=1)
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--multi_gpu",
        "--num_processes",
        "2",
    ]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    words = ["--recipe", str(recipe), "--dataset", str(image_folder), "--output_dir", str(tmp_path / "output")]
    completed = run_command([*launcher, str(REPOSITORY / "scripts" / "run_finetune.py"), *words])
    assert completed.returncode == 0, completed.stderr[-2000:]
    assert json.loads((tmp_path / "output" / "metrics.json").read_text())["metrics"]["test_samples"] == 24


MISTAKE = "error: argument --recipe: expected one argument; its use is shown by: hf-finetune train --help"


def test_the_report_of_a_launcher_ends_with_the_mistake():
    completed = run_command([*TWO_PROCESSES, str(REPOSITORY / "scripts" / "run_finetune.py"), "--recipe"])
    *_, reason, border = completed.stderr.splitlines()
    assert reason == f"  traceback : {MISTAKE}"
    assert set(border) == {"="}


def test_accelerate_launch_with_q_ends_with_the_mistake():
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "-q", "--cpu"]
    completed = run_command([*launcher, str(REPOSITORY / "scripts" / "run_finetune.py"), "--recipe"])
    assert completed.returncode != 0 and "Traceback" not in completed.stderr
    assert completed.stderr.endswith(f"hf-finetune: {MISTAKE}\n")
