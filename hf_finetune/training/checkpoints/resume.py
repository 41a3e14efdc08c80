"""What a checkpoint holds, beside what Transformers saves, so that a resumed run continues exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hf_finetune.errors import UserError

RESUME_FILE = "resume_state.json"


@dataclass(frozen=True)
class RunningLoss:
    """The sums of losses from which the next log line and the mean loss of the training are computed.

    Attributes:
        since_log: For each rank, the sum of its losses since the last log line.
        before: The sum of the mean losses of all steps before that line.
        last_logged_step: The optimizer step of that line.
    """

    since_log: list[float]
    before: float
    last_logged_step: int

    def of_rank(self, rank: int, world_size: int) -> float:
        """Return a rank's sum since the last log line; the mean of all where the number of ranks has changed."""
        if len(self.since_log) == world_size:
            return self.since_log[rank]
        return sum(self.since_log) / len(self.since_log)


@dataclass(frozen=True)
class ResumeState:
    """What a resumed run takes up.

    Attributes:
        running_loss: The sums of losses.
        extensions: For each extension that keeps state, by its name, what its `state_dict` returned.
    """

    running_loss: RunningLoss
    extensions: Mapping[str, Mapping[str, Any]]

    def save(self, folder: Path) -> None:
        """Write the state: tensors to NAME.safetensors for each extension, all else to `RESUME_FILE`."""
        values: dict[str, dict[str, Any]] = {}
        for name, state in self.extensions.items():
            tensors = {key: value.contiguous() for key, value in state.items() if isinstance(value, torch.Tensor)}
            if tensors:
                save_file(tensors, folder / f"{name}.safetensors")
            values[name] = {key: value for key, value in state.items() if key not in tensors}
        written = {"running_loss": asdict(self.running_loss), "extensions": values}
        (folder / RESUME_FILE).write_text(json.dumps(written))

    @classmethod
    def load(cls, checkpoint: Path) -> ResumeState:
        """Read the state of a checkpoint, its tensors on the CPU.

        Raises:
            UserError: The checkpoint has no such state, as that of another version of this package.
        """
        if not (checkpoint / RESUME_FILE).is_file():
            raise UserError(
                f"{checkpoint} has no {RESUME_FILE}: another version of hf-finetune wrote it; resume with that version,"
                " or use --overwrite_output_dir to start anew."
            )
        read = json.loads((checkpoint / RESUME_FILE).read_text())
        extensions = {name: dict(values) for name, values in read["extensions"].items()}
        for name, state in extensions.items():
            if (checkpoint / f"{name}.safetensors").is_file():
                state.update(load_file(checkpoint / f"{name}.safetensors"))
        return cls(RunningLoss(**read["running_loss"]), extensions)
