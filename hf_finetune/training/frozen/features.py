"""Training a head on features that the frozen backbone computes once.

Where nothing of a training image is random, the frozen backbone gives the same features for it in every epoch. They
are computed once, in evaluation mode, and kept; then the same Trainer trains the same model, whose `forward` is its
head alone for that time. So checkpoints and the result are whole models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from hf_finetune.config.training_keys import BF16, FP16
from hf_finetune.data.batches import NOT_COUNTED, ImageBatches
from hf_finetune.data.stages import as_labels
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import get_logger, progress_bar
from hf_finetune.models.head import head_module, head_parameter_names, inputs_of
from hf_finetune.training.frozen.feature_cache import FeaturesNotKept, feature_file, read_features, write_features
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

# Of torchvision.transforms.v2, those without random draws; any other is taken to have some.
_WITHOUT_DRAWS = ("CenterCrop", "Grayscale", "Identity", "Pad", "Resize", "RGB")
_SECONDS_BEFORE_BAR = 2


class FeatureDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Features, float32 (images, ...), and labels as `ImageBatches` has them, given a whole batch at a time.

    `sample_index`, integers (images,), are the rows of the source's split that they are of.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, sample_index: np.ndarray) -> None:
        self.features = features
        self.labels = labels
        self.sample_index = sample_index

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the batch, stacked: features under `pixel_values`, which is what the Trainer calls its input.

        Rows may be repetitions, as in `ImageBatches`.
        """
        places = np.asarray(rows) % len(self)
        return {
            "pixel_values": torch.from_numpy(self.features[places]),
            "labels": as_labels(self.labels[places]),
            "sample_index": torch.from_numpy(self.sample_index[places]).long(),
        }


def _without_sample_index(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if key != "sample_index"}


def random_transforms(train_transforms: Sequence[Any] | Callable[..., Any]) -> list[str]:
    """Return the names of those transforms of a recipe's list that draw random numbers; a function may."""
    if callable(train_transforms):
        return ["a function"]
    names = [item if isinstance(item, str) else next(iter(item)) for item in train_transforms]
    return [name for name in names if name not in _WITHOUT_DRAWS]


def train_on_features(
    trainer: ImageClassificationTrainer,
    splits: Mapping[str, ImageBatches],
    transforms: Sequence[Any] | Callable[..., Any] | None,
) -> Mapping[str, ImageBatches | FeatureDataset]:
    """Turn a trainer with a frozen backbone to features, and return those of each split, computed or read.

    `transforms` are the train_transforms that the split "train" has been given, None where its images are prepared as
    in evaluation. Where features cannot be kept, says why and returns the splits of images as they are.
    `train_on_images` ends it.
    """
    try:
        parts, shape = _after_backbone(trainer, transforms)
        with trainer.args.main_process_first(desc="features"):
            features = {
                role: _features(trainer, parts[0], shape, role, split, transforms if role == "train" else None)
                for role, split in splits.items()
            }
    except FeaturesNotKept as reason:
        logger.warning(f"Note: features are not kept: {reason}.")
        return splits
    _give_features(trainer, parts, features)
    return features


def train_on_images(model: PreTrainedModel) -> None:
    """Take the head's place as the model's `forward` back, so that it is called with images again."""
    vars(model).pop("forward", None)


def module_inputs(
    trainer: ImageClassificationTrainer, dataset: Any, module: nn.Module, description: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what `module` is given for each batch of a dataset, float32 (batch, ...), and its labels, int64 (batch,)
    or float32 (batch, classes).

    A label of -100 says that the image cannot be read, and that another was in its place. The model runs in
    evaluation mode, on the trainer's device, in this process alone, and in float32 unless it runs in a context.
    """
    args, model = trainer.args, trainer.model.eval()
    loader = DataLoader(
        dataset,
        batch_size=args.per_device_eval_batch_size,
        collate_fn=trainer.data_collator,
        num_workers=args.dataloader_num_workers or 0,
        pin_memory=args.dataloader_pin_memory,
        generator=torch.Generator(),  # of its own, so that training draws the same numbers afterwards
    )
    bar = progress_bar(
        total=len(dataset), desc=description, unit="image", delay=_SECONDS_BEFORE_BAR, disable=args.disable_tqdm
    )
    with bar, trainer.extensions.loading(), inputs_of(module) as given:
        for batch in loader:
            leave_if_interrupted()
            inputs = trainer.prepare_batch(batch)
            labels = inputs.pop("labels")
            with torch.inference_mode():
                model(**inputs)
            yield given.pop().float().cpu().numpy(), labels.cpu().numpy()
            bar.update(len(labels))


def _features(
    trainer: ImageClassificationTrainer,
    module: nn.Module,
    shape: tuple[int, ...],
    role: str,
    split: ImageBatches,
    transforms: Sequence[Any] | Callable[..., Any] | None,
) -> FeatureDataset:
    """Read a split's features, each of `shape`, or compute and write them first. Raises `FeaturesNotKept`."""
    args, trains = trainer.args, role == "train"
    settings = {
        "image_processor": cast(BaseImageProcessor, trainer.processing_class).to_json_string(),
        "transforms": transforms,
        "device": args.device.type,
        "mixed_precision": args.precision if trains and args.precision in (BF16, FP16) else "no",
    }
    path = feature_file(split.split, trainer.model, head_parameter_names(trainer.model), settings)
    whole = (len(split), *shape)
    features = read_features(path, whole)
    if features is not None:
        logger.info(f"Features of {role}: read from {path.parent}.")
    else:
        began = time.perf_counter()
        inputs = module_inputs(trainer, split, module, f"Features of {role}")
        with trainer.autocast_smart_context_manager() if trains else nullcontext():
            write_features(path, whole, _of_readable_images(inputs, role))
        seconds = time.perf_counter() - began
        logger.info(f"Features of {role}: {len(split):,} images in {seconds:.0f} s, kept in {path.parent}.")
        features = read_features(path, whole)
        if features is None:
            raise FeaturesNotKept(f"what is written to {path.parent} is not what is read from it")
    return FeatureDataset(features, split.labels, split.sample_index)


def _of_readable_images(inputs: Iterator[tuple[np.ndarray, np.ndarray]], role: str) -> Iterator[np.ndarray]:
    for features, labels in inputs:
        if (labels == NOT_COUNTED).any():
            raise FeaturesNotKept(f"there are images of {role} that cannot be read")
        yield features


def _after_backbone(
    trainer: ImageClassificationTrainer, transforms: Sequence[Any] | Callable[..., Any] | None
) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Return the modules that make logits of features, the head and dropout that lies directly before it, and the
    shape of an image's features.

    Raises `FeaturesNotKept` where they would not be the same in every epoch, and where two images show that these
    modules alone do not make the model's logits.
    """
    model, args, dataset = trainer.model, trainer.args, trainer.train_dataset
    if drawing := random_transforms(transforms or ()):
        raise FeaturesNotKept(
            f"train_transforms are random ({', '.join(drawing)}); with --train_transforms null and no"
            " augmentation, the frozen backbone would see each training image once instead of"
            f" {args.num_train_epochs:g} times"
        )
    head = head_module(model)
    if head is None:
        raise FeaturesNotKept(f"the head of {type(model).__name__} is not one module")

    inputs = trainer.prepare_batch(dataset.__getitems__(range(min(2, len(dataset)))))
    inputs.pop("labels")
    dropped: list[tuple[nn.Module, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, _, output: dropped.append((module, output)))
        for module in model.modules()
        if isinstance(module, nn.Dropout)
    ]
    devices = [args.device] if args.device.type == "cuda" else []
    try:
        with inputs_of(head) as given, torch.inference_mode(), torch.random.fork_rng(devices):
            model.eval()
            logits = model(**inputs).logits
            features = given[-1]
            complete = _close(head(features), logits)
            model.train()
            head.eval()  # its own statistics stay as they are
            model(**inputs)
            parts = [*(module for module, output in dropped if module.training and output is given[-1]), head]
            for part in parts:
                part.eval()
            model(**inputs)
            steady = _close(given[-1], features)
    finally:
        for hook in hooks:
            hook.remove()
    if not complete or not steady:
        raise FeaturesNotKept(f"{type(model).__name__} does more after its backbone, or at random, than its head")
    return parts, tuple(features.shape[1:])


def _close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and bool((first - second).abs().max() <= 1e-3 * second.abs().max())


def _give_features(
    trainer: ImageClassificationTrainer, parts: Sequence[nn.Module], features: Mapping[str, FeatureDataset]
) -> None:
    def forward(pixel_values: torch.Tensor) -> ImageClassifierOutput:
        for part in parts:
            pixel_values = part(pixel_values)
        return ImageClassifierOutput(logits=pixel_values)

    trainer.model.forward = forward
    trainer.train_dataset, trainer.eval_dataset = features["train"], features.get("validation")
    trainer.device_stage = _without_sample_index  # type: ignore[assignment]  # features need no stage
    # A batch is one gather from memory: workers would only be in its way.
    args = trainer.args
    args.dataloader_num_workers, args.dataloader_persistent_workers = 0, False
    args.dataloader_prefetch_factor = args.dataloader_multiprocessing_context = None
