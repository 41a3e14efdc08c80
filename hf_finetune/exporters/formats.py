"""Writes a trained classifier in a form that other programs run, and checks that it answers the same.

ONNX files are written by `torch.onnx.export` of PyTorch, the exporter that is built on torch.export, with a batch
of any size; int8 is made by onnxruntime's own quantization. Normalization is left to the image processor: what goes
into the graph is what the processor gives.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.errors import UserError, first_line
from hf_finetune.exporters.onnx_model import INPUT_NAME, OUTPUT_NAME, metadata_of
from hf_finetune.models.load import quiet_transformers

# Two classes whose logits lie closer together are a tie, which float32 may break either way.
_TIE = 1e-4


class LogitsOf(nn.Module):
    """A network as a function of one tensor: pixel_values to logits, float32 (batch, classes)."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits.float()


@contextmanager
def _quiet_exporters():
    """Keeps warnings of the exporters and of the quantization, none of which a user can heed, from the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def write_onnx(
    model: PreTrainedModel, image_processor: BaseImageProcessor, pixel_values: torch.Tensor, path: Path
) -> None:
    """Writes `model`, on the CPU and in evaluation mode, as one ONNX file that `OnnxModel` reads.

    `pixel_values` is an example of at least two images, float32 (batch, channels, height, width): all but its first
    dimension become the graph's. Raises `UserError` for a network that cannot be exported.
    """
    try:
        with torch.no_grad(), _quiet_exporters():
            program = torch.onnx.export(
                LogitsOf(model).eval(),
                (pixel_values.contiguous(),),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except RuntimeError as error:
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{type(model).__name__} cannot be exported to ONNX: {reason}.") from error
    program.model.metadata_props.update(metadata_of(model, image_processor))
    program.save(path, external_data=False)


def write_folder(model: PreTrainedModel, image_processor: BaseImageProcessor, folder: Path) -> None:
    """Writes a model folder: weights as safetensors, config.json, the image processor, and the network's own code."""
    with quiet_transformers():
        model.save_pretrained(folder)
        image_processor.save_pretrained(folder)


def quantize_int8(source: Path, target: Path, batches: Iterable[torch.Tensor]) -> None:
    """Writes the ONNX file `source` again as `target`, with int8 weights, each output channel with its own scale.

    Activations of a convolutional network are quantized too, with the ranges that `batches` of pixel_values have
    (static quantization, QDQ). A network with one convolution at most, such as ViT, which cuts its patches with it, has
    activations with outliers: there the range is taken at run time (dynamic quantization), as onnxruntime advises for
    transformers (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).

    Activations are uint8, the fast way on x86; weights keep to 7 bits, since processors without VNNI add two products
    in 16 bits, which 8 would overflow.
    """
    import onnx  # optional
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT_NAME: batch.numpy(force=True)}

    settings = {"per_channel": True, "reduce_range": True, "weight_type": quantization.QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder, _quiet_exporters():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        if sum(node.op_type == "Conv" for node in graph.node) > 1:
            quantization.quantize_static(
                prepared, target, Calibration(), activation_type=quantization.QuantType.QUInt8, **settings
            )
        else:
            quantization.quantize_dynamic(prepared, target, op_types_to_quantize=["MatMul", "Gemm"], **settings)
    metadata = onnx.load(source, load_external_data=False).metadata_props
    quantized = onnx.load(target)
    onnx.helper.set_model_props(quantized, {entry.key: entry.value for entry in metadata})
    onnx.save(quantized, target)


@dataclass
class Agreement:
    """How one form of a network answers beside the original.

    The number of `images`; on how many it is `right`, gives the `same` class, or gives another by a tie (`ties`); and
    the `largest_difference` of logits.
    """

    images: int = 0
    right: int = 0
    same: int = 0
    ties: int = 0
    largest_difference: float = 0.0

    def add(self, reference: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Counts a batch of the original's logits and the form's, float32 (batch, classes); labels are (batch,)."""
        theirs, ours = reference.argmax(dim=-1, keepdim=True), logits.argmax(dim=-1, keepdim=True)
        margin = reference.gather(-1, theirs) - reference.gather(-1, ours)
        self.images += len(reference)
        self.right += int((ours[:, 0] == labels).sum())
        self.same += int((theirs == ours).sum())
        self.ties += int(((theirs != ours) & (margin <= _TIE)).sum())
        self.largest_difference = max(self.largest_difference, (reference - logits).abs().max().item())

    @property
    def holds(self) -> bool:
        """Whether the class is the same on all images, ties left aside."""
        return self.same + self.ties == self.images
