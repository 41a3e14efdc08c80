"""Writes a draft as YAML: packaged bases, what they do not say, and the remarks as comments."""

from __future__ import annotations

from typing import Any

from hf_finetune.config.recipe import BASE_KEY, RECIPES_FOLDER, Recipe, packaged_recipes, read_value, to_yaml
from hf_finetune.mmclassification.section import Draft

_RUNTIME = "_base_/default_runtime"


def packaged_bases() -> dict[str, dict[str, Any]]:
    """Return the values of the packaged bases by their names. No base has bases of its own."""
    names = [name for name in packaged_recipes() if name.startswith(f"{BASE_KEY}/")]
    return {name: read_value((RECIPES_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), name) for name in names}


def choose_bases(settings: dict[str, Any], bases: dict[str, dict[str, Any]]) -> list[str]:
    """Return the bases that agree with the settings in every value, at most one of each folder, the runtime last.

    The runtime is always one of them, because a config does not state everything that it does.
    """
    chosen: dict[str, str] = {}
    for name, values in bases.items():
        folder = name.split("/")[1]
        if name != _RUNTIME and all(key in settings and settings[key] == value for key, value in values.items()):
            chosen.setdefault(folder, name)
    return [*(chosen[folder] for folder in ("models", "datasets", "schedules") if folder in chosen), _RUNTIME]


def write_recipe(draft: Draft, bases: dict[str, dict[str, Any]], command: str) -> str:
    """Return the recipe as YAML.

    Args:
        draft: The settings and the remarks.
        bases: The packaged bases by their names.
        command: The command that imports it, for the first comment.
    """
    names = choose_bases(draft.settings, bases)
    inherited = {key: value for name in names for key, value in bases[name].items()}
    own = {key: value for key, value in draft.settings.items() if key not in inherited or inherited[key] != value}
    file = " ".join(draft.file.split())  # a file's name may contain line breaks, a comment must not
    lines = [f"# {file}, imported by {command}", f"_base_: [{', '.join(names)}]"]
    text = "\n".join(lines) + "\n"
    if own:
        text += to_yaml(Recipe("imported", own, {}))
    if draft.remarks:
        text += "\n# Not in this recipe, or otherwise:\n"
        text += "".join(f"# - {' '.join(str(remark).split())}\n" for remark in draft.remarks)
    return text
