"""Draw docs/images/digits_run.png, the README's figure, from the folder that `make demo` leaves.

python docs/site/digits_figure.py runs/demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from datasets import Image
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix
from transformers import pipeline

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset

TARGET = Path(__file__).resolve().parents[1] / "images/digits_run.png"
SEED = 42
COLOUR = "#3f51b5"


def draw(run: Path) -> Figure:
    """Draw the validation accuracy, the confusion matrix of the test split, and test images with their predictions.

    Args:
        run: The folder of a finished run on `digits`, with its checkpoints.

    Returns:
        A figure of 11 x 3.6 inches.
    """
    newest = max(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    evaluations = [(entry["epoch"], 100 * entry["eval_accuracy"]) for entry in history if "eval_accuracy" in entry]
    test = load_image_dataset(DataArguments(dataset="digits"), SEED).splits["test"]
    images, labels = list(test.cast_column("image", Image())["image"]), list(test["label"])
    answers = pipeline("image-classification", str(run))([image.convert("RGB") for image in images], top_k=1)
    predictions = [int(answer[0]["label"]) for answer in answers]

    figure = Figure(figsize=(11, 3.6), layout="constrained", dpi=100)
    curve, matrix, samples = figure.subfigures(1, 3, width_ratios=(1.1, 1, 1.1))
    axes = curve.subplots()
    axes.plot(*zip(*evaluations, strict=True), marker="o", color=COLOUR)
    axes.set(xlabel="epoch", ylabel="accuracy (%)", xlim=(0, None), title="Validation, 144 images")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)

    axes = matrix.subplots()
    counts = confusion_matrix(labels, predictions)
    axes.imshow(counts, cmap="Blues")
    for row, column in np.argwhere(counts):
        colour = "white" if row == column else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    accuracy = 100 * np.trace(counts) / counts.sum()
    axes.set(xlabel="prediction", ylabel="label", title=f"Test, {len(labels)} images: {accuracy:.2f} %")
    axes.set_xticks(range(10))
    axes.set_yticks(range(10))

    wrong = [index for index, label in enumerate(labels) if predictions[index] != label][:4]
    correct = [index for index, label in enumerate(labels) if predictions[index] == label][:: len(labels) // 9][:8]
    grid = samples.subplots(3, 4)
    for axes, index in zip(grid.flat, [*correct, *wrong], strict=True):
        axes.imshow(images[index], cmap="gray")
        axes.set_axis_off()
        good = predictions[index] == labels[index]
        note = f"{predictions[index]}" if good else f"{predictions[index]}, not {labels[index]}"
        axes.set_title(note, fontsize=9, color="black" if good else "#c62828")
    samples.suptitle("Predictions")
    return figure


if __name__ == "__main__":
    draw(Path(sys.argv[1])).savefig(TARGET)
