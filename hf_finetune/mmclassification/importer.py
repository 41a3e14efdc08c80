"""Imports a config file as a draft of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.mmclassification.dataset import import_data
from hf_finetune.mmclassification.model import import_model
from hf_finetune.mmclassification.optimizer import import_optimizer
from hf_finetune.mmclassification.runtime import import_runtime
from hf_finetune.mmclassification.schedule import import_schedule
from hf_finetune.mmclassification.section import Draft, Section, shown
from hf_finetune.mmclassification.syntax import read_config
from hf_finetune.mmclassification.unreadable import Unreadable

# The names that MMClassification and MMEngine read; others are helper variables of a file.
_READ_BY_THE_LIBRARIES = {
    *("auto_scale_lr", "checkpoint_config", "compile", "custom_hooks", "data", "data_preprocessor", "default_hooks"),
    *("evaluation", "fp16", "load_from", "log_config", "lr_config", "model", "optim_wrapper", "optimizer"),
    *("optimizer_config", "param_scheduler", "randomness", "runner", "seed", "strategy", "train_cfg"),
    *("train_dataloader", "val_cfg", "val_dataloader", "test_dataloader", "tta_model", "tta_pipeline", "work_dir"),
}


def import_config(path: str | Path) -> Draft:
    """Read a config without running it.

    Args:
        path: A config file of MMClassification 0.x or MMPretrain 1.x.

    Returns:
        The settings of the recipe, and remarks on everything that is not in them or is there in another way.

    Raises:
        UserError: The file cannot be read, or the config has no counterpart here.
    """
    config_file = read_config(path)
    draft = Draft(str(path))
    config = Section(config_file.values, "", draft)
    try:
        import_model(config, draft)
        import_data(config, draft)
        import_optimizer(config, draft)
        import_schedule(config, draft)
        import_runtime(config, draft)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # MMEngine would not accept such a config either. The error itself tells which part is wrong.
        raise UserError(
            f"{path}: a setting has an unusual form ({type(error).__name__}: {error}); compare it with the configs of"
            " MMClassification, or write the recipe by hand."
        ) from error
    draft.settings = {key: _as_yaml(key, value, draft) for key, value in draft.settings.items()}
    config.skip("val_cfg")
    for place, value in config.unread():
        top = place.split(".")[0]
        if isinstance(value, Unreadable):
            if top in _READ_BY_THE_LIBRARIES:
                draft.remark(place, f"`{value.source}` {value.reason}")
        elif place == top and top not in _READ_BY_THE_LIBRARIES:
            near = did_you_mean(top, _READ_BY_THE_LIBRARIES)
            if near and top not in config_file.used:
                draft.remark(place, f"is not a name that MMClassification reads.{near}")
        elif value is not None:
            draft.remark(place, f"{shown(value)} has no counterpart here")
    for note in config_file.notes:
        place, _, reason = note.partition(": ")
        draft.remark(place, reason)
    return draft


def _as_yaml(key: str, value: Any, draft: Draft) -> Any:
    """Return a setting as plain YAML values, or raise `UserError` where a part of it could not be read."""
    if isinstance(value, dict):
        return {str(name): _as_yaml(key, item, draft) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_yaml(key, item, draft) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Unreadable):
        raise UserError(f"{value}, but {key} needs it; use the value itself.")
    raise draft.refusal(f"what becomes {key}", f"is {shown(value)}; use a number, a text or a list.")
