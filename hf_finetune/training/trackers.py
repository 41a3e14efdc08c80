"""What a tracker gets at the end of a run: the test figures, the plots, the worst mistakes and the recipe.

While the run trains, the callbacks of Transformers send what is logged. Most of them close their session at the end of
the training, before anything is tested; here it is opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hf_finetune.config.recipe import to_yaml
from hf_finetune.config.run_files import (
    CONFUSION_MATRIX_FILE,
    PRECISION_RECALL_FILE,
    RECIPE_FILE,
    RELIABILITY_FILE,
    TRAINING_CURVE_FILE,
)
from hf_finetune.errors import first_line
from hf_finetune.hub.markdown import table
from hf_finetune.logs import get_logger
from hf_finetune.reports.choice import choose_images
from hf_finetune.training.result import RunRecord
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

_PLOTS = (TRAINING_CURVE_FILE, CONFUSION_MATRIX_FILE, RELIABILITY_FILE, PRECISION_RECALL_FILE)
_MISTAKES = ("image", "label", "prediction", "probability")


@dataclass(frozen=True)
class Outcome:
    """What is reported of a finished run.

    Attributes:
        name: What the run is called.
        step: The last step.
        figures: By name ("test_accuracy"), those of the evaluated splits.
        plots: PNG files.
        mistakes: The images that are wrong with the highest probability: (path or row, label, prediction, probability).
            No image is sent.
        recipe: The resolved recipe as YAML.
        tags: What was trained on what.
    """

    name: str
    step: int
    figures: Mapping[str, float]
    plots: Sequence[Path]
    mistakes: Sequence[tuple[str, str, str, float]]
    recipe: str
    tags: Mapping[str, str]


def report_outcome(trainer: ImageClassificationTrainer, folder: Path, record: RunRecord) -> None:
    """Send the outcome of a run to the trackers of `report_to`. Whatever goes wrong is told, and loses nothing.

    Args:
        trainer: The trainer of the run.
        folder: The folder of the run, complete.
        record: What the run knows of itself.
    """
    outcome = _outcome_of(trainer, folder, record)
    for name in trainer.args.report_to or ():
        send, kind = _SENDERS.get(name), INTEGRATION_TO_CALLBACK[name]
        if send is None:
            logger.info(f"Note: {name} has the log alone; test figures and plots are in {folder}.")
            continue
        try:
            callback = next(found for found in trainer.callback_handler.callbacks if isinstance(found, kind))
            send(callback, trainer, outcome)
        except Exception as error:  # of another's program, or of its server
            logger.warning(
                f"Note: {name} did not take the test figures and plots ({type(error).__name__}: {first_line(error)});"
                f" they are in {folder}."
            )


def _outcome_of(trainer: ImageClassificationTrainer, folder: Path, record: RunRecord) -> Outcome:
    recipe = record.recipe.values
    tags = {
        "model": record.base_model or recipe.get("model_type"),
        "dataset": record.data.source,
        "recipe": record.recipe.name,
    }
    return Outcome(
        name=trainer.args.run_name or folder.name,
        step=trainer.state.global_step,
        figures={
            f"{role}_{name}": float(value)
            for role in record.predictions
            for name, value in record.split_metrics(role).items()
            if isinstance(value, (int, float))
        },
        plots=[folder / name for name in _PLOTS if (folder / name).is_file()],
        mistakes=_mistakes(record) if record.predictions else (),
        recipe=to_yaml(record.recipe) + record.remarks,
        tags={name: str(value) for name, value in tags.items() if value is not None},
    )


def _mistakes(record: RunRecord) -> list[tuple[str, str, str, float]]:
    answers = record.answers
    names = answers.label_names
    return [
        (
            answers.names[place],
            names[answers.labels[place]],
            names[answers.predictions[place]],
            round(float(answers.confidences[place]), 4),
        )
        for place in choose_images(answers).worst
    ]


def _to_tensorboard(callback: Any, trainer: ImageClassificationTrainer, outcome: Outcome) -> None:
    callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    writer = callback.tb_writer
    for name, value in outcome.figures.items():
        writer.add_scalar(f"final/{name}", value, outcome.step)
    for plot in outcome.plots:
        with PIL.Image.open(plot) as image:
            writer.add_image(plot.stem, np.asarray(image.convert("RGB")), outcome.step, dataformats="HWC")
    if outcome.mistakes:
        rows = [[*row[:3], f"{row[3]:.1%}"] for row in outcome.mistakes]
        writer.add_text("mistakes", table(_MISTAKES, rows), outcome.step)
    writer.add_text("recipe", _indented(outcome.recipe), outcome.step)
    writer.add_text("tags", _indented("\n".join(f"{name}: {value}" for name, value in outcome.tags.items())))
    callback.on_train_end(trainer.args, trainer.state, trainer.control)


def _indented(text: str) -> str:
    """Return a text as Markdown shows it unchanged."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _to_wandb(callback: Any, trainer: ImageClassificationTrainer, outcome: Outcome) -> None:
    wandb = callback._wandb
    if wandb.run is None:
        callback.setup(trainer.args, trainer.state, trainer.model)
    run = wandb.run
    run.tags = (*(run.tags or ()), *outcome.tags.values())
    run.config.update({"recipe": outcome.recipe, **outcome.tags}, allow_val_change=True)
    run.summary.update({f"final/{name}": value for name, value in outcome.figures.items()})
    run.log({plot.stem: wandb.Image(str(plot)) for plot in outcome.plots})
    if outcome.mistakes:
        run.log({"mistakes": wandb.Table(columns=list(_MISTAKES), data=[list(row) for row in outcome.mistakes])})


def _to_mlflow(callback: Any, trainer: ImageClassificationTrainer, outcome: Outcome) -> None:
    mlflow = callback._ml_flow
    own = mlflow.active_run()
    if own is None:
        last = mlflow.last_active_run() if callback._initialized else None
        if last is None:
            callback.setup(trainer.args, trainer.state, trainer.model)
        else:
            mlflow.start_run(run_id=last.info.run_id)
    try:
        mlflow.set_tags(outcome.tags)
        mlflow.log_metrics({f"final/{name}": value for name, value in outcome.figures.items()}, step=outcome.step)
        for plot in outcome.plots:
            mlflow.log_artifact(str(plot), "plots")
        if outcome.mistakes:
            columns = zip(*outcome.mistakes, strict=True)
            mlflow.log_table(dict(zip(_MISTAKES, map(list, columns), strict=True)), "mistakes.json")
        mlflow.log_text(outcome.recipe, RECIPE_FILE)
    finally:
        if own is None:
            mlflow.end_run()


def _to_trackio(callback: Any, trainer: ImageClassificationTrainer, outcome: Outcome) -> None:
    from pandas import DataFrame

    trackio = callback._trackio
    if not callback._initialized:
        callback.setup(trainer.args, trainer.state, trainer.model)
    trackio.config.update({"recipe": outcome.recipe, **outcome.tags}, allow_val_change=True)
    sent: dict[str, Any] = {f"final/{name}": value for name, value in outcome.figures.items()}
    sent |= {plot.stem: trackio.Image(str(plot), caption=plot.stem) for plot in outcome.plots}
    if outcome.mistakes:
        sent["mistakes"] = trackio.Table(dataframe=DataFrame(outcome.mistakes, columns=list(_MISTAKES)))
    trackio.log(sent)
    callback.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)


_Send: TypeAlias = Callable[[Any, ImageClassificationTrainer, Outcome], None]
_SENDERS: dict[str, _Send] = {
    "tensorboard": _to_tensorboard,
    "wandb": _to_wandb,
    "mlflow": _to_mlflow,
    "trackio": _to_trackio,
}
