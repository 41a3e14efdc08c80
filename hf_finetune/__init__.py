"""hf_finetune: fine-tunes image classifiers with Transformers, Datasets, Evaluate and Accelerate.

The public names are imported when they are first used: `import hf_finetune` costs nothing and changes nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_finetune.api import compare as compare
    from hf_finetune.api import evaluate as evaluate
    from hf_finetune.api import export as export
    from hf_finetune.api import finetune as finetune
    from hf_finetune.api import report as report
    from hf_finetune.api import summarize as summarize
    from hf_finetune.config.settings import Settings as Settings
    from hf_finetune.data_api import check_dataset as check_dataset
    from hf_finetune.data_api import dataset_stats as dataset_stats
    from hf_finetune.errors import Interrupted as Interrupted
    from hf_finetune.errors import UserError as UserError
    from hf_finetune.experiments import kfold as kfold
    from hf_finetune.experiments import tune as tune
    from hf_finetune.jobs.browse import BrowseResult as BrowseResult
    from hf_finetune.jobs.check_result import CheckResult as CheckResult
    from hf_finetune.jobs.comparison import Comparison as Comparison
    from hf_finetune.jobs.evaluate import evaluate_model as evaluate_model
    from hf_finetune.jobs.evaluation_result import EvaluationResult as EvaluationResult
    from hf_finetune.jobs.explanation import Explanation as Explanation
    from hf_finetune.jobs.export import export_model as export_model
    from hf_finetune.jobs.fold_result import KFoldResult as KFoldResult
    from hf_finetune.jobs.model_summary import ModelSummary as ModelSummary
    from hf_finetune.jobs.predict_folder import PredictedFolder as PredictedFolder
    from hf_finetune.jobs.prediction import Prediction as Prediction
    from hf_finetune.jobs.schedule_result import ScheduleResult as ScheduleResult
    from hf_finetune.jobs.stats import DatasetStats as DatasetStats
    from hf_finetune.jobs.tune import TuneResult as TuneResult
    from hf_finetune.logs import show_logs as show_logs
    from hf_finetune.predictions import explain as explain
    from hf_finetune.predictions import predict as predict
    from hf_finetune.predictions import predict_to_folder as predict_to_folder
    from hf_finetune.previews import browse as browse
    from hf_finetune.previews import schedule as schedule
    from hf_finetune.training.finetune_result import FinetuneResult as FinetuneResult
    from hf_finetune.training.trainer import ImageClassificationTrainer

    Trainer = ImageClassificationTrainer

    __version__: str

_PUBLIC = {
    "BrowseResult": "hf_finetune.jobs.browse",
    "CheckResult": "hf_finetune.jobs.check_result",
    "Comparison": "hf_finetune.jobs.comparison",
    "DatasetStats": "hf_finetune.jobs.stats",
    "EvaluationResult": "hf_finetune.jobs.evaluate",
    "Explanation": "hf_finetune.jobs.explanation",
    "FinetuneResult": "hf_finetune.training.finetune_result",
    "Interrupted": "hf_finetune.errors",
    "KFoldResult": "hf_finetune.jobs.fold_result",
    "ModelSummary": "hf_finetune.jobs.model_summary",
    "PredictedFolder": "hf_finetune.jobs.predict_folder",
    "Prediction": "hf_finetune.jobs.prediction",
    "ScheduleResult": "hf_finetune.jobs.schedule_result",
    "Settings": "hf_finetune.config.settings",
    "Trainer": "hf_finetune.training.trainer:ImageClassificationTrainer",
    "TuneResult": "hf_finetune.jobs.tune",
    "UserError": "hf_finetune.errors",
    "browse": "hf_finetune.previews",
    "check_dataset": "hf_finetune.data_api",
    "compare": "hf_finetune.api",
    "dataset_stats": "hf_finetune.data_api",
    "evaluate": "hf_finetune.api",
    "evaluate_model": "hf_finetune.jobs.evaluate",  # the name of evaluate in the first version
    "explain": "hf_finetune.predictions",
    "export": "hf_finetune.api",
    "export_model": "hf_finetune.jobs.export",  # likewise
    "finetune": "hf_finetune.api",
    "kfold": "hf_finetune.experiments",
    "predict": "hf_finetune.predictions",
    "predict_to_folder": "hf_finetune.predictions",
    "report": "hf_finetune.api",
    "schedule": "hf_finetune.previews",
    "show_logs": "hf_finetune.logs",
    "summarize": "hf_finetune.api",
    "tune": "hf_finetune.experiments",
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _PUBLIC:
        module, _, other = _PUBLIC[name].partition(":")
        value = getattr(importlib.import_module(module), other or name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("hf-finetune")  # setup.cfg states it
    except metadata.PackageNotFoundError:  # a copy of the sources that was not installed
        return "0+unknown"
