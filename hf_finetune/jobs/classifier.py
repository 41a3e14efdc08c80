"""A model with all that is needed to classify images: what prepares them, and how its answers are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias, cast

import torch
import xxhash
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.errors import UserError
from hf_finetune.evaluation.test_time import with_views
from hf_finetune.exporters.base import LogitsOf
from hf_finetune.exporters.onnx_model import OnnxModel
from hf_finetune.logs import get_logger
from hf_finetune.models.head import class_names, describe_repeated, head_module, inputs_of
from hf_finetune.models.load import load_trained, open_source
from hf_finetune.models.processor import load_image_processor
from hf_finetune.tasks import DEFAULT_THRESHOLD, Task, task_of

logger = get_logger(__name__)

Classes: TypeAlias = "tuple[tuple[str, float], ...]"
"""Classes with their probabilities, parts of 1, the likeliest first."""


@dataclass(frozen=True)
class Classifier:
    """A model with what prepares images for it.

    Attributes:
        logits: pixel_values, float32 (batch, channels, height, width) -> logits, float32 (batch, classes).
        image_processor: What prepares images.
        names: The names of the classes by class id.
        device: Where the model is.
        task: What its logits say of an image.
        thresholds: The probability from which on each class is given, where a model of several labels has its own.
        network: The network; None for an ONNX file.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    image_processor: BaseImageProcessor
    names: dict[int, str]
    device: torch.device
    task: Task
    thresholds: Sequence[float] | None
    network: PreTrainedModel | None = None

    @cached_property
    def stage(self) -> EvaluationStage:
        """What decodes images and brings them to their size, in this process or in workers."""
        return EvaluationStage(self.image_processor, uniform=False)

    @cached_property
    def _device_stage(self) -> DeviceStage:
        return DeviceStage(self.image_processor, uniform=False)

    def prepared(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return images of `stage` as the model takes them: float32 of the same shape, on its device."""
        return self._device_stage({"pixel_values": pixel_values.to(self.device)})["pixel_values"]

    def probabilities(self, pixel_values: torch.Tensor, tta: str | None = None) -> torch.Tensor:
        """Return the probabilities of prepared images, float32 (batch, classes) on the CPU.

        Args:
            pixel_values: Images as `prepared` returns them, float32 (batch, channels, height, width), on the device.
            tta: A kind of test-time augmentation, or None.
        """
        with torch.inference_mode():
            if tta is None:
                logits = self.logits(pixel_values)
            else:
                logits = with_views(self.logits, pixel_values, tta, self.task)[1]
            return self.task.probabilities(logits).cpu()

    def with_features(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities, and what the head is given: the pooled features, float32 (batch, features) on the CPU.

        Raises:
            UserError: For an ONNX file, and for a network whose head is not one module.
        """
        with inputs_of(self.head()) as given:
            probabilities = self.probabilities(pixel_values)
        return probabilities, given[-1].float().flatten(1).cpu()

    def head(self) -> torch.nn.Module:
        """Return the module that makes logits of features. Raises `UserError` where there is none."""
        head = None if self.network is None else head_module(self.network)
        if head is None:
            kind = "an ONNX file" if self.network is None else f"{type(self.network).__name__} in this form"
            raise UserError(f"--embeddings are what a head is given, and {kind} has none; use a run's folder.")
        return head

    def digest(self) -> str:
        """Return a checksum of the weights, of what prepares images and of the classes: what the answers depend on."""
        digest = xxhash.xxh3_128(self.image_processor.to_json_string().encode())
        digest.update(repr((self.names, self.thresholds)).encode())
        if self.network is None:
            digest.update(cast(OnnxModel, self.logits).digest().encode())
        else:
            for name, tensor in self.network.state_dict().items():
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def choice(self, top_k: int | None, threshold: float | None) -> Callable[[torch.Tensor], list[Classes]]:
        """Return what chooses the classes of images from their probabilities, float32 (batch, classes).

        Args:
            top_k: Classes of each; None for the likeliest, or where a model gives several, those that reach their
                thresholds.
            threshold: The probability from which on a model of several labels gives a class; None for its own.

        Raises:
            UserError: For a threshold of a model that gives one class.
        """
        if threshold is not None and not self.task.several:
            raise UserError("--threshold is for models of several labels per image, and this one gives one class.")
        limits = torch.zeros(len(self.names))
        if threshold is not None:
            limits += threshold
        elif top_k is None and self.task.several:
            limits = torch.tensor(self.thresholds or [DEFAULT_THRESHOLD] * len(limits))
        most = len(limits) if top_k is None and self.task.several else min(top_k or 1, len(limits))
        return partial(_choose, names=self.names, limits=limits, most=most)


def _choose(probabilities: torch.Tensor, names: dict[int, str], limits: torch.Tensor, most: int) -> list[Classes]:
    scores, classes = probabilities.topk(most)
    rows = zip(scores.tolist(), classes.tolist(), (scores >= limits[classes]).tolist(), strict=True)
    return [
        tuple((names[class_id], score) for score, class_id, given in zip(*row, strict=True) if given) for row in rows
    ]


def open_classifier(
    model: str | Path | PreTrainedModel, image_processor: BaseImageProcessor | None = None
) -> Classifier:
    """Open a model for predictions, on the accelerator where there is one. A model object stays where it is.

    Args:
        model: A folder, a Hub id, an embedded name, an ONNX file or a model object.
        image_processor: What prepares images; absent, the model's own.

    Raises:
        UserError: For a model that cannot be had.
    """
    if not isinstance(model, PreTrainedModel) and str(model).endswith(".onnx"):
        onnx = OnnxModel(Path(model))
        return Classifier(onnx, onnx.image_processor, onnx.id2label, torch.device("cpu"), onnx.task, onnx.thresholds)
    source = open_source(model if isinstance(model, PreTrainedModel) else ModelArguments(model_name_or_path=str(model)))
    network = load_trained(source)
    device = network.device
    if not isinstance(model, PreTrainedModel) and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator() or device
    image_processor = image_processor or load_image_processor(source, network.config)
    names = class_names(network.config)
    if repeated := describe_repeated(names):
        # As an error, because standard output may be read by a program.
        logger.error(
            f"Note: several classes of the model have one name: {repeated}; predictions do not tell them apart."
        )
    torch.nn.Module.to(network, device)
    task, thresholds = task_of(network.config), getattr(network.config, "thresholds", None)
    return Classifier(
        LogitsOf(network), image_processor, dict(enumerate(names)), device, task, thresholds, network=network
    )
