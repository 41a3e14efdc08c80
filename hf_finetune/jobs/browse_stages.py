"""Some training images after each stage of a run's own pipeline, which is watched and not copied."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.device import NORMALIZED, REDUCED
from hf_finetune.data.images.bands import look, read_bands, shown_bands
from hf_finetune.data.images.decoding import Decoding, OpenImage, UnreadableImage, decode_image
from hf_finetune.data.stages import TrainingStage
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.data.transforms.given import GivenTransform
from hf_finetune.data.transforms.mixing import Mixing
from hf_finetune.errors import UserError, first_line
from hf_finetune.models.processor import describe
from hf_finetune.training.assembly import Assembly
from hf_finetune.training.extensions.image_sizes import ImageSizes, size_at
from hf_finetune.training.trainer import ImageClassificationTrainer

Pixels = npt.NDArray[np.uint8]

_FILE, _ON_IMAGE, _ON_BATCH = "the file", "each image", "the batch"


@dataclass(frozen=True)
class SeenStage:
    """A stage of the pipeline, and what it made of the images.

    Attributes:
        name: What it is called in a recipe, or words.
        parameters: Its settings in words.
        place: What it works on.
        images: uint8 (height, width, 3), one for each image that is shown; normalized ones are shown un-normalized.
        low: The lowest value of all of them, as the stage has it.
        high: The highest.
    """

    name: str
    parameters: str
    place: str
    images: tuple[Pixels, ...]
    low: float
    high: float

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The (height, width) in pixels that occur, ascending."""
        return sorted({(image.shape[0], image.shape[1]) for image in self.images})


@dataclass(frozen=True)
class SeenImages:
    """Training images, and what the pipelines of training and evaluation make of them.

    Attributes:
        names: Their files or rows.
        labels: Before they are mixed, as a batch has them.
        targets: After it.
        decoded: Their files as they are decoded.
        training: The stages of training in their order.
        evaluation: What evaluation makes of them.
        pixel_values: What the network is given in training, float32 (images, 3, height, width).
    """

    names: tuple[str, ...]
    labels: torch.Tensor
    targets: torch.Tensor
    decoded: SeenStage
    training: tuple[SeenStage, ...]
    evaluation: SeenStage
    pixel_values: torch.Tensor

    @property
    def is_mixed(self) -> bool:
        """Whether the labels of the batch are others than those of the images."""
        return not torch.equal(self.labels, self.targets)


class _Recorder:
    """Keeps the first images after each step, in the order in which the steps are taken."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.images: dict[object, list[torch.Tensor]] = {}

    def __call__(self, step: object, images: torch.Tensor) -> None:
        kept = self.images.setdefault(step, [])
        several = images if images.ndim == 4 else images[None]
        kept += [image.detach().cpu().clone() for image in several[: self.wanted - len(kept)]]


def see_images(assembly: Assembly, wanted: int) -> SeenImages:
    """Take whole first batches of the training through its pipeline, and return the first images after each stage.

    The batches are whole because MixUp and CutMix mix an image with another one of its batch.

    Args:
        assembly: The parts of the run. Its trainer is not used again.
        wanted: How many images, at most.

    Raises:
        UserError: An image cannot be read, or the transforms do not fit the images.
    """
    trainer = assembly.trainer
    recorder = _Recorder(wanted)
    dataset = _watched(trainer, recorder)
    sizes = trainer.extensions.find(ImageSizes)
    trainer.device_stage.training_size = None if sizes is None else size_at(sizes.sizes, 0)
    rows: list[int] = []
    batches: list[dict[str, torch.Tensor]] = []
    try:
        for batch in _first_batches(trainer, wanted):
            read = dataset.__getitems__(batch)
            read["stated"] = read["labels"]
            batches.append(trainer.prepare_batch(read))
            rows += batch
    except UnreadableImage as error:
        raise UserError(f"{error} Fix or remove it: browse puts no other image in its place.") from error
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"A first batch of images cannot be prepared: {first_line(error)}; check image_size and train_transforms."
        ) from error
    names = ("pixel_values", "labels", "stated")
    seen = {name: torch.cat([batch[name].cpu() for batch in batches])[:wanted] for name in names}
    return _seen(assembly, dataset, rows[:wanted], seen, recorder)


def _watched(trainer: ImageClassificationTrainer, recorder: _Recorder) -> ImageBatches | StreamedBatches:
    """Return the training images, whose transforms show the recorder what they do; an unreadable one is an error."""
    dataset: ImageBatches | StreamedBatches = copy.copy(trainer.train_dataset)
    dataset.on_unreadable = None
    watched = replace(trainer.device_stage.transforms, observer=recorder)
    trainer.device_stage.transforms = watched
    if isinstance(dataset.stage, TrainingStage):
        dataset.stage.transforms = watched
    return dataset


def _first_batches(trainer: ImageClassificationTrainer, wanted: int) -> Iterator[list[int]]:
    """Yield the rows of the first batches of epoch 0, until there are as many as are wanted."""
    loader: Any = trainer.get_train_dataloader()
    trainer.set_epoch(0)
    for batch in loader.batch_sampler:
        rows = [row for entry in batch for row in (entry if isinstance(entry, tuple) else (entry,))]
        yield rows
        wanted -= len(rows)
        if wanted <= 0:
            return


def _seen(
    assembly: Assembly,
    dataset: ImageBatches | StreamedBatches,
    rows: Sequence[int],
    seen: Mapping[str, torch.Tensor],
    recorder: _Recorder,
) -> SeenImages:
    trainer, images = assembly.trainer, assembly.images
    if isinstance(dataset, StreamedBatches):
        found = dataset.rows(rows)
        values, indices = [row.image for row in found], [row.sample_index for row in found]
    else:
        places = np.asarray(rows) % len(dataset)
        values, indices = dataset.split[places]["image"], dataset.sample_index[places].tolist()
    how = dataset.stage.decoding
    read = partial(decode_image, how=how) if how.channels is None else partial(read_bands, channels=how.channels)
    stored = tuple(np.asarray(read(value)) for value in values)
    decoded = stored if how.channels is None else tuple(np.asarray(shown_bands(image)) for image in stored)
    batch = images.batches["train"].stage({"image": values, "label": seen["stated"].numpy()})
    evaluated = trainer.prepare_batch(batch)["pixel_values"].cpu()
    evaluation = _stage(trainer, "as in evaluation", _evaluation_in_words(assembly), _ON_BATCH, list(evaluated))
    file = SeenStage("decoded", _files_in_words(values, how), _FILE, decoded, *_range_of(stored))
    return SeenImages(
        tuple(images.bad_images.name("train", index) for index in indices),
        seen["stated"],
        seen["labels"],
        file,
        _training_stages(assembly, recorder) or (replace(evaluation, name="as evaluation"),),
        evaluation,
        seen["pixel_values"],
    )


def _training_stages(assembly: Assembly, recorder: _Recorder) -> tuple[SeenStage, ...]:
    trainer, transforms = assembly.trainer, assembly.trainer.device_stage.transforms
    items = iter(assembly.items)
    stages = []
    for step, images in recorder.images.items():
        if step == NORMALIZED:
            name, parameters = "normalized", _normalization_in_words(assembly)
        elif step == REDUCED:
            name, parameters = "image_size_schedule", f"of epoch 0: {trainer.device_stage.training_size} pixels"
        else:
            name, parameters = _in_words(step, next(items, None))
        place = _ON_IMAGE if step is transforms.decoding or step in transforms.single else _ON_BATCH
        stages.append(_stage(trainer, name, parameters, place, images))
    return tuple(stages)


def _stage(
    trainer: ImageClassificationTrainer, name: str, parameters: str, place: str, images: Sequence[torch.Tensor]
) -> SeenStage:
    """Return a stage with its images, uint8, normalized or as it is stored, (channels, height, width) each."""
    low, high = _range_of([image.numpy() for image in images])
    shown = [trainer.device_stage.levels(image[None])[0] if image.is_floating_point() else image for image in images]
    return SeenStage(name, parameters, place, tuple(image.permute(1, 2, 0).numpy() for image in shown), low, high)


def _range_of(images: Sequence[npt.NDArray[Any]]) -> tuple[float, float]:
    return min(float(image.min()) for image in images), max(float(image.max()) for image in images)


# ---- words ----


def _in_words(step: object, item: Any) -> tuple[str, str]:
    """Return the name and the settings of a transform.

    Args:
        step: The transform, or what does its work.
        item: What the recipe says of it; None where a Python program gave a function.
    """
    transform: Any = step if isinstance(step, nn.Module) else getattr(step, "transform", step)
    if isinstance(transform, GivenTransform):
        function = transform.function
        name = getattr(function, "__qualname__", type(function).__name__)
        return name, " ".join(repr(function).split()) if isinstance(function, nn.Module) else "a function of one image"
    if isinstance(transform, Mixing):
        transform = transform.transforms[0]
    name, stated = next(iter(item.items())) if isinstance(item, Mapping) else (str(item), {})
    known = {} if type(transform).__name__ != name else _settings(transform)
    return name, ", ".join(f"{key} {_word(value)}" for key, value in {**known, **(stated or {})}.items())


def _settings(transform: nn.Module) -> dict[str, Any]:
    """Return the settings of a transform by the names of its arguments, as far as it keeps them."""
    names = inspect.signature(type(transform).__init__).parameters
    found = {name: getattr(transform, name) for name in names if hasattr(transform, name)}
    return {name: value for name, value in found.items() if value is not None and name != "transforms"}


def _word(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_word(entry)}".strip() for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_word, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _normalization_in_words(assembly: Assembly) -> str:
    figures = describe(assembly.images.image_processor)
    mean, std = (", ".join(f"{value:.1f}" for value in values) for values in (figures.mean, figures.std))
    units = "of 0 to 255; shown un-normalized" if figures.channels is None else "in the units of the files"
    return f"(value - mean) / std, mean {mean}, std {std}, {units}"


def _evaluation_in_words(assembly: Assembly) -> str:
    figures = describe(assembly.images.image_processor)
    height, width = figures.sides
    cut = f", crop_pct {figures.crop_pct:.3g}" if figures.crop_pct != 1 else ""
    return f"resize_mode {figures.resize_mode} to {height} x {width}{cut}, {figures.resample}, normalized"


def _files_in_words(values: Sequence[Any], how: Decoding) -> str:
    if how.channels is not None:
        kinds = {f"{how.channels} channels of {look(value, how.channels).dtype}" for value in values}
        return f"{'; '.join(sorted(kinds))}; shown: three of them, from percentile 2 to 98"
    kinds = set()
    for value in values:
        with OpenImage(value) as opened:
            kinds.add(f"{opened.format or 'pixels'}, mode {opened.mode}")
    return "; ".join(sorted(kinds))
