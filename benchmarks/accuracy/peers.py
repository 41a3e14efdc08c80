"""The programs that are compared: the command of each, and where it says its accuracy."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.scripts import TIMM, TRANSFORMERS

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Job:
    """A training that a program is asked for.

    Attributes:
        python: The interpreter of the peers' environment.
        scripts: The folder of the scripts that are not on PyPI.
        folder: The images, in train and test, by class.
        checkpoint: The weights, as a folder of Transformers whose image processor has the size.
        size: Pixels of the images' sides.
        epochs: Passes over train; ours takes `minutes` instead.
        minutes: For all of it.
        seed: Of everything random.
        work: An empty folder, in which the command runs.
    """

    python: str
    scripts: Path
    folder: Path
    checkpoint: Path
    size: int
    epochs: float
    minutes: float
    seed: int
    work: Path


@dataclass(frozen=True)
class Peer:
    """A program.

    Attributes:
        settings: What is not its default, for the table; None for the program that plans its time itself.
        command: Returns the command of a job.
        accuracy: Returns the accuracy on the test images from a finished job and what it has printed.
        more_passes: Passes over train besides its epochs.
        takes_fractions: Whether it can be given tenths of epochs.
    """

    settings: str | None
    command: Callable[[Job], list[str]]
    accuracy: Callable[[Job, str], float]
    more_passes: int = 0
    takes_fractions: bool = False


def _ours(job: Job) -> list[str]:
    words = ["-m", "hf_finetune", "train", "--dataset", job.folder, "--model_name_or_path", job.checkpoint, "--use_cpu"]
    words += ["--image_size", job.size, "--time_budget", f"{60 * job.minutes:g}s", "--output_dir", job.work / "output"]
    return list(map(str, [job.python, *words, "--seed", job.seed, "--disable_tqdm"]))


def _transformers(job: Job) -> list[str]:
    metric = job.work / "accuracy" / "accuracy.py"  # evaluate.load("accuracy") finds it there, without network
    metric.parent.mkdir(parents=True)
    shutil.copy(_HERE / "metric.py", metric)
    words = [job.scripts / TRANSFORMERS, "--model_name_or_path", job.checkpoint, "--ignore_mismatched_sizes"]
    words += ["--train_dir", job.folder / "train", "--validation_dir", job.folder / "test", "--do_train", "--do_eval"]
    words += ["--num_train_epochs", f"{job.epochs:g}", "--remove_unused_columns", "False", "--save_strategy", "no"]
    words += ["--per_device_eval_batch_size", "128"]
    words += ["--output_dir", job.work / "output", "--seed", job.seed, "--use_cpu", "True", "--report_to", "none"]
    return list(map(str, [job.python, *words]))


def _timm(job: Job) -> list[str]:
    words = [job.scripts / TIMM, "--data-dir", job.folder, "--train-split", "train", "--val-split", "test"]
    words += ["--model", "tf_efficientnet_lite0", "--pretrained", "--num-classes", "10", "--img-size", job.size]
    words += ["--pretrained-path", job.checkpoint / "model.safetensors", "--device", "cpu", "--workers", "1"]
    words += ["--batch-size", "32", "--lr", "0.01", "--warmup-epochs", "0", "--epochs", f"{job.epochs:g}"]
    words += ["--val-interval", f"{job.epochs:g}", "--output", job.work / "output", "--experiment", "run"]
    words += ["--seed", job.seed]
    return list(map(str, [job.python, *words]))


def _child(name: str) -> Callable[[Job], list[str]]:
    def command(job: Job) -> list[str]:
        words = [_HERE / f"{name}_child.py", job.folder, "--weights", job.checkpoint / "model.safetensors"]
        words += ["--epochs", f"{job.epochs:g}", "--seed", job.seed, "--size", job.size, "--work", job.work / "output"]
        return list(map(str, [job.python, *words]))

    return command


def _from_json(name: str, key: str) -> Callable[[Job, str], float]:
    return lambda job, _: float(json.loads((job.work / "output" / name).read_text())[key])


def _from_summary(job: Job, _: str) -> float:
    with (job.work / "output" / "run" / "summary.csv").open() as file:
        return float([row["eval_top1"] for row in csv.DictReader(file)][-1]) / 100


def _printed(_: Job, text: str) -> float:
    return float(re.findall(r"^accuracy (\S+)$", text, re.MULTILINE)[-1])


def _our_accuracy(job: Job, _: str) -> float:
    return float(json.loads((job.work / "output" / "metrics.json").read_text())["metrics"]["test_accuracy"])


PEERS = {
    "hf-finetune": Peer(None, _ours, _our_accuracy),
    "Transformers run_image_classification.py": Peer(
        "its defaults: AdamW 5e-5, batch 8",
        _transformers,
        _from_json("eval_results.json", "eval_accuracy"),
        takes_fractions=True,
    ),
    "timm train.py": Peer("SGD 0.01, batch 32, no warm-up", _timm, _from_summary),
    "fastai fine_tune": Peer("its defaults, batch 32, 10 % held out", _child("fastai"), _printed, more_passes=1),
    "Ultralytics classify": Peer("its defaults, on timm's network", _child("ultralytics"), _printed),
}
