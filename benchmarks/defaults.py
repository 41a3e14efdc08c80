"""The accuracy of the recipe `finetune` and of what it might be instead, on few images of your own: docs/defaults.md.

    python -m benchmarks.defaults --data ../shared --models resnet_small_cifar10 --images 100 1000 --seeds 1 2 3

Each run is one line on standard output and in the results file, which is read first: a run that is in it is not run
again. The table of medians comes last. `--data` has the layout that docs/benchmarks.md describes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from PIL import Image
from sklearn.datasets import load_digits

from hf_finetune import finetune

TEST_IMAGES = 2_000
SETS = ("cifar10", "mnist", "digits")
HUB_COPIES = {"cifar10": "hub/datasets/uoft-cs/cifar10", "mnist": "hub/datasets/ylecun/mnist"}
# Each is the recipe's name and what is changed.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "finetune": ("finetune", {}),
    "head alone": ("linear_probe", {}),
    "BatchNorm trained": ("finetune", {"freeze": None}),
    "random head": ("finetune", {"head_init": "random"}),
    "SGD, batch 128, 20 epochs": (
        "finetune",
        {
            "head_init": "random", "freeze": None, "optim": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4,
            "global_batch_size": 128, "num_train_epochs": 20, "lr_scheduler_type": "multistep", "lr_milestones": [15],
            "warmup_steps": 0, "label_smoothing_factor": 0.0, "load_best_model_at_end": True, "save_strategy": "epoch",
            "eval_strategy": "epoch",
        },
    ),
}  # fmt: skip


def labelled_images(data: Path, name: str) -> tuple[list[tuple[Any, int]], list[tuple[Any, int]]]:
    """Return train and test of a set as (image, class id), train in a random order."""
    if name == "digits":
        bunch = load_digits()
        pixels = (bunch.images * 255 / 16).astype(np.uint8)
        pairs = [(Image.fromarray(own), int(label)) for own, label in zip(pixels, bunch.target, strict=True)]
        order = np.random.default_rng(0).permutation(len(pairs))
        return [pairs[row] for row in order[:1_297]], [pairs[row] for row in order[1_297:]]
    hub = load_dataset(str(data / HUB_COPIES[name]))
    image, label = list(hub["train"].features)
    train = np.random.default_rng(0).permutation(len(hub["train"]))
    return (
        [(hub["train"][int(row)][image], hub["train"][int(row)][label]) for row in train[:20_000]],
        [(row[image], row[label]) for row in hub["test"].select(range(TEST_IMAGES))],
    )


def write_folder(folder: Path, data: Path, name: str, images: int) -> Path:
    """Write a set with as many training images of each class as class folders, as a user has them."""
    train, test = labelled_images(data, name)
    of_class = [[pair for pair in train if pair[1] == label][: images // 10] for label in range(10)]
    chosen = {"train": [pair for pairs in of_class for pair in pairs], "test": test}
    for split, pairs in chosen.items():
        for number, (image, label) in enumerate(pairs):
            path = folder / split / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return folder


def runs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what each run is: model, set, number of images, method, seed."""
    for seed in options.seeds:
        for images in options.images:
            for name in options.sets:
                for model in options.models:
                    for method in options.methods:
                        yield {"model": model, "set": name, "images": images, "method": method, "seed": seed}


def measure(run: dict[str, Any], folder: Path, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Train, and return the run with its accuracy on the test images and the CPU seconds that it took."""
    recipe, changes = METHODS[run["method"]]
    settings: dict[str, Any] = {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False} | changes
    if Path(run["model"]).exists():
        settings["image_size"] = options.image_size
    began = time.process_time()
    result = finetune(
        recipe,
        dataset=str(folder),
        model=run["model"],
        output_dir=str(work / f"run-{time.monotonic_ns()}"),
        seed=run["seed"],
        use_cpu=True,
        **settings,
    )
    return {**run, "accuracy": result.metrics["test_accuracy"], "cpu_seconds": round(time.process_time() - began, 1)}


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description="The defaults for images of your own, measured.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["resnet_small_cifar10"])
    parser.add_argument("--image_size", type=int, default=96, help="of a model that is a folder")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--images", nargs="+", type=int, default=[100, 1_000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--results", type=Path, default=Path("defaults.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    with tempfile.TemporaryDirectory() as work:
        for run in runs(options):
            if any(run.items() <= earlier.items() for earlier in done):
                continue
            folder = Path(work) / f"{run['set']}-{run['images']}"
            if not folder.exists():
                write_folder(folder, options.data, run["set"], run["images"])
            done.append(measure(run, folder, options, Path(work)))
            line = json.dumps(done[-1])
            print(line, flush=True)
            with options.results.open("a") as file:
                file.write(line + "\n")
    print_table(done, options)


def print_table(done: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the median over the seeds, with the lowest and the highest, as a Markdown table."""
    print(f"\n| Model | Set | Images | {' | '.join(options.methods)} |")
    print(f"| --- | --- | --- |{' --- |' * len(options.methods)}")
    for model, name, images in sorted({(run["model"], run["set"], run["images"]) for run in done}):
        cells = []
        for method in options.methods:
            wanted = {"model": model, "set": name, "images": images, "method": method}
            figures = [100 * run["accuracy"] for run in done if wanted.items() <= run.items()]
            cells.append(f"{statistics.median(figures):.1f} ({min(figures):.1f}-{max(figures):.1f})" if figures else "")
        print(f"| {Path(model).name} | {name} | {images:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
