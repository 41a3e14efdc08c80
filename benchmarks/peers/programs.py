"""The programs that are compared: the command of each, and where it says its accuracy.

One list for all comparisons of whole programs: fine-tuning from the same weights (`benchmarks.accuracy`) and training
the same network from random weights (`benchmarks.peers`).
"""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.scripts import TIMM, TORCHVISION, TRANSFORMERS

_HERE = Path(__file__).parent
RESNET18: dict[str, Any] = {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
RATE, DECAY = 1e-3, 1e-4  # AdamW in all programs that train from random weights, at a constant rate where they have one


@dataclass(frozen=True)
class FineTuning:
    """Begin with weights, and leave all settings at what the program's documentation shows first.

    Attributes:
        checkpoint: The weights of EfficientNet-Lite0, as a folder of Transformers whose image processor has the size.
        minutes: For all of it; only ours takes them, in place of epochs.
    """

    checkpoint: Path
    minutes: float


@dataclass(frozen=True)
class FromScratch:
    """Train a ResNet-18 from random weights with AdamW, RandomResizedCrop and mirroring, in float32.

    Attributes:
        batch: Images of a step.
        classes: Their names in the order of the alphabet.
        steps: Of all epochs together.
        checkpoint: A ResNet-18 with random weights and its image processor, as a folder of Transformers, for the
            program that begins with a folder only.
    """

    batch: int
    classes: tuple[str, ...]
    steps: int
    checkpoint: Path


@dataclass(frozen=True)
class Job:
    """A training that a program is asked for.

    Attributes:
        python: The interpreter of the peers' environment.
        scripts: The folder of the scripts that are not on PyPI.
        folder: The images, in train and test, by class.
        size: Pixels of the images' sides.
        epochs: Passes over train.
        seed: Of everything random.
        work: An empty folder, in which the command runs.
        way: How it is trained.
    """

    python: str
    scripts: Path
    folder: Path
    size: int
    epochs: float
    seed: int
    work: Path
    way: FineTuning | FromScratch

    @property
    def output(self) -> Path:
        """Return the folder for what the program writes."""
        return self.work / "output"


@dataclass(frozen=True)
class Peer:
    """A program.

    Attributes:
        command: Returns the command of a job.
        accuracy: Returns the accuracy on the test images from a finished job and what it has printed.
        differs: What it does in its own way when it trains from random weights, for the table.
        fine_tunes: Whether it can begin with the weights of `FineTuning`.
        settings: What is not its default in fine-tuning; None for the program that plans its time itself.
        more_passes: Passes over train besides its epochs in fine-tuning.
        takes_fractions: Whether it can be given tenths of epochs.
    """

    command: Callable[[Job], list[str]]
    accuracy: Callable[[Job, str], float]
    differs: str
    fine_tunes: bool = True
    settings: str | None = None
    more_passes: int = 0
    takes_fractions: bool = False


def _ours(job: Job) -> list[str]:
    words = ["-m", "hf_finetune", "train", "--dataset", job.folder, "--use_cpu", "--image_size", job.size]
    words += ["--output_dir", job.output, "--seed", job.seed, "--disable_tqdm"]
    if isinstance(job.way, FineTuning):
        words += ["--model_name_or_path", job.way.checkpoint, "--time_budget", f"{60 * job.way.minutes:g}s"]
        return _words(job, words)
    transforms = [{"RandomResizedCrop": {"size": job.size}}, "RandomHorizontalFlip"]
    words += ["--model_name_or_path", "null", "--model_type", "resnet", "--model_config", json.dumps(RESNET18)]
    words += ["--train_transforms", json.dumps(transforms), "--global_batch_size", job.way.batch]
    words += ["--num_train_epochs", f"{job.epochs:g}", "--optim", "adamw_torch_fused", "--learning_rate", RATE]
    words += ["--weight_decay", DECAY, "--lr_scheduler_type", "constant", "--dataloader_num_workers", 1]
    words += ["--validation_fraction", 0, "--per_device_eval_batch_size", job.way.batch, "--precision", "float32"]
    return _words(job, words)


def _transformers(job: Job) -> list[str]:
    metric = job.work / "accuracy" / "accuracy.py"  # evaluate.load("accuracy") finds it there, without network
    metric.parent.mkdir(parents=True)
    shutil.copy(_HERE / "metric.py", metric)
    words = [job.scripts / TRANSFORMERS, "--model_name_or_path", job.way.checkpoint, "--ignore_mismatched_sizes"]
    words += ["--train_dir", job.folder / "train", "--validation_dir", job.folder / "test", "--do_train", "--do_eval"]
    words += ["--num_train_epochs", f"{job.epochs:g}", "--remove_unused_columns", "False", "--save_strategy", "no"]
    words += ["--output_dir", job.output, "--seed", job.seed, "--use_cpu", "True", "--report_to", "none"]
    if isinstance(job.way, FineTuning):
        return _words(job, [*words, "--per_device_eval_batch_size", 128])
    words += ["--per_device_train_batch_size", job.way.batch, "--per_device_eval_batch_size", job.way.batch]
    words += ["--learning_rate", RATE, "--weight_decay", DECAY, "--lr_scheduler_type", "constant"]
    return _words(job, [*words, "--dataloader_num_workers", 1])


def _timm(job: Job) -> list[str]:
    words = [job.scripts / TIMM, "--data-dir", job.folder, "--train-split", "train", "--val-split", "test"]
    words += ["--img-size", job.size, "--device", "cpu", "--workers", 1, "--warmup-epochs", 0]
    words += ["--epochs", f"{job.epochs:g}", "--val-interval", f"{job.epochs:g}", "--seed", job.seed]
    words += ["--output", job.output, "--experiment", "run"]
    if isinstance(job.way, FineTuning):
        words += ["--model", "tf_efficientnet_lite0", "--pretrained", "--num-classes", 10, "--batch-size", 32]
        words += ["--pretrained-path", job.way.checkpoint / "model.safetensors", "--lr", 0.01]
        return _words(job, words)
    words += ["--model", "resnet18", "--num-classes", len(job.way.classes), "--batch-size", job.way.batch]
    words += ["--opt", "adamw", "--lr", RATE, "--weight-decay", DECAY, "--sched", "step", "--smoothing", 0]
    return _words(job, [*words, "--color-jitter", 0, "--train-interpolation", "bilinear"])


def _torchvision(job: Job) -> list[str]:
    assert isinstance(job.way, FromScratch)
    words = [job.scripts / TORCHVISION, "--data-path", _linked(job), "--device", "cpu", "--workers", 1]
    words += ["--model", "resnet18", "--batch-size", job.way.batch, "--epochs", f"{job.epochs:g}", "--opt", "adamw"]
    words += ["--lr", RATE, "--weight-decay", DECAY, "--train-crop-size", job.size, "--val-crop-size", job.size]
    return _words(job, [*words, "--val-resize-size", job.size * 8 // 7, "--output-dir", job.output])


def _lightly(job: Job) -> list[str]:
    assert isinstance(job.way, FromScratch)
    words = [_HERE / "lightly_child.py", job.folder, "--work", job.output, "--size", job.size, "--seed", job.seed]
    words += ["--steps", job.way.steps, "--batch", job.way.batch, "--decay", DECAY]
    # It multiplies its rate by the root of the batch through 16.
    return _words(job, [*words, "--rate", RATE / math.sqrt(job.way.batch / 16)])


def _child(name: str, images: Callable[[Job], Path]) -> Callable[[Job], list[str]]:
    def command(job: Job) -> list[str]:
        words = [_HERE / f"{name}_child.py", images(job), "--epochs", f"{job.epochs:g}", "--seed", job.seed]
        words += ["--size", job.size, "--work", job.output]
        if isinstance(job.way, FineTuning):
            return _words(job, [*words, "--weights", job.way.checkpoint / "model.safetensors"])
        return _words(job, [*words, "--batch", job.way.batch, "--rate", RATE, "--decay", DECAY])

    return command


def _words(job: Job, words: list[object]) -> list[str]:
    return [job.python, *map(str, words)]


def _linked(job: Job) -> Path:
    """Return the images as train and val, in a folder of the job's own, in which a program may write its caches."""
    folder = job.work / "images"
    folder.mkdir()
    for name, split in {"train": "train", "val": "test"}.items():
        (folder / name).symlink_to(job.folder / split, target_is_directory=True)
    return folder


def _from_json(name: str, key: str) -> Callable[[Job, str], float]:
    return lambda job, _: float(json.loads((job.output / name).read_text())[key])


def _from_summary(job: Job, _: str) -> float:
    with (job.output / "run" / "summary.csv").open() as file:
        return float([row["eval_top1"] for row in csv.DictReader(file)][-1]) / 100


def _printed(pattern: str, scale: float = 1) -> Callable[[Job, str], float]:
    return lambda _, text: float(re.findall(pattern, text, re.MULTILINE)[-1]) / scale


def _our_accuracy(job: Job, _: str) -> float:
    return float(json.loads((job.output / "metrics.json").read_text())["metrics"]["test_accuracy"])


_child_accuracy = _printed(r"^accuracy (\S+)$")
OURS = "hf-finetune"
PEERS = {
    OURS: Peer(_ours, _our_accuracy, "checks the headers of all images, and writes a report, plots and a model card"),
    "Transformers run_image_classification.py": Peer(
        _transformers,
        _from_json("eval_results.json", "eval_accuracy"),
        "begins with a folder of random weights, as it takes no configuration alone",
        settings="its defaults: AdamW 5e-5, batch 8",
        takes_fractions=True,
    ),
    "timm train.py": Peer(
        _timm, _from_summary, "saves weights and optimizer", settings="SGD 0.01, batch 32, no warm-up"
    ),
    "torchvision references": Peer(
        _torchvision, _printed(r"^Test: +Acc@1 (\S+)", 100), "saves weights and optimizer twice", fine_tunes=False
    ),
    "fastai": Peer(
        _child("fastai", lambda job: job.folder),
        _child_accuracy,
        "has an optimizer of its own, and mirrors whole batches",
        settings="`fine_tune`, its defaults, batch 32, 10 % held out",
        more_passes=1,
    ),
    "Ultralytics classify": Peer(
        _child("ultralytics", _linked),
        _child_accuracy,
        "trains timm's network, has no loader worker on a CPU, averages weights, clips gradients, and evaluates twice",
        settings="its defaults, on timm's network",
    ),
    "lightly-train": Peer(
        _lightly, _child_accuracy, "warms its rate up over the whole run, and clips gradients", fine_tunes=False
    ),
}
