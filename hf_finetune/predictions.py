"""The functions for Python programs that classify images: predict, predict_to_folder and explain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL.Image import Image
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.api import in_python_words
from hf_finetune.config.data import DataArguments
from hf_finetune.data.image_list import GivenImages, NamedImage, find_images
from hf_finetune.data.images.unused import describe_unused
from hf_finetune.data.sources.objects import as_image
from hf_finetune.jobs import predict_folder
from hf_finetune.jobs.classifier import open_classifier
from hf_finetune.jobs.explain import Explainer, ExplainSettings
from hf_finetune.jobs.explanation import Explanation
from hf_finetune.jobs.explanation_files import ExplanationFolder
from hf_finetune.jobs.predict import Classification
from hf_finetune.jobs.predict_folder import PredictedFolder
from hf_finetune.jobs.prediction import Prediction
from hf_finetune.jobs.prediction_settings import PredictionSettings
from hf_finetune.logs import get_logger
from hf_finetune.training.arguments import checked_model

logger = get_logger(__name__)

ImageLike: TypeAlias = "str | os.PathLike[str] | Image | np.ndarray | torch.Tensor"
"""A path, a PIL image, or an array or tensor (`hf_finetune.predict`)."""


def predict(
    model: str | os.PathLike[str] | PreTrainedModel,
    images: ImageLike | Sequence[ImageLike],
    *,
    top_k: int | None = None,
    batch_size: int = 32,
    image_processor: BaseImageProcessor | None = None,
    tta: str | None = None,
    threshold: float | None = None,
    embeddings: bool = False,
    dataloader_num_workers: int = 0,
) -> list[Prediction]:
    """Classify images. Nothing is printed.

    Args:
        model: A run's folder, a Hub id, an embedded checkpoint's name, an ONNX file, or a model object.
        images: One or several: paths of files, or of folders, whose images are all taken; PIL images; arrays (height,
            width, channels) or tensors (channels, height, width), uint8 or float of 0 to 1.
        top_k: How many classes of each image. Absent, the likeliest; of a model of several labels, those that reach
            their thresholds, which may be none.
        batch_size: Images of a forward pass.
        image_processor: What prepares images for a model object; absent, that of the checkpoint it came from.
        tta: "flip" or "multicrop": probabilities are the mean over several views of each image.
        threshold: Of a model of several labels, the probability from which on a class is given, 0 to 1. Absent, the
            model's own for each class.
        embeddings: Whether each prediction has an `embedding`: the features that the head is given, float32.
        dataloader_num_workers: Processes that decode images.

    Returns:
        A prediction for each image, in order. Of one that cannot be read, `error` says why.

    Raises:
        UserError: For a model or a path that cannot be had, and for images of another kind.
    """
    with in_python_words():
        checked = checked_model(model)
        settings = PredictionSettings(top_k, batch_size, tta, threshold, embeddings, dataloader_num_workers)
        named = _named(images)
        classification = Classification(open_classifier(checked, image_processor), settings)
        predictions = list(classification.all_of(GivenImages(named)))
        for note in describe_unused(classification.unused):
            logger.warning(note)
        return predictions


def _named(images: ImageLike | Sequence[ImageLike]) -> list[NamedImage]:
    several = isinstance(images, Sequence) and not isinstance(images, str)
    named: list[NamedImage] = []
    notes: list[str] = []
    for image in images if several else [images]:  # type: ignore[union-attr]
        if isinstance(image, str | os.PathLike):
            found = find_images([os.fspath(image)], notes)
            named += [NamedImage(path, {"path": str(path), "bytes": None}) for path in found]
        else:
            named.append(NamedImage(len(named), as_image(image, f"images: image {len(named)}")))
    for note in notes:
        logger.warning(note)
    return named


def predict_to_folder(
    model: str | os.PathLike[str] | PreTrainedModel,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    *,
    output: str | os.PathLike[str],
    format: str = "parquet",
    dataset: str | os.PathLike[str] | None = None,
    split: str | None = None,
    image_column: str | None = None,
    top_k: int | None = None,
    batch_size: int = 32,
    image_processor: BaseImageProcessor | None = None,
    tta: str | None = None,
    threshold: float | None = None,
    embeddings: bool = False,
    shard_size: int | None = None,
    dataloader_num_workers: int | None = None,
) -> PredictedFolder:
    """Classify any number of images, and write the answers as tables into a folder.

    An interrupted call resumes with the same call, and does nothing twice. In a job of several processes (torchrun,
    accelerate launch) each calls this, and does its share.

    Args:
        model: As in `predict`.
        images: Paths: image files, folders that hold some, WebDataset tars, Parquet files with a column of images.
        output: The folder. It must not exist, be empty, or hold what the same call left unfinished.
        format: "parquet", "csv" or "jsonl".
        dataset: A named dataset, a Hub id, a folder or a table, in place of `images`. Its labels are not read.
        split: The split of the dataset. Absent, test, else validation, else the only one.
        image_column: The column of images of a dataset or a Parquet file; absent, found by its type.
        top_k: As in `predict`; the number of classes gives all probabilities.
        batch_size: As in `predict`.
        image_processor: As in `predict`.
        tta: As in `predict`.
        threshold: As in `predict`.
        embeddings: Whether the tables have a column of the features that the head is given.
        shard_size: Images of a table. Absent, a 64th of all, at most 5,000.
        dataloader_num_workers: Processes that decode images. Absent, by the cores; 0 for a few images.

    Returns:
        The tables, how many images they have, and how many of these cannot be read.

    Raises:
        UserError: For a model, images or a folder that cannot be had, and where the folder holds other predictions.
    """
    with in_python_words():
        name = None if dataset is None else os.fspath(dataset)
        paths = [images] if isinstance(images, str | os.PathLike) else images
        return predict_folder.predict_to_folder(
            checked_model(model),
            [os.fspath(path) for path in paths],
            os.fspath(output),
            PredictionSettings(top_k, batch_size, tta, threshold, embeddings, dataloader_num_workers),
            format,
            shard_size,
            DataArguments(dataset=name, image_column=image_column),
            split,
            image_processor,
        )


def explain(
    model: str | os.PathLike[str] | PreTrainedModel,
    images: ImageLike | Sequence[ImageLike],
    *,
    class_name: str | None = None,
    method: str | None = None,
    layer: str | None = None,
    batch_size: int = 16,
    image_processor: BaseImageProcessor | None = None,
    output: str | os.PathLike[str] | None = None,
) -> list[Explanation]:
    """Return where in images a model finds their classes, as heat maps. Nothing is printed.

    Args:
        model: As in `predict`, but for an ONNX file.
        images: As in `predict`.
        class_name: The class to explain, or its id as a text. Absent, the likeliest of each image.
        method: "gradcam" for Grad-CAM (Selvaraju et al. 2017), or "rollout" for attention rollout (Abnar and Zuidema
            2020), which depends on no class. Absent, rollout for networks whose layers all attend to the whole image,
            such as ViT, where neither a class nor a layer is given; else Grad-CAM.
        layer: For Grad-CAM, the name of a module of the network. Absent, the last one that suits.
        batch_size: Images of a pass.
        image_processor: As in `predict`.
        output: A new or empty folder, into which a PNG file for each image and a page are written.

    Returns:
        An explanation for each image, in order. Of one that cannot be read, `error` says why.

    Raises:
        UserError: For a model, a class, a layer, a path or a folder that cannot be had, and for images of another kind.
    """
    with in_python_words():
        checked = checked_model(model)
        settings = ExplainSettings(class_name, method, layer, batch_size)
        folder = None if output is None else ExplanationFolder(Path(output).expanduser())
        named = _named(images)
        explainer = Explainer(open_classifier(checked, image_processor), settings)
        explanations = list(explainer.all_of(GivenImages(named)))
        if folder is not None:
            explanations = [folder.add(explanation) for explanation in explanations]
            if any(explanation.error is None for explanation in explanations):
                name = type(model).__name__ if isinstance(model, PreTrainedModel) else Path(model).name
                folder.finish(name, explainer.mapper.described())
        for note in describe_unused(explainer.unused):
            logger.warning(note)
        return explanations
