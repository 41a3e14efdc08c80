"""A trained model in a form that other programs run, checked beforehand."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Subset, default_collate
from transformers import PreTrainedModel

from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.recipe import Recipe
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.collate import pass_on
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.images.decoding import decode_image
from hf_finetune.data.labels import match_classes
from hf_finetune.data.splits import random_subset
from hf_finetune.data.stages import EvaluationStage, decoding_of
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.exporters.base import Agreement, Logits, LogitsOf, need_packages
from hf_finetune.exporters.formats import FORMATS, ExportFormat
from hf_finetune.jobs.evaluate import check_task
from hf_finetune.jobs.export_preprocessing import check_preprocessing
from hf_finetune.logs import get_logger, log_lines, progress_bar
from hf_finetune.models.head import class_names
from hf_finetune.models.load import load_trained, open_source
from hf_finetune.models.processor import Preprocessing, describe, load_image_processor
from hf_finetune.tasks import DEFAULT_THRESHOLD, task_of
from hf_finetune.training.channels import check_same_channels
from hf_finetune.training.wiring import load_data_as_trained

logger = get_logger(__name__)

_NOISE_IMAGES = 16
_CALIBRATION_IMAGES = 512
_PREPROCESSED_IMAGES = 512  # of a dataset, for the check of a file with its preprocessing
_NOISE_SIDES = ((375, 500), (500, 375), (97, 61), (224, 224))  # (height, width) in pixels, for that check without one


def export_model(
    model: str | Path,
    format: str = "onnx",
    output: str | Path | None = None,
    quantize: str | None = None,
    with_preprocessing: bool = False,
    opset: int | None = None,
    **settings: Any,
) -> Path:
    """Write a model in a form that other programs run, checked to give the original's class on every image.

    Args:
        model: A folder, a Hub id or an embedded name.
        format: "onnx" or "pt2" (torch.export), a file; "safetensors" or "openvino", a folder.
        output: Where to write it; absent, model.onnx in the model's folder.
        quantize: "int8" writes the ONNX file with int8 weights instead, and logs the accuracy before and after.
        with_preprocessing: Whether the ONNX file takes images as they are decoded, uint8 of any size.
        opset: The version of ONNX's operators; None for that which torch prefers.
        settings: Keys of a recipe that name a dataset to check on, of whose splits `evaluate` takes one; without a
            dataset, the check is on noise.

    Returns:
        Where it was written.

    Raises:
        UserError: For a model or a dataset that cannot be had, a path that cannot be written, and a file that gives
            another class.
    """
    model = str(model)
    settings = {"validation_fraction": 0, "model_name_or_path": model, "use_cpu": True, **settings}
    model_arguments, data_arguments, args = build_arguments(
        Recipe("export", settings, {key: f"--{key}" for key in settings})
    )
    form = _format(format, with_preprocessing, opset)
    path = _target(model, form, output, quantize, data_arguments.dataset)
    source = open_source(model_arguments)
    data = None
    if data_arguments.dataset:
        data, data_arguments = load_data_as_trained(source, data_arguments, args)
    network = load_trained(source)
    image_processor = load_image_processor(source, network.config)
    channels = decoding_of(image_processor).channels
    if data is not None:
        check_same_channels(channels, data)
    if with_preprocessing and channels is not None:
        raise UserError(
            f"--with_preprocessing is for RGB of 8 bits, and {model} takes {channels} channels as they are stored;"
            " leave it out."
        )

    uniform = data is not None and data.uniform
    stage, device_stage = EvaluationStage(image_processor, uniform), DeviceStage(image_processor, uniform)
    if data is None:
        sides = [describe(image_processor).sides] * _NOISE_IMAGES
        if channels is None:
            noise = stage({"image": list(_noise(sides, args.seed)), "label": [-1] * _NOISE_IMAGES})["pixel_values"]
        else:
            noise = _noise_of_channels(describe(image_processor), args.seed)
        samples: Any = [{"pixel_values": image, "labels": -1} for image in noise]
        name = "noise; for real ones use --dataset, as for hf-finetune evaluate"
    else:
        role = next(role for role in ("test", "validation", "train") if role in data.splits)
        name = f"{data.source}, {role}: {data.split_names[role]}"
        classes = class_names(network.config)
        check_task(task_of(network.config), data)
        class_ids = match_classes(data.splits[role], data.label_names, classes)
        samples = ImageBatches(data.splits[role], EvaluationStage(image_processor, uniform, class_ids, len(classes)))

    logger.info(f"Writing {type(network).__name__} as {format}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        written = {"float32": Path(folder) / "float32"}
        example, _ = next(_batches(Subset(samples, [0, 0]), device_stage, args))
        form.write(network, image_processor, example, written["float32"], *([] if opset is None else [opset]))
        if quantize is not None:
            assert data is not None and form.quantize_int8 is not None  # `_target`
            written["int8"] = Path(folder) / "int8"
            calibration = ImageBatches(_calibration_split(data, role, args), stage)
            images = _batches(calibration, device_stage, args)
            logger.info(f"Quantizing it to {quantize}.")
            form.quantize_int8(written["float32"], written["int8"], (pixel_values for pixel_values, _ in images))
        forms = {precision: form.load(file, model_arguments) for precision, file in written.items()}
        limits = _limits(network)
        agreements = {precision: Agreement(limits=limits) for precision in forms}
        _compare(LogitsOf(network), forms, agreements, _batches(samples, device_stage, args))
        exact = agreements["float32"]
        if not exact.holds:
            raise UserError(
                f"As {format}, {model} gives another class on {exact.images - exact.same - exact.ties:,} of"
                f" {exact.images:,} images (largest difference of logits {exact.largest_difference:.2g}); {path} is"
                " not written."
            )
        result = written[quantize or "float32"]
        if with_preprocessing:
            assert form.add_preprocessing is not None and form.open_preprocessing is not None  # `_format`
            network_alone, result = result, Path(folder) / "with_preprocessing"
            form.add_preprocessing(network_alone, result, image_processor)
            decoded = _noise(_NOISE_SIDES, args.seed) if data is None else _decoded(data.splits[role], stage, args)
            check = check_preprocessing(
                form.open_preprocessing(result), forms[quantize or "float32"], image_processor, decoded
            )
        sizes = {precision: _size(file) for precision, file in written.items()}
        os.replace(result, path)

    ties = f", but for {exact.ties:,} ties" if exact.ties else ""
    log_lines(
        logger,
        f"Checked on {exact.images:,} images: {name}.",
        f"The same class on all{ties}; largest difference of logits {exact.largest_difference:.1e}.",
    )
    if quantize is not None:
        log_lines(logger, "", *_table(agreements, sizes), "")
    if with_preprocessing:
        logger.info(str(check))
    logger.info(f"The model is in {path} ({sizes[quantize or 'float32']}); {form.runs_by.format(path=path)}.")
    return path


def _format(name: str, with_preprocessing: bool, opset: int | None) -> ExportFormat:
    """Return a format that can do what is asked. Nothing is loaded yet.

    Raises:
        UserError: There is no such format, or it has no such form.
    """
    if name not in FORMATS:
        raise UserError(f'--format is "{name}".{did_you_mean(name, FORMATS)} Use one of {", ".join(FORMATS)}.')
    form = FORMATS[name]
    need_packages(form)
    if with_preprocessing and form.add_preprocessing is None:
        raise UserError(f"--with_preprocessing makes an ONNX file, and --format is {name}; leave one of them out.")
    if opset is not None and not form.opsets:
        raise UserError(f"--opset is for ONNX files, and --format is {name}; leave one of them out.")
    if opset is not None and opset not in form.opsets:
        raise UserError(f"--opset is {opset}; use {form.opsets.start} to {form.opsets.stop - 1}.")
    return form


def _target(
    model: str, form: ExportFormat, output: str | Path | None, quantize: str | None, dataset: str | None
) -> Path:
    """Return where the result will be. Nothing is loaded yet.

    Raises:
        UserError: For what cannot be.
    """
    if quantize not in (None, "int8"):
        raise UserError(f'--quantize is "{quantize}"; use int8.')
    if quantize is not None and form.quantize_int8 is None:
        raise UserError(f"--quantize makes an ONNX file, and --format is {form.name}; leave one of them out.")
    if quantize is not None and dataset is None:
        raise UserError(
            "--quantize needs images, to find the ranges of activations and to print the accuracy before and after;"
            " use --dataset, as for hf-finetune evaluate."
        )
    if output is None and not form.suffix:
        raise UserError(f"--format {form.name} writes a folder; use --output FOLDER.")
    if output is None:
        folder, suffix = Path(model).expanduser(), f"_{quantize}" if quantize else ""
        name = f"{'model' if folder.is_dir() else folder.name}{suffix}{form.suffix}"
        path = folder / name if folder.is_dir() else Path(name)
    else:
        path = Path(output).expanduser()
    if form.suffix and path.suffix != form.suffix:
        raise UserError(
            f"--output is {path}, but the name of {form.title} ends in {form.suffix}; use {path}{form.suffix}."
        )
    if path.exists():
        raise UserError(f"{path} is there already; delete it, or use another --output.")
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--output: nothing can be written in {existing}; use another --output.")
    return path


def _noise(sides: Iterable[tuple[int, int]], seed: int) -> Iterator[PIL.Image.Image]:
    """Yield images of noise in RGB, of these (height, width) in pixels."""
    generator = np.random.default_rng(seed)
    for side in sides:
        yield PIL.Image.fromarray(generator.integers(0, 256, (*side, 3), dtype=np.uint8))


def _noise_of_channels(figures: Preprocessing, seed: int) -> torch.Tensor:
    """Return images of noise with the mean and the standard deviation of each channel, as they would be stored."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_NOISE_IMAGES, len(figures.mean), *figures.sides, generator=generator)
    mean, std = (torch.tensor(values)[:, None, None] for values in (figures.mean, figures.std))
    return noise * std + mean


def _decoded(split: Dataset, stage: EvaluationStage, args: FinetuneArguments) -> Iterator[PIL.Image.Image]:
    """Yield images in RGB, at most `_PREPROCESSED_IMAGES`, with a bar."""
    chosen = split.select(random_subset(len(split), min(len(split), _PREPROCESSED_IMAGES), args.seed))
    with progress_bar(total=len(chosen), desc="preprocessing", delay=2, disable=args.disable_tqdm) as bar:
        for row in chosen:
            yield decode_image(row["image"], stage.decoding)
            bar.update(1)


def _calibration_split(data: ImageDataset, role: str, args: FinetuneArguments) -> Dataset:
    """Return images to calibrate on: not those that accuracy is measured on, where there are others."""
    source = next((other for other in ("train", "validation") if other in data.splits and other != role), role)
    if source == role:
        logger.warning(f"Note: there is no other split than {role}, so int8 is calibrated on images that measure it.")
    split: Dataset = data.splits[source]
    return split.select(random_subset(len(split), min(len(split), _CALIBRATION_IMAGES), args.seed))


def _batches(
    samples: Any, device_stage: DeviceStage, args: FinetuneArguments
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield pixel_values, float32 (batch, channels, height, width), and labels, int64 (batch,), with a bar."""
    collate: Any = default_collate if isinstance(getattr(samples, "dataset", samples), list) else pass_on
    workers = args.dataloader_num_workers or 0
    loader = DataLoader(samples, args.per_device_eval_batch_size, collate_fn=collate, num_workers=workers)
    with progress_bar(total=len(samples), desc="images", delay=2, disable=args.disable_tqdm) as bar:
        for batch in loader:
            yield device_stage(batch)["pixel_values"], batch["labels"]
            bar.update(len(batch["labels"]))


def _compare(
    original: LogitsOf,
    forms: Mapping[str, Logits],
    agreements: Mapping[str, Agreement],
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    with torch.inference_mode():
        for pixel_values, labels in batches:
            reference = original(pixel_values)
            for form, logits in forms.items():
                agreements[form].add(reference, logits(pixel_values), labels)


def _limits(network: PreTrainedModel) -> torch.Tensor | None:
    """Return the logit from which on each class is given, where images have several labels."""
    if not task_of(network.config).several:
        return None
    stated = getattr(network.config, "thresholds", None) or [DEFAULT_THRESHOLD] * len(class_names(network.config))
    return torch.tensor(stated, dtype=torch.float64).logit().float()


def _size(path: Path) -> str:
    files = path.rglob("*") if path.is_dir() else [path]
    count = sum(file.stat().st_size for file in files)
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _table(agreements: Mapping[str, Agreement], sizes: Mapping[str, str]) -> list[str]:
    lines = [f"{'':<10}{'accuracy':>10}{'same class':>13}{'size':>12}"]
    for form, agreement in agreements.items():
        figures = [as_percent(count / agreement.images) for count in (agreement.correct, agreement.same)]
        lines.append(f"{form:<10}{figures[0]:>10}{figures[1]:>13}{sizes[form]:>12}")
    return lines
