"""The likeliest classes of images: what is kept of probabilities that would take too much memory."""

from __future__ import annotations

import torch

LIKELIEST = 5  # classes of an image whose probabilities are kept where the model has many
MOST_WHOLE = 100  # classes of a model of which all probabilities are kept


def likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the five likeliest classes of each image, int32 (batch, 5), and their probabilities, float32 (batch, 5).

    Args:
        logits: (batch, classes), of any float dtype.
    """
    logits = logits.float()
    top = logits.topk(min(LIKELIEST, logits.shape[-1]), dim=-1)
    return top.indices.to(torch.int32), (top.values - logits.logsumexp(dim=-1, keepdim=True)).exp()
