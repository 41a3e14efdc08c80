"""A Trainer that can be stopped at any instant and goes on to the same weights, figures and best.

Checkpoints are written aside and renamed (`checkpoints`). SIGTERM and SIGINT end the run after the step at hand, with
a checkpoint (`signals`). What the stock Trainer forgets over a stop, the running loss and an evaluation that is due at
the end of an epoch, is kept.
"""

from __future__ import annotations

import json
import math
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import Interrupted
from hf_finetune.logs import get_logger
from hf_finetune.models.load import quiet_transformers
from hf_finetune.training.checkpoints.store import (
    STATE_FILE,
    UNFINISHED_FOLDER,
    check_room,
    find_fault,
    full_disk_told,
    publish,
    remove_unfinished,
    rotate,
)
from hf_finetune.training.extensions.stop_signals import StopSignals, outlive_stop_signals
from hf_finetune.training.loader_errors import leave_a_lost_parent_to_itself

logger = get_logger(__name__)

_RUNNING_LOSS_FILE = "running_loss.json"


class ResumableTrainer(Trainer):
    """The stock Trainer with exact resumption."""

    args: FinetuneArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        self._updates_per_epoch = 1
        self._signals = StopSignals()
        self._interrupted = False
        self._writing_to: str | None = None
        self._seen_step = self._saved_step = -1
        self._resumed_from: Path | None = None

    # ---- the loop ----

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Trains to the end. Raises `Interrupted` where SIGTERM or SIGINT stopped it; everything is saved then."""
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if self._resumed_from is not None:
            self.args.eval_on_start = False  # it was, when the run did start
        if self.args.should_save:
            remove_unfinished(Path(self.args.output_dir))
        with self._signals if self.args.save_on_signal else nullcontext():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def set_initial_training_values(self, args: FinetuneArguments, dataloader: DataLoader) -> tuple:
        values = super().set_initial_training_values(args, dataloader)
        self._updates_per_epoch = values[1]
        return values

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """Takes the seed of the loader's workers from a generator of its own.

        The stock loader draws it from the one of the process, but once only where workers persist: dropout after a stop
        would not be what it had been without.
        """
        prepared = super()._get_dataloader(*args, **kwargs)
        loader = getattr(prepared, "base_dataloader", prepared)  # what Accelerate has wrapped it in passes nothing on
        loader.generator = torch.Generator().manual_seed(self.args.seed)
        loader.worker_init_fn = partial(_init_worker, self.args.save_on_signal, loader.worker_init_fn)
        return prepared

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Finds the best checkpoint again, which is beside the one that is resumed, wherever the run was begun."""
        position = super()._init_training_state(*args, **kwargs)
        if self._resumed_from is None:
            return position
        recorded = json.loads((self._resumed_from / STATE_FILE).read_text())["best_model_checkpoint"]
        if recorded is not None:
            best = self._resumed_from.with_name(Path(recorded).name)
            fault = find_fault(best) if best.is_dir() else "it is missing"
            self.state.best_model_checkpoint = str(best) if fault is None else None
            if fault is not None and self.args.load_best_model_at_end:
                logger.warning(
                    f"Note: the best checkpoint so far, {best.name}, is lost ({fault}); the best of those to come is"
                    " chosen."
                )
                self.state.best_metric = self.state.best_global_step = None
        return position

    def _run_epoch(self, **kwargs: Any) -> None:
        self._restore_running_loss()
        # A run that ended in mid-epoch, by max_steps, may have been stopped between its last step and its result.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(**kwargs)

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: Any, model: nn.Module, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Called after each step, and again at the end of each epoch and of a run that is stopped in one."""
        if self._interrupted:
            return  # in mid-epoch nothing of its end is due
        step = self.state.global_step
        after_step, self._seen_step = step != self._seen_step, step
        if after_step and (step % self._updates_per_epoch == 0 or step >= self.state.max_steps):
            # Left to the call that follows at the end of the epoch. What is logged and evaluated there belongs in the
            # checkpoint of the last step: whoever resumes from that does not come by it again.
            return
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self._all_agree_to_stop():
            if self._saved_step != step:
                self._save_checkpoint(model, trial)
            self._interrupted = self.control.should_training_stop = True

    def _all_agree_to_stop(self) -> bool:
        """Says, and all ranks agree, whether one of them was sent a signal."""
        if not self.args.save_on_signal or self.args.world_size == 1:
            return self._signals.received is not None
        if self._signals.received is not None:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        if self._interrupted:
            self._signals.handled = True
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise Interrupted(self._signals.received or signal.SIGTERM, self.state.global_step)
        self._restore_running_loss()  # if not one step was left
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:  # the stock Trainer would remove the last checkpoint where the limit is 1, and the result is not there yet
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    @property
    def steps_without_loss(self) -> int:
        """How many optimizer steps of the run had no loss that counts."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:  # the stock figure leaves out what was before a resume
            logs["train_loss"] = self._total_loss_scalar / max(1, self.state.global_step - self.steps_without_loss)
        super().log(logs, start_time)

    # ---- checkpoints ----

    def check_room(self) -> None:
        """Raises `UserError` where the checkpoints of the run will not fit on the disk."""
        args, (weight_bytes, checkpoint_bytes) = self.args, self.sizes()
        evaluates = args.eval_strategy != IntervalStrategy.NO
        # The newest, the best and the one that is being written; all that are saved, where none is removed.
        at_a_time = math.inf if args.save_total_limit is None else max(args.save_total_limit, 1 + evaluates) + 1
        checkpoints = min(at_a_time, self._checkpoints_to_come())
        check_room(Path(args.output_dir), checkpoint_bytes, weight_bytes, checkpoints)

    def _checkpoints_to_come(self) -> int:
        """Returns how many checkpoints the schedule of the whole run has, as far as it can be known."""
        args = self.args
        if args.save_strategy == SaveStrategy.NO:
            return 0
        if args.save_strategy == SaveStrategy.BEST:
            return 1
        per_epoch = math.ceil(len(self.train_dataset) / args.global_batch_size)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
        if args.save_strategy == SaveStrategy.EPOCH:
            return math.ceil(steps / per_epoch)
        return math.ceil(steps / (args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * steps)))

    def sizes(self) -> tuple[int, int]:
        """Returns the bytes of the weights and, about, of a checkpoint: SGD keeps one state per weight, Adam two."""
        weights = sum(tensor.nbytes for tensor in self.model.state_dict().values())
        trained = sum(parameter.nbytes for parameter in self.model.parameters() if parameter.requires_grad)
        states = int(self.args.momentum > 0) if self.args.optim == "sgd" else 1 + ("adam" in str(self.args.optim))
        states += self.args.ema_decay is not None
        return weights, weights + states * trained

    def _get_output_dir(self, trial: Any) -> str:
        return self._writing_to or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes the checkpoint aside, whole, before it takes its name; then removes what is too many."""
        folder = Path(super()._get_output_dir(trial))
        unfinished = folder / UNFINISHED_FOLDER
        name = f"checkpoint-{self.state.global_step}"
        is_due, best = self.control.should_save, self.state.best_model_checkpoint
        losses = self.accelerator.gather(self._tr_loss.reshape(1)).tolist()
        with full_disk_told(folder, "a checkpoint", self.sizes()[1]):
            if self.args.should_save:
                remove_unfinished(folder)
                unfinished.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._writing_to = str(unfinished)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._writing_to = None
            # The stock Trainer has looked for the best one where this one is written. What only a signal has saved is
            # never the best: without the signal it would not be there.
            is_best = is_due and self.state.best_global_step == self.state.global_step
            self.state.best_model_checkpoint = str(folder / name) if is_best else best
            self.accelerator.wait_for_everyone()  # the random state of each process is there
            if self.args.should_save:
                running = {"since_log": losses, "before": self._total_loss_scalar, "log": self._globalstep_last_logged}
                (unfinished / name / _RUNNING_LOSS_FILE).write_text(json.dumps(running))
                self.state.save_to_json(str(unfinished / name / STATE_FILE))
                publish(unfinished / name, folder)
                best = self.state.best_model_checkpoint
                rotate(folder, self.args.save_total_limit, Path(best) if best else None)
                remove_unfinished(folder)
        self.accelerator.wait_for_everyone()
        self._saved_step = self.state.global_step

    def _restore_running_loss(self) -> None:
        """Takes up, once, the sum of losses since the last log line, so that the next one is of the same steps."""
        checkpoint, self._resumed_from = self._resumed_from, None
        if checkpoint is None:
            return
        running = json.loads((checkpoint / _RUNNING_LOSS_FILE).read_text())
        losses = running["since_log"]
        own = losses[self.args.process_index] if len(losses) == self.args.world_size else sum(losses) / len(losses)
        self._tr_loss.fill_(own)
        self._total_loss_scalar = running["before"]
        self._globalstep_last_logged = running["log"]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Saves weights, config and processor, without the stock pickle of the arguments: the recipe says it all."""
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            with quiet_transformers():
                model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)
                self.processing_class.save_pretrained(output_dir or self.args.output_dir)

    def _reload_whole(self, folder: str) -> None:
        """Reloads weights through `from_pretrained`, strictly.

        `save_pretrained` writes ViT-like models under legacy key names, and the stock Trainer then skips most of them
        in silence (transformers#43701).
        """
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with quiet_transformers():
            saved = type(model).from_pretrained(folder, config=model.config, use_safetensors=True, dtype=model.dtype)
        model.load_state_dict(saved.state_dict(), strict=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._is_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._reload_whole(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self._is_sharded:
            super()._load_best_model()
        else:
            self._reload_whole(self.state.best_model_checkpoint)


def _init_worker(outlives_stop_signals: bool, stock: Any, worker: int) -> None:
    if stock is not None:
        stock(worker)
    leave_a_lost_parent_to_itself()
    if outlives_stop_signals:
        outlive_stop_signals()
