"""Means of the weights of a run's best checkpoints: model soups, kept where validation finds them better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.best_weights import BestWeights
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

Weights = Mapping[str, torch.Tensor]

_IMAGES = 10_000  # of training, at most, from which BatchNorm's statistics are computed


def mean_of(weights: Sequence[Weights]) -> dict[str, torch.Tensor]:
    """Return the mean of each floating-point tensor, in float64 on the way; others are those of the first.

    Args:
        weights: Weights and buffers by name, of one network.
    """
    first = weights[0]
    return {
        name: (
            torch.stack([own[name].double() for own in weights]).mean(dim=0).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor
        )
        for name, tensor in first.items()
    }


def keep_better_soup(trainer: ImageClassificationTrainer, validation: Any) -> int:
    """Compare soups of the kept weights with the best single ones on validation, and leave the network with the better.

    The uniform soup is the mean of all. The greedy one begins with the best weights and takes in each of the others, in
    the order of their figures, that does not make it worse: Wortsman et al., "Model soups" (ICML 2022, arXiv
    2203.05482). The statistics of BatchNorm are computed for each soup from training images.

    Args:
        trainer: A trainer that has trained, and has its best weights.
        validation: The validation images.

    Returns:
        Of how many checkpoints the network now is the mean; 1 where the best one alone is kept.
    """
    extension = trainer.extensions.find(BestWeights)
    if extension is None:
        return 1
    kept = extension.weights()
    if len(kept) < 2:
        logger.info("best_k_soup: fewer than two evaluations have kept weights, so there is nothing to average.")
        return 1
    trials, steps = _Trials(trainer, validation), list(kept)
    single = trials.try_mean([kept[steps[0]]])
    greedy, used = single, steps[:1]
    for step in steps[1:]:
        leave_if_interrupted()
        tried = trials.try_mean([kept[own] for own in [*used, step]])
        if not trials.is_better(greedy, tried):
            greedy, used = tried, [*used, step]
    uniform = greedy if used == steps else trials.try_mean(list(kept.values()))
    candidates = {"the best checkpoint alone": (single, steps[:1])}  # of equal ones, the first is kept
    candidates |= {f"the greedy soup of {len(used)}": (greedy, used), "the uniform soup": (uniform, steps)}
    name = trials.best_of({name: figure for name, (figure, _) in candidates.items()})
    chosen = candidates[name][1]
    trials.take([kept[step] for step in chosen])
    figures = ", ".join(f"{name} {figure:.4f}" for name, (figure, _) in candidates.items())
    logger.info(
        f"Soups of the {len(steps)} best checkpoints, of steps {', '.join(map(str, steps))}, by {trials.metric} on"
        f" validation: {figures}. {name[0].upper()}{name[1:]} is kept."
    )
    return len(chosen)


class _Trials:
    """Gives the network means of weights, and measures them on validation."""

    def __init__(self, trainer: ImageClassificationTrainer, validation: Any) -> None:
        self.metric = trainer.args.chosen_by
        metrics = cast(ClassificationMetrics, trainer.compute_metrics)
        self._sign = 1 if metrics.greater_is_better(self.metric, trainer.args.greater_is_better) else -1
        self._trainer, self._validation = trainer, validation

    def is_better(self, first: float, second: float) -> bool:
        """Whether the first figure is better than the second; equal ones are not."""
        return self._sign * first > self._sign * second

    def best_of(self, figures: Mapping[str, float]) -> str:
        """Return the name of the best figure, the first of equal ones."""
        return max(figures, key=lambda name: self._sign * figures[name])

    def take(self, weights: Sequence[Weights]) -> None:
        """Give the network the mean of some weights, with statistics of its own."""
        self._trainer.model.load_state_dict(mean_of(weights))
        if len(weights) > 1:  # those of a single one are its own
            recompute_batch_norm(self._trainer)

    def try_mean(self, weights: Sequence[Weights]) -> float:
        """Give the network the mean of some weights, and return the metric of it."""
        self.take(weights)
        output = self._trainer.predict(self._validation, metric_key_prefix="eval")
        return float((output.metrics or {})[f"eval_{self.metric}"])


def recompute_batch_norm(trainer: ImageClassificationTrainer) -> None:
    """Compute the running statistics of every BatchNorm that is trained from training images, as in training.

    They become the plain mean over the batches; all else of the network is in evaluation mode.

    Args:
        trainer: A trainer with training images.
    """
    model = trainer.model
    with _only_batch_norm_trains(model) as any_there:
        if not any_there:
            return
        trainer.set_epoch(0)
        images = 0
        with torch.no_grad():  # in float32, as in evaluation
            for batch in trainer.get_train_dataloader():
                inputs = trainer.prepare_batch(batch)
                labels = inputs.pop("labels")
                if len(labels) > 1:  # BatchNorm cannot compute with one
                    model(**inputs)
                images += len(labels) * trainer.args.world_size
                if images >= _IMAGES:
                    break


@contextmanager
def _only_batch_norm_trains(model: nn.Module) -> Iterator[bool]:
    """Reset the statistics of the BatchNorm that is trained and let it alone learn in the block; yield if it is any."""
    model.train()  # frozen modules stay in evaluation mode
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    try:
        yield bool(norms)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
