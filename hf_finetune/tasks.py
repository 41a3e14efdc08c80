"""What a label says of an image: its one class, or all classes that it has; and what follows from that.

Each of the two is a `Task`. What depends on it asks the task of the data or of a network's configuration. Labels are
told apart by their shape: class ids (images,), or which classes each image has, (images, classes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


DEFAULT_THRESHOLD = 0.5  # the probability from which on one of several classes is given

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"] | None


@dataclass(frozen=True)
class Task:
    """What labels say of an image.

    Attributes:
        several: Whether an image has any number of classes, and not one.
        problem_type: What Transformers calls it in a configuration; None for its default, one class.
        loss: The loss that a recipe has which does not say one.
        chosen_by: The metric that chooses the checkpoint, likewise.
    """

    several: bool
    problem_type: ProblemType
    loss: str
    chosen_by: str

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of logits, float (batch, classes): sigmoids for several classes, else a softmax."""
        return logits.sigmoid() if self.several else logits.softmax(dim=-1)


ONE_LABEL = Task(False, None, "cross_entropy", "accuracy")
SEVERAL_LABELS = Task(True, "multi_label_classification", "bce", "mAP")


def task_of(config: Any) -> Task:
    """Return the task that the configuration of a network states."""
    return task_named(config.problem_type)


def task_named(problem_type: str | None) -> Task:
    """Return the task that Transformers calls `problem_type`."""
    return SEVERAL_LABELS if problem_type == SEVERAL_LABELS.problem_type else ONE_LABEL


def counted(labels: Any) -> Any:
    """Return which images have a label that counts, bool (images,), of labels of either task, of NumPy or torch.

    One that does not, such as that of an image which cannot be read, is negative.
    """
    return labels >= 0 if labels.ndim == 1 else labels[:, 0] >= 0
