"""Stock as a script: the usual fifty lines around the Trainer, for benchmarks of whole processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import load_dataset
from torchvision import transforms
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)


@dataclass
class ScriptArguments:
    dataset_name: str = field(metadata={"help": "Hub id or folder."})
    model_name_or_path: str = field(metadata={"help": "Hub id or folder."})
    image_column_name: str = field(default="img")
    label_column_name: str = field(default="label")


def main(words: list[str]) -> None:
    parser = HfArgumentParser((ScriptArguments, TrainingArguments))  # type: ignore[arg-type]  # typed for instances
    script, training = parser.parse_args_into_dataclasses(words)
    dataset = load_dataset(script.dataset_name)
    names = dataset["train"].features[script.label_column_name].names
    processor = AutoImageProcessor.from_pretrained(script.model_name_or_path)
    model = AutoModelForImageClassification.from_pretrained(
        script.model_name_or_path,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: position for position, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )
    side = processor.size["shortest_edge"]
    finish = [transforms.ToTensor(), transforms.Normalize(processor.image_mean, processor.image_std)]
    train = transforms.Compose(
        [transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip(), transforms.Resize(side), *finish]
    )

    def preprocess(rows: dict[str, Any]) -> dict[str, Any]:
        images = [train(image.convert("RGB")) for image in rows[script.image_column_name]]
        return {"pixel_values": images, "labels": rows[script.label_column_name]}

    dataset["train"].set_transform(preprocess)
    trainer = Trainer(
        model,
        training,
        train_dataset=dataset["train"],
        processing_class=processor,
        compute_metrics=lambda output: {
            "accuracy": float((np.argmax(output.predictions, axis=1) == output.label_ids).mean())
        },
    )
    trainer.train()
