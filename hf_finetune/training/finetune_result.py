"""What a finished run returns to a Python program."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.evaluation.intervals import Interval

_PLOTS = ("training_curve.png", "confusion_matrix.png", "precision_recall.png")
_SPLITS = {"test": "test", "eval": "validation"}


@dataclass(frozen=True, repr=False)
class FinetuneResult:
    """What a run leaves.

    Attributes:
        metrics: All figures by name: `train_*` of training, `eval_*` of validation, `test_*` of test. All but losses
            (nats), times (seconds) and counts are parts of 1.
        model: The trained model. Its `name_or_path` is `output_dir`, whose image processor prepares its images.
        image_processor: What prepares images for it.
        output_dir: The folder that holds both, the model card, the figures and the plots.
        intervals: The 95 % intervals of the figures that have one, by the names of `metrics`, parts of 1.
    """

    metrics: dict[str, float]
    model: PreTrainedModel
    image_processor: BaseImageProcessor
    output_dir: Path
    intervals: dict[str, Interval] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return four lines: the figures, the model, the folder and how to load it."""
        return "\n".join(
            (
                f"FinetuneResult: {self._headline()}",
                f"  model: {type(self.model).__name__}, {self.model.config.num_labels:,} classes,"
                f" {self.model.num_parameters():,} parameters",
                f"  output_dir: {self.output_dir}",
                f"  load it: pipeline('image-classification', '{self.output_dir}')",
            )
        )

    def _repr_html_(self) -> str:
        """Return the four lines and the plots of the folder, self-contained, as notebooks show them."""
        return as_html(repr(self), (self.output_dir / name for name in _PLOTS))

    def _headline(self) -> str:
        for prefix, split in _SPLITS.items():
            count = self.metrics.get(f"{prefix}_samples")
            for name in ("accuracy", "mAP"):
                figure = self.metrics.get(f"{prefix}_{name}", math.nan)
                if count is not None and math.isfinite(figure):
                    return f"{name} of {100 * figure:.2f} % on {count:,.0f} {split} images"
        return "nothing was evaluated"


def as_html(text: str, plots: Iterable[Path]) -> str:
    """Return text and PNG files, those that are there, as HTML that needs no other file."""
    images = [base64.b64encode(path.read_bytes()).decode() for path in plots if path.is_file()]
    shown = "".join(f'<img style="max-width: 48%" src="data:image/png;base64,{image}">' for image in images)
    return f"<pre>{html.escape(text)}</pre>{shown}"
