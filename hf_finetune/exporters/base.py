"""What the export formats have in common: the network as a function, and the check of a result."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import UserError
from hf_finetune.exporters.formats import ExportFormat

Logits = Callable[[torch.Tensor], torch.Tensor]
"""pixel_values, float32 (batch, channels, height, width) -> logits, float32 (batch, classes)."""

# Two classes whose logits are closer than this are a tie, which float32 may break either way.
_TIE = 1e-4


def need_packages(export_format: ExportFormat, packages: Sequence[str] | None = None) -> None:
    """Raise `UserError` if one of the optional packages for a format, all by default, is not installed."""
    for name in export_format.packages if packages is None else packages:
        if find_spec(name) is None:
            raise UserError(
                f"To write or read {export_format.title}, the package {name} is needed; install it with `pip install"
                f' "hf-finetune[{export_format.extra}]"`.'
            )


class LogitsOf(nn.Module):
    """A network as a function of one tensor: pixel_values to logits, float32 (batch, classes)."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.model.train(False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch."""
        return cast(torch.Tensor, self.model(pixel_values=pixel_values).logits.float())


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silence the warnings of exporters and of the quantization, which a user can do nothing about."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@dataclass
class Agreement:
    """How an exported form answers compared with the original network.

    Attributes:
        images: Number of images that both classified.
        correct: Number of images whose label is the form's class.
        same: Number of images that get the same class from both.
        ties: Number of images that get another class although the original's two logits are closer than 1e-4.
        largest_difference: The largest absolute difference of two logits.
        limits: Where images have several labels, the logit from which on each class is given, float32 (classes,). Then
            "the same class" is the same classes, and a tie is a logit as near to its limit.
    """

    images: int = 0
    correct: int = 0
    same: int = 0
    ties: int = 0
    largest_difference: float = 0.0
    limits: torch.Tensor | None = None

    def add(self, reference: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch.

        Args:
            reference: The original's logits, float32 (batch, classes).
            logits: The form's logits, float32 (batch, classes).
            labels: Class ids, int64 (batch,), or 1 for each class that an image has, float (batch, classes).
        """
        self.images += len(reference)
        self.largest_difference = max(self.largest_difference, (reference - logits).abs().max().item())
        if self.limits is not None:
            self._add_sets(reference, logits, labels)
            return
        theirs, ours = reference.argmax(dim=-1, keepdim=True), logits.argmax(dim=-1, keepdim=True)
        margin = reference.gather(-1, theirs) - reference.gather(-1, ours)
        self.correct += int((ours[:, 0] == labels).sum())
        self.same += int((theirs == ours).sum())
        self.ties += int(((theirs != ours) & (margin <= _TIE)).sum())

    def _add_sets(self, reference: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        assert self.limits is not None
        ours, differ = logits >= self.limits, (reference >= self.limits) != (logits >= self.limits)
        near = (reference - self.limits).abs() <= _TIE
        same = ~differ.any(dim=1)
        self.same += int(same.sum())
        self.ties += int((~same & (near | ~differ).all(dim=1)).sum())
        if labels.ndim == 2:  # those of noise are none
            self.correct += int((ours == (labels > 0)).all(dim=1).sum())

    @property
    def holds(self) -> bool:
        """Whether the class is the same on all images, apart from ties."""
        return self.same + self.ties == self.images
