"""What the features of a network say: how far each image is from its like, and what linear probes call it.

Each probe answers for images that it has not seen.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from hf_finetune.checks.subject import OutOfFold
from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.folds import fold_of_rows
from hf_finetune.data.images.cache import finish
from hf_finetune.data.splits import stratified_split
from hf_finetune.errors import UserError
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.logs import get_logger, progress_bar
from hf_finetune.models.head import logits_layer
from hf_finetune.models.load import load_config, load_model, open_source
from hf_finetune.models.processor import load_image_processor
from hf_finetune.training.frozen.features import module_inputs
from hf_finetune.training.frozen.probe import fit_logistic_regression
from hf_finetune.training.wiring import build_evaluator, prepare_images

logger = get_logger(__name__)

_FOLDS = 5
_FITTED = 20_000  # images at most that a probe is fitted on, stratified
_HELD_OUT = 0.1  # of them, to choose the strength of L2
_STRENGTHS = (1e-3, 1e-2, 1e-1)  # scikit-learn's C
_NEIGHBOUR = 5  # so that a few of one kind among thousands of another are far from their like too
_COMPARED = 10_000  # images at most that each is compared with

Features = npt.NDArray[np.float32]


def features_of(
    data: ImageDataset, roles: Sequence[str], model: ModelArguments, arguments: DataArguments, args: FinetuneArguments
) -> Features:
    """Return what a network gives its last layer for each image, float32 (images, features).

    Args:
        data: The dataset; all its images can be read.
        roles: Whose images, one split after the other.
        model: The network, which may have any head.
        arguments: How its images are read.
        args: On which device it runs.

    Raises:
        UserError: The network cannot be had, or does not have one linear layer after one vector for each image.
    """
    source = open_source(model)
    config = load_config(source, data.label_names)
    image_processor = load_image_processor(source, config)
    network = load_model(source, config, data.label_names, args.seed).model
    layer = logits_layer(network)
    if layer is None:
        raise UserError(f"--model: {source.name} has no linear layer that gives the logits; use another model.")
    images = prepare_images(data, image_processor, arguments, args)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder  # the Trainer creates its folder even if nothing is ever written there
        trainer = build_evaluator(network, args, images, ClassificationMetrics(data.label_names, {}))
        for role in roles:
            found += [given for given, _ in module_inputs(trainer, images.batches[role], layer, f"Features of {role}")]
        trainer.end()
    finish(images.decoded.values())
    features = np.concatenate(found)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise UserError(f"--model: {source.name} does not give one vector of finite numbers for each image.")
    return features


def distance_to_neighbours(features: Features, seed: int) -> npt.NDArray[np.float32]:
    """Return how far each image is from its fifth nearest neighbour, 1 less the cosine, float32 (images,).

    Args:
        features: float32 (images, features), of six images at least.
        seed: Draws the images that all are compared with, where there are many.
    """
    from sklearn.neighbors import NearestNeighbors  # imports for half a second, and only this needs it

    compared = np.zeros(len(features), bool)
    compared[np.random.default_rng(seed).permutation(len(features))[:_COMPARED]] = True
    nearest = NearestNeighbors(n_neighbors=_NEIGHBOUR + 1, metric="cosine", algorithm="brute").fit(features[compared])
    distances = nearest.kneighbors(features)[0]
    # An image that the others are compared with is its own nearest neighbour.
    return np.where(compared, distances[:, _NEIGHBOUR], distances[:, _NEIGHBOUR - 1]).astype(np.float32)


def probe_out_of_fold(features: Features, labels: npt.NDArray[np.integer], model: str, seed: int) -> OutOfFold:
    """Return the probabilities that multinomial logistic regressions on the other folds give each image.

    Args:
        features: float32 (images, features).
        labels: Class ids, (images,); some class has two images at least.
        model: What messages call the network of the features.
        seed: Draws the folds.
    """
    classes = int(labels.max()) + 1
    folds = min(_FOLDS, int(np.bincount(labels).max()))
    fold_of = fold_of_rows(labels, None, folds, seed)
    probabilities = np.zeros((len(labels), classes), np.float32)
    for fold in progress_bar(range(folds), desc="Probes", unit="fold", delay=2):
        others, own = np.flatnonzero(fold_of != fold), fold_of == fold
        if len(others) > _FITTED:
            others = others[stratified_split(labels[others], _FITTED / len(others), seed)[1]]
        kept, held_out = (others[rows] for rows in stratified_split(labels[others], _HELD_OUT, seed))
        held_out = held_out if len(held_out) else kept
        weight, bias, _ = fit_logistic_regression(
            features[kept], labels[kept], features[held_out], labels[held_out], classes, _STRENGTHS
        )
        probabilities[own] = softmax(features[own] @ weight.T + bias, axis=1)
    accuracy = float(np.mean(probabilities.argmax(axis=1) == labels))
    return OutOfFold(probabilities, accuracy, model, folds)
