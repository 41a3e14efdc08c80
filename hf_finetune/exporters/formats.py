"""The table of export formats. A new one costs a file that defines it and an entry here."""

from __future__ import annotations

from collections.abc import Mapping

from hf_finetune.exporters import onnx_file, safetensors_folder
from hf_finetune.exporters.base import ExportFormat

FORMATS: Mapping[str, ExportFormat] = {
    export_format.name: export_format for export_format in (onnx_file.FORMAT, safetensors_folder.FORMAT)
}
"""The formats by the name that `--format` takes. The first is the default."""
