"""An exported ONNX file that answers as the model it was made from, with nothing else beside it.

The file carries what a model folder has as JSON files: its metadata hold `config.json`, `preprocessor_config.json`
(but for timm's models, whose figures are in the first), and `id2label`, a JSON object of class names by class id.
"""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedModel

from hf_finetune.errors import UserError
from hf_finetune.models.load import quiet_transformers

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
_LABELS = "id2label"


def need_packages(*names: str) -> None:
    """Raises `UserError` where one of the packages for ONNX files is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f'ONNX files need the package {name}; install it with `pip install "hf-finetune[onnx]"`.')


def metadata_of(model: PreTrainedModel, image_processor: BaseImageProcessor) -> dict[str, str]:
    """Returns what `OnnxModel` reads from a file's metadata."""
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        model.config.save_pretrained(folder)
        image_processor.save_pretrained(folder)
        files = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob("*.json"))}
    return {**files, _LABELS: json.dumps(model.config.id2label, ensure_ascii=False)}


class OnnxModel:
    """A classifier in an ONNX file that `export` wrote, run by onnxruntime on the CPU.

    `image_processor` turns images into its input, and `id2label` holds the class names by class id. Calling it maps
    pixel_values, float32 (batch, channels, height, width) as the processor gives them, to logits, float32
    (batch, classes). Raises `UserError` for a file that is none of `export`'s.
    """

    def __init__(self, path: Path) -> None:
        need_packages("onnxruntime")
        import onnxruntime  # optional, and 0.2 s

        if not path.is_file():
            raise UserError(f"There is no file {path}; check the path.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class of its own
            raise UserError(f"{path} cannot be opened as an ONNX file; export it again.") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if _LABELS not in metadata or "config.json" not in metadata:
            raise UserError(
                f"{path} does not say how images are prepared for it, and what its classes are called; use a file"
                " that was made by: hf-finetune export"
            )
        self.id2label = {int(class_id): name for class_id, name in json.loads(metadata[_LABELS]).items()}
        with tempfile.TemporaryDirectory() as folder, quiet_transformers():
            for name in ("config.json", "preprocessor_config.json"):
                if name in metadata:
                    (Path(folder) / name).write_text(metadata[name], encoding="utf-8")
            self.image_processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(
                folder, trust_remote_code=False
            )

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        (logits,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: pixel_values.numpy(force=True)})
        return torch.from_numpy(logits)
