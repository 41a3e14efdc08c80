"""Images in, class names and probabilities out."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.config.test_time import TTA_KINDS, check_tta
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.images.decoding import OpenImage, Unused
from hf_finetune.data.images.files import LeftOut, image_files
from hf_finetune.data.images.header_check import describe_unused
from hf_finetune.data.images.levels import is_wide
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.errors import UserError
from hf_finetune.evaluation.multi_label import DEFAULT_THRESHOLD
from hf_finetune.evaluation.test_time import with_views
from hf_finetune.exporters.base import LogitsOf
from hf_finetune.exporters.onnx_model import OnnxModel
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import get_logger, progress_bar, tell, write_line
from hf_finetune.models.head import class_names, describe_repeated
from hf_finetune.models.load import load_trained, open_source
from hf_finetune.models.processor import load_image_processor
from hf_finetune.shown_text import csv_cell, one_line
from hf_finetune.tasks import Task, task_of

logger = get_logger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        image: The path of the file, or the place in the list of an image that is no file.
        classes: The likeliest classes with their probabilities, parts of 1, the likeliest first. Empty where the image
            cannot be read, and where no class of several labels reaches its threshold.
        error: Why the image cannot be read, None where it can.
    """

    image: Path | int
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    @property
    def label(self) -> str:
        """The likeliest class.

        Raises:
            UserError: Where the image cannot be read, or no class is given.
        """
        return self._first()[0]

    @property
    def score(self) -> float:
        """The probability of the likeliest class, a part of 1.

        Raises:
            UserError: Where the image cannot be read.
        """
        return self._first()[1]

    def _first(self) -> tuple[str, float]:
        if self.error is not None:
            raise UserError(self.error)
        if not self.classes:
            raise UserError(f"No class of {self.image} reaches its threshold; use a lower --threshold, or --top_k 1.")
        return self.classes[0]


def find_images(paths: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """Find the image files that paths name, and those in folders, which are the ones that training would read.

    Returns:
        The images, and notes on what is left out of the folders.

    Raises:
        UserError: For a path that leads nowhere or to no regular file, and a folder without images.
    """
    images: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if not str(path).strip():
            raise UserError('An empty path ("") is neither an image nor a folder; remove it, or use . for this folder.')
        path = Path(path)
        if path.is_dir():
            left_out = LeftOut()
            found = [path / name for name in image_files(str(path), "", left_out)]
            if not found:
                raise UserError(f"{path} holds no images; use a folder that does, or image files.")
            notes += [f"{path}: {note}" for note in left_out.notes()]
            images += found
        elif path.is_file():
            images.append(path)
        elif path.exists():
            raise UserError(f"{path} is a pipe, a socket or a device; use image files, or a folder of them.")
        else:
            raise UserError(f"There is no file or folder {path}; check the path.")
    return images, notes


@dataclass(frozen=True)
class _Classifier:
    """A model with what prepares images for it."""

    logits: Callable[[torch.Tensor], torch.Tensor]
    image_processor: BaseImageProcessor
    names: dict[int, str]
    device: torch.device
    task: Task
    thresholds: Sequence[float] | None


def _open(model: str | Path | PreTrainedModel, image_processor: BaseImageProcessor | None) -> _Classifier:
    if not isinstance(model, PreTrainedModel) and str(model).endswith(".onnx"):
        onnx = OnnxModel(Path(model))
        return _Classifier(onnx, onnx.image_processor, onnx.id2label, torch.device("cpu"), onnx.task, onnx.thresholds)
    source = open_source(model if isinstance(model, PreTrainedModel) else ModelArguments(model_name_or_path=str(model)))
    network = load_trained(source)
    device = network.device  # an object stays where it is
    if not isinstance(model, PreTrainedModel) and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator() or device
    image_processor = image_processor or load_image_processor(source, network.config)
    names = class_names(network.config)
    if repeated := describe_repeated(names):
        # As an error, because standard output may be read by a program.
        logger.error(
            f"Note: several classes of the model have one name: {repeated}; predictions do not tell them apart."
        )
    torch.nn.Module.to(network, device)
    task, thresholds = task_of(network.config), getattr(network.config, "thresholds", None)
    return _Classifier(LogitsOf(network), image_processor, dict(enumerate(names)), device, task, thresholds)


def classify(
    model: str | Path | PreTrainedModel,
    images: Sequence[tuple[Path | int, Any]],
    top_k: int | None,
    batch_size: int,
    image_processor: BaseImageProcessor | None = None,
    show_bar: bool = False,
    tta: str | None = None,
    threshold: float | None = None,
) -> Iterator[Prediction]:
    """Yield a prediction for each image, in order.

    Args:
        model: A folder, a Hub id, an embedded name, an ONNX file or a model object.
        images: What each is called, and a path, the bytes of a file or a PIL image.
        top_k: Classes of each; None for the likeliest, or where a model gives several, those that reach their
            thresholds.
        batch_size: Images of a forward pass.
        image_processor: What prepares images for a model object; absent, that of the checkpoint it came from.
        show_bar: Whether a progress bar is shown on standard error.
        tta: "flip" or "multicrop": probabilities are the mean over several views of each image.
        threshold: The probability from which on a model of several labels gives a class; None for its own thresholds.

    Raises:
        UserError: For a model that cannot be had, and for a threshold of a model that gives one class.
    """
    _check_wishes(top_k, batch_size, tta, threshold)
    classifier = _open(model, image_processor)
    choose = _choice(classifier, top_k, threshold)
    stage = EvaluationStage(classifier.image_processor, uniform=False)
    device_stage = DeviceStage(classifier.image_processor, uniform=False)
    unscaled = stage.decoding.value_range is None
    starts = range(0, len(images), batch_size)
    for start in progress_bar(starts, desc="images", unit="batch", delay=2, disable=not show_bar):
        leave_if_interrupted()
        predictions: list[Prediction] = []
        batches = []
        for name, value in images[start : start + batch_size]:
            try:
                if unscaled and _is_wide(value):
                    unscaled = False
                    # As an error, because standard output may be read by a program.
                    logger.error(
                        f"Note: {name} has more than 8 bits, and the model was not trained on such images; their values"
                        " are taken as 0 to 65535, or 0 to 1 in floating point. For another range, add"
                        ' "value_range": [0, 4095], or what it is, to the config.json of the model.'
                    )
                rows = stage({"image": [value], "label": [-1]})
            except UserError as error:
                predictions.append(Prediction(name, error=str(error)))
                continue
            predictions.append(Prediction(name))
            batches.append(rows["pixel_values"])
        if batches:
            batch = device_stage({"pixel_values": torch.cat(batches).to(classifier.device)})
            with torch.inference_mode():
                probabilities = classifier.task.probabilities(_logits(classifier, batch["pixel_values"], tta)).cpu()
        rows_read = iter(probabilities if batches else ())
        for prediction in predictions:
            if prediction.error is not None:
                yield prediction
            else:
                yield Prediction(prediction.image, choose(next(rows_read)))


def _is_wide(image: Any) -> bool:
    with OpenImage(image) as opened:
        return is_wide(opened.mode)


def _logits(classifier: _Classifier, pixel_values: torch.Tensor, tta: str | None) -> torch.Tensor:
    if tta is None:
        return classifier.logits(pixel_values)
    return with_views(classifier.logits, pixel_values, tta, classifier.task)[1]


def _check_wishes(top_k: int | None, batch_size: int, tta: str | None, threshold: float | None) -> None:
    check_tta(tta)
    if (top_k is not None and top_k < 1) or batch_size < 1:
        raise UserError("--top_k and --batch_size are at least 1.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--threshold is {threshold:g}; use a probability from 0 to 1.")


def _choice(
    classifier: _Classifier, top_k: int | None, threshold: float | None
) -> Callable[[torch.Tensor], tuple[tuple[str, float], ...]]:
    """Return what chooses the classes of an image from their probabilities, float32 (classes,)."""
    if threshold is not None and not classifier.task.several:
        raise UserError("--threshold is for models of several labels per image, and this one gives one class.")
    limits = torch.zeros(len(classifier.names))
    if threshold is not None:
        limits += threshold
    elif top_k is None and classifier.task.several:
        limits = torch.tensor(classifier.thresholds or [DEFAULT_THRESHOLD] * len(limits))
    most = len(limits) if top_k is None and classifier.task.several else min(top_k or 1, len(limits))

    def choose(probabilities: torch.Tensor) -> tuple[tuple[str, float], ...]:
        scores, classes = probabilities.topk(most)
        given = scores >= limits[classes]
        pairs = zip(scores[given].tolist(), classes[given].tolist(), strict=True)
        return tuple((classifier.names[class_id], score) for score, class_id in pairs)

    return choose


def predict_files(
    model_name: str,
    paths: Sequence[str],
    top_k: int | None,
    batch_size: int,
    output_format: str,
    output: str | Path | None = None,
    tta: str | None = None,
    threshold: float | None = None,
) -> list[str]:
    """Write the likeliest classes of each image as text, JSON or CSV; what is unreadable goes to the log as an error.

    Args:
        model_name: A folder, a Hub id, an embedded name or an ONNX file.
        paths: Files and folders.
        top_k: Classes of each image; see `classify`.
        batch_size: Images of a forward pass.
        output_format: "text", "json" or "csv". An `output` that ends in .json or .csv says it too.
        output: The file to write; absent, standard output.
        tta: As in `classify`. A note and the JSON say so.
        threshold: As in `classify`.

    Returns:
        A line for each unreadable image.

    Raises:
        UserError: For a model or a path that cannot be had.
    """
    _check_wishes(top_k, batch_size, tta, threshold)
    images, notes = find_images(paths)
    for note in notes:
        tell(f"hf-finetune: {note}", sys.stderr)  # standard output may be read by a program
    if output is not None and output_format == "text":
        output_format = {".json": "json", ".csv": "csv"}.get(Path(output).suffix.lower(), "text")
    named = [(path, {"path": str(path), "bytes": None}) for path in images]
    unused: Counter[Unused] = Counter()
    classified = classify(model_name, named, top_k, batch_size, show_bar=True, tta=tta, threshold=threshold)
    predictions = counting_unused(classified, unused)
    if tta is not None:
        tell(f"hf-finetune: probabilities are means over {TTA_KINDS[tta]} (--tta {tta}).", sys.stderr)
    unreadable: list[str] = []
    with _writing(output) as file:
        for text in _written(_readable(predictions, unreadable), output_format, tta):
            if file is sys.stdout:
                write_line(text.removesuffix("\n"))  # above the bar
            else:
                file.write(text)
    if output is not None:
        logger.info(f"Written: {output}.")
    for line in [*describe_unused(unused), *unreadable]:
        tell(f"hf-finetune: {line}", sys.stderr)
    return unreadable


@contextmanager
def _writing(output: str | Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    path = Path(output).expanduser()
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; use the name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file


def counting_unused(predictions: Iterable[Prediction], unused: Counter[Unused]) -> Iterator[Prediction]:
    """Yield predictions as they come, and add to `unused` what each file holds beside the image that is used."""
    for prediction in predictions:
        if prediction.error is None and isinstance(prediction.image, Path):
            with suppress(UserError), OpenImage(prediction.image) as image:  # unless it has vanished since
                unused[image.unused] += 1
        yield prediction


def _readable(predictions: Iterable[Prediction], unreadable: list[str]) -> Iterator[Prediction]:
    for prediction in predictions:
        if prediction.error is None:
            yield prediction
        else:
            unreadable.append(prediction.error)


def _written(predictions: Iterable[Prediction], output_format: str, tta: str | None) -> Iterator[str]:
    """Yield the text of predictions, whole lines at a time."""
    if output_format == "json":
        answers = [
            {
                "file": str(prediction.image),
                "predictions": [{"label": label, "score": score} for label, score in prediction.classes],
                **({} if tta is None else {"tta": tta}),
            }
            for prediction in predictions
        ]
        yield json.dumps(answers, indent=2, ensure_ascii=False) + "\n"
    elif output_format == "csv":
        yield _csv_line(["file", "rank", "label", "score"])
        for prediction in predictions:
            for rank, (label, score) in enumerate(prediction.classes, 1):
                yield _csv_line([str(prediction.image), rank, label, f"{score:.6f}"])
            if not prediction.classes:
                yield _csv_line([str(prediction.image), "", "", ""])
    else:
        for prediction in predictions:
            yield (
                one_line(
                    f"{prediction.image}: "
                    + (", ".join(f"{name} {score:.1%}" for name, score in prediction.classes) or "no class")
                )
                + "\n"
            )


def _csv_line(cells: Sequence[Any]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(map(csv_cell, cells))
    return file.getvalue()
