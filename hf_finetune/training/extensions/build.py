"""Which extensions a run needs."""

from __future__ import annotations

import time
from pathlib import Path

from torch.utils.data import Dataset

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.config.training_keys import FP16
from hf_finetune.data.images.unreadable import BadImages
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.errors import UserError
from hf_finetune.evaluation.metrics import METRICS, ClassificationMetrics
from hf_finetune.training.extensions.base import Extension
from hf_finetune.training.extensions.best_weights import BestWeights
from hf_finetune.training.extensions.buffers import SameBuffers
from hf_finetune.training.extensions.early_stopping import EarlyStopping
from hf_finetune.training.extensions.ema import AveragedWeights
from hf_finetune.training.extensions.epochs import EpochOfDraws
from hf_finetune.training.extensions.evaluation_precision import HalfPrecisionEvaluation, SinglePrecisionEvaluation
from hf_finetune.training.extensions.first_pass import FirstPass, tells_of_first_pass
from hf_finetune.training.extensions.frozen_start import FrozenStart
from hf_finetune.training.extensions.frozen_weights import FrozenWeights
from hf_finetune.training.extensions.image_sizes import ImageSizes
from hf_finetune.training.extensions.log_lines import LogLines, LogLinesAndBar
from hf_finetune.training.extensions.lookahead import Lookahead
from hf_finetune.training.extensions.non_finite import NonFiniteLosses
from hf_finetune.training.extensions.probed_start import ProbedStart
from hf_finetune.training.extensions.stop_signals import StopOnSignals
from hf_finetune.training.extensions.streaming_state import StreamingState
from hf_finetune.training.extensions.time_budget import Budget, TimeBudget
from hf_finetune.training.extensions.unreadable import UnreadableImages


def build_extensions(
    args: FinetuneArguments,
    train_dataset: Dataset[object] | None,
    bad_images: BadImages | None,
    is_sharded: bool,
    compute_metrics: object = None,
) -> list[Extension]:
    """Return the extensions that the arguments ask for, in the order in which they see each event.

    Args:
        args: How the run trains.
        train_dataset: The training images; None where nothing is trained.
        bad_images: The list of unreadable images; None where nobody keeps one.
        is_sharded: Whether FSDP or DeepSpeed divides the weights over the ranks.
        compute_metrics: Computes the figures of an evaluation, for the log.

    Raises:
        UserError: The arguments ask for something that needs whole weights in each process, and they are divided.
    """
    if is_sharded and args.max_skipped_steps:
        raise UserError("on_nan skip does not go with FSDP or DeepSpeed; use --on_nan stop.")
    if is_sharded and args.ema_decay is not None:
        raise UserError("ema_decay needs whole weights in each process; leave it out with FSDP and DeepSpeed.")
    if is_sharded and args.lookahead_steps is not None:
        raise UserError("lookahead_steps needs whole weights in each process; leave it out with FSDP and DeepSpeed.")
    if is_sharded and args.best_k_soup is not None:
        raise UserError("best_k_soup needs whole weights in each process; leave it out with FSDP and DeepSpeed.")
    if is_sharded and args.freeze_epochs is not None:
        raise UserError("freeze_epochs does not go with FSDP or DeepSpeed; leave it out, or use --freeze backbone.")
    if is_sharded and args.time_budget is not None:
        raise UserError("time_budget needs whole weights in each process; leave it out with FSDP and DeepSpeed.")
    if args.ema_decay is not None and args.lookahead_steps is not None:
        raise UserError("ema_decay and lookahead_steps both average the weights; leave one out.")

    def image_name(row: int) -> str:
        return f"row {row} of train" if bad_images is None else bad_images.name("train", row)

    run_folder = None if train_dataset is None else Path(str(args.output_dir))
    extensions: list[Extension] = [
        UnreadableImages(bad_images, run_folder),
        NonFiniteLosses(args.max_skipped_steps, image_name),
    ]
    if train_dataset is not None and tells_of_first_pass(args):
        extensions.append(FirstPass(args))
    if args.seconds_to_use is not None and train_dataset is not None:
        extensions.append(TimeBudget(Budget(args.seconds_to_use, began=time.monotonic())))
    if train_dataset is not None and not is_sharded:
        extensions += [ProbedStart(), FrozenWeights()]
    extensions.append(SameBuffers())
    if args.ema_decay is not None:
        extensions.append(AveragedWeights(args.ema_decay))
    if args.lookahead_steps is not None:
        extensions.append(Lookahead(args.lookahead_steps))
    if args.bf16_full_eval or args.fp16_full_eval:
        extensions.append(HalfPrecisionEvaluation(args))
    elif args.precision == FP16 and not is_sharded:
        extensions.append(SinglePrecisionEvaluation())
    metrics = compute_metrics.metrics if isinstance(compute_metrics, ClassificationMetrics) else METRICS
    extensions.append(LogLines(metrics) if args.disable_tqdm else LogLinesAndBar(metrics))
    extensions.append(EpochOfDraws())
    if args.save_on_signal:
        extensions.append(StopOnSignals())
    if args.best_k_soup is not None and run_folder is not None:
        extensions.append(BestWeights(args.best_k_soup, run_folder))
    if args.freeze_epochs is not None:
        extensions.append(FrozenStart(args.freeze_epochs))
    if args.image_size_schedule is not None:
        extensions.append(ImageSizes(args.image_size_schedule))
    if args.early_stopping_patience is not None:
        extensions.append(EarlyStopping(args.early_stopping_patience))
    if isinstance(train_dataset, StreamedBatches):
        extensions.append(StreamingState(train_dataset, args.world_size))
    return extensions
