"""The table of export formats. A new one costs a file with its functions and an entry here.

It needs neither torch nor Transformers, so that `hf-finetune export --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import BaseImageProcessor

    from hf_finetune.config.model import ModelArguments
    from hf_finetune.exporters.base import Logits


@dataclass(frozen=True)
class ExportFormat:
    """A form in which a trained model is exported.

    Attributes:
        name: Its name for `--format`.
        title: What help and messages call the result, such as "an ONNX file".
        suffix: Suffix of the file that is written. "" for a folder.
        write: Writes (model, image processor, example, path), and where the format has `opsets`, one of them may
            follow. The model is on the CPU and in evaluation mode. The example is at least two images as the model
            takes them, float32 (images, channels, height, width).
        load: Opens (path, the original's arguments) and returns what it answers, to compare it with the original.
        runs_by: The end of a sentence on what runs the result, in which {path} stands for it.
        packages: Optional packages that it needs.
        extra: The extra of hf-finetune that installs them.
        quantize_int8: Writes (exported file, path, batches of pixel_values to calibrate with) with int8 weights. None
            where the format has no such form.
        add_preprocessing: Writes (exported file, path, image processor) with the preprocessing inside. None where the
            format has no such form.
        open_preprocessing: Opens such a file, see `onnx_preprocessing.open_preprocessing`.
        opsets: The versions of operators that can be asked for; none where the format has none.
    """

    name: str
    title: str
    suffix: str
    write: Callable[..., None]
    load: Callable[[Path, ModelArguments], Logits]
    runs_by: str = "hf-finetune predict {path} IMAGES runs it"
    packages: Sequence[str] = ()
    extra: str = ""
    quantize_int8: Callable[[Path, Path, Iterable[torch.Tensor]], None] | None = None
    add_preprocessing: Callable[[Path, Path, BaseImageProcessor], None] | None = None
    open_preprocessing: Callable[[Path], Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] | None = None
    opsets: range = range(0)


def _imported_late(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module of this package, which is imported when the function is called."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f"hf_finetune.exporters.{module}"), name)(*arguments)

    return call


FORMATS: dict[str, ExportFormat] = {
    export_format.name: export_format
    for export_format in (
        ExportFormat(
            name="onnx",
            title="an ONNX file",
            suffix=".onnx",
            write=_imported_late("onnx_file", "write_onnx"),
            load=_imported_late("onnx_file", "open_onnx"),
            packages=("onnx", "onnxscript", "onnxruntime"),
            extra="onnx",
            quantize_int8=_imported_late("onnx_file", "quantize_int8"),
            add_preprocessing=_imported_late("onnx_preprocessing", "add_preprocessing"),
            open_preprocessing=_imported_late("onnx_preprocessing", "open_preprocessing"),
            opsets=range(18, 26),  # those that torch 2.14 writes as asked
        ),
        ExportFormat(
            name="safetensors",
            title="a model folder",
            suffix="",
            write=_imported_late("safetensors_folder", "write_folder"),
            load=_imported_late("safetensors_folder", "open_folder"),
        ),
        ExportFormat(
            name="pt2",
            title="a program of torch.export",
            suffix=".pt2",
            write=_imported_late("torch_program", "write_program"),
            load=_imported_late("torch_program", "open_program"),
            runs_by="torch.export.load('{path}').module() runs it on prepared images",
        ),
        ExportFormat(
            name="openvino",
            title="a folder for OpenVINO",
            suffix="",
            write=_imported_late("openvino_folder", "write_openvino"),
            load=_imported_late("openvino_folder", "open_openvino"),
            runs_by="openvino.compile_model('{path}/openvino_model.xml') runs it on prepared images",
            packages=("openvino",),
            extra="openvino",
        ),
    )
}
"""The formats by the name that `--format` takes. The first is the default."""
