"""Reads the ONNX files that `export` writes.

Such a file needs no other beside it. Its metadata hold the JSON files of a model folder: `config.json`,
`preprocessor_config.json` (except for timm's models, whose preprocessing is in the first), and `id2label`, a JSON
object of class names by class id. Of a file that has its preprocessing in the graph, the network alone is run: images
are prepared by the image processor, as for every model.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedModel

from hf_finetune.errors import UserError
from hf_finetune.exporters.base import need_packages
from hf_finetune.exporters.formats import FORMATS
from hf_finetune.models.quiet import quiet_transformers
from hf_finetune.tasks import task_named

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
IMAGES_NAME = "images"  # the input of a file that has its preprocessing in the graph
_LABELS = "id2label"


def metadata_of(model: PreTrainedModel, image_processor: BaseImageProcessor) -> dict[str, str]:
    """Return the metadata of an ONNX file that `OnnxModel` reads, texts by name."""
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        model.config.save_pretrained(folder)
        image_processor.save_pretrained(folder)
        files = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob("*.json"))}
    return {**files, _LABELS: json.dumps(model.config.id2label, ensure_ascii=False)}


class OnnxModel:
    """A classifier in an ONNX file that `export` wrote, run by onnxruntime on the CPU.

    Attributes:
        image_processor: Turns images into the input of the model.
        id2label: Class names by class id.
        task: What the logits say of an image.
        thresholds: The probability from which on each class is given; None for 0.5.
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            UserError: If the file is missing, damaged or not written by `export`.
        """
        need_packages(FORMATS["onnx"], ["onnxruntime"])
        import onnxruntime  # optional, and 0.2 s

        if not path.is_file():
            raise UserError(f"There is no file {path}; check the path.")
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
            if self._session.get_inputs()[0].name == IMAGES_NAME:
                self._session = onnxruntime.InferenceSession(_network_of(path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors share no base class of its own
            raise UserError(f"{path} cannot be opened as an ONNX file; export it again.") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if _LABELS not in metadata or "config.json" not in metadata:
            raise UserError(
                f"{path} does not say how its images are preprocessed and what its classes are called; use a file"
                " that was written by: hf-finetune export"
            )
        self.id2label = {int(class_id): name for class_id, name in json.loads(metadata[_LABELS]).items()}
        config = json.loads(metadata["config.json"])
        self.task = task_named(config.get("problem_type"))
        self.thresholds: list[float] | None = config.get("thresholds")
        with tempfile.TemporaryDirectory() as folder, quiet_transformers():
            for name in ("config.json", "preprocessor_config.json"):
                if name in metadata:
                    (Path(folder) / name).write_text(metadata[name], encoding="utf-8")
            self.image_processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(
                folder, trust_remote_code=False
            )

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the logits, float32 (batch, classes).

        Args:
            pixel_values: Images as the image processor gives them, float32 (batch, channels, height, width).
        """
        (logits,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: pixel_values.numpy(force=True)})
        return torch.from_numpy(logits)

    def digest(self) -> str:
        """Return a checksum of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def _network_of(path: Path) -> bytes:
    """Return an ONNX file without the preprocessing that is in its graph."""
    import onnx  # optional

    model = onnx.load(path)
    network = onnx.utils.Extractor(model).extract_model([INPUT_NAME], [OUTPUT_NAME])
    network.metadata_props.extend(model.metadata_props)
    content: bytes = network.SerializeToString()
    return content
