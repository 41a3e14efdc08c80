"""A Trainer of a tiny network on 4 classes of noise, and its parts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset, Features, Image, Value
from transformers import BitImageProcessor, PreTrainedModel

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.data.transforms.build import NO_TRANSFORMS, build_train_transforms
from hf_finetune.evaluation.metrics import ClassificationMetrics, reduce_logits
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.networks import CLASSES, SIDE

PROCESSOR = BitImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def make_dataset(count: int) -> Dataset:
    """Noise images whose brightness tells the class."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    images = []
    for label in labels:
        pixels = (generator.integers(0, 64, (SIDE, SIDE, 3)) + 60 * label).astype(np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, format="PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    features = Features({"image": Image(decode=False), "label": Value("int64"), "sample_index": Value("int64")})
    return Dataset.from_dict({"image": images, "label": labels, "sample_index": np.arange(count)}, features=features)


def make_trainer(
    folder: Path, model: PreTrainedModel, count: int = 64, items: Sequence[Any] = (), **settings: Any
) -> ImageClassificationTrainer:
    """A Trainer of `count` images in batches of 16, with `items` as train_transforms; `settings` are recipe keys."""
    settings = {
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 1,
        "global_batch_size": 16,
        "lr_milestones": [2.0],
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        **settings,
    }
    args = FinetuneArguments(output_dir=str(folder), **settings)
    transforms = build_train_transforms(items, uniform=True) if items else NO_TRANSFORMS
    stage = TrainingStage(transforms, args.seed)
    return ImageClassificationTrainer(
        model,
        args,
        device_stage=DeviceStage(PROCESSOR, True, transforms, mean=(120.0,) * 3, std=(60.0,) * 3),
        training_stage=stage,
        image_processor=PROCESSOR,
        train_dataset=ImageBatches(make_dataset(count), stage),
        eval_dataset=ImageBatches(make_dataset(20), EvaluationStage(PROCESSOR, uniform=True)),
        compute_metrics=ClassificationMetrics([f"class {number}" for number in range(CLASSES)]),
        reduce_logits=reduce_logits,
    )
