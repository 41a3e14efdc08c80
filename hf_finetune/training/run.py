"""The main job from recipe to result: data, model, trainer, train, evaluate, save."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers.trainer_utils import PredictionOutput, TrainOutput

from hf_finetune.config.recipe import Recipe, to_yaml
from hf_finetune.config.run_files import AUGMENTED_FILE
from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.fingerprint import FINGERPRINT_FILE, fingerprint_of
from hf_finetune.data.images.cache import finish
from hf_finetune.data.images.unreadable import note_lost
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.host_memory import keep_freed_memory, release_freed_memory
from hf_finetune.hub.push import push_folder
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.training.assembly import assemble, with_found
from hf_finetune.training.augmented import save_batch
from hf_finetune.training.budget import TimePlan, plan_by_the_clock
from hf_finetune.training.calibration import calibrate_head, check_calibration
from hf_finetune.training.checkpoints.lock import locked
from hf_finetune.training.checkpoints.run_folder import check_unchanged, prepare_folder
from hf_finetune.training.checkpoints.sizes import check_room_for_run, checkpoint_sizes
from hf_finetune.training.checkpoints.store import full_disk_told
from hf_finetune.training.choice import choose_recipe as choose_recipe
from hf_finetune.training.distillation import learn_from_teacher
from hf_finetune.training.extensions.best_weights import FOLDER as BEST_WEIGHTS_FOLDER
from hf_finetune.training.extensions.epochs import FirstStepCallback, SecondEpochCallback
from hf_finetune.training.finetune_result import FinetuneResult
from hf_finetune.training.frozen.features import FeatureDataset, train_on_images
from hf_finetune.training.frozen.policy import start_head
from hf_finetune.training.given import Given
from hf_finetune.training.interpolation import keep_best_between
from hf_finetune.training.logit_shift import check_logit_shift, shift_logits
from hf_finetune.training.network import Network
from hf_finetune.training.plan import RunPlan, plan_run
from hf_finetune.training.precision import choose_precision, recorded_precision, warn_of_slow_bf16
from hf_finetune.training.sanity_check import sanity_check
from hf_finetune.training.soup import keep_better_soup
from hf_finetune.training.start import choose_head_init, start_from_images, watch_start
from hf_finetune.training.thresholds import fit_thresholds
from hf_finetune.training.trainer import ImageClassificationTrainer
from hf_finetune.training.wiring import Batches, PreparedImages

logger = get_logger(__name__)


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to take its first step: everything is loaded and checked, and nothing is written yet.

    Attributes:
        plan: What the run does.
        images: The images, as evaluation prepares them.
        network: The network.
        trainer: The Trainer of both.
        splits: By role, what the trainer is given: the images, or features of them.
        save_batch: Draws a batch of training images into a file, so that labels and transforms can be looked at early.
        seconds: How long it took.
        time: How the time is divided, None without a time budget and for a run that resumes.
    """

    plan: RunPlan
    images: PreparedImages
    network: Network
    trainer: ImageClassificationTrainer
    splits: Mapping[str, Batches | FeatureDataset]
    save_batch: Callable[[Path], None]
    seconds: float
    time: TimePlan | None

    @property
    def trains(self) -> bool:
        """Whether the run takes any step: there is time for one, and its recipe has an epoch."""
        return self.plan.args.takes_steps and (self.time is None or self.time.trains)


def run(recipe: Recipe, command: str, given: Given | None = None, began: float | None = None) -> FinetuneResult:
    """Fine-tune by a resolved recipe.

    Args:
        recipe: The recipe.
        command: The command line that asks for it, for the model card.
        given: What a Python caller gave as objects.
        began: When the run began, as `time.monotonic` counts, for a time budget; None for now.

    Returns:
        The figures, the model and the folder.

    Raises:
        UserError: For whatever the caller can fix.
        Interrupted: Where SIGTERM, SIGINT or SIGHUP ended the training, which is saved: the same command resumes it.
    """
    began = time.monotonic() if began is None else began
    plan = plan_run(recipe, given or Given())
    logger.info(f"Recipe {recipe.name}, into {plan.folder}.")
    if plan.checkpoint is not None:
        log_lines(logger, *plan.given.notes_on_resume())
    prepared = prepare(plan, began)
    leave_if_interrupted()
    with locked(plan.folder) if plan.args.process_index == 0 else nullcontext():
        finished = _train_and_save(prepared, command)
    if plan.repository is not None:
        push_folder(plan.folder, plan.repository, plan.args.hub_private_repo)
    return finished


def _train_and_save(prepared: PreparedRun, command: str) -> FinetuneResult:
    """Train, evaluate and save, in a folder that no other run uses."""
    trainer, plan, data = prepared.trainer, prepared.plan, prepared.images.data

    # ---- train ----
    _open_folder(prepared)
    if plan.checkpoint is not None:
        logger.info(f"An interrupted run is here; it resumes from {plan.checkpoint.name}.")
    trained, seconds = time.monotonic(), {"prepare": prepared.seconds}
    try:
        training = TrainOutput(global_step=0, training_loss=float("nan"), metrics={})
        if prepared.trains:
            training = trainer.train(resume_from_checkpoint=str(plan.checkpoint) if plan.checkpoint else None)
    except Interrupted:
        trainer.end()
        raise

    # ---- evaluate ----
    evaluated = time.monotonic()
    seconds["train"] = evaluated - trained
    leave_if_interrupted()
    from hf_finetune.training import result  # plots: not before they are due

    predictions = {}
    if "validation" in prepared.splits:
        _choose_weights(prepared, training)
    if plan.args.shifts_trained_head:
        train = prepared.images.batches["train"]
        assert isinstance(train, ImageBatches)  # of a stream nobody has counted the classes
        shift_logits(trainer, train.labels)
    for role, prefix in result.METRIC_PREFIXES.items():  # validation, which has a say in the weights, is the first
        if role in prepared.splits:
            evaluate = partial(trainer.predict, prepared.splits[role], metric_key_prefix=prefix)
            is_validation = role == "validation"
            predictions[role] = _fit_scores(prepared, training, evaluate) if is_validation else evaluate()
    log_lines(logger, *note_lost(data, trainer.unreadable_images()))
    seconds["evaluate"] = time.monotonic() - evaluated
    base, images = prepared.network.base, prepared.images
    record = result.RunRecord.of_run(plan, base, command, images, trainer, training, predictions, seconds)

    # ---- save ----
    leave_if_interrupted()
    if plan.args.local_process_index == 0:
        finish(prepared.images.decoded.values())
    with full_disk_told(plan.folder, "the result", checkpoint_sizes(trainer.model, plan.args)[0]):
        trainer.save_model()
        if plan.args.process_index == 0:
            result.save_result(plan.folder, record)
            if plan.args.report_to:
                from hf_finetune.training.trackers import report_outcome

                report_outcome(trainer, plan.folder, record)
            shutil.rmtree(plan.folder / BEST_WEIGHTS_FOLDER, ignore_errors=True)
            (plan.folder / FINGERPRINT_FILE).unlink(missing_ok=True)  # it is for a run that resumes, and ends with it
    prepared.images.bad_images.close()
    log_lines(logger, "", record.table(), "")
    if (warning := record.warning()) is not None:
        logger.warning(warning)
    log_lines(logger, record.how_to_load(plan.folder, trainer.model))
    trainer.end()
    train_on_images(trainer.model)
    model, processor = trainer.model, prepared.images.image_processor
    model.config.name_or_path = model.name_or_path = str(plan.folder.absolute())  # so its images are prepared as here
    return FinetuneResult(record.metrics, model, processor, plan.folder, record.named_intervals())


def _choose_weights(prepared: PreparedRun, training: TrainOutput) -> None:
    """Leave the trainer with the weights that validation chooses.

    Args:
        prepared: The run, which has trained.
        training: Its figures, to which those on the weights are added.
    """
    trainer, validation = prepared.trainer, prepared.splits["validation"]
    if prepared.plan.args.best_k_soup is not None:
        training.metrics["train_soup_of_checkpoints"] = keep_better_soup(trainer, validation)
    if (share := keep_best_between(trainer, validation)) is not None:
        training.metrics["train_share_from_start_to_end"] = share


def _fit_scores(
    prepared: PreparedRun, training: TrainOutput, evaluate: Callable[[], PredictionOutput]
) -> PredictionOutput:
    """Fit the temperature, if asked, or thresholds on validation, and return its evaluation.

    Args:
        prepared: The run, which has trained.
        training: Its figures, to which the temperature is added.
        evaluate: Evaluates the validation split.
    """
    trainer, evaluated = prepared.trainer, evaluate()
    if not prepared.plan.args.calibrate:
        return fit_thresholds(trainer, evaluated)
    training.metrics["train_temperature"] = calibrate_head(trainer, prepared.splits["validation"])
    return evaluate() if training.metrics["train_temperature"] != 1 else evaluated


def prepare(plan: RunPlan, began: float | None = None) -> PreparedRun:
    """Load images and network, join them in a trainer, and take two images through.

    Args:
        plan: The plan of the run.
        began: When the run began, as `time.monotonic` counts, for a time budget; None for now.

    Raises:
        UserError: For whatever the caller can fix.
    """
    began = time.monotonic() if began is None else began
    assembly = assemble(plan)
    plan, network, images, trainer = assembly.plan, assembly.network, assembly.images, assembly.trainer
    data = images.data
    keep_freed_memory(plan.args.device)
    if (teacher := plan.given.teacher or plan.args.teacher) is not None:
        transforms = plan.given.train_transforms or assembly.items
        learn_from_teacher(trainer, teacher, data.label_names, transforms, plan.model.trust_remote_code)
    if plan.args.local_process_index == 0:
        trainer.add_callback(SecondEpochCallback(partial(finish, images.decoded.values())))
    warn_of_slow_bf16(plan.args)
    sanity_check(trainer)
    if plan.args.calibrate:
        check_calibration(trainer)
    if plan.args.shifts_trained_head:
        check_logit_shift(trainer)
    check_room_for_run(trainer.model, plan.args, len(trainer.train_dataset))
    draw = partial(save_batch, trainer.train_dataset, trainer.device_stage, plan.args.device, data.label_names)
    splits = assembly.policy.use_features(trainer, {**images.batches, "train": trainer.train_dataset})
    time_plan = None
    if plan.checkpoint is None:
        training_pass = choose_precision(trainer)
        plan = with_found(plan, recorded_precision(plan.recipe, plan.args.precision), "by what this machine can do")
        time_plan = _begin(plan, network, images, trainer, splits, began, training_pass)
    return PreparedRun(plan, images, network, trainer, splits, draw, time.monotonic() - began, time_plan)


def _begin(
    plan: RunPlan,
    network: Network,
    images: PreparedImages,
    trainer: ImageClassificationTrainer,
    splits: Mapping[str, Batches | FeatureDataset],
    began: float,
    training_pass: float | None,
) -> TimePlan | None:
    """Give the weights of a new run their start, and divide its time; None without a time budget."""
    start_from_images(trainer, network.loaded)
    head_init = choose_head_init(plan, network.loaded)
    counts = {role: len(split) for role, split in splits.items()}
    if head_init == "random" and not plan.args.takes_steps:
        raise UserError("num_train_epochs is 0, and the head starts at random; use --head_init probe, or more epochs.")
    time_plan = plan_by_the_clock(trainer, counts, head_init == "probe", began, training_pass)
    features = isinstance(splits["train"], FeatureDataset)
    as_evaluated = (splits if features else images.batches)["train"]
    start_head(head_init, trainer, network.loaded, as_evaluated, time_plan.probe_images if time_plan else None)
    if head_init != "random" and plan.args.takes_steps and (time_plan is None or time_plan.trains):
        watch_start(trainer, network.loaded)
    return time_plan


def _open_folder(prepared: PreparedRun) -> None:
    """Create the folder of a new run, with its recipe and its list of unreadable images."""
    plan, args = prepared.plan, prepared.plan.args
    with args.main_process_first(local=False, desc="output folder"):
        if args.process_index == 0:
            check_unchanged(plan.folder, plan.checkpoint, args.overwrite_output_dir)
        if args.process_index == 0 and plan.checkpoint is None:
            remarks = plan.given.as_comments() + (f"# {prepared.time.sentence}\n" if prepared.time else "")
            prepare_folder(plan.folder, to_yaml(plan.recipe) + remarks, args.overwrite_output_dir)
            fingerprint_of(prepared.images.data).save(plan.folder)
            release_freed_memory(args.device)  # what the fingerprint of many rows took
            draw = partial(prepared.save_batch, plan.folder / AUGMENTED_FILE)
            if prepared.trains:
                prepared.trainer.add_callback(FirstStepCallback(draw))  # the first step need not wait for it
            else:
                draw()
        prepared.images.bad_images.persist_to(
            plan.folder, resumed=plan.checkpoint is not None, first=args.local_process_index == 0
        )
