"""Exports to an ONNX file, also with int8 weights.

`torch.onnx.export` writes the file, by the exporter that is built on torch.export, for batches of any size.
onnxruntime's quantization makes int8. Normalization stays with the image processor: the graph takes what it gives.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError, first_line
from hf_finetune.exporters.base import LogitsOf, quiet_exporters
from hf_finetune.exporters.onnx_model import INPUT_NAME, OUTPUT_NAME, OnnxModel, metadata_of


def write_onnx(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    pixel_values: torch.Tensor,
    path: Path,
    opset: int | None = None,
) -> None:
    """Write one ONNX file that `OnnxModel` reads.

    Args:
        model: The network, on the CPU and in evaluation mode.
        image_processor: Its image processor, which the file's metadata keep.
        pixel_values: An example of at least two images, float32 (batch, channels, height, width). All but its first
            dimension become the graph's.
        path: The file.
        opset: The version of ONNX's operators; None for that which torch prefers.

    Raises:
        UserError: If the network cannot be exported, or not with this opset.
    """
    try:
        with torch.no_grad(), quiet_exporters():
            program = torch.onnx.export(
                LogitsOf(model).train(False),
                (pixel_values.contiguous(),),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={INPUT_NAME: {0: Dim("batch")}},
                verbose=False,
                opset_version=opset,
            )
    except RuntimeError as error:
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{type(model).__name__} cannot be exported to ONNX: {reason}.") from error
    assert program is not None  # with dynamo=True
    written = program.model.opset_imports[""]
    if opset is not None and written != opset:
        raise UserError(f"{type(model).__name__} cannot be written with --opset {opset}; use --opset {written}.")
    program.model.metadata_props.update(metadata_of(model, image_processor))
    program.save(path, external_data=False)


def quantize_int8(source: Path, target: Path, batches: Iterable[torch.Tensor]) -> None:
    """Write an exported file again with int8 weights, each output channel with its own scale.

    Static quantization (QDQ) is for convolutional networks: activations are quantized too, with the ranges that they
    have on `batches`. Dynamic quantization, where ranges are found at run time, is for networks with one convolution
    at most, such as ViT, which cuts its patches with it: the activations of transformers have outliers. onnxruntime
    advises so (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).

    Activations are uint8, the fast type on x86. Weights use 7 of their 8 bits, because processors without VNNI add
    two products in 16 bits, which would overflow.

    Args:
        source: The exported file.
        target: The file to write. It has the metadata of `source`.
        batches: pixel_values to calibrate with, float32 (batch, channels, height, width).
    """
    import onnx  # optional
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    inputs = ({INPUT_NAME: batch.numpy(force=True)} for batch in batches)

    class Calibration(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(inputs, None)

    settings = {"per_channel": True, "reduce_range": True, "weight_type": quantization.QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder, quiet_exporters():
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


def open_onnx(path: Path, arguments: ModelArguments) -> OnnxModel:
    """Open a file that `write_onnx` wrote; it needs nothing of the original's arguments."""
    return OnnxModel(path)
