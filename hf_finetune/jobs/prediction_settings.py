"""What is asked of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

from hf_finetune.config.test_time import check_tta
from hf_finetune.errors import UserError


@dataclass(frozen=True)
class PredictionSettings:
    """What is asked of each image, and how images are run through the model.

    Attributes:
        top_k: Classes of each; None for the likeliest, or where a model gives several, those that reach their
            thresholds.
        batch_size: Images of a forward pass.
        tta: "flip" or "multicrop": probabilities are the mean over several views of each image.
        threshold: The probability from which on a model of several labels gives a class; None for its own thresholds.
        embeddings: Whether the features that the head is given are returned as well.
        num_workers: Processes that decode images; None for a number that suits the cores, 0 for few images.

    Raises:
        UserError: For a value that cannot be.
    """

    top_k: int | None = None
    batch_size: int = 32
    tta: str | None = None
    threshold: float | None = None
    embeddings: bool = False
    num_workers: int | None = None

    def __post_init__(self) -> None:
        check_tta(self.tta)
        if (self.top_k is not None and self.top_k < 1) or self.batch_size < 1:
            raise UserError("--top_k and --batch_size are at least 1.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"--threshold is {self.threshold:g}; use a probability from 0 to 1.")
        if self.num_workers is not None and self.num_workers < 0:
            raise UserError(f"--dataloader_num_workers is {self.num_workers}; use 0 or more.")
        if self.embeddings and self.tta is not None:
            raise UserError("--embeddings are those of one view of an image; leave --tta out.")
