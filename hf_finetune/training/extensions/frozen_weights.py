"""The weights below an adapter are those that the run began with: checkpoints do not hold them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import nn
from xxhash import xxh3_128

from hf_finetune.errors import UserError
from hf_finetune.models.adapters import adapted_names, has_adapters
from hf_finetune.training.extensions.base import Extension


def checksum_below(model: nn.Module) -> str:
    """Return a checksum of all weights and buffers of a network with adapters but theirs and the head's."""
    adapted, checksum = set(adapted_names(model)), xxh3_128()
    for name, tensor in model.state_dict().items():
        if name not in adapted:
            checksum.update(name.encode())
            checksum.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return checksum.hexdigest()


class FrozenWeights(Extension):
    """Keeps the checksum of the frozen weights in checkpoints, and compares it where a run resumes."""

    name = "frozen_weights"

    @cached_property
    def _checksum(self) -> str:
        return checksum_below(self.loop.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the checksum of a network with adapters."""
        return {"checksum": self._checksum} if has_adapters(self.loop.model) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare the checksum.

        Args:
            state: As `state_dict` returned it.

        Raises:
            UserError: The weights are others.
        """
        if "checksum" in state and has_adapters(self.loop.model) and state["checksum"] != self._checksum:
            raise UserError(
                "The pretrained weights are not those that the run began with, and its adapters fit no others; restore"
                " them, or use --overwrite_output_dir to start anew."
            )
