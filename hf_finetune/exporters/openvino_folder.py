"""Exports to OpenVINO's intermediate representation, for Intel's processors, in a folder.

`openvino_model.xml` and `.bin` hold the network, with weights in float32 and batches of any size. The image processor
and the configuration are beside them, as Transformers saves them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.config.run_files import apply_umask
from hf_finetune.exporters.base import Logits, quiet_exporters
from hf_finetune.exporters.torch_program import program_of

MODEL_FILE = "openvino_model.xml"  # the name by which Optimum looks for it


def write_openvino(
    model: PreTrainedModel, image_processor: BaseImageProcessor, pixel_values: torch.Tensor, folder: Path
) -> None:
    """Write a folder that OpenVINO reads.

    Args:
        model: The network, on the CPU and in evaluation mode.
        image_processor: Its image processor.
        pixel_values: An example of at least two images. All but its first dimension become the model's.
        folder: The folder.

    Raises:
        UserError: The network cannot be exported.
    """
    import openvino  # optional

    program = program_of(model, pixel_values, "OpenVINO")
    with quiet_exporters():
        converted = openvino.convert_model(program)
    converted.inputs[0].set_names({"pixel_values"})
    converted.outputs[0].set_names({"logits"})
    folder.mkdir(parents=True)
    openvino.save_model(converted, folder / MODEL_FILE, compress_to_fp16=False)
    image_processor.save_pretrained(folder)
    model.config.save_pretrained(folder)
    apply_umask(folder)


def open_openvino(folder: Path, arguments: ModelArguments) -> Logits:
    """Return what a folder of `write_openvino` computes; it needs nothing of the original's arguments."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # bf16 is OpenVINO's choice where the processor has it
    compiled = openvino.Core().compile_model(folder / MODEL_FILE, "CPU", settings)

    def logits(pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(compiled(pixel_values.cpu().numpy())[0].copy())

    return logits
