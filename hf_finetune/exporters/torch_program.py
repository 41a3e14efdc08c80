"""Exports to a program of `torch.export`, a `.pt2` file: what ExecuTorch, AOTInductor and C++ begin with.

The file needs torch and none of the network's code. It takes what the image processor gives, in batches of any size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError, first_line
from hf_finetune.exporters.base import Logits, LogitsOf, quiet_exporters

PROCESSOR_FILE, CONFIG_FILE = "preprocessor_config.json", "config.json"


def program_of(model: PreTrainedModel, pixel_values: torch.Tensor, form: str) -> ExportedProgram:
    """Return a network as a program: pixel_values, float32 (batch, channels, height, width), to logits.

    Args:
        model: The network, on the CPU and in evaluation mode.
        pixel_values: An example of at least two images. All but its first dimension become the program's.
        form: What messages call the result.

    Raises:
        UserError: The network cannot be exported.
    """
    try:
        with torch.no_grad(), quiet_exporters():
            return torch.export.export(
                LogitsOf(model).train(False),
                (pixel_values.contiguous(),),
                dynamic_shapes={"pixel_values": {0: Dim("batch")}},
            )
    except Exception as error:  # the tracer raises errors of many kinds
        raise UserError(f"{type(model).__name__} cannot be exported to {form}: {first_line(error)}.") from error


def write_program(
    model: PreTrainedModel, image_processor: BaseImageProcessor, pixel_values: torch.Tensor, path: Path
) -> None:
    """Write a `.pt2` file, with the image processor and the configuration beside the program in it.

    Args:
        model: The network, on the CPU and in evaluation mode.
        image_processor: Its image processor.
        pixel_values: See `program_of`.
        path: The file.

    Raises:
        UserError: The network cannot be exported.
    """
    program = program_of(model, pixel_values, "a program of torch.export")
    extra_files = {PROCESSOR_FILE: image_processor.to_json_string(), CONFIG_FILE: model.config.to_json_string()}
    # As a file: of a path, torch asks that it ends in .pt2, which the unfinished one does not.
    with open(path, "wb") as file, quiet_exporters():
        torch.export.save(program, file, extra_files=extra_files)


def open_program(path: Path, arguments: ModelArguments) -> Logits:
    """Return what a file of `write_program` computes; it needs nothing of the original's arguments."""
    with open(path, "rb") as file, quiet_exporters():
        module = torch.export.load(file).module()

    def logits(pixel_values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            answer: torch.Tensor = module(pixel_values.cpu().contiguous())
        return answer

    return logits
