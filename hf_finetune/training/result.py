"""Completes the result folder with figures, plots and the model card, and makes the final table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import HfApi, ModelCard
from numpy.typing import ArrayLike
from transformers import PreTrainedModel
from transformers.trainer_utils import PredictionOutput, TrainOutput

from hf_finetune.config.checkpoint_names import resolve_checkpoint
from hf_finetune.config.recipe import Recipe, to_yaml
from hf_finetune.config.run_files import (
    HISTORY_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    TRAINING_CURVE_FILE,
    apply_umask,
)
from hf_finetune.config.training_keys import MULTISTEP
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.stages import decoding_of
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.errors import first_line
from hf_finetune.evaluation.analysis import ClassFigures
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metrics import METRICS, ClassificationMetrics, Metric, run_metrics
from hf_finetune.evaluation.multi_label import metrics_of, registry_of
from hf_finetune.evaluation.report import describe_split, format_report, interval_keys, write_metrics
from hf_finetune.evaluation.summary import Summary, summary_of
from hf_finetune.hub.model_card import ModelCardContext, library_versions, training_command, write_model_card
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.logs import get_logger
from hf_finetune.models import is_own_architecture
from hf_finetune.models.channels import image_channels
from hf_finetune.models.saved_form import how_saved
from hf_finetune.reports.answers import Answers, answers_of, write_answers
from hf_finetune.reports.history import write_history
from hf_finetune.reports.images import SplitImages
from hf_finetune.reports.limits import limits_of
from hf_finetune.reports.network import MOST_SECONDS
from hf_finetune.tasks import DEFAULT_THRESHOLD
from hf_finetune.timeouts import ANSWER_TIMEOUT
from hf_finetune.training.plan import RunPlan
from hf_finetune.training.trainer import ImageClassificationTrainer
from hf_finetune.training.wiring import PreparedImages

logger = get_logger(__name__)

# The Trainer calls the split that it evaluates while training "eval"; here it is called what it is.
METRIC_PREFIXES = {"validation": "eval", "test": "test"}
_PART_FOR_REPORT = 0.02  # of the seconds of the training, in which the report may show images to the network


@dataclass(frozen=True)
class RunRecord:
    """What a finished run knows of itself.

    Attributes:
        recipe: The resolved recipe.
        remarks: Comments on objects of Python that the recipe cannot hold, or nothing.
        command: The command line that asks for the run.
        seed: Of the run.
        base_model: The checkpoint that it started from, None for random weights.
        chose_checkpoint: Whether validation chose the checkpoint.
        images: The images.
        predictions: For each evaluated role ("validation", "test") the Trainer's output, whose predictions are those
            of `reduce_logits`.
        training_metrics: The Trainer's, as are the next two.
        log_history: What was logged.
        skipped_steps: The steps whose loss was not finite.
        registry: The run's metrics by name (`run_metrics`).
        how_saved: What the saved model has that the trained one had not, a sentence or "".
        thresholds: The probabilities from which on classes are given, where images have several labels.
        seconds: How long each part took.
        resumed: Whether these are only the times since the run resumed.
    """

    recipe: Recipe
    remarks: str
    command: str
    seed: int
    base_model: str | None
    chose_checkpoint: bool
    images: PreparedImages
    predictions: Mapping[str, PredictionOutput]
    training_metrics: Mapping[str, float]
    log_history: Sequence[Mapping[str, Any]]
    skipped_steps: Sequence[Mapping[str, Any]] = ()
    registry: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    how_saved: str = ""
    thresholds: ArrayLike = DEFAULT_THRESHOLD
    seconds: Mapping[str, float] = field(default_factory=dict)
    resumed: bool = False

    @classmethod
    def of_run(
        cls,
        plan: RunPlan,
        base_model: str | None,
        command: str,
        images: PreparedImages,
        trainer: ImageClassificationTrainer,
        training: TrainOutput,
        predictions: Mapping[str, PredictionOutput],
        seconds: Mapping[str, float],
    ) -> RunRecord:
        """Return the record of a run that has been trained and evaluated."""
        return cls(
            recipe=plan.recipe,
            remarks=plan.given.as_comments(),
            command=command,
            seed=plan.args.seed,
            base_model=base_model,
            chose_checkpoint=plan.args.load_best_model_at_end and plan.args.takes_steps,
            images=images,
            predictions=predictions,
            training_metrics=training.metrics,
            log_history=trainer.state.log_history,
            skipped_steps=trainer.skipped_steps,
            registry=run_metrics(plan.given.metrics, registry_of(images.data.task)),
            thresholds=getattr(trainer.model.config, "thresholds", DEFAULT_THRESHOLD),
            how_saved=how_saved(trainer.model),
            seconds=seconds,
            resumed=plan.checkpoint is not None,
        )

    @property
    def data(self) -> ImageDataset:
        """The dataset."""
        return self.images.data

    @property
    def metrics(self) -> dict[str, float]:
        """All figures in one flat mapping: train_*, eval_* of validation, test_* of test."""
        figures = dict(self.training_metrics)
        figures |= {"train_skipped_steps": len(self.skipped_steps), "unreadable_images": len(self.data.bad_images)}
        for output in self.predictions.values():
            figures |= output.metrics or {}
        return figures

    @cached_property
    def intervals(self) -> dict[str, dict[str, Interval]]:
        """The 95 % intervals of the figures that have one, by role and by the figure's own name."""
        return {
            role: self._computed.intervals(self._computed.predictions(output))
            for role, output in self.predictions.items()
        }

    @cached_property
    def _computed(self) -> ClassificationMetrics:
        return metrics_of(self.data.task, self.data.label_names, self.registry, self.thresholds)

    @cached_property
    def summary(self) -> Summary | None:
        """What the reported split shows beside its figures; None where nothing was evaluated."""
        if not self.predictions:
            return None
        return summary_of(self._computed.predictions(self.predictions[self.reported_role]), self.data.label_names)

    @cached_property
    def answers(self) -> Answers:
        """What the model answered for each image of the reported split."""
        role, batches = self.reported_role, self.images.batches[self.reported_role]
        output, images = self.predictions[role], SplitImages(self.data, role)
        order = np.arange(len(images.rows))
        if isinstance(batches, StreamedBatches):
            order = np.argsort(batches.arrangement.source_rows())
        names = self.data.label_names
        return answers_of(self._computed, output, names, order, images.names, images.rows, images.slices)

    def named_intervals(self) -> dict[str, Interval]:
        """Return all intervals in one flat mapping, by the names of `metrics`."""
        return {
            f"{METRIC_PREFIXES[role]}_{name}": interval
            for role, intervals in self.intervals.items()
            for name, interval in intervals.items()
        }

    @property
    def reported_role(self) -> str:
        """The split whose figures count: test, or validation where there is no test."""
        return "test" if "test" in self.predictions else "validation"

    def split_metrics(self, role: str) -> dict[str, float]:
        """Return the figures of one split under their own names: accuracy, loss and so on, and `samples`."""
        prefix = f"{METRIC_PREFIXES[role]}_"
        metrics = {name.removeprefix(prefix): value for name, value in (self.predictions[role].metrics or {}).items()}
        return {name: metrics[name] for name in (*self.registry, "samples") if name in metrics}

    def describe(self, role: str) -> str:
        """Return what a split's figures are from, and whether it chose the checkpoint."""
        samples = int(self.split_metrics(role)["samples"])
        return describe_split(role, samples, chose_checkpoint=self.chose_checkpoint and role == "validation")

    def per_class(self) -> Sequence[ClassFigures]:
        """Return the figures of every class on the reported split."""
        return [] if self.summary is None else self.summary.per_class()

    def table(self) -> str:
        """Return the final table, for people."""
        if not self.predictions:
            return "No split was left to evaluate on."
        figures = {self.describe(role): self.split_metrics(role) for role in self.predictions}
        intervals = {self.describe(role): of_split for role, of_split in self.intervals.items()}
        return format_report(figures, self.per_class(), self.describe(self.reported_role), self.registry, intervals)

    def warning(self) -> str | None:
        """Return a sentence where the network is no better than one that knows no image, None elsewhere."""
        shown = None if self.summary is None else self.summary.ignorance()
        if shown is None:
            return None
        return (
            "Warning: the model is no better than one that knows no image:"
            f" {shown.format(split=self.describe(self.reported_role))}. Train longer or with another learning rate, and"
            " look at the images and their labels."
        )

    def how_to_load(self, folder: Path, model: PreTrainedModel) -> str:
        """Return the sentence that says where the model is and what loads it."""
        own_code = is_own_architecture(model.config.model_type) or any(
            getattr(model.config, name, None) is not None for name in ("auto_map", "value_range")
        )
        trust = ", trust_remote_code=True" if own_code else ""
        loads = f"The model is in {folder}; pipeline('image-classification', '{folder}'{trust}) loads it."
        if image_channels(model.config) is not None:
            loads = f"The model is in {folder}; to classify images by it: hf-finetune predict {folder} FILES."
        return " ".join(filter(None, [loads, self.how_saved]))

    def title(self) -> str:
        """Return what was trained on what, for the plots, such as "resnet_small_cifar10 on digits"."""
        model = self.base_model or self.recipe.values.get("model_type") or self.recipe.name
        return f"{without_private_text(model, Path.cwd())} on {without_private_text(self.data.source, Path.cwd())}"


def license_of(checkpoint: str) -> str | None:
    """Return the license that a checkpoint's own model card states, or None where there is no such word to be had."""
    try:
        folder = Path(resolve_checkpoint(checkpoint))
        if folder.is_dir():
            return ModelCard.load(folder / "README.md").data.license
        card = HfApi().model_info(checkpoint, timeout=ANSWER_TIMEOUT).card_data
        return None if card is None else card.license
    except Exception:  # a file, no metadata, no network: the client's errors share no base class
        return None


def save_result(folder: Path, record: RunRecord) -> None:
    """Write the model card, the figures and, last, plots and report into the folder that already holds the model.

    These are last, because a run whose plots fail, or end the process, is finished all the same. The card shows all
    plots, and is written again where one of them failed.
    """
    apply_umask(folder)
    card = _card(folder, record)
    plots = (TRAINING_CURVE_FILE, *(record.summary.plots if record.summary is not None else ()))
    write_model_card(card, folder, plots)
    write_history(record.log_history, folder / HISTORY_FILE)
    if record.predictions:
        write_answers(record.answers, folder / PREDICTIONS_FILE)
    write_metrics(
        folder / METRICS_FILE,
        {
            "metrics": {**record.metrics, **interval_keys(record.named_intervals())},
            "reported_split": record.reported_role if record.predictions else None,
            "validation_chose_checkpoint": record.chose_checkpoint,
            "splits": record.data.split_names,
            "per_class": card.per_class,
            **({} if record.summary is None else record.summary.as_mapping()),
            "unreadable_images": record.data.bad_images,
            "skipped_steps": record.skipped_steps,
            "versions": card.versions,
            **_for_the_report(record, card),
        },
    )
    _plot(folder, record)
    if not all((folder / name).is_file() for name in plots):
        write_model_card(card, folder)
    _report(folder, record)


def _for_the_report(record: RunRecord, card: ModelCardContext) -> dict[str, Any]:
    """Return what the report says beside the figures; commands and origins may hold tokens and private paths."""
    said = {
        "title": record.title(),
        "notes": record.data.notes,
        "warnings": [*filter(None, [record.warning()])],
        "seconds": record.seconds,
        "resumed": record.resumed,
        "settings_from": record.recipe.origins,
        "command": record.command,
        "again": card.again,
    }
    return dict(without_private_text(said, Path.cwd()))


def _report(folder: Path, record: RunRecord) -> None:
    """Write the report. Whatever goes wrong leaves it out, and the log says so: it is not worth a result."""
    from hf_finetune.reports.page import write_report

    images = None
    if record.predictions:
        images = SplitImages(record.data, record.reported_role, decoding_of(record.images.image_processor))
    read, encoded = (None, None)
    if images is not None and images.can_be_read:
        read, encoded = images.small, images.encoded
    try:
        absent, seconds = "the images of a stream are not read again", _seconds_to_show(record)
        write_report(folder, folder / REPORT_FILE, read, absent, encoded, seconds)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
        logger.warning(
            f"Note: {REPORT_FILE} could not be written ({reason}); to try again: hf-finetune report {folder}"
        )


def _seconds_to_show(record: RunRecord) -> float:
    """Return how long the report of a run may show images to the network: a part of the time that the training took.

    A run with a time budget has none to spare, and less than a second is not enough to load the network.
    """
    seconds = min(MOST_SECONDS, _PART_FOR_REPORT * record.seconds.get("train", 0.0))
    return 0.0 if seconds < 1 or record.recipe.values.get("time_budget") is not None else seconds


def _plot(folder: Path, record: RunRecord) -> None:
    from hf_finetune.evaluation.plots import plot_training_curve  # matplotlib

    stepwise = record.recipe.values.get("lr_scheduler_type", MULTISTEP) == MULTISTEP
    plot_training_curve(record.log_history, folder / TRAINING_CURVE_FILE, title=record.title(), stepwise_rate=stepwise)
    if record.summary is not None:
        record.summary.plot(folder, record.title(), record.reported_role)


def _card(folder: Path, record: RunRecord) -> ModelCardContext:
    data, recipe = record.data, record.recipe.values
    public = without_private_text(recipe, Path.cwd())
    return ModelCardContext(
        model_name=folder.resolve().name,
        num_labels=len(data.label_names),
        dataset_name=data.source,
        splits=data.split_names,
        metrics={role: record.split_metrics(role) for role in record.predictions},
        recipe_yaml=to_yaml(replace(record.recipe, values=public)) + record.remarks,
        again=None if record.remarks else training_command(recipe),  # a command cannot be given objects
        registry=record.registry,
        command=record.command,
        seed=record.seed,
        versions=library_versions(),
        base_model=record.base_model,
        license=recipe.get("license") or (license_of(record.base_model) if record.base_model else None),
        not_for=recipe.get("not_for") or (),
        dataset_id=data.entry.hub_id if data.entry else None,
        dataset_revision=data.revision or recipe.get("dataset_revision"),
        checkpoint_split="validation" if record.chose_checkpoint else None,
        per_class=record.per_class(),
        per_class_split=record.reported_role if record.predictions else None,
        how_saved=record.how_saved,
        notes=[*data.notes, *filter(None, [record.warning()])],
        intervals=record.intervals,
        temperature=record.training_metrics.get("train_temperature"),
        several=data.task.several,
        limits=limits_of(record.answers) if record.predictions else (),
    )
