"""A training that ends by the clock: its learning rate is a function of the share of the time that is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from accelerate.utils import broadcast_object_list
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.training.extensions.base import Extension

_WARM_UP = 0.05  # of the time for training
_SECONDS_BETWEEN_CHECKPOINTS = 300.0


@dataclass
class Budget:
    """The time that a run may take, from its start to its end.

    Attributes:
        seconds: The whole time.
        began: When the run began, as `now` counts.
        spent_before: What the run has spent before a stop from which it resumes.
        now: The clock, in seconds.
    """

    seconds: float
    began: float
    spent_before: float = 0.0
    now: Callable[[], float] = field(default=time.monotonic, repr=False)

    @property
    def spent(self) -> float:
        """The seconds that are spent."""
        return self.spent_before + self.now() - self.began


def factor_at(share: float) -> float:
    """Return the factor on the learning rate: a linear warm-up, then half a cosine to zero.

    Args:
        share: The share of the time for training that is spent, 0 to 1; more counts as 1.
    """
    if share < _WARM_UP:
        return share / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - _WARM_UP) / (1 - _WARM_UP))))


class _Moment(NamedTuple):
    """What the clock says: the share of the time for training that is spent, and whether to end and to save."""

    share: float
    ends: bool
    saves: bool


class TimeBudget(Extension):
    """Ends the training when its time is spent, lowers the learning rate to zero until then, and saves on the way.

    The first rank's clock counts for all.
    """

    name = "time_budget"

    def __init__(self, budget: Budget) -> None:
        """Create the extension.

        Args:
            budget: The time of the whole run.
        """
        self.budget = budget
        self.reserve = 0.0  # seconds that evaluating and saving take after the training
        self.evaluations = 0  # during the training, at equal distances of time
        self.compared: int | None = None  # validation images for the weights between start and end; None for all
        self.steps = 1  # that the plan foretells
        self._begin: float | None = None  # the seconds that were spent when the training began
        self._now = _Moment(0.0, False, False)
        self._looked: int | None = None  # the step of the schedule at which the clock was read
        self._evaluated, self._saved_at = 0, 0.0
        self._stepped_at, self._step_seconds = 0.0, 0.0

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return a schedule that reads the clock at each step."""
        return LambdaLR(optimizer, self._factor)

    def _factor(self, step: int) -> float:
        """Return the factor of a step, the same for each of the optimizer's groups, which all ask for it."""
        if step != self._looked:
            self._look()
            self._looked = step
        return factor_at(self._now.share)

    def _look(self) -> None:
        """Read the clock of the first rank. All ranks call it."""
        spent = self.budget.spent
        begin = spent if self._begin is None else self._begin
        self._step_seconds, self._stepped_at = max(spent - self._stepped_at, self._step_seconds / 2), spent
        length = max(self.budget.seconds - self.reserve - begin, 1e-9)
        share = (spent - begin) / length
        ends = share + self._step_seconds / length / 2 >= 1  # half of another step is over the time
        self._now = _Moment(share, ends, spent - self._saved_at > _SECONDS_BETWEEN_CHECKPOINTS)
        if self.loop.accelerator.num_processes > 1:
            self._now = broadcast_object_list([self._now])[0]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to count, unless the run resumes, and foretell the end of the training."""
        spent = self.budget.spent
        self._begin = spent if self._begin is None else self._begin
        self._saved_at = self._stepped_at = spent
        self._step_seconds = 0.0
        state.max_steps = max(self.steps, state.global_step + 2)
        if self._now.ends:  # it was stopped between its last step and its result
            state.max_steps, control.should_training_stop = state.global_step, True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the training where no other step fits; else evaluate and save where it is time, and foretell the end."""
        now = self._now  # the schedule has looked a moment ago
        if now.ends:
            control.should_training_stop = True
            state.max_steps = state.global_step
            return
        # The stock loop stops at this number, before it calls here; so the next step must not reach it.
        state.max_steps = max(state.global_step + 2, round(state.global_step / max(now.share, 1e-9)))
        if math.floor(now.share * (self.evaluations + 1)) > self._evaluated:
            self._evaluated += 1
            control.should_evaluate = True
        if now.saves:
            self._saved_at = self.budget.spent
            control.should_save = True

    def state_dict(self) -> dict[str, Any]:
        """Return what is spent, what is kept for the end, and when the training began."""
        return {
            "spent": self.budget.spent,
            "begin": self._begin,
            "reserve": self.reserve,
            "steps": self.steps,
            "compared": self.compared,
            "evaluations": self.evaluations,
            "evaluated": self._evaluated,
            "ends": self._now.ends,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the time that the checkpoint has left.

        What the run lost after the checkpoint, and what the start of this process took, is not counted.

        Args:
            state: As `state_dict` returned it.
        """
        self.budget.spent_before, self.budget.began = float(state["spent"]), self.budget.now()
        self._begin, self.reserve = float(state["begin"]), float(state["reserve"])
        self.evaluations, self._evaluated = int(state["evaluations"]), int(state["evaluated"])
        self.compared = state.get("compared")
        self.steps, self._now = int(state["steps"]), _Moment(0.0, bool(state["ends"]), False)
