"""How many bytes the checkpoints of a run take, and how many checkpoints there are."""

from __future__ import annotations

import math
from pathlib import Path

from torch import nn
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.config.training_keys import plain_word
from hf_finetune.models.adapters import adapted_names, has_adapters
from hf_finetune.training.checkpoints.store import check_room


def checkpoint_sizes(model: nn.Module, args: FinetuneArguments) -> tuple[int, int]:
    """Return the bytes of the weights, and about those of a checkpoint.

    A checkpoint holds the weights, of a network with adapters these and its head. Beside them it holds the optimizer's
    state, one tensor for each trained weight with SGD's momentum and two with Adam, and one for the average of the
    weights (`ema_decay`) or Lookahead's slow ones.
    """
    tensors = model.state_dict()
    weights = sum(tensor.nbytes for tensor in tensors.values())
    kept = sum(tensors[name].nbytes for name in adapted_names(model)) if has_adapters(model) else weights
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    optimizer = plain_word(args.optim)
    states = int(args.momentum > 0) if optimizer == "sgd" else 1 + ("adam" in optimizer)
    states += (args.ema_decay is not None) + (args.lookahead_steps is not None)
    return weights, kept + states * trained


def checkpoints_to_come(args: FinetuneArguments, images: int) -> int:
    """Return how many checkpoints a whole run of `images` training images writes, as far as that can be known."""
    if args.save_strategy == SaveStrategy.NO:
        return 0
    if args.save_strategy == SaveStrategy.BEST:
        return 1
    per_epoch = math.ceil(images / args.global_batch_size)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    if args.save_strategy == SaveStrategy.EPOCH:
        return math.ceil(steps / per_epoch)
    return math.ceil(steps / (args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * steps)))


def check_room_for_run(model: nn.Module, args: FinetuneArguments, images: int) -> None:
    """Check that the checkpoints and the result of a run fit on the disk.

    Args:
        model: The network that is trained.
        args: How it is trained, and what is saved where.
        images: The number of training images.

    Raises:
        UserError: They do not fit; the message says how many bytes are missing.
    """
    weight_bytes, checkpoint_bytes = checkpoint_sizes(model, args)
    evaluates = args.eval_strategy != IntervalStrategy.NO
    # The newest, the best and the one that is being written; or all that are saved, where none is removed.
    at_a_time = math.inf if args.save_total_limit is None else max(args.save_total_limit, 1 + evaluates) + 1
    checkpoints = int(min(at_a_time, checkpoints_to_come(args, images)))
    written = weight_bytes * (1 + (args.best_k_soup or 0))
    check_room(Path(str(args.output_dir)), checkpoint_bytes, written, checkpoints)
