"""What a network costs: parameters, computation, memory and speed, as a whole and by its parts."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError, first_line
from hf_finetune.evaluation.report import to_json
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import write_result
from hf_finetune.models.channels import channels_of
from hf_finetune.models.image_size import match_image_size
from hf_finetune.models.load import open_source
from hf_finetune.models.processor import describe, load_image_processor
from hf_finetune.models.quiet import without_weights
from hf_finetune.models.source import initialize

_SECONDS = 2.0  # of measuring, at least, and
_PASSES = 3  # passes
_ON_CPU, _ON_ACCELERATOR = 8, 64  # images of a pass
_PARTS_SHOWN = 40


@dataclass(frozen=True)
class Part:
    """A module of a network.

    Attributes:
        name: Its name in the network, "" for the whole.
        kind: Its class.
        parameters: How many weights it has, those of its own modules included.
        flops: Floating-point operations for one image, a multiplication and an addition being two.
    """

    name: str
    kind: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class ModelSummary:
    """What a network costs.

    Attributes:
        model: What the caller calls it.
        architecture: Its class.
        classes: How many it tells apart.
        height: Of its images, in pixels.
        width: Likewise.
        parameters: How many weights it has.
        flops: Floating-point operations for one image, a multiplication and an addition being two.
        weight_bytes: Of the weights in float32.
        training_bytes_per_image: What a training step keeps of each image for the backward pass, in float32.
        device: Where the speed was measured; None where it was not.
        batch_size: Images of a pass.
        images_per_second: Of predictions there, float32, the median of several passes.
        training_images_per_second: Of forward and backward passes there.
        parts: Its modules, down to the depth that was asked for.
    """

    model: str
    architecture: str
    classes: int
    height: int
    width: int
    parameters: int
    flops: int
    weight_bytes: int
    training_bytes_per_image: int
    device: str | None
    batch_size: int | None
    images_per_second: float | None
    training_images_per_second: float | None
    parts: tuple[Part, ...]

    def text(self) -> str:
        """Return what the command prints."""
        weights, image = self.weight_bytes / 1e6, self.training_bytes_per_image / 1e6
        lines = [
            f"{self.model}: {self.architecture}, {self.classes:,} classes, images of {self.height} x {self.width}",
            "",
            f"parameters   {self.parameters:,}, {weights:,.1f} MB in float32",
            f"computation  {self.flops / 1e9:,.2f} GFLOPs an image, or {self.flops / 2e9:,.2f} billion multiply-adds,"
            " which papers often call FLOPs",
            f"memory       in training {image:,.1f} MB for each image of a batch, besides weights, gradients and the",
            f"             optimizer's state: {3 * weights:,.0f} MB with SGD and momentum,"
            f" {4 * weights:,.0f} MB with AdamW",
        ]
        if self.images_per_second is not None and self.training_images_per_second is not None:
            lines.append(
                f"speed        {self.images_per_second:,.1f} images/s in prediction and"
                f" {self.training_images_per_second:,.1f} in training on {self.device}, float32, batch"
                f" {self.batch_size}, without reading images"
            )
        shown = self.parts[:_PARTS_SHOWN]
        width = max(len("module"), *(len(part.name) for part in shown)) if shown else 0
        lines += ["", f"{'module':<{width}}  {'parameters':>12}  {'share':>6}  {'GFLOPs':>9}  {'share':>6}  class"]
        lines += [
            f"{part.name:<{width}}  {part.parameters:>12,}  {_share(part.parameters, self.parameters)}"
            f"  {part.flops / 1e9:>9.3f}  {_share(part.flops, self.flops)}  {part.kind}"
            for part in shown
        ]
        if len(self.parts) > len(shown):
            lines.append(f"{len(self.parts) - len(shown)} more; use a smaller --depth, or --json for all.")
        return "\n".join(lines)


def _share(value: int, whole: int) -> str:
    return f"{value / max(1, whole):>6.1%}"


def run_summary(
    model: ModelArguments | PreTrainedModel,
    *,
    image_size: int | list[int] | None = None,
    depth: int = 2,
    measure: bool = True,
    batch_size: int | None = None,
    show: str | None = None,
) -> ModelSummary:
    """Return what a network costs. Its weights are not loaded: random ones compute as fast.

    The operations are counted by torch's FlopCounterMode on the device meta, in convolutions and matrix products; the
    rest is not counted there.

    Args:
        model: The network.
        image_size: Height and width in pixels, or one number for both; None for those of its image processor.
        depth: How many levels of modules are among the parts.
        measure: Whether its speed is measured, which takes seconds.
        batch_size: Images of a pass; None for 8 on a CPU and 64 elsewhere.
        show: "text" or "json" to write it to standard output, None for neither.

    Raises:
        UserError: The network cannot be had, or takes no images of this size.
    """
    if depth < 1 or (batch_size is not None and batch_size < 1):
        raise UserError("--depth and --batch_size are at least 1.")
    source = open_source(model)
    config = source.load_config()
    data = DataArguments(image_size=image_size)  # which checks it
    height, width = sides = describe(load_image_processor(source, config, data)).sides
    match_image_size(config, sides, {})
    counted = copy.deepcopy(config)
    # Attention as matrix products, which are counted; a fused kernel of the CPU is not.
    counted._attn_implementation = "eager"
    network = without_weights(counted).eval()
    flops, saved = _counted(network, source.name, sides, depth)
    device = str(torch.accelerator.current_accelerator() or "cpu") if torch.accelerator.is_available() else "cpu"
    batch = batch_size or (_ON_CPU if device == "cpu" else _ON_ACCELERATOR)
    predicted = trained = None
    if measure:
        predicted, trained = _speeds(config, sides, batch, device)
    parameters = sum(weight.numel() for weight in network.parameters())
    summary = ModelSummary(
        source.name, type(network).__name__, int(config.num_labels or 0), height, width, parameters, flops[0].flops,
        4 * parameters, saved, device if measure else None, batch if measure else None, predicted, trained, flops[1:],
    )  # fmt: skip
    if show is not None:
        write_result(to_json(asdict(summary)).rstrip("\n") if show == "json" else summary.text())
    return summary


def _images(config: PreTrainedConfig, batch: int, sides: tuple[int, int], device: str) -> torch.Tensor:
    return torch.zeros(batch, channels_of(config), *sides, device=device)


def _counted(network: PreTrainedModel, name: str, sides: tuple[int, int], depth: int) -> tuple[tuple[Part, ...], int]:
    """Return the whole and its parts with their operations, and the bytes that a backward pass needs of one image."""
    own = {id(weight) for weight in network.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in own and id(tensor._base) not in own:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    try:
        with counter, saved_tensors_hooks(keep, lambda tensor: tensor):
            network(_images(network.config, 1, sides, "meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"{name} takes no images of {sides[0]} x {sides[1]} ({first_line(error)}); use another --image_size."
        ) from error
    counts = {name: sum(by_kind.values()) for name, by_kind in counter.get_flop_counts().items()}
    parts = [
        Part(
            name, type(module).__name__, weights, _flops(f"{type(network).__name__}.{name}".rstrip("."), module, counts)
        )
        for name, module in network.named_modules()
        if name.count(".") < depth and (weights := sum(weight.numel() for weight in module.parameters()))
    ]
    return tuple(parts), sum(storages.values())


def _flops(path: str, module: nn.Module, counts: Mapping[str, int]) -> int:
    """Return the operations of a module; those of a list, which is never called itself, are its elements'."""
    if path in counts:
        return counts[path]
    return sum(_flops(f"{path}.{name}", child, counts) for name, child in module.named_children())


def _speeds(config: PreTrainedConfig, sides: tuple[int, int], batch: int, device: str) -> tuple[float, float]:
    """Return the images a second of predictions and of training steps without an optimizer."""
    network = initialize(config, trust_remote_code=False).model
    nn.Module.to(network, device)
    images = _images(config, batch, sides, device)

    def predict() -> None:
        with torch.inference_mode():
            network(images)

    def train() -> None:
        network(images).logits.sum().backward()

    network.eval()
    predicted = _rate(predict, batch)
    network.train()
    return predicted, _rate(train, batch)


def _rate(run: Callable[[], Any], batch: int) -> float:
    """Return images a second, of the median pass after one that warms up."""
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) <= _PASSES or time.perf_counter() - began < _SECONDS:
        leave_if_interrupted()
        start = time.perf_counter()
        run()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    return batch / median(seconds[1:])
