"""A trained model's figures on a dataset."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
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
from hf_finetune.errors import UserError, listing
from hf_finetune.evaluation.metrics import ClassificationMetrics, Metric, UserMetric, run_metrics
from hf_finetune.evaluation.multi_label import (
    MultiLabelMetrics,
    given_classes,
    metrics_of,
    registry_of,
)
from hf_finetune.evaluation.report import describe_split, format_report, to_json
from hf_finetune.evaluation.slices import SliceFigures, slice_figures, slice_lines
from hf_finetune.evaluation.test_time import with_views
from hf_finetune.host_memory import keep_freed_memory
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.jobs.evaluation_result import EvaluationResult, LabelSetResult, check_output
from hf_finetune.logs import get_logger, log_lines, write_result
from hf_finetune.models.head import class_names
from hf_finetune.models.image_size import stated_sides
from hf_finetune.models.load import load_trained, open_source
from hf_finetune.models.processor import load_image_processor
from hf_finetune.tasks import DEFAULT_THRESHOLD, Task, counted, task_of
from hf_finetune.training.wiring import PreparedImages, build_evaluator, load_data_as_trained, prepare_images

logger = get_logger(__name__)

_ROLES = ("test", "validation", "train")


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
    source = open_source(model if isinstance(model, PreTrainedModel) else model_arguments)
    data, data_arguments = load_data_as_trained(source, data_arguments, args, model_arguments.num_labels, raw)
    args.prepare_for_run(has_validation=False)
    role = _choose_role(data, split)
    log_lines(logger, f"Data: {data.source}, {role}: {data.split_names[role]}.", *data.unused_notes([role]))
    network = load_trained(source, stated_sides(data_arguments.image_size))
    image_processor = image_processor or load_image_processor(source, network.config, _figures(data_arguments))
    task = task_of(network.config)
    check_task(task, data)
    names, class_ids = _match(network, data, role, labels_by_index)
    images = prepare_images(data, image_processor, data_arguments, args, class_ids, len(names))
    result = _evaluate(network, names, images, args, role, run_metrics(metrics, registry_of(task)), tta)
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
    return data.existing_role(split_role(split) or "test", split)


def check_task(task: Task, data: ImageDataset) -> None:
    """Raise `UserError` where a model and a dataset have different tasks."""
    if task is data.task:
        return
    model, labels = "one class for each image", "several labels"
    if task.several:
        model, labels = "any number of classes for each image", "one label"
    raise UserError(f"The model gives {model}, and images of {data.source} have {labels}; use another of both.")


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
        thresholds = getattr(network.config, "thresholds", DEFAULT_THRESHOLD)
        computed = metrics_of(task_of(network.config), names, metrics, thresholds)
        trainer = build_evaluator(network, args, images, computed)
        if tta is not None:
            trainer.preprocess_logits_for_metrics = cast(Any, partial(_reduce_both, computed))
        with nullcontext() if tta is None else _giving_both(network, tta):
            predicted = trainer.predict(images.batches[role], metric_key_prefix="test")
        log_lines(logger, *note_lost(data, trainer.unreadable_images()))
        trainer.end()
    if args.local_process_index == 0:
        finish([decoded for other, decoded in images.decoded.items() if other == role])
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
    values = data.slice_values(role)
    slices = _slices(values, result)
    return replace(
        result,
        slices=slices,
        slice_values=values,
        rows=data.source_rows(role),
        split=data.split_names[role] if data.split_names[role].startswith(role) else role,
        report="\n".join(
            [
                format_report(
                    {name: own.metrics for name, own in shown.items()},
                    result.per_class(),
                    description,
                    metrics,
                    {name: own.intervals for name, own in shown.items()},
                ),
                *slice_lines(slices),
            ]
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
    if isinstance(computed, MultiLabelMetrics):
        logits, losses = (np.asarray(array)[rows] for array in predicted.predictions[:2])
        label_ids = np.asarray(predicted.label_ids)[rows]
        answers = computed.predictions(PredictionOutput(cast(Any, (logits, losses)), label_ids, None))
        return LabelSetResult(
            figures,
            given_classes(logits, computed.thresholds),
            label_ids.astype(np.int64),
            losses,
            names,
            intervals=computed.intervals(answers),
            answers=answers,
        )
    classes, _, losses, confidences = (np.asarray(array)[rows] for array in predicted.predictions[:4])
    return EvaluationResult(
        figures,
        classes,
        np.asarray(predicted.label_ids)[rows],
        losses,
        names,
        intervals=computed.intervals(computed.predictions(predicted)),
        confidences=confidences,
    )


def _slices(values: Mapping[str, Sequence[str]], result: EvaluationResult) -> dict[str, list[SliceFigures]]:
    """Return the figures of the values of `slice_columns`; of several labels, whether an image has exactly its own."""
    known = np.flatnonzero(counted(result.labels))
    return {
        column: slice_figures([of_images[place] for place in known.tolist()], result.correct[known])
        for column, of_images in values.items()
    }


@contextmanager
def _giving_both(network: PreTrainedModel, tta: str) -> Iterator[None]:
    """Let a network give the plain logits and those of test-time augmentation: float32 (batch, 2, classes)."""
    plain = network.forward

    def forward(pixel_values: torch.Tensor) -> ImageClassifierOutput:
        both = with_views(lambda view: plain(pixel_values=view).logits, pixel_values, tta, task_of(network.config))
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
