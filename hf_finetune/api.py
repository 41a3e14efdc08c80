"""The functions of the package for Python programs: finetune, evaluate, compare, export and report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset, DatasetDict
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback
from typing_extensions import Unpack

from hf_finetune.config.arguments import argument_fields, check_flags
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import BASE_KEY, Recipe, flag_text, load_recipe, override
from hf_finetune.config.resize_mode import in_stated_mode
from hf_finetune.config.settings import Settings
from hf_finetune.config.synonyms import answer
from hf_finetune.config.wording import python_wording
from hf_finetune.data.catalog import DEFAULT_RECIPE
from hf_finetune.data.sources.objects import GivenDataset, read_object
from hf_finetune.data.transforms.given import ImageFunction
from hf_finetune.errors import Interrupted, UserError, did_you_mean
from hf_finetune.evaluation.metrics import Metric, UserMetric
from hf_finetune.jobs.compare import compare_models
from hf_finetune.jobs.comparison import Comparison
from hf_finetune.jobs.evaluate import evaluate_model
from hf_finetune.jobs.evaluation_result import EvaluationResult
from hf_finetune.jobs.export import export_model
from hf_finetune.jobs.model_summary import ModelSummary, run_summary
from hf_finetune.jobs.report import report_run
from hf_finetune.logs import get_logger
from hf_finetune.training.arguments import checked_model, own_metrics, plain, sort_out
from hf_finetune.training.finetune_result import FinetuneResult
from hf_finetune.training.given import Given
from hf_finetune.training.loss import Loss
from hf_finetune.training.run import choose_recipe, run

logger = get_logger(__name__)

DatasetLike: TypeAlias = (
    "str | os.PathLike[str] | Dataset | DatasetDict | torch.utils.data.Dataset[Any]"
    " | Mapping[str, Dataset | torch.utils.data.Dataset[Any]]"
)
"""A name, path or Hub id; an object of `datasets`; a torch dataset of (image, label); or split names to objects."""


def finetune(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    dataset: DatasetLike | None = None,
    model: str | os.PathLike[str] | PreTrainedModel | None = None,
    image_processor: str | os.PathLike[str] | BaseImageProcessor | None = None,
    train_transforms: Sequence[Any] | ImageFunction | None = None,
    loss: str | Loss | None = None,
    teacher: str | os.PathLike[str] | PreTrainedModel | None = None,
    metrics: Mapping[str, UserMetric | Metric] | Sequence[str] | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
    **settings: Unpack[Settings],
) -> FinetuneResult:
    """Fine-tune an image classifier.

    An interrupted run resumes with the same call. What is given as an object is written into the saved recipe and the
    model card as a remark: a resumed run compares datasets by a fingerprint, models by class and size, a teacher by
    its weights too, functions by name alone.

    Args:
        recipe: A packaged recipe's name, the path of a YAML file, or a mapping of keys, which may have a `_base_`.
            Absent, the recipe that the dataset names, or `finetune` for a dataset of your own.
        dataset: A named dataset, a Hub id, a folder of class folders or a table; or an object: a
            `datasets.DatasetDict` or `Dataset`, a torch `Dataset` of (image, label), or a mapping of split names to
            these. A torch dataset is read once, before the first step; its `.classes` name its class ids.
        model: A Hub id, a folder, a file of another library's weights, or a model object. An object is trained in
            place. It keeps its head where its config.id2label names the dataset's classes in their order; else its
            head is new.
        image_processor: What prepares images in evaluation and is saved with the model: a checkpoint's name, or an
            object, which the recipe's image_size, resize_mode, crop_pct, image_mean, image_std and resample do not
            change. Absent, the model's own.
        train_transforms: A recipe's list of names of transforms, or a function of one training image,
            uint8 (3, height, width), that returns one of the same kind, all of one size; such as a v2.Compose. What it
            draws from torch's generator is keyed by the example.
        loss: A registered loss's name, the dotted name of a loss of your own, or a function of logits, float (batch,
            classes), and class ids, int64 (batch,), that returns one loss for each image, float (batch,). Where images
            are mixed, labels are shares of the classes, float (batch, classes). The mean is taken over the whole global
            batch. Evaluation still reports the cross entropy as `loss`.
        teacher: A trained model to learn from beside the labels (see `distillation`): a folder, a Hub id, or a model
            object, of which a copy is used, so that it may be `model` itself. Its config.id2label names its classes.
        metrics: By name, functions of probabilities, float32 (images, classes), and class ids, int64 (images,), that
            return a number; or names of registered ones, which are only checked, because all of those are reported.
        callbacks: Callbacks of Transformers, objects or classes.
        settings: Any other key of a recipe, over the recipe's own (`hf_finetune.Settings`).

    Returns:
        The figures, the model, its image processor and the folder. Absent an `output_dir`, that is runs/NAME, with a
        number where an earlier result is there.

    Raises:
        UserError: For whatever the caller can fix.
        Interrupted: Where SIGTERM, SIGINT or SIGHUP ended the training, which is saved: the same call resumes it.
    """
    with in_python_words():
        objects = (dataset, model, image_processor, train_transforms, loss, teacher, metrics, callbacks)
        resolved, given, command = read_call(recipe, *objects, settings)
        return run(resolved, command, given)


def read_call(
    recipe: Any,
    dataset: Any,
    model: Any,
    image_processor: Any,
    train_transforms: Any,
    loss: Any,
    teacher: Any,
    metrics: Any,
    callbacks: Any,
    settings: Mapping[str, Any],
    command: str = "train",
) -> tuple[Recipe, Given, str]:
    """Return what a call of `finetune`, whose arguments these are, means: recipe, objects and the line of a `command`.

    Raises:
        UserError: For whatever the caller can fix.
    """
    values = _settings(settings)
    given, named = sort_out(
        dataset, model, image_processor, train_transforms, loss, teacher, metrics, callbacks, values
    )
    values = {**named, **values}
    return _resolve(recipe, values, given), given, _command(recipe, values, given, command)


def evaluate(
    model: str | os.PathLike[str] | PreTrainedModel,
    *,
    dataset: DatasetLike,
    split: str | None = None,
    metrics: Mapping[str, UserMetric | Metric] | None = None,
    image_processor: BaseImageProcessor | None = None,
    output: str | os.PathLike[str] | None = None,
    labels_by_index: bool = False,
    tta: str | None = None,
    **settings: Unpack[Settings],
) -> EvaluationResult:
    """Compute a model's figures on a dataset. Classes are matched by name, unless told otherwise.

    Args:
        model: A run's folder, a Hub id, an embedded checkpoint's name, or a model object.
        dataset: As in `finetune`.
        split: The split to evaluate on: train, validation or test, or its own name. Absent, the test split; where there
            is none, the validation split; where there is only one, that.
        metrics: Own figures by name, as in `finetune`.
        image_processor: What prepares images; absent, the model's own.
        output: A .json file for all figures or a .csv file for each image's prediction; the confusion matrix is drawn
            beside it.
        labels_by_index: Match classes by their order, for a model whose classes have no names, or one name twice.
        tta: "flip" or "multicrop" adds `EvaluationResult.tta`, of the mean over several views of each image.
        settings: Keys of a recipe that say which images and how they are run (`hf_finetune.Settings`).

    Returns:
        The figures, and each image's prediction.

    Raises:
        UserError: For a model or a dataset that cannot be had, and for classes that the model does not know.
    """
    with in_python_words():
        values = _settings(settings)
        given = _name_or_object(dataset, values)
        checked = checked_model(model)
        return evaluate_model(
            checked,
            split=split,
            output=None if output is None else os.fspath(output),
            labels_by_index=labels_by_index,
            tta=tta,
            given=given,
            metrics=own_metrics(metrics),
            image_processor=image_processor,
            **values,
        )


def compare(
    first: str | os.PathLike[str] | PreTrainedModel,
    second: str | os.PathLike[str] | PreTrainedModel,
    *,
    dataset: DatasetLike | None = None,
    split: str | None = None,
    output: str | os.PathLike[str] | None = None,
    labels_by_index: bool = False,
    **settings: Unpack[Settings],
) -> Comparison:
    """Compare two models on the same images. Classes are matched by name, in whatever order the models have them.

    Args:
        first: As in `evaluate`.
        second: Likewise.
        dataset: As in `evaluate`. Absent, the images that both runs report their figures on; both must be folders of
            runs that were evaluated on the same ones.
        split: As in `evaluate`.
        output: A .csv file for the images that only one of the models classifies correctly, or a .json file for them
            and all figures.
        labels_by_index: As in `evaluate`, for both.
        settings: Keys of a recipe that say which images and how they are run (`hf_finetune.Settings`).

    Returns:
        Both accuracies, the difference with its interval and p-value, and the images on which the models differ. Where
        images have several labels, accuracy is the exact match, and mAP and F1 are under `figures`.

    Raises:
        UserError: For models and datasets that cannot be had, for runs that were not evaluated on the same images, and
            for two models of which only one gives an image several labels.
    """
    with in_python_words():
        values = _settings(settings)
        given = _name_or_object(dataset, values)
        return compare_models(
            checked_model(first),
            checked_model(second),
            split=split,
            output=None if output is None else os.fspath(output),
            labels_by_index=labels_by_index,
            given=given,
            **values,
        )


def export(
    model: str | os.PathLike[str],
    *,
    format: str = "onnx",
    output: str | os.PathLike[str] | None = None,
    quantize: str | None = None,
    with_preprocessing: bool = False,
    opset: int | None = None,
    **settings: Any,
) -> Path:
    """Write a model in a form that other programs run, checked to give the original's class on every image.

    Args:
        model: A run's folder, a Hub id or an embedded checkpoint's name.
        format: "onnx" or "pt2" (torch.export), a file; "safetensors" or "openvino", a folder.
        output: Where to write it; absent, model.onnx in the model's folder.
        quantize: "int8" writes the ONNX file with int8 weights; it needs a dataset.
        with_preprocessing: Whether the ONNX file takes images as they are decoded, uint8 (batch, height, width, 3).
        opset: The version of ONNX's operators; absent, that which torch prefers.
        settings: Keys of a recipe that name a dataset to check on (`hf_finetune.Settings`, and `dataset`); without
            one, the check is on noise.

    Returns:
        Where it was written.

    Raises:
        UserError: For what cannot be exported, and for a file that gives another class.
    """
    with in_python_words():
        dataset = settings.pop("dataset", None)
        values = _settings(settings)
        if dataset is not None:
            values["dataset"] = os.fspath(dataset)
        target = None if output is None else os.fspath(output)
        return export_model(os.fspath(model), format, target, quantize, with_preprocessing, opset, **values)


def report(run: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a finished run again, one HTML file; nothing is computed anew.

    Args:
        run: The run's folder. `UserError` is raised for another one.
        output: The file; absent, report.html in the folder.

    Returns:
        The file.
    """
    with in_python_words():
        return report_run(os.fspath(run), None if output is None else os.fspath(output))


@contextmanager
def in_python_words() -> Iterator[None]:
    """Let the messages of mistakes name arguments, `seed=1`, where the command line's name flags, `--seed 1`."""
    try:
        yield
    except (UserError, Interrupted) as error:
        error.args = (python_wording(str(error)),)
        raise


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a recipe has them: paths as texts. Raises `UserError` for a key that is none."""
    known = argument_fields()
    for key in settings:
        if key not in known:
            check_flags([f"--{key}"])
    return {key: plain(value) for key, value in settings.items()}


def _name_or_object(dataset: DatasetLike | None, values: dict[str, Any]) -> GivenDataset | None:
    """Put the name of a dataset among the values; return an object of one, opened."""
    if dataset is None or isinstance(dataset, (str, os.PathLike)):
        values |= {} if dataset is None else {"dataset": os.fspath(dataset)}
        return None
    return read_object(dataset)


def read_data_settings(dataset: DatasetLike, settings: Mapping[str, Any]) -> tuple[GivenDataset | None, dict[str, Any]]:
    """Return what a call that is about a dataset means: the dataset where it is an object, and keys of a recipe.

    Raises:
        UserError: For a key that is none, and for an object that is no dataset.
    """
    values = _settings(settings)
    return _name_or_object(dataset, values), values


def summarize(
    model: str | os.PathLike[str] | PreTrainedModel,
    *,
    image_size: int | Sequence[int] | None = None,
    depth: int = 2,
    measure: bool = True,
    batch_size: int | None = None,
) -> ModelSummary:
    """Count a network's parameters and operations, and measure its speed. Its weights are not loaded.

    Args:
        model: A Hub id, a folder, an embedded checkpoint's name, or a model object.
        image_size: The side of images in pixels, or height and width; absent, those of the model's image processor.
        depth: How many levels of modules are among the parts.
        measure: Whether its speed is measured, which takes seconds.
        batch_size: Images of a pass; absent, 8 on a CPU and 64 elsewhere.

    Returns:
        The figures of the network and of its parts.

    Raises:
        UserError: For a model that cannot be had, and for images that it does not take.
    """
    with in_python_words():
        named = model if isinstance(model, PreTrainedModel) else ModelArguments(model_name_or_path=os.fspath(model))
        size = image_size if image_size is None or isinstance(image_size, int) else list(image_size)
        return run_summary(named, image_size=size, depth=depth, measure=measure, batch_size=batch_size)


def _origin(key: str) -> str:
    return f"finetune({key}=...)"


def _resolve(recipe: Any, values: Mapping[str, Any], given: Given) -> Recipe:
    """Return the recipe with the caller's values over it."""
    if isinstance(recipe, Mapping):
        resolved = _recipe_of_mapping(recipe)
        if given.dataset is None and not resolved.values.get("dataset") and not values.get("dataset"):
            raise UserError("There is nothing to train on; use dataset=..., or a dataset in the recipe.")
        return in_stated_mode(override(resolved, values, _origin))
    if recipe is not None and not isinstance(recipe, (str, os.PathLike)):
        raise UserError(f"recipe is {type(recipe).__name__}; use a packaged name, the path of a file, or a mapping.")
    name = None if recipe is None else os.fspath(recipe)
    name = name or (DEFAULT_RECIPE if given.dataset is not None else None)
    random_weights = given.model is not None and not given.model.name_or_path  # it is no checkpoint's
    return choose_recipe(name, values, _origin, random_weights)


def _recipe_of_mapping(recipe: Mapping[str, Any]) -> Recipe:
    """Return a mapping as a recipe, over the packaged recipes or files that its `_base_` names."""
    known = argument_fields()
    values = {str(key): plain(value) for key, value in recipe.items()}
    bases = values.pop(BASE_KEY, None)
    for key in values:
        if key not in known:
            instead = answer(key, known, flag="")
            advice = f"; {instead}." if instead else f".{did_you_mean(key, known)}"
            raise UserError(f'recipe: unknown key "{key}"{advice}')
    resolved = Recipe("finetune", {}, {})
    for base in [bases] if isinstance(bases, str) else bases or ():
        loaded = in_stated_mode(load_recipe(base, known))
        resolved = override(replace(resolved, name=loaded.name), loaded.values, loaded.name)
    return override(resolved, values, 'recipe["{key}"]')


def _command(recipe: Any, values: Mapping[str, Any], given: Given, name: str = "train") -> str:
    """Return the command line that does the same, for the model card."""
    words = ["--recipe", os.fspath(recipe)] if isinstance(recipe, (str, os.PathLike)) else []
    if given.remarks():
        return "# Python objects were given, which the recipe above names in its last lines"
    if isinstance(recipe, Mapping):
        words += ["--recipe", "recipe.yaml"]  # the folder holds it, resolved
    for key, value in values.items():
        words += [f"--{key}", flag_text(value)]
    return f"hf-finetune {name} {shlex.join(words)}"
