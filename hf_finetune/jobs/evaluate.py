"""A trained model's figures on a dataset."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import BaseImageProcessor, EvalPrediction, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_utils import PredictionOutput

from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.data import PROCESSOR_KEYS, DataArguments
from hf_finetune.config.recipe import Recipe
from hf_finetune.config.run_files import CONFUSION_MATRIX_FILE
from hf_finetune.config.test_time import check_tta
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.cache import finish
from hf_finetune.data.images.unreadable import note_lost
from hf_finetune.data.labels import match_by_index, match_classes
from hf_finetune.data.sources.objects import GivenDataset
from hf_finetune.data.splits import split_role
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.data.streaming.split import StreamedSplit
from hf_finetune.errors import UserError, did_you_mean, listing
from hf_finetune.evaluation.analysis import ClassFigures, Confusions, per_class_figures
from hf_finetune.evaluation.calibration import ReliabilityBin, reliability
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metrics import ClassificationMetrics, Metric, UserMetric, run_metrics
from hf_finetune.evaluation.report import describe_split, format_report, interval_keys, to_json, write_metrics
from hf_finetune.evaluation.test_time import with_views
from hf_finetune.host_memory import keep_freed_memory
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.logs import get_logger, log_lines, write_result
from hf_finetune.models.head import class_names
from hf_finetune.models.image_size import stated_sides
from hf_finetune.models.load import load_trained, open_source
from hf_finetune.models.processor import load_image_processor
from hf_finetune.shown_text import csv_cell
from hf_finetune.training.wiring import PreparedImages, build_evaluator, load_data, prepare_images

logger = get_logger(__name__)

_ROLES = ("test", "validation", "train")
_MOST_IN_MATRIX = 1_000  # classes whose whole confusion matrix is written: a million numbers


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """A model's figures on a split.

    Attributes:
        metrics: Figures under their own names: accuracy, loss and so on, and samples. All but the loss (nats) and
            counts are parts of 1.
        predictions: The likeliest class of each image, int64 (images,), in the split's order: class ids of the model.
        labels: Its own class, int64 (images,); -100 for an image that could not be read.
        losses: Its cross entropy in nats, float32 (images,).
        label_names: The model's classes by class id.
        split: What was evaluated, such as "test".
        report: The table that the command prints.
        title: What was evaluated on what, such as "resnet_small_cifar10 on digits".
        intervals: The 95 % intervals of the figures that have one, by the name of the figure, parts of 1.
        tta: The result with test-time augmentation, where it was asked for; all else is without.
        confidences: The probability of each image's likeliest class, a part of 1, float32 (images,).
        image_name: Returns what an image is called, by its place in `predictions`: its path below the dataset's
            folder, or its row.
    """

    metrics: dict[str, float]
    predictions: np.ndarray
    labels: np.ndarray
    losses: np.ndarray
    label_names: list[str] = field(default_factory=list)
    split: str = "test"
    report: str = ""
    title: str = ""
    intervals: dict[str, Interval] = field(default_factory=dict)
    confidences: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    image_name: Callable[[int], str] = "row {}".format
    tta: EvaluationResult | None = None

    def __repr__(self) -> str:
        """Return one line with the figures."""
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items() if name != "samples")
        return f"EvaluationResult on {self.metrics.get('samples', 0):,.0f} images of {self.split}: {figures}"

    def _repr_html_(self) -> str:
        """Return the table and the confusion matrix, self-contained, as notebooks show them."""
        from hf_finetune.evaluation.plots import plot_confusion_matrix
        from hf_finetune.training.finetune_result import as_html

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / CONFUSION_MATRIX_FILE
            plot_confusion_matrix(self.confusions(), self.label_names, path, self.title, self.split)
            return as_html(self.report or repr(self), [path])

    def per_class(self) -> list[ClassFigures]:
        """Return precision, recall, F1 and support of every class, by class id."""
        return per_class_figures(self.predictions, self.labels, self.label_names)

    def confusions(self) -> Confusions:
        """Return the cells of the confusion matrix that are not zero, which fit any number of classes."""
        return Confusions.count(self.predictions, self.labels, len(self.label_names))

    def reliability(self) -> list[ReliabilityBin]:
        """Return how often the prediction is correct at each score: 15 bins of scores, without empty ones."""
        if not len(self.confidences):
            return []
        labelled = self.labels >= 0
        return reliability(self.confidences[labelled], self.predictions[labelled] == self.labels[labelled])

    def confusion_matrix(self) -> np.ndarray:
        """Return the number of images of each class (row) that were given each class (column), int64."""
        return self.confusions().matrix()

    def as_mapping(self) -> dict[str, Any]:
        """Return what the JSON file holds: split, metrics, per_class, reliability, label_names and confusion_matrix.

        With test-time augmentation its figures are under `tta`.
        Beside the figures stand their intervals, `accuracy_interval: [low, high]`.

        Beyond 1,000 classes `confusions` takes the place of confusion_matrix: each pair of different classes that
        occurs, with its number of images, the most frequent first.
        """
        if len(self.label_names) <= _MOST_IN_MATRIX:
            confused: dict[str, Any] = {"confusion_matrix": self.confusion_matrix()}
        else:
            confused = {"confusions": self.confusions().most_frequent(self.label_names)}
        return {
            "split": self.split,
            "metrics": {**self.metrics, **interval_keys(self.intervals)},
            "per_class": self.per_class(),
            "reliability": self.reliability(),
            "label_names": self.label_names,
            **confused,
            **({} if self.tta is None else {"tta": {**self.tta.metrics, **interval_keys(self.tta.intervals)}}),
        }

    def save(self, path: Path) -> list[Path]:
        """Write the figures, and the confusion matrix and the reliability diagram as plots beside them.

        Args:
            path: A JSON file of all figures, or a CSV file with a line for each image: row, label, prediction, loss.

        Returns:
            The files that were written.

        Raises:
            UserError: For a name that ends otherwise.
        """
        from hf_finetune.evaluation.plots import plot_confusion_matrix, plot_reliability

        check_output(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            write_metrics(path, self.as_mapping())
        else:
            self._write_rows(path)
        plot = path.with_name(f"{path.stem}_confusion_matrix.png")
        plot_confusion_matrix(self.confusions(), self.label_names, plot, self.title, self.split)
        diagram = path.with_name(f"{path.stem}_reliability_diagram.png")
        plot_reliability(self.reliability(), diagram, self.title, self.split)
        return [file for file in (path, plot, diagram) if file.is_file()]

    def _write_rows(self, path: Path) -> None:
        names = self.label_names
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "label", "prediction", "loss", *([] if self.tta is None else ["tta_prediction"])])
            for row, (label, prediction, loss) in enumerate(
                zip(self.labels.tolist(), self.predictions.tolist(), self.losses.tolist(), strict=True)
            ):
                known = label >= 0
                cells = [row, names[label] if known else "", names[prediction], f"{loss:.6f}" if known else ""]
                if self.tta is not None:
                    cells.append(names[self.tta.predictions[row]])
                writer.writerow(map(csv_cell, cells))


def check_output(path: Path) -> None:
    """Raise `UserError` where results cannot be written to a file of this name."""
    if path.suffix.lower() not in (".json", ".csv"):
        raise UserError(f"--output is {path}; use a name that ends in .json or .csv.")
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; use the name of a file.")


def evaluate_model(
    model: str | Path | PreTrainedModel,
    *,
    split: str | None = None,
    output: str | Path | None = None,
    show: str | None = None,
    labels_by_index: bool = False,
    tta: str | None = None,
    given: GivenDataset | None = None,
    metrics: Mapping[str, UserMetric | Metric] | None = None,
    image_processor: BaseImageProcessor | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Return the figures of a model on a dataset. Classes are matched by name, unless told otherwise.

    Args:
        model: A folder, a Hub id, an embedded name, or a model object.
        split: Which split, by its role (train, validation, test) or its own name. Absent, the test split; where there
            is none, the validation split; where there is only one, that.
        output: A .json or .csv file for the results (`EvaluationResult.save`).
        show: Write the figures to standard output, as a "table" or as "json"; None writes nothing.
        labels_by_index: Match classes by their order, for a model whose classes have no names, or one name twice.
        tta: "flip" or "multicrop": the figures of the mean over several views of each image, beside the plain ones.
        given: A dataset that is open already.
        metrics: Own figures by name.
        image_processor: What prepares images; absent, the model's own.
        settings: Keys of a recipe that say which images.

    Returns:
        The figures, and each image's prediction.

    Raises:
        UserError: For a model or a dataset that cannot be had, and for classes that the model does not know.
    """
    check_tta(tta)
    if output is not None:
        output = Path(output).expanduser()
        check_output(output)
    named = {} if isinstance(model, PreTrainedModel) else {"model_name_or_path": str(model)}
    if split is not None and split_role(split) is None:
        settings["test_split"] = split
    settings = {"validation_fraction": 0, **named, **settings}
    model_arguments, data_arguments, args = build_arguments(
        Recipe("evaluate", settings, {key: f"--{key}" for key in settings})
    )
    raw = given.raw if given is not None else None
    data = load_data(data_arguments, args, model_arguments.num_labels, require_train=False, given=raw)
    args.prepare_for_run(has_validation=False)
    role = _choose_role(data, split)
    log_lines(logger, f"Data: {data.source}, {role}: {data.split_names[role]}.", *data.unused_notes([role]))
    source = open_source(model if isinstance(model, PreTrainedModel) else model_arguments)
    network = load_trained(source, stated_sides(data_arguments.image_size))
    image_processor = image_processor or load_image_processor(source, network.config, _figures(data_arguments))
    names, class_ids = _match(network, data, role, labels_by_index)
    images = prepare_images(data, image_processor, data_arguments, args, class_ids)
    result = _evaluate(network, names, images, args, role, run_metrics(metrics), tta)
    called = (
        type(model).__name__ if isinstance(model, PreTrainedModel) else without_private_text(str(model), Path.cwd())
    )
    result = replace(result, title=f"{called} on {without_private_text(data.source, Path.cwd())}")
    if output is not None and args.process_index == 0:
        log_lines(logger, f"Written: {', '.join(map(str, result.save(output)))}.")
    if show is not None:  # last: its reader may have ended
        write_result(to_json(result.as_mapping()).rstrip("\n") if show == "json" else f"\n{result.report}")
    return result


def _figures(arguments: DataArguments) -> DataArguments | None:
    """Return the arguments where they say how images are prepared; else the checkpoint's own processor is kept."""
    return arguments if any(getattr(arguments, name) is not None for name in PROCESSOR_KEYS) else None


def _choose_role(data: ImageDataset, split: str | None) -> str:
    if split is None:
        return next(role for role in _ROLES if role in data.splits)
    role = split_role(split) or "test"
    if role not in data.splits:
        advice = did_you_mean(split, data.splits)
        raise UserError(f"--split: {data.source} has no split {split}.{advice} It has {', '.join(data.splits)}.")
    return role


def _match(
    network: PreTrainedModel, data: ImageDataset, role: str, labels_by_index: bool
) -> tuple[list[str], list[int]]:
    """Return the model's class names, and for each class id of the dataset the model's."""
    names = class_names(network.config)
    if not labels_by_index:
        split = data.splits[role]
        return names, match_classes(None if isinstance(split, StreamedSplit) else split, data.label_names, names)
    class_ids = match_by_index(data.label_names, names)
    pairs = [
        f"{class_id} {names[class_id]} = {name}" for name, class_id in zip(data.label_names, class_ids, strict=True)
    ]
    logger.info(f"Classes are matched by index: {listing(pairs)}.")
    for name, class_id in zip(data.label_names, class_ids, strict=True):
        names[class_id] = name
    return names, class_ids


def _evaluate(
    network: PreTrainedModel,
    names: list[str],
    images: PreparedImages,
    args: FinetuneArguments,
    role: str,
    metrics: Mapping[str, Metric],
    tta: str | None,
) -> EvaluationResult:
    """Run the split through the network, once for plain figures and those of test-time augmentation."""
    data = images.data
    keep_freed_memory(args.device)
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder  # the Trainer creates its folder even if nothing is ever written there
        computed = ClassificationMetrics(names, metrics)
        trainer = build_evaluator(network, args, images, computed)
        if tta is not None:
            trainer.preprocess_logits_for_metrics = cast(Any, partial(_reduce_both, computed))
        with nullcontext() if tta is None else _giving_both(network, tta):
            predicted = trainer.predict(images.batches[role], metric_key_prefix="test")
        log_lines(logger, *note_lost(data, trainer.unreadable_images()))
        trainer.end()
    if args.local_process_index == 0:
        finish(images.decoded.values())
    figures = {name.removeprefix("test_"): value for name, value in (predicted.metrics or {}).items()}
    batches = images.batches[role]
    rows = np.arange(len(np.asarray(predicted.label_ids)))
    if isinstance(batches, StreamedBatches):
        rows = np.argsort(batches.arrangement.source_rows())
    result = _result(predicted, figures, computed, names, rows)
    if tta is not None:
        reduced, label_ids = cast(Any, (predicted.predictions, predicted.label_ids))
        arrays = reduced[len(reduced) // 2 :]
        with_tta = PredictionOutput(arrays, label_ids, None)
        own = computed(EvalPrediction(arrays, label_ids))
        result = replace(result, tta=_result(with_tta, own, computed, names, rows))
    description = describe_split(role, int(figures["samples"]))
    shown = {description: result} | ({f"{description}, --tta {tta}": result.tta} if result.tta is not None else {})
    return replace(
        result,
        split=data.split_names[role] if data.split_names[role].startswith(role) else role,
        report=format_report(
            {name: own.metrics for name, own in shown.items()},
            result.per_class(),
            description,
            metrics,
            {name: own.intervals for name, own in shown.items()},
        ),
        image_name=partial(_image_name, images, role),
    )


def _result(
    predicted: PredictionOutput,
    figures: dict[str, float],
    computed: ClassificationMetrics,
    names: list[str],
    rows: np.ndarray,
) -> EvaluationResult:
    """Return the result of arrays, brought into the order of `rows`."""
    classes, _, losses, confidences = (np.asarray(array)[rows] for array in predicted.predictions[:4])
    return EvaluationResult(
        figures,
        classes,
        np.asarray(predicted.label_ids)[rows],
        losses,
        names,
        intervals=computed.intervals(predicted),
        confidences=confidences,
    )


@contextmanager
def _giving_both(network: PreTrainedModel, tta: str) -> Iterator[None]:
    """Let a network give the plain logits and those of test-time augmentation: float32 (batch, 2, classes)."""
    plain = network.forward

    def forward(pixel_values: torch.Tensor) -> ImageClassifierOutput:
        both = with_views(lambda view: plain(pixel_values=view).logits, pixel_values, tta)
        return ImageClassifierOutput(logits=torch.stack(both, dim=1))

    vars(network)["forward"] = forward
    try:
        yield
    finally:
        del vars(network)["forward"]


def _reduce_both(
    computed: ClassificationMetrics, logits: torch.Tensor, labels: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    plain, averaged = logits.unbind(dim=1)
    return *computed.reduce_logits(plain, labels), *computed.reduce_logits(averaged, labels)


def _image_name(images: PreparedImages, role: str, row: int) -> str:
    split = images.data.splits[role]
    return images.bad_images.name(role, row if isinstance(split, StreamedSplit) else split[row]["sample_index"])
