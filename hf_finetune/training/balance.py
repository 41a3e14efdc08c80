"""How many training images each class has, and the weights or the sampling that even this out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hf_finetune.config.loss_keys import ClassWeights
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError, did_you_mean, listing
from hf_finetune.training.row_quotas import RowQuotas
from hf_finetune.training.sampling import ClassQuotas, Quotas

_BETA = 0.9999  # of `effective`: the best for CIFAR-10 of those that its authors try
_UNBALANCED = 10  # largest to smallest class; the mildest of the unbalanced sets that Cui et al. test


@dataclass(frozen=True)
class ClassCounts:
    """The classes of a run, and how many training images each has.

    Attributes:
        names: The names of the classes by class id.
        images: The numbers of images, int64 (classes,), of those that are trained on; None for a stream.
        total: The number of all images where each has any number of classes; None where each has one.
    """

    names: Sequence[str]
    images: npt.NDArray[np.int64] | None
    total: int | None = None

    @classmethod
    def of(cls, names: Sequence[str], labels: npt.NDArray[np.int64] | None) -> ClassCounts:
        """Count labels, of which those below 0 do not count.

        Args:
            names: The names of the classes by class id.
            labels: Class ids (images,), or which classes each image has (images, classes); None for a stream.
        """
        if labels is None:
            return cls(names, None)
        if labels.ndim == 2:
            counted = labels[(labels >= 0).all(axis=1)]
            return cls(names, (counted > 0).sum(axis=0), len(counted))
        return cls(names, np.bincount(labels[labels >= 0], minlength=len(names)))

    def counted(self, key: str, value: object, instead: str) -> npt.NDArray[np.int64]:
        """Return the numbers of images.

        Args:
            key: What needs them, for the message.
            value: Its value.
            instead: What to do about it.

        Raises:
            UserError: The images are streamed.
        """
        if self.images is None:
            raise UserError(f"{key} {value} needs the labels of train, which are streamed; {instead}.")
        return self.images


@dataclass(frozen=True)
class Balance:
    """What a run does about classes of different sizes.

    Attributes:
        weights: What the loss of an image is multiplied by, by its class, float64 (classes,); None for 1.
        offsets: What is added to the logits of each class in training, float64 (classes,); None for 0.
        quotas: Which images an epoch shows; None for each of them once.
        notes: Lines on it that the user should read.
    """

    weights: npt.NDArray[np.float64] | None
    offsets: npt.NDArray[np.float64] | None
    quotas: Quotas | None
    notes: Sequence[str]

    def on(self, device: torch.device) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return weights and offsets as float32 on a device."""
        weights, offsets = (
            None if values is None else torch.tensor(values, dtype=torch.float32, device=device)
            for values in (self.weights, self.offsets)
        )
        return weights, offsets


def choose_balance(
    args: FinetuneArguments,
    names: Sequence[str],
    labels: npt.NDArray[np.int64] | None,
    row_weights: npt.NDArray[np.float64] | None = None,
    alike: bool = False,
) -> Balance:
    """Return what a recipe asks for.

    Args:
        args: The keys `class_weights`, `sampling`, `logit_adjustment` and `logit_adjustment_at`.
        names: The names of the classes by class id.
        labels: Of the training images, as in `ClassCounts.of`.
        row_weights: The weights of the training images by `weight_column`, float64 (images,); None without.
        alike: Whether no key can weigh images, so that none is suggested.

    Raises:
        UserError: The keys do not fit the classes, or need labels that a stream does not have.
    """
    counts = ClassCounts.of(names, labels)
    setting: ClassWeights | None = args.class_weights
    weights, offsets = None, None
    quotas: Quotas | None = None
    notes = []
    if setting is not None:
        weights = class_weights(setting, counts)
    if row_weights is not None:
        quotas = row_quotas(row_weights, args.order_seed)
        notes.append(describe_row_times(quotas.row_times()))
    elif args.sampling != "random":
        images = class_quotas(args.sampling, counts, weights)
        assert labels is not None  # `class_quotas` has refused a stream
        by_class = ClassQuotas(labels, images, args.order_seed)
        quotas = by_class
        notes.append(describe_sampling(args.sampling, by_class.times, counts))
        if args.sampling == "weighted":
            weights = None  # they have had their effect
    if setting is not None and weights is not None:
        notes.append(describe_weights(setting, weights, counts))
    if args.logit_adjustment:
        shift = logit_offsets(args.logit_adjustment, counts)
        if args.shifts_trained_head:
            notes.append(f"Logits will be shifted after the training, by class: {_from_to(-shift, counts)}.")
        else:
            offsets = shift
            notes.append(f"Logits are shifted in training, by class: {_from_to(shift, counts)}.")
    if not notes and (note := describe_imbalance(counts, alike)) is not None:
        notes.append(note)
    return Balance(weights, offsets, quotas, notes)


def class_weights(setting: ClassWeights, counts: ClassCounts) -> npt.NDArray[np.float64]:
    """Return the weight of the images of each class, float64 (classes,).

    `balanced` is scikit-learn's rule, images / (classes * images of the class). `effective` is the inverse of the
    effective number of images, (1 - beta) / (1 - beta^images), of Cui et al., "Class-balanced loss based on effective
    number of samples", CVPR 2019, arXiv:1901.05555. Both are scaled such that the mean over the training images is 1,
    so that the learning rate keeps its meaning. Weights that are stated are used as they are.

    Where images have several labels, `balanced` is the number of images without a label to those with it, as the
    documentation of torch's BCEWithLogitsLoss suggests: yes and no then weigh alike in sum.

    Args:
        setting: The key `class_weights`.
        counts: The classes.

    Raises:
        UserError: The weights do not fit the classes, or need counts that a stream does not have.
    """
    if isinstance(setting, Mapping):
        return _by_name(setting, counts.names)
    if not isinstance(setting, str):
        if len(setting) != len(counts.names):
            raise UserError(
                f"class_weights has {len(setting)} weights, and the dataset {len(counts.names)} classes; use one for"
                f" each, in this order: {listing(counts.names, 10)}."
            )
        return np.asarray(setting, dtype=np.float64)
    images = counts.counted("class_weights", setting, "state the weights, such as --class_weights '{rare: 5}'")
    if counts.total is not None:
        return np.where(images > 0, (counts.total - images) / np.maximum(images, 1), 1.0)
    with np.errstate(divide="ignore"):
        inverse = 1 / images if setting == "balanced" else (1 - _BETA) / -np.expm1(images * np.log(_BETA))
    weights = np.where(images > 0, inverse, 0)  # a class without images has none to weigh
    scaled: npt.NDArray[np.float64] = weights * (images.sum() / (weights * images).sum())
    return scaled


def logit_offsets(tau: float, counts: ClassCounts) -> npt.NDArray[np.float64]:
    """Return what is added to the logits of each class in training, tau * log(share of its images), float64 (classes,).

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv:2007.07314, equation 10. The network then
    learns logits without the share of each class, which serve balanced accuracy as they are.

    Args:
        tau: The strength; 1 is what the paper derives.
        counts: The classes. One without images is not shifted, so that it is still learned to be absent.

    Raises:
        UserError: The images are streamed.
    """
    images = counts.counted("logit_adjustment", f"{tau:g}", "leave it out")
    return np.where(images > 0, tau * np.log(np.maximum(images, 1) / images.sum()), 0.0)


def class_quotas(sampling: str, counts: ClassCounts, weights: npt.NDArray[np.float64] | None) -> npt.NDArray[np.int64]:
    """Return how many images of each class an epoch shows, int64 (classes,), as many in all as there are.

    `balanced` and `sqrt` are the class-balanced and the square-root sampling of Kang et al., "Decoupling representation
    and classifier for long-tailed recognition", ICLR 2020, arXiv:1910.09217: classes in proportion to 1 and to the root
    of their images.

    Args:
        sampling: The key `sampling`, not `random`.
        counts: The classes.
        weights: For `weighted`, what an image of each class is drawn in proportion to.

    Raises:
        UserError: The images are streamed.
    """
    images = counts.counted("sampling", sampling, "use --class_weights with the weight of each class")
    shares = {"balanced": images > 0, "sqrt": np.sqrt(images), "weighted": images * (1 if weights is None else weights)}
    exact = images.sum() * shares[sampling] / shares[sampling].sum()
    quotas = np.where(exact > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
    left = int(images.sum() - quotas.sum())
    if left < 0:  # more classes are rounded up than down
        quotas[np.argmax(quotas)] += left
    else:
        quotas[np.argsort(np.round(quotas - exact, 9), kind="stable")[:left]] += 1
    return quotas


def row_quotas(row_weights: npt.NDArray[np.float64], seed: int) -> RowQuotas:
    """Return which images an epoch shows in proportion to their weights, float64 (images,).

    Raises:
        UserError: All weights are 0.
    """
    if not row_weights.any():
        raise UserError("weight_column: all training images have the weight 0, which leaves nothing to learn.")
    return RowQuotas(row_weights, seed)


def describe_weights(setting: ClassWeights, weights: npt.NDArray[np.float64], counts: ClassCounts) -> str:
    """Return one line with the least and the greatest weight of classes that have images."""
    how = f", {setting}" if isinstance(setting, str) else ""
    return f"Class weights{how}: {_from_to(weights, counts)}."


def describe_sampling(sampling: str, times: npt.NDArray[np.float64], counts: ClassCounts) -> str:
    """Return one line with how often an epoch shows an image, by class, float64 (classes,)."""
    return f"Sampling, {sampling}: an epoch shows an image {_from_to(times, counts, ' times')}."


def describe_row_times(times: npt.NDArray[np.float64]) -> str:
    """Return one line with how often an epoch shows an image, float64 (images,)."""
    never = int((times == 0).sum())
    left_out = f"; {never:,} of {len(times):,} have the weight 0 and are never shown" if never else ""
    shown = times[times > 0]
    return (
        f"Sampling, weighted by weight_column: an epoch shows an image from {shown.min():.3g} to"
        f" {shown.max():.3g} times{left_out}."
    )


def describe_imbalance(counts: ClassCounts, alike: bool = False) -> str | None:
    """Return what to do about classes of very different sizes; None where they are not, or nobody knows.

    Args:
        counts: Of the training images.
        alike: Whether no key can weigh images.
    """
    if counts.images is None or not counts.images.any() or counts.total is not None:
        return None
    present = np.flatnonzero(counts.images)
    least, most = (present[find(counts.images[present])] for find in (np.argmin, np.argmax))
    ratio = counts.images[most] / counts.images[least]
    if ratio < _UNBALANCED:
        return None
    advice = "To learn all classes alike use --sampling balanced or --class_weights balanced, and judge"
    return (
        f"Note: train is unbalanced, {ratio:,.3g} to 1: {_shown(most, counts)}; {_shown(least, counts)}."
        f" {'Judge' if alike else advice} by balanced_accuracy."
    )


def _from_to(values: npt.NDArray[np.float64], counts: ClassCounts, unit: str = "") -> str:
    """Return the least and the greatest of one value for each class, of the classes that have images."""
    present = np.arange(len(values)) if counts.images is None else np.flatnonzero(counts.images)
    ends = (present[find(values[present])] for find in (np.argmin, np.argmax))
    low, high = (f"{values[end]:.3g}{unit} ({_shown(end, counts)})" for end in ends)
    return f"from {low} to {high}"


def _by_name(setting: Mapping[Any, float], names: Sequence[str]) -> npt.NDArray[np.float64]:
    stated = {str(name): weight for name, weight in setting.items()}
    for name in stated:
        if name not in names:
            raise UserError(
                f'class_weights: there is no class "{name}".{did_you_mean(name, names)} The classes are'
                f" {listing(names, 10)}."
            )
    return np.array([stated.get(name, 1.0) for name in names])


def _shown(class_id: int, counts: ClassCounts) -> str:
    name = counts.names[class_id]
    return name if counts.images is None else f"{name}, {counts.images[class_id]:,} images"
