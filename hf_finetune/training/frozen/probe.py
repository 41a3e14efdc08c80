"""Starts a new head at the optimum of a logistic regression on the network's features, at the means of its classes, or
with the features themselves.

From the first two everything is fine-tuned (LP-FT: Kumar et al., "Fine-tuning can distort pretrained features and
underperform out-of-distribution", ICLR 2022, arXiv:2202.10054): a random head sends large gradients through the
backbone in its first steps, and this one does not.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from scipy.special import softmax
from torch import nn
from torch.utils.data import Subset

from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.splits import stratified_split
from hf_finetune.errors import UserError
from hf_finetune.logs import progress_bar
from hf_finetune.models.custom_head import NEIGHBORS, NeighborHead
from hf_finetune.models.freeze import trains_backbone
from hf_finetune.models.head import head_linear
from hf_finetune.models.load import LoadedModel
from hf_finetune.tasks import counted
from hf_finetune.training.frozen.class_means import fit_class_means
from hf_finetune.training.frozen.features import FeatureDataset, module_inputs
from hf_finetune.training.frozen.label_regressions import fit_label_regressions
from hf_finetune.training.trainer import ImageClassificationTrainer

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

IMAGES = 10_000  # at most, stratified; a few more where classes are rare
_HELD_OUT = 0.1  # of them, stratified, to choose the strength of L2
# scikit-learn's C, from the strongest L2 to the weakest: each fit starts at the one before it. A weak one may fit
# better, but where the backbone is trained after it, its large weights multiply the gradient: an epoch of the embedded
# checkpoint on 6,000 images of MNIST at rate 0.02 gave 98.1 to 98.4 % with these three, and 95.3 % with 1.0.
_STRENGTHS = (1e-4, 1e-3, 1e-2)
_STRENGTHS_FOR_FROZEN = (*_STRENGTHS, 1e-1, 1.0)
_ITERATIONS = 200  # of L-BFGS for each strength


def fit_head(
    head_init: str,
    trainer: ImageClassificationTrainer,
    loaded: LoadedModel,
    dataset: ImageBatches | FeatureDataset,
    images: int = IMAGES,
) -> str:
    """Fit a new head to the features of training images, and return one sentence on it.

    Args:
        head_init: "probe", "class_means", or "knn" for a head that keeps training images.
        trainer: The trainer of the model. Processes other than the first leave their head as it is:
            DistributedDataParallel gives them the first one's. It wraps no "knn", which each of them fills.
        loaded: The model, and which of its tensors are new.
        dataset: Training images prepared as in evaluation, or features of them.
        images: About how many of them are used, at most. The same seed gives the same head.

    Raises:
        UserError: The network does not give its head one vector of finite numbers for each image.
    """
    args, votes = trainer.args, head_init == "knn"
    layer: Any = cast(Any, loaded.model).head if votes else head_linear(loaded.model, head_init)
    if not loaded.initialized and not votes:
        return "Head: the checkpoint's own is kept, so it is not probed."
    if args.process_index > 0 and not votes:
        return ""
    began = time.perf_counter()
    rows = np.arange(len(dataset))
    if len(rows) > images:
        _, rows = stratified_split(dataset.labels, images / len(rows), args.seed)
    sample = Subset(dataset, rows.tolist())
    with trainer.autocast_smart_context_manager():
        features, labels = map(np.concatenate, zip(*module_inputs(trainer, sample, layer, "Features"), strict=True))
    counts = counted(labels)
    features, labels = features[counts], labels[counts]
    if features.ndim != 2 or not np.isfinite(features).all():
        raise UserError(
            f"head_init: {head_init} needs one vector of finite numbers for each image, which the network does not give"
            " its head; use --head_init random."
        )
    if votes:
        return _neighbors(trainer, layer, features, labels, began)
    if head_init == "class_means":
        return _class_means(trainer, layer, features, labels, began)
    times = None if trainer.quotas is None else trainer.quotas.row_times()[rows][counts]
    return _probe(trainer, layer, features, labels, times, began)


def _neighbors(
    trainer: ImageClassificationTrainer, head: NeighborHead, features: np.ndarray, labels: np.ndarray, began: float
) -> str:
    head.remember(torch.from_numpy(features), torch.from_numpy(labels))
    cast(Any, trainer.model.config).images = len(labels)
    seconds = time.perf_counter() - began
    return f"Head: {len(labels):,} images are kept in {seconds:.0f} s, of which the {NEIGHBORS} nearest vote."


def _class_means(
    trainer: ImageClassificationTrainer, linear: nn.Linear, features: np.ndarray, labels: np.ndarray, began: float
) -> str:
    weight, bias, accuracy = fit_class_means(features, labels, linear.out_features)
    _set_layer(linear, weight, bias)
    told = "" if accuracy is None else f", {accuracy:.2%} of them nearest to their own, each without itself"
    return f"Head: the means of {len(labels):,} images in {time.perf_counter() - began:.0f} s{told}."


def _probe(
    trainer: ImageClassificationTrainer,
    linear: nn.Linear,
    features: np.ndarray,
    labels: np.ndarray,
    times: np.ndarray | None,
    began: float,
) -> str:
    """Fit a regression to images that an epoch shows so many `times`, float64 (images,); None for once each."""
    several = labels.ndim == 2
    stated = trainer.compute_loss_func.class_weights
    by_class = np.ones(linear.out_features) if stated is None else stated.double().cpu().numpy()
    weights = np.ones(len(labels)) if several else by_class[labels]
    weights = weights if times is None else weights * times
    features, labels, weights = features[weights > 0], labels[weights > 0], weights[weights > 0]
    labels = labels > 0 if several else labels
    kept, held_out = stratified_split(labels, _HELD_OUT, trainer.args.seed)
    if len(np.unique(labels)) < 2 or not len(held_out):
        return "Head: not probed, because the training images do not show two of each of two classes."
    strengths = _STRENGTHS if trains_backbone(trainer.model) else _STRENGTHS_FOR_FROZEN
    parts = features[kept], labels[kept], features[held_out], labels[held_out]
    if several:
        weight, bias, figure = fit_label_regressions(*parts, strengths, *_center_and_scale(features[kept]), by_class)
    else:
        weight, bias, figure = fit_logistic_regression(
            *parts, linear.out_features, strengths, weights[kept], weights[held_out]
        )
    offsets = trainer.compute_loss_func.offsets
    if offsets is not None:
        # The solver's intercept is free of L2. So the optimum on logits with offsets is the one without, less these.
        bias = bias - offsets.cpu().numpy()
    _set_layer(linear, weight, bias)
    seconds = time.perf_counter() - began
    count = f"{len(held_out):,}"
    figures = f"mAP {figure:.2%} on {count} held out" if several else f"{figure:.2%} of {count} held out right"
    return f"Head: probed on {len(kept):,} images in {seconds:.0f} s, {figures}."


def _set_layer(linear: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))


def fit_logistic_regression(
    features: np.ndarray,
    labels: np.ndarray,
    held_out_features: np.ndarray,
    held_out_labels: np.ndarray,
    num_labels: int,
    strengths: Sequence[float],
    weights: np.ndarray | None = None,
    held_out_weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return weight (num_labels, features), bias (num_labels,) and the accuracy on what was held out, a part of 1.

    Multinomial logistic regression with L2 on features that are centred and brought to unit variance on average, which
    is folded into weight and bias. Of `strengths`, scikit-learn's C in ascending order, the one is chosen that gives
    the least cross entropy on what is held out. A class that `labels` lacks gets no weight and the least bias. With
    `weights` (images,) and `held_out_weights`, an image counts for as much.
    """
    # Not before they are due: they need what the start of a command puts off (`cli.late_imports`), and take a second.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = _center_and_scale(features)
    scaled = ((features - mean) / scale).astype(np.float32)
    solver = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    best = np.inf
    for strength in progress_bar(strengths, desc="Probing the head", delay=2, leave=False):
        solver.C = strength
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the next strength resumes from here
            solver.fit(scaled, labels, sample_weight=weights)
        weight, bias = _layer(solver, mean, scale, num_labels)
        probabilities = softmax(held_out_features @ weight.T + bias, axis=1)
        losses = -np.log(probabilities[np.arange(len(held_out_labels)), held_out_labels] + 1e-12)
        loss = np.average(losses, weights=held_out_weights)
        if loss >= best:
            break  # the loss has one valley over the strengths
        accuracy = float(np.mean(probabilities.argmax(axis=1) == held_out_labels))
        best, chosen = loss, (weight.astype(np.float32), bias.astype(np.float32), accuracy)
    return chosen


def _center_and_scale(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the mean of each feature, float64 (features,), and one scale for all of them.

    Were each feature brought to unit variance, those that hardly vary would get large weights, and send large gradients
    into the backbone.
    """
    variance = features.var(axis=0, dtype=np.float64).mean()
    return features.mean(axis=0, dtype=np.float64), max(float(np.sqrt(variance)), float(np.finfo(np.float32).tiny))


def _layer(
    solver: LogisticRegression, mean: np.ndarray, scale: float, num_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias on raw features of all classes, float64."""
    coefficients, intercepts = solver.coef_, solver.intercept_
    if len(solver.classes_) == 2:  # one row stands for both there
        coefficients, intercepts = (np.concatenate([-half, half]) for half in (coefficients / 2, intercepts / 2))
    weight = np.zeros((num_labels, len(mean)))
    bias = np.full(num_labels, float(intercepts.min()))
    weight[solver.classes_] = coefficients / scale
    bias[solver.classes_] = intercepts - weight[solver.classes_] @ mean
    return weight, bias
