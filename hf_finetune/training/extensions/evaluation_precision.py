"""Evaluation in another precision than that of the training, which leaves the weights as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import TrainingArguments

from hf_finetune.training.extensions.base import Extension


class HalfPrecisionEvaluation(Extension):
    """Evaluates by autocast where `bf16_full_eval` or `fp16_full_eval` asks for it.

    The stock Trainer casts the weights themselves instead: after the training they are saved rounded, and images in
    float32 do not fit them.
    """

    def __init__(self, args: TrainingArguments) -> None:
        """Create the extension.

        Args:
            args: The arguments of the Trainer, of which the two flags are hidden while it evaluates.
        """
        self._args = args
        self._dtype = torch.bfloat16 if args.bf16_full_eval else torch.float16

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Compute in half precision, and keep the stock Trainer from casting the weights."""
        flags = self._args.bf16_full_eval, self._args.fp16_full_eval
        self._args.bf16_full_eval = self._args.fp16_full_eval = False
        try:
            with torch.autocast(self.loop.accelerator.device.type, self._dtype):
                yield
        finally:
            self._args.bf16_full_eval, self._args.fp16_full_eval = flags


class SinglePrecisionEvaluation(Extension):
    """Evaluates a network that is trained in fp16 in float32: Accelerate has wrapped its `forward` for both."""

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Take the wrapper off for the time of the block."""
        members = vars(self.loop.model)
        wrapped = members.get("forward")
        if wrapped is not None and "_original_forward" in members:  # where Accelerate keeps what it has wrapped
            members["forward"] = members["_original_forward"]
        try:
            yield
        finally:
            if wrapped is not None:
                members["forward"] = wrapped
