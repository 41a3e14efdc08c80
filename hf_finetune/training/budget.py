"""The plan of a run with a time budget: what it measures first, and how the time is divided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accelerate.utils import broadcast_object_list

from hf_finetune.config.durations import format_duration
from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.time_budget import TimeBudget
from hf_finetune.training.interpolation import SHARES
from hf_finetune.training.speed import Speed, measure
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

MEASURING = 0.03  # of the budget, at most, for each of two measurements: of precisions, and of what is left then
_EVALUATING = 0.05  # of the time for training, at most, for evaluations during it
_PROBING = 0.15  # of the budget at most, for the features of the probe; the fit itself takes less
_COMPARING = 0.05  # of the budget at most, for the weights between the probed head and the end
_FEWEST_COMPARED = 50  # validation images, if there are as many
_SAVING = 4.0  # seconds for the model, its card, the plots and the end of the process
_MARGIN = 1.1  # on what was measured
_FEWEST_STEPS = 20  # of training; where fewer fit, the probe alone is the result


@dataclass(frozen=True)
class TimePlan:
    """How the time of a run is divided.

    Attributes:
        probe_images: Images that the head is probed on; 0 where there is no time for it.
        steps: Optimizer steps for which there is time after the probe; 0 where too few fit.
        evaluations: How often the run is evaluated during the training.
        compared: Validation images on which the weights between the probed head and the end are compared.
        reserve: Seconds for evaluating and saving at the end.
        sentence: The plan in words.
    """

    probe_images: int
    steps: int
    evaluations: int
    compared: int
    reserve: float
    sentence: str

    @property
    def trains(self) -> bool:
        """Whether anything is trained after the probe."""
        return self.steps > 0


def plan_time(
    budget: float,
    spent: float,
    speed: Speed,
    counts: Mapping[str, int],
    batch: int,
    probes: bool,
    calibrates: bool = False,
) -> TimePlan:
    """Divide the time of a run.

    Args:
        budget: Seconds of the whole run.
        spent: Seconds that are spent already.
        speed: As it was measured.
        counts: The number of images of train, and of validation and test where they are there.
        batch: Images of an optimizer step.
        probes: Whether the head can be probed.
        calibrates: Whether validation is passed twice more after the training, to fit a temperature and to evaluate.
    """
    per_image = speed.image * _MARGIN
    affordable = max(_FEWEST_COMPARED, int(_COMPARING * budget / (per_image * len(SHARES))))
    compared = min(counts.get("validation", 0), affordable) if probes else 0
    held_out = counts.get("validation", 0) * (3 if calibrates else 1) + counts.get("test", 0) + compared * len(SHARES)
    evaluation = per_image * counts.get("validation", 0)
    reserve = per_image * held_out + _SAVING
    probe_images = min(counts["train"], int(_PROBING * budget / per_image)) if probes else 0
    probe = per_image * probe_images
    training = budget - spent - reserve - probe
    steps = max(0, int(training / speed.step))
    if steps < _FEWEST_STEPS:
        steps = 0 if probes else max(1, steps)  # without a probe something must be trained
    epochs = steps * batch / counts["train"]
    evaluations = int(min(epochs, _EVALUATING * training / evaluation)) if evaluation else 0
    parts = [f"{format_duration(spent)} are spent"]
    if probe_images:
        parts.append(f"{format_duration(probe)} for the probe of the head on {probe_images:,} images")
    if steps:
        seconds = format_duration(max(0.0, training))
        parts.append(f"{seconds} for about {epochs:.3g} epochs of training ({steps:,} steps)")
    parts.append(f"{format_duration(reserve)} to evaluate and save")
    sentence = f"Time budget {format_duration(budget)}: {', '.join(parts)}."
    return TimePlan(probe_images, steps, max(0, evaluations), compared, reserve, sentence)


def plan_by_the_clock(
    trainer: ImageClassificationTrainer,
    counts: Mapping[str, int],
    probes: bool,
    began: float,
    training_pass: float | None = None,
) -> TimePlan | None:
    """Measure, divide the time of the run, and say how; None where the run has no time budget.

    Args:
        trainer: A trainer that has passed the sanity check.
        counts: The number of images of each role.
        probes: Whether the head can be probed.
        began: When the run began, as `time.monotonic` counts.
        training_pass: Seconds of a training pass where they are measured already.
    """
    clock = trainer.extensions.find(TimeBudget)
    if clock is None:
        return None
    clock.budget.began = began
    speed = measure(trainer, MEASURING * clock.budget.seconds, training_pass)
    args = trainer.args
    plan = plan_time(
        clock.budget.seconds, clock.budget.spent, speed, counts, args.global_batch_size, probes, args.calibrate
    )
    if args.world_size > 1:  # the others follow the first
        plan = broadcast_object_list([plan])[0]
    clock.reserve, clock.evaluations, clock.steps = plan.reserve, plan.evaluations, plan.steps
    clock.compared = plan.compared
    logger.info(plan.sentence)
    return plan
