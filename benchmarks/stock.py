"""Stock: the Trainer as a user has it without this package.

The Trainer of Transformers, fed by `set_transform` with torchvision's transforms on one PIL image at a time, the
default collator and contiguous tensors. Model, weights, batch size, workers, optimizer and steps are the same as ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Image, load_dataset
from torchvision import transforms
from transformers import EvalPrediction, PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from benchmarks.harness import Session


def load_stock_dataset(path: Path) -> DatasetDict:
    """Load a copy in the Hub's layout or a folder of class folders with `datasets`."""
    if any(path.rglob("*.parquet")):
        return load_dataset(str(path))
    return load_dataset("imagefolder", data_dir=str(path))


def set_stock_transform(
    dataset: Dataset,
    items: Sequence[str | Mapping[str, Mapping[str, Any]]],
    mean: Sequence[float],
    std: Sequence[float],
) -> Dataset:
    """Set the transforms of a recipe's `train_transforms` on a dataset, then ToTensor and Normalize.

    `mean` and `std` are in pixel units, 0 to 255.
    """
    steps = []
    for item in items:
        name, arguments = (item, {}) if isinstance(item, str) else next(iter(item.items()))
        steps.append(getattr(transforms, name)(**arguments))
    normalize = transforms.Normalize([value / 255 for value in mean], [value / 255 for value in std])
    compose = transforms.Compose([*steps, transforms.ToTensor(), normalize])
    column = next(name for name, feature in dataset.features.items() if isinstance(feature, Image))

    def apply(rows: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        return {"pixel_values": [compose(image.convert("RGB")) for image in rows[column]], "labels": rows["label"]}

    dataset.set_transform(apply)
    return dataset


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The `compute_metrics` of most examples: argmax over the logits of the whole split."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def twin(model: torch.nn.Module | None) -> PreTrainedModel:
    """Return a new network with the same architecture and weights: contiguous, with all parameters trainable."""
    assert isinstance(model, PreTrainedModel)  # a Trainer's `model` may be more
    other = type(model)(copy.deepcopy(model.config))
    other.load_state_dict(model.state_dict())
    return other.to(model.device)  # type: ignore[arg-type]  # typed as a function of `self` alone


@dataclass(frozen=True)
class Schedule:
    """How both sides train: SGD without clipping, and by default a learning rate that falls linearly."""

    batch: int
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lr_scheduler_type: str = "linear"
    max_steps: int = -1
    num_train_epochs: float = 1.0
    eval_strategy: str = "no"
    seed: int = 42

    def common(self, session: Session) -> dict[str, Any]:
        """Return the settings that have the same name on both sides."""
        return {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "lr_scheduler_type": self.lr_scheduler_type,
            "num_train_epochs": self.num_train_epochs,
            "eval_strategy": self.eval_strategy,
            "per_device_eval_batch_size": self.batch,
            "max_grad_norm": 0.0,
            "logging_steps": 100,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": session.cpu,
            "seed": self.seed,
        } | ({"max_steps": self.max_steps} if self.max_steps > 0 else {})


def stock_trainer(
    session: Session,
    model: PreTrainedModel,
    schedule: Schedule,
    train_dataset: Dataset | None,
    eval_dataset: Dataset | None = None,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = accuracy,
    **settings: Any,
) -> Trainer:
    """Return the Trainer; `settings` are additional arguments, which override those of the schedule."""
    args = TrainingArguments(
        output_dir=str(session.folder / "stock"),
        per_device_train_batch_size=schedule.batch,
        optim="sgd",
        optim_args=f"momentum={schedule.momentum}",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available() and not session.cpu,
        **{**schedule.common(session), **settings},
    )
    trainer = Trainer(
        model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, compute_metrics=compute_metrics
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
