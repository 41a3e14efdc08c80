"""Image files in, class names and probabilities out."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from hf_finetune.config.model import ModelArguments
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.images.decoding import IMAGE_EXTENSIONS
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.errors import UserError
from hf_finetune.exporters.base import LogitsOf
from hf_finetune.exporters.onnx_model import OnnxModel
from hf_finetune.models.load import load_trained
from hf_finetune.models.processor import load_image_processor


def _find_images(paths: Sequence[str]) -> list[Path]:
    images = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_EXTENSIONS)
            if not found:
                raise UserError(f"{path} holds no images; use a folder that does, or image files.")
            images += found
        elif path.is_file():
            images.append(path)
        else:
            raise UserError(f"There is no file or folder {path}; check the path.")
    return images


def classify(
    model_name: str, paths: Sequence[Path], batch_size: int, unreadable: list[str]
) -> Iterator[tuple[Path, torch.Tensor, dict[int, str]]]:
    """Yields each readable image with its probabilities, float32 (classes,), and the class names by id.

    What cannot be read is added to `unreadable`, a line each.
    """
    device = torch.device("cpu")
    if model_name.endswith(".onnx"):
        model = OnnxModel(Path(model_name))
        image_processor, names = model.image_processor, model.id2label
    else:
        arguments = ModelArguments(model_name_or_path=model_name)
        network = load_trained(arguments)
        image_processor, names = load_image_processor(arguments, network.config), network.config.id2label
        if torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
        model = LogitsOf(network.to(device))
    stage, device_stage = EvaluationStage(image_processor, uniform=False), DeviceStage(image_processor, uniform=False)
    for start in tqdm(range(0, len(paths), batch_size), desc="images", unit="batch", delay=2, file=sys.stderr):
        readable, batches = [], []
        for path in paths[start : start + batch_size]:
            try:
                rows = stage({"image": [{"path": str(path), "bytes": None}], "label": [-1]})
            except UserError as error:
                unreadable.append(str(error))
                continue
            readable.append(path)
            batches.append(rows["pixel_values"])
        if batches:
            batch = device_stage({"pixel_values": torch.cat(batches).to(device)})
            with torch.inference_mode():
                probabilities = model(batch["pixel_values"]).softmax(dim=-1).cpu()
            for path, row in zip(readable, probabilities, strict=True):
                yield path, row, names


def predict_files(model_name: str, paths: Sequence[str], top_k: int, batch_size: int, output_format: str) -> list[str]:
    """Prints the `top_k` likeliest classes of each image as "text", "json" or "csv"; returns what was unreadable."""
    if top_k < 1 or batch_size < 1:
        raise UserError("--top_k and --batch_size are at least 1.")
    images = _find_images(paths)
    unreadable: list[str] = []
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if output_format == "csv":
        writer.writerow(["file", "rank", "label", "score"])
    answers = []
    for path, probabilities, names in classify(model_name, images, batch_size, unreadable):
        scores, classes = probabilities.topk(min(top_k, len(probabilities)))
        ranked = [(names[class_id], score) for score, class_id in zip(scores.tolist(), classes.tolist(), strict=True)]
        if output_format == "csv":
            writer.writerows([str(path), rank, label, f"{score:.6f}"] for rank, (label, score) in enumerate(ranked, 1))
        elif output_format == "json":
            answers.append(
                {"file": str(path), "predictions": [{"label": lab, "score": score} for lab, score in ranked]}
            )
        else:
            print(f"{path}: " + ", ".join(f"{label} {score:.1%}" for label, score in ranked))
    if output_format == "json":
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    for line in unreadable:
        print(f"hf-finetune: {line}", file=sys.stderr)
    return unreadable
