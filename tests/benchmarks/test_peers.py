"""The comparison of whole programs: how they are started and measured, their commands, results and table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from benchmarks.harness import Session
from benchmarks.peers.launch import Finished, Step, read_steps, run_program
from benchmarks.peers.programs import OURS, PEERS, FineTuning, FromScratch, Job
from benchmarks.peers.results import Results
from benchmarks.peers.scripts import TIMM, TORCHVISION, TRANSFORMERS, fetch_scripts
from benchmarks.peers.table import markdown
from benchmarks.peers.workloads import QUICK, WORKLOADS, Workload, random_checkpoint

# A program with an optimizer of its own, as fastai has, and a child process; it allocates 100 MB.
PROGRAM = """
import subprocess, sys, time
from fastai.optimizer import Optimizer
held = bytearray(100_000_000)
subprocess.run([sys.executable, "-c", "import time; time.sleep(0.6)"])
for _ in range(3):
    Optimizer().step(closure=None)
print("accuracy 0.5")
"""

_CHILD = ["--seed 7", "--size 32", "--batch 16", "--rate 0.001", "--decay 0.0001"]
PARTS = {
    OURS: ["--seed 7", "--image_size 32", "--global_batch_size 16", "--learning_rate 0.001", "num_workers 1"],
    "Transformers run_image_classification.py": [
        "--seed 7", "--model_name_or_path /random", "train_batch_size 16", "--learning_rate 0.001", "num_workers 1",
    ],
    "timm train.py": ["--seed 7", "--img-size 32", "--batch-size 16", "--lr 0.001", "--workers 1"],
    "torchvision references": ["--train-crop-size 32", "--batch-size 16", "--lr 0.001", "--workers 1"],
    "fastai": _CHILD,
    "Ultralytics classify": _CHILD,
    "lightly-train": [*_CHILD, "--steps 5"],
}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Job:
    way = FromScratch(16, ("cat", "dog"), 5, Path("/random"))
    return Job(sys.executable, Path("/scripts"), Path("/data"), 32, 1, 7, tmp_path, way)


def test_a_program_is_measured_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "fastai").mkdir()
    (tmp_path / "fastai" / "__init__.py").touch()
    (tmp_path / "fastai" / "optimizer.py").write_text("class Optimizer:\n    def step(self, closure): pass\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    finished = run_program([sys.executable, str(tmp_path / "program.py")], tmp_path, (), "it")
    assert finished.output == "accuracy 0.5\n" and len(finished.steps) == 3
    assert 0.6 < finished.seconds_to_first_step < finished.seconds and 0 < finished.processor < 60
    assert finished.megabytes == 0 or finished.megabytes > 100
    assert list(tmp_path.glob("fastai/__pycache__/*"))  # as an installed package has them


def test_a_program_that_fails_is_told_with_the_end_of_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="(?s)it failed:.*no such thing"):
        run_program([sys.executable, "-c", "raise ValueError('no such thing')"], tmp_path, (), "it")


def test_steps_of_torch_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.peers.stamps import sitecustomize

    monkeypatch.setenv("PEERS_STAMPS", str(tmp_path / "steps"))
    hooks: list[Any] = []
    module = ModuleType("torch.optim.optimizer")
    module.register_optimizer_step_post_hook = hooks.append  # type: ignore[attr-defined]
    sitecustomize._hook_torch(module)
    hooks[0]("optimizer", (), {})
    hooks[0]("optimizer", (), {})
    first, second = read_steps((tmp_path / "steps").read_text())
    assert 1e9 < first.at <= second.at and 0 < first.processor <= second.processor


def test_a_step_is_the_mean_after_the_first_three() -> None:
    steps = [Step(at, at / 2) for at in (105.0, 106, 107, 108, 112)]
    finished = Finished(100.0, 20, 15, 900, steps, "")
    assert finished.seconds_to_first_step == 5 and finished.step_milliseconds == (2500, 1250)


@pytest.mark.parametrize("name", PEERS)
def test_a_command_has_size_batch_rate_and_worker(job: Job, name: str) -> None:
    words = PEERS[name].command(job)
    assert all(isinstance(word, str) for word in words) and words[0] == sys.executable
    missing = [part for part in PARTS[name] if part not in " ".join(words)]
    assert not missing
    assert str(job.folder) in " ".join(words) or (job.work / "images" / "val").readlink() == job.folder / "test"


def test_each_program_that_fine_tunes_takes_the_weights(job: Job) -> None:
    for number, (name, peer) in enumerate(PEERS.items()):
        work = job.work / str(number)
        work.mkdir()
        way = FineTuning(Path("/weights"), 1)
        if peer.fine_tunes:
            assert "/weights" in " ".join(peer.command(Job("python", job.scripts, job.folder, 96, 1, 7, work, way))), (
                name
            )


def test_the_metric_of_the_transformers_script_is_beside_it(job: Job, evaluate_cache: Path) -> None:
    import evaluate

    PEERS["Transformers run_image_classification.py"].command(job)
    metric = evaluate.load(str(job.work / "accuracy"))
    assert metric.compute(predictions=[0, 1, 2, 2], references=[0, 1, 2, 0]) == {"accuracy": 0.75}


def test_an_accuracy_is_read_from_where_each_program_leaves_it(job: Job) -> None:
    (job.output / "run").mkdir(parents=True)
    (job.output / "metrics.json").write_text('{"metrics": {"test_accuracy": 0.1}}')
    (job.output / "eval_results.json").write_text('{"eval_accuracy": 0.2}')
    (job.output / "run" / "summary.csv").write_text("epoch,eval_top1\n0,5.0\n1,30.0\n")
    printed = "Test:  Acc@1 60.000 Acc@5 90.000\naccuracy 0.9\nnoise\naccuracy 0.4\n"
    read = [peer.accuracy(job, printed) for peer in PEERS.values()]
    assert read == [0.1, 0.2, 0.3, 0.6, 0.4, 0.4, 0.4]


def test_what_is_measured_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results(tmp_path / "results.jsonl")
    results.keep({"peer": OURS, "round": 0, "step": 1.5})
    results.keep({"peer": OURS, "round": 1, "step": 2.5})
    again = Results(tmp_path / "results.jsonl")
    assert again.find({"peer": OURS, "round": 1}) == {"peer": OURS, "round": 1, "step": 2.5}
    assert again.find({"peer": "fastai"}) is None
    assert json.loads(capsys.readouterr().out.splitlines()[0])["step"] == 1.5


def test_the_table_has_medians_and_says_what_differs() -> None:
    def line(peer: str, step: float, steps: int = 4) -> dict[str, Any]:
        times = {"step": step, "step_processor": step - 5, "first_step": 4.5, "seconds": 17.04, "processor": 15.62}
        return {
            "peer": peer, "workload": "cifar10", "images": 64, **times,
            "megabytes": 1360.4, "steps": steps, "accuracy": 0.3456,
        }  # fmt: skip

    lines = [*(line(OURS, step) for step in (235.0, 900.0, 231.0)), line("fastai", 240.0, steps=3)]
    workload = Workload("CIFAR-10", 32, 16, 64, lambda session, images: Path())
    text = markdown(lines, {"cifar10": workload}, [OURS, "fastai", "timm train.py"], 3)
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert rows[2:] == [
        "| hf-finetune | 235 (230) | 4.50 | 15.6 (17.0) | 1,360 | 34.6 % |",
        "| fastai | 240 (235) | 4.50 | 15.6 (17.0) | 1,360 | 34.6 % |",
        "| timm train.py | | | | | |",
    ]
    assert "fastai made 3 steps." in text and "- fastai has an optimizer of its own" in text
    assert "64 images, 4 steps of 16" in text


def test_the_workloads_have_whole_steps_and_their_images(tmp_path: Path) -> None:
    for workload in [*WORKLOADS.values(), *QUICK.values()]:
        assert workload.images % workload.batch == 0 and workload.images // workload.batch > 3
    session = Session(tmp_path, quick=True)
    for name, workload in QUICK.items():
        folder = workload.folder(session, workload.images)
        assert len(list(folder.glob("train/*/*"))) == workload.images, name
        assert list(folder.glob("test/*/*"))
    with Image.open(next(iter(sorted(tmp_path.glob("cifar10-*/train/*/*"))))) as image:
        assert image.format == "PNG" and image.size == (32, 32)


def test_random_weights_are_a_folder_of_transformers(tmp_path: Path) -> None:
    config = json.loads((random_checkpoint(tmp_path / "random", 32, 3) / "config.json").read_text())
    assert config["layer_type"] == "basic" and len(config["id2label"]) == 3
    processor = json.loads((tmp_path / "random" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 32, "width": 32}


def test_scripts_that_are_there_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    (tmp_path / TIMM).touch()
    with pytest.raises(SystemExit, match="no network.*Put a copy at"):
        fetch_scripts(tmp_path)
    (tmp_path / TRANSFORMERS).touch()
    (tmp_path / TORCHVISION).parent.mkdir()
    for name in ("train", "presets", "sampler", "transforms", "utils"):
        (tmp_path / TORCHVISION).with_name(f"{name}.py").touch()
    fetch_scripts(tmp_path)
