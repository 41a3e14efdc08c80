"""A trained model's figures on a dataset."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_finetune.config.parsing import build_arguments
from hf_finetune.config.recipe import Recipe
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.images.cache import finish, open_decoded_images
from hf_finetune.data.images.unreadable import BadImages, note_lost
from hf_finetune.data.labels import match_classes
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.data.streaming.build import load_streamed_dataset
from hf_finetune.data.streaming.dataset import image_batches
from hf_finetune.evaluation.analysis import per_class_figures
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.evaluation.report import describe_split, format_report
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.models.load import load_trained
from hf_finetune.models.processor import load_image_processor
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """`metrics` under their own names (accuracy, loss and so on), and for each image, in the split's order:

    `predictions` and `labels`, class ids of the model, int64, and `losses`, cross entropy in nats, float32; all of the
    shape (images,). An image that could not be read has the label -100.
    """

    metrics: dict[str, float]
    predictions: np.ndarray
    labels: np.ndarray
    losses: np.ndarray


def evaluate_model(model: str, **settings: Any) -> EvaluationResult:
    """Prints and returns the figures of `model` (a folder, a Hub id or an embedded name) on a dataset.

    `settings` are keys of a recipe that say which images. The test split is evaluated; where there is none, the
    validation split; where there is only one split, all of it. Classes are matched by name. Raises `UserError` for a
    model or a dataset that cannot be had, and for classes that the model does not know.
    """
    settings = {"validation_fraction": 0, "model_name_or_path": model, **settings}
    model_arguments, data_arguments, args = build_arguments(
        Recipe("evaluate", settings, {key: f"--{key}" for key in settings})
    )
    with args.main_process_first(desc="dataset"):
        if data_arguments.streaming:
            data = load_streamed_dataset(data_arguments, args.seed, model_arguments.num_labels, require_train=False)
        else:
            data = load_image_dataset(data_arguments, args.seed, require_train=False)
    args.prepare_for_run(has_validation=False)
    role = next(role for role in ("test", "validation", "train") if role in data.splits)
    logger.info(f"Data: {data.source}, {role}: {data.split_names[role]}.")
    network = load_trained(model_arguments)
    names = [network.config.id2label[position] for position in range(network.config.num_labels)]
    split = data.splits[role]
    class_ids = match_classes(None if data_arguments.streaming else split, data.label_names, names)
    image_processor = load_image_processor(model_arguments, network.config)
    with args.main_process_first(desc="decoded images"):
        decoded = open_decoded_images(data, data_arguments.decode_cache, args.world_size, args.local_process_index)
    bad_images = BadImages(data, data_arguments.on_bad_image)
    stage = EvaluationStage(image_processor, data.uniform, class_ids)
    batches = bad_images.on_error(role, image_batches(split, stage, decoded.get(role)))
    compute_metrics = ClassificationMetrics(names)
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder  # the Trainer creates its folder even if nothing is ever written there
        trainer = ImageClassificationTrainer(
            network,
            args,
            device_stage=DeviceStage(image_processor, data.uniform),
            image_processor=image_processor,
            compute_metrics=compute_metrics,
            reduce_logits=compute_metrics.reduce_logits,
            bad_images=bad_images,
        )
        output = trainer.predict(batches, metric_key_prefix="test")
        log_lines(logger, *note_lost(data, trainer.unreadable_images()))
        trainer.end()
    if args.local_process_index == 0:
        finish(decoded.values())
    metrics = {name.removeprefix("test_"): value for name, value in output.metrics.items()}
    description = describe_split(role, int(metrics["samples"]))
    per_class = per_class_figures(output.predictions[0], output.label_ids, names)
    log_lines(logger, "", format_report({description: metrics}, per_class, description, compute_metrics.metrics))
    predictions, _, losses = output.predictions[:3]
    rows = np.argsort(batches.arrangement.source_rows()) if data_arguments.streaming else slice(None)
    return EvaluationResult(metrics, predictions[rows], output.label_ids[rows], losses[rows])
