"""A check of a dataset before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.checks.probes import distance_to_neighbours, features_of, probe_out_of_fold
from hf_finetune.checks.registry import run_checks
from hf_finetune.checks.scan import scan_images
from hf_finetune.checks.subject import Subject
from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import Recipe
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.cores import usable_cores
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.duplicates import different_splits
from hf_finetune.data.images.levels import ValueRange
from hf_finetune.data.images.value_range import choose_range
from hf_finetune.data.sources.objects import GivenDataset
from hf_finetune.data.splits import split_role
from hf_finetune.errors import UserError
from hf_finetune.evaluation.report import to_json
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.jobs.check_page import check_page_name, write_check_page
from hf_finetune.jobs.check_result import CheckResult, result_of
from hf_finetune.logs import get_logger, write_result
from hf_finetune.training.wiring import load_data

logger = get_logger(__name__)

MODEL = "resnet_small_cifar10"  # the embedded checkpoint
_LEAST_IMAGES = 100  # that probes are fitted on
# Nothing is held out or left out, and what is wrong is told instead of raised.
_ALWAYS = {"validation_fraction": 0, "on_bad_image": "skip"}


def run_check(
    *,
    splits: Sequence[str] = (),
    model: str | None = None,
    quick: bool = False,
    output: str | Path | None = None,
    show: str | None = None,
    given: GivenDataset | None = None,
    **settings: Any,
) -> CheckResult:
    """Look at all images of a dataset and return what was found.

    Args:
        splits: Which splits, by role or by their own name; absent, all that have a role.
        model: The network whose features labels and outliers are judged by; absent, the embedded checkpoint.
        quick: Leave this network out, which takes most of the time.
        output: An HTML file for the findings and their images.
        show: Write the findings to standard output, as "text" or as "json"; None writes nothing.
        given: A dataset that is open already.
        settings: Keys of a recipe that say which images.

    Raises:
        UserError: For a dataset or a model that cannot be had.
    """
    if output is not None:
        output = Path(output).expanduser()
        check_page_name(output)
    values = {"model_name_or_path": model or MODEL, **settings, **_ALWAYS}
    model_arguments, arguments, args = build_arguments(Recipe("check", values, {key: f"--{key}" for key in values}))
    if arguments.streaming:
        raise UserError("check compares all images of a dataset, which are not streamed; leave --streaming out.")
    data = load_data(arguments, args, require_train=False, given=None if given is None else given.raw)
    if data.channels is not None:
        raise UserError(
            f"check looks at images in RGB, and those of {data.source} have {data.channels} channels; hf-finetune stats"
            " measures them, and a training checks every file first."
        )
    args.prepare_for_run(has_validation=False)
    roles = _choose_roles(data, splits)
    workers = args.dataloader_num_workers or usable_cores()
    values_of_wide = _value_range(data)
    scans = {
        role: scan_images(split, workers, values_of_wide, f"Looking at {role}")
        for role in roles
        if isinstance(split := data.splits[role], Dataset)
    }
    if not any(scan.looks["readable"].any() for scan in scans.values()):
        raise UserError(f"{data.source}: no image can be read.")
    subject = Subject(data, scans, arguments.group_column)
    if not quick:
        subject = _seen_by_network(subject, model_arguments, arguments, args)
    findings = run_checks(subject)
    result = result_of(subject, findings)
    if output is not None:
        write_check_page(result, data, output)
        logger.info(f"Written: {output}.")
    if show is not None:
        write_result(to_json(result.as_mapping()).rstrip("\n") if show == "json" else result.text())
    return result


def _choose_roles(data: ImageDataset, splits: Sequence[str]) -> list[str]:
    """Return the roles that are looked at; of those that share a split, the first."""
    if not splits:
        return different_splits(data)
    own = {name: role for role, name in reversed(data.split_names.items())}
    chosen = [data.existing_role(own.get(split) or split_role(split), split, own) for split in splits]
    return [role for role in data.splits if role in chosen]


def _value_range(data: ImageDataset) -> ValueRange | None:
    """Return the values that images of more than 8 bits have: whatever they mean, they are to be told apart."""
    found = data.wide_values
    return (found.low, found.high) if found is not None and found.low < found.high else None


def _seen_by_network(
    subject: Subject, model: ModelArguments, arguments: DataArguments, args: FinetuneArguments
) -> Subject:
    """Return the subject with what the features of a network say, or with the reason why they say nothing."""
    rows = np.flatnonzero(subject.looks["readable"])
    not_judged = ""
    if subject.data.task.several:
        not_judged = "Labels are not judged: images have several, and confident learning is for one."
    elif len(np.unique(subject.labels[rows])) < 2:
        not_judged = "Labels are not judged: images of one class are too few for it."
    if len(rows) < _LEAST_IMAGES:
        few = f"Labels are not judged: {len(rows)} images are too few for it."
        return replace(subject, not_probed=not_judged or few)
    try:
        choose_range(subject.data.wide_values, None, subject.data.source)
    except UserError:  # another check tells it
        return replace(subject, not_probed="Labels are not judged: the range of the images' values is not clear.")
    splits = {
        role: subject.split(role).select(np.flatnonzero(scan.looks["readable"]), keep_in_memory=True)
        for role, scan in subject.scans.items()
    }
    features = features_of(replace(subject.data, splits=splits), list(splits), model, arguments, args)
    distances = np.full(len(subject.looks), np.nan, np.float32)
    distances[rows] = distance_to_neighbours(features, args.seed)
    subject = replace(subject, distances=distances, not_probed=not_judged)
    if not_judged:
        return subject
    name = without_private_text(str(model.model_name_or_path), Path.cwd())
    probes = probe_out_of_fold(features, subject.labels[rows], name, args.seed)
    probabilities = np.zeros((len(subject.looks), probes.probabilities.shape[1]), np.float32)
    probabilities[rows] = probes.probabilities
    return replace(subject, out_of_fold=replace(probes, probabilities=probabilities))
