"""How many training images each class has, and the weights that even this out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.config.loss_keys import ClassWeights
from hf_finetune.errors import UserError, did_you_mean, listing

_BETA = 0.9999  # of `effective`: the best for CIFAR-10 of those that its authors try


@dataclass(frozen=True)
class ClassCounts:
    """The classes of a run, and how many training images each has.

    Attributes:
        names: The names of the classes by class id.
        images: The numbers of images, int64 (classes,), of those that are trained on; None for a stream.
    """

    names: Sequence[str]
    images: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, names: Sequence[str], labels: npt.NDArray[np.int64] | None) -> ClassCounts:
        """Count labels, class ids of shape (images,), of which those below 0 do not count; None for a stream."""
        if labels is None:
            return cls(names, None)
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


def class_weights(setting: ClassWeights, counts: ClassCounts) -> npt.NDArray[np.float64]:
    """Return the weight of the images of each class, float64 (classes,).

    `balanced` is scikit-learn's rule, images / (classes * images of the class). `effective` is the inverse of the
    effective number of images, (1 - beta) / (1 - beta^images), of Cui et al., "Class-balanced loss based on effective
    number of samples", CVPR 2019, arXiv:1901.05555. Both are scaled such that the mean over the training images is 1,
    so that the learning rate keeps its meaning. Weights that are stated are used as they are.

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
    with np.errstate(divide="ignore"):
        inverse = 1 / images if setting == "balanced" else (1 - _BETA) / -np.expm1(images * np.log(_BETA))
    weights = np.where(images > 0, inverse, 0)  # a class without images has none to weigh
    scaled: npt.NDArray[np.float64] = weights * (images.sum() / (weights * images).sum())
    return scaled


def describe_weights(setting: ClassWeights, weights: npt.NDArray[np.float64], counts: ClassCounts) -> str:
    """Return one line with the least and the greatest weight of classes that have images."""
    present = np.arange(len(weights)) if counts.images is None else np.flatnonzero(counts.images)
    ends = (present[np.argmin(weights[present])], present[np.argmax(weights[present])])
    low, high = (f"{weights[end]:.3g} ({_shown(end, counts)})" for end in ends)
    how = f", {setting}" if isinstance(setting, str) else ""
    return f"Class weights{how}: from {low} to {high}."


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
