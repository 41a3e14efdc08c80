"""Where a model finds the classes of images: heat maps, as objects, files and a page."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hf_finetune.data.image_list import ImageList
from hf_finetune.data.images.decoding import Unused
from hf_finetune.data.images.unused import describe_unused
from hf_finetune.errors import UserError, did_you_mean, listing
from hf_finetune.evaluation.heat_maps import HeatMapper
from hf_finetune.evaluation.overlays import network_views
from hf_finetune.evaluation.report import to_json
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.jobs.classifier import Classifier, open_classifier
from hf_finetune.jobs.explanation import Explanation
from hf_finetune.jobs.explanation_files import ExplanationFolder
from hf_finetune.jobs.predict import listed, split_rows
from hf_finetune.jobs.prepared_batches import PreparedBatch, PreparedBatches, prepared, unscaled_note, workers_for
from hf_finetune.logs import get_logger, progress_bar, tell, write_line, write_result
from hf_finetune.shown_text import one_line

logger = get_logger(__name__)

DEFAULT_FOLDER = "heat_maps"


@dataclass(frozen=True)
class ExplainSettings:
    """What is asked of each image.

    Attributes:
        class_name: The class to explain, or its id; None for the likeliest of each image.
        method: "gradcam" or "rollout"; None for what suits the network (`HeatMapper`).
        layer: For Grad-CAM, the name of a module of the network; None chooses one.
        batch_size: Images of a pass.

    Raises:
        UserError: For a value that cannot be.
    """

    class_name: str | None = None
    method: str | None = None
    layer: str | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError("--batch_size is at least 1.")
        if self.method == "rollout" and self.class_name is not None:
            raise UserError("--class_name is for --method gradcam: rollout depends on no class.")


class Explainer:
    """Explains images, batch by batch.

    Attributes:
        classifier: The model.
        mapper: Makes the heat maps.
        unused: How many images had what beside them in their files, of those that were read so far.
    """

    def __init__(self, classifier: Classifier, settings: ExplainSettings) -> None:
        """Set it up. Raises `UserError` for settings that do not suit the model."""
        if classifier.network is None:
            raise UserError(
                "A heat map needs the gradients of a network, which an ONNX file does not give; use the folder of the"
                " run that it was exported from."
            )
        self.classifier = classifier
        self.mapper = HeatMapper(classifier.network, settings.method, settings.layer)
        self.unused: Counter[Unused] = Counter()
        self._settings = settings
        self._class_id = None if settings.class_name is None else _class_id(settings.class_name, classifier.names)
        self._unscaled = classifier.stage.decoding.value_range is None

    def all_of(self, images: ImageList, show_bar: bool = False) -> Iterator[Explanation]:
        """Yield the explanation of each image, in order; `show_bar` shows a progress bar on standard error."""
        ranges = split_rows(range(len(images)), self._settings.batch_size)
        batches = prepared(PreparedBatches(images, self.classifier.stage), ranges, workers_for(len(ranges), None))
        for batch in progress_bar(
            batches, total=len(ranges), desc="images", unit="batch", delay=2, disable=not show_bar
        ):
            leave_if_interrupted()
            self.unused.update(batch.unused.values())
            yield from self._answer(batch)

    def _answer(self, batch: PreparedBatch) -> Iterator[Explanation]:
        if batch.wide is not None and self._unscaled:
            self._unscaled = False
            logger.error(unscaled_note(batch.wide))  # as an error, because a program may read standard output
        answers = iter(() if batch.pixel_values is None else self.explain(batch.pixel_values))
        for place, name in enumerate(batch.names):
            error = batch.errors.get(place)
            yield Explanation(name, error=error) if error is not None else replace(next(answers), image=name)

    def explain(self, pixel_values: torch.Tensor) -> list[Explanation]:
        """Return the explanations of images that the first stage has prepared, numbered from 0."""
        inputs = self.classifier.prepared(pixel_values)
        asked = None if self._class_id is None else [self._class_id] * len(inputs)
        found = self.mapper(inputs, asked)
        probabilities = self.classifier.task.probabilities(found.logits)
        views = network_views(pixel_values, self.classifier.image_processor)
        names, method = self.classifier.names, str(self.mapper.method)
        explanations = []
        for row, (scores, class_id) in enumerate(zip(probabilities, found.class_ids.tolist(), strict=True)):
            likeliest = int(scores.argmax())
            explanations.append(
                Explanation(
                    image=row,
                    label=names[likeliest],
                    score=float(scores[likeliest]),
                    explained=names[class_id],
                    explained_score=float(scores[class_id]),
                    method=method,
                    layer=self.mapper.layer,
                    heat_map=found.maps[row].numpy(),
                    view=views[row],
                )
            )
        return explanations


def _class_id(wanted: str, names: dict[int, str]) -> int:
    """Return the id of a class that is named, or given by its id."""
    found = [class_id for class_id, name in names.items() if name == wanted]
    if len(found) > 1:
        raise UserError(f"--class_name: {len(found)} classes are called {wanted}; use an id: {listing(found)}.")
    if found:
        return found[0]
    if wanted.isdecimal() and int(wanted) in names:
        return int(wanted)
    guess = did_you_mean(wanted, names.values()) or f" It has {listing(list(names.values()))}."
    raise UserError(f"--class_name: the model has no class {wanted}.{guess}")


def explain_files(
    model: str,
    paths: Sequence[str | Path],
    settings: ExplainSettings,
    output: str | Path = DEFAULT_FOLDER,
    as_json: bool = False,
) -> int:
    """Write a heat map for each image as a PNG file, and a page that shows them; unreadable images go to the log.

    Args:
        model: A folder, a Hub id or an embedded name.
        paths: Files, folders, tars and Parquet files.
        settings: What is asked of each image.
        output: The folder, which does not exist or is empty.
        as_json: Whether standard output gets one JSON document in place of a line for each image.

    Returns:
        The number of unreadable images.

    Raises:
        UserError: For a model, a path or a folder that cannot be had, and for settings that do not suit the model.
    """
    folder = ExplanationFolder(Path(output).expanduser())
    rows = []
    with listed(paths, None, None) as images:
        explainer = Explainer(open_classifier(model), settings)
        for explanation in map(folder.add, explainer.all_of(images, show_bar=True)):
            rows.append(explanation.as_mapping())
            if explanation.error is not None:
                tell(f"hf-finetune: {explanation.error}", sys.stderr)
            elif not as_json:
                write_line(one_line(f"{explanation.image}: {explanation.described()}: {explanation.file}"))
    unreadable = sum("error" in row for row in rows)
    page = folder.page if unreadable < len(rows) else None
    if page is not None:
        folder.finish(Path(model).name, explainer.mapper.described())
    if as_json:
        write_result(to_json({"images": rows, "page": None if page is None else str(page)}).rstrip("\n"))
    elif page is not None:
        logger.info(f"Written: {page} ({explainer.mapper.described()}).")
    for line in describe_unused(explainer.unused):
        tell(f"hf-finetune: {line}", sys.stderr)
    return unreadable
