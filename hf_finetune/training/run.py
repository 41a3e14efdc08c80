"""The main job from recipe to result, top to bottom. Each step is another module's; none is worked out here."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.config.parsing import argument_fields, build_arguments, check_flags
from hf_finetune.config.recipe import Recipe, load_recipe, override, packaged_recipes, to_yaml
from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.catalog import CATALOG, find_entry
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.images.cache import DecodedImages, finish, open_decoded_images
from hf_finetune.data.images.unreadable import BadImages, earlier_images, note_lost
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.data.streaming.build import load_streamed_dataset
from hf_finetune.data.streaming.dataset import StreamedBatches, image_batches
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.evaluation.metrics import ClassificationMetrics, reduce_logits
from hf_finetune.hub.push import check_push, push_folder
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.models.batch_norm import synchronize_batch_norm
from hf_finetune.models.freeze import freeze_modules
from hf_finetune.models.head import head_linear
from hf_finetune.models.load import check_num_labels, load_config, load_model
from hf_finetune.models.processor import default_train_transforms, describe, load_image_processor
from hf_finetune.training.checkpoints.run_folder import find_resumable, prepare_folder
from hf_finetune.training.checkpoints.store import full_disk_told
from hf_finetune.training.extensions.log_lines import SecondEpochCallback
from hf_finetune.training.frozen.features import FeatureDataset, train_on_features, train_on_images
from hf_finetune.training.loader_errors import loader_errors_in_one_line
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)


@dataclass(frozen=True)
class FinetuneResult:
    """What a run leaves: `metrics` (train_*, eval_* of validation, test_* of test), the model and its folder."""

    metrics: dict[str, float]
    model: PreTrainedModel
    image_processor: BaseImageProcessor
    output_dir: Path


def choose_recipe(recipe: str | None, settings: Mapping[str, Any], origin: Callable[[str], str]) -> Recipe:
    """Returns the named recipe, or the one that the dataset picks, with `settings` over it.

    `origin` says where a setting stands, from its key. Raises `UserError` without recipe and dataset.
    """
    if recipe in CATALOG and recipe not in packaged_recipes() and not Path(recipe).exists():
        raise UserError(f"recipe: {recipe} is a dataset; use --dataset {recipe}, which picks its recipe.")
    if recipe is not None and Path(recipe).is_dir():
        raise UserError(f"recipe: {recipe} is a folder; use a YAML file, or --dataset {recipe} if it holds images.")
    if recipe is None:
        dataset = settings.get("dataset")
        if dataset is None:
            raise UserError("There is nothing to train on; use --dataset cifar10 or --recipe resnet50_cifar10.")
        entry = None if Path(dataset).exists() and dataset not in CATALOG else find_entry(dataset)
        recipe = entry.recipe if entry else "finetune"
    return override(load_recipe(recipe, argument_fields()), settings, origin)


def finetune(recipe: str | None = None, **settings: Any) -> FinetuneResult:
    """Fine-tunes an image classifier by a recipe (a packaged name or a path), with any of its keys set otherwise.

    Raises `UserError` for whatever the caller can fix, and `Interrupted` where SIGTERM or SIGINT ended the training,
    which is saved: the same call resumes the run.
    """
    check_flags([f"--{key}" for key in settings if key not in argument_fields()])
    resolved = choose_recipe(recipe, settings, "finetune({}=...)".format)
    words = ["--recipe", recipe] if recipe else []
    for key, value in settings.items():
        words += [f"--{key}", str(value)]
    return run(resolved, f"hf-finetune train {shlex.join(words)}")


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to take its first step: everything is loaded and checked, and nothing is written yet.

    `splits` are what the trainer is given: the images of `data`, or features of them. `checkpoint` is where an
    interrupted run resumes from, None for a new one; `repository` is where the result will be pushed by this process,
    None where it will not.
    """

    recipe: Recipe
    model_arguments: ModelArguments
    data: ImageDataset
    batches: Mapping[str, ImageBatches | StreamedBatches | FeatureDataset]
    decoded: Mapping[str, DecodedImages]
    trainer: ImageClassificationTrainer
    checkpoint: Path | None
    repository: str | None


def prepare(recipe: Recipe) -> PreparedRun:
    """Loads images and network, joins them in a trainer, and takes two images through. Raises `UserError`."""
    recipe = recipe if "output_dir" in recipe.values else override(recipe, {"output_dir": f"runs/{recipe.name}"})
    model_arguments, data_arguments, args = build_arguments(recipe)
    folder = Path(args.output_dir)
    if not args.is_shared(folder):
        raise UserError(
            f"output_dir: {folder} is not the same folder on all machines, and checkpoints would not be whole; use"
            " one on a disk that all of them share."
        )
    with args.main_process_first(local=False, desc="checkpoints"):  # the others find corrupt ones set aside
        checkpoint = find_resumable(folder, recipe.values, args.overwrite_output_dir)
    logger.info(f"Recipe {recipe.name}, into {folder}.")
    repository = None
    if args.push_to_hub:
        args.push_to_hub = False  # the stock Trainer's pushes fail in silence; the whole folder is pushed at the end
        if args.process_index == 0:
            repository = check_push(args.hub_model_id, folder, args.hub_private_repo)

    # A cache that all machines share is filled by the first of them alone.
    each_machine = not args.is_shared(Path(datasets.config.HF_DATASETS_CACHE))
    with args.main_process_first(local=each_machine, desc="dataset"):
        if data_arguments.streaming:
            data = load_streamed_dataset(data_arguments, args.seed, model_arguments.num_labels)
        else:
            earlier = earlier_images(folder) if checkpoint else None
            data = load_image_dataset(data_arguments, args.seed, earlier=earlier)
    logger.info(f"Data: {data.source}, {len(data.label_names)} classes.")
    log_lines(logger, *(f"  {role}: {name}" for role, name in data.split_names.items()), *data.notes)
    check_num_labels(model_arguments, data.label_names)

    with args.main_process_first(local=each_machine, desc="weights"):  # an address is fetched once
        config = load_config(model_arguments, data.label_names)
    image_processor = load_image_processor(model_arguments, config, data_arguments)
    loaded = load_model(model_arguments, config, data.label_names, args.seed)
    logger.info(f"Model: {loaded.report}")
    if args.sync_batchnorm:
        synchronize_batch_norm(loaded.model)  # before freezing, which binds to the modules as they are
    frozen = freeze_modules(loaded.model, model_arguments.freeze or ())
    log_lines(logger, *frozen.report)
    if model_arguments.head_init == "probe":
        if data_arguments.streaming:
            raise UserError("head_init probe needs images of every class at hand; leave it out, or --streaming.")
        head_linear(loaded.model)  # a head that cannot be probed shows at once

    preprocessing = describe(image_processor)
    items = data_arguments.train_transforms
    keeps_features = frozen.backbone and not data_arguments.streaming
    as_evaluated = keeps_features and items is None  # then nothing is random, and no image is needed twice
    if as_evaluated:
        logger.info("Without train_transforms, and the backbone frozen, training images are prepared as in evaluation.")
    transforms = build_train_transforms(
        default_train_transforms(preprocessing) if items is None else items, data.uniform
    )
    with loader_errors_in_one_line():  # the number of the epoch is in shared memory too
        training_stage = TrainingStage(transforms, args.seed, shared=args.dataloader_num_workers > 0)
    evaluation_stage = EvaluationStage(image_processor, data.uniform)
    with args.main_process_first(desc="decoded images"):
        decoded = open_decoded_images(data, data_arguments.decode_cache, args.world_size, args.local_process_index)
    bad_images = BadImages(data, data_arguments.on_bad_image)
    evaluated = {
        role: bad_images.on_error(role, image_batches(split, evaluation_stage, decoded.get(role)))
        for role, split in data.splits.items()
    }
    batches = dict(evaluated)
    if not as_evaluated:
        training = image_batches(data.splits["train"], training_stage, decoded.get("train"))
        batches["train"] = bad_images.on_error("train", training)

    metrics = ClassificationMetrics(data.label_names)
    args.prepare_for_run(has_validation="validation" in data.splits, metrics=metrics.names)
    trainer = ImageClassificationTrainer(
        loaded.model,
        args,
        device_stage=DeviceStage(
            image_processor, data.uniform, transforms, preprocessing.mean, preprocessing.std, len(data.label_names)
        ),
        training_stage=training_stage,
        image_processor=image_processor,
        train_dataset=batches["train"],
        eval_dataset=batches.get("validation"),
        compute_metrics=metrics,
        reduce_logits=reduce_logits,
        bad_images=bad_images,
    )
    if args.local_process_index == 0:
        trainer.add_callback(SecondEpochCallback(partial(finish, decoded.values())))
    trainer.sanity_check()
    trainer.check_room()
    used = train_on_features(trainer, batches, items) if keeps_features else batches
    if model_arguments.head_init == "probe" and checkpoint is None:
        from hf_finetune.training.frozen.probe import probe_head  # scikit-learn: only where it is needed

        logger.info(probe_head(trainer, loaded, evaluated["train"] if used is batches else used["train"]))
    return PreparedRun(recipe, model_arguments, data, used, decoded, trainer, checkpoint, repository)


def run(recipe: Recipe, command: str) -> FinetuneResult:
    """Runs a resolved recipe. `command` is the command line that asks for it, for the model card."""
    prepared = prepare(recipe)
    recipe, data, trainer, checkpoint = prepared.recipe, prepared.data, prepared.trainer, prepared.checkpoint
    args, folder, model_arguments = trainer.args, Path(trainer.args.output_dir), prepared.model_arguments
    with args.main_process_first(local=False, desc="output folder"):
        if args.process_index == 0 and checkpoint is None:
            prepare_folder(folder, to_yaml(recipe), args.overwrite_output_dir)
        trainer.bad_images.persist_to(folder, resumed=checkpoint is not None, first=args.local_process_index == 0)
    if checkpoint is not None:
        logger.info(f"An interrupted run is here; it resumes from {checkpoint.name}.")
    try:
        training = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Interrupted:
        trainer.end()
        raise

    from hf_finetune.training.result import METRIC_PREFIXES, RunRecord, save_result  # plots: not before they are due

    predictions = {
        role: trainer.predict(prepared.batches[role], metric_key_prefix=prefix)
        for role, prefix in METRIC_PREFIXES.items()
        if role in prepared.batches
    }
    log_lines(logger, *note_lost(data, trainer.unreadable_images()))
    record = RunRecord(
        recipe=recipe,
        command=command,
        seed=args.seed,
        base_model=model_arguments.load_from
        or (model_arguments.model_name_or_path if model_arguments.pretrained else None),
        chose_checkpoint=args.load_best_model_at_end,
        data=data,
        predictions=predictions,
        training_metrics=training.metrics,
        log_history=trainer.state.log_history,
        skipped_steps=trainer.skipped_steps,
    )
    if args.local_process_index == 0:
        finish(prepared.decoded.values())
    with full_disk_told(folder, "the result", trainer.sizes()[0]):
        trainer.save_model()
        if args.process_index == 0:
            save_result(folder, record)
    trainer.bad_images.close()
    own_code = ", trust_remote_code=True" if getattr(trainer.model.config, "auto_map", None) else ""
    loads = f"pipeline('image-classification', '{folder}'{own_code}) loads it"
    log_lines(logger, "", record.table(), "", f"The model is in {folder}; {loads}.")
    trainer.end()
    train_on_images(trainer.model)
    if prepared.repository is not None:
        push_folder(folder, prepared.repository, args.hub_private_repo)
    return FinetuneResult(record.metrics, trainer.model, trainer.processing_class, folder)
