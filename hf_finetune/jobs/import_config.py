"""A config of MMClassification in, a recipe out."""

from __future__ import annotations

from pathlib import Path

from hf_finetune.errors import UserError
from hf_finetune.mmclassification.importer import import_config
from hf_finetune.mmclassification.recipe_text import packaged_bases, write_recipe
from hf_finetune.shown_text import printable


def import_as_recipe(config: str, output: str | Path | None = None) -> str:
    """Return the recipe of a config, and write it to `output` if one is given.

    Raises `UserError` for a config that cannot be imported, and for an output that is there already.
    """
    path = None if output is None else Path(output)
    if path is not None and path.exists():
        raise UserError(f"--output: {path} is there already; use another name, or move it away.")
    draft = import_config(config)
    text = printable(write_recipe(draft, packaged_bases(), "hf-finetune import-config"))  # YAML refuses controls
    if path is not None:
        if not path.parent.is_dir():
            raise UserError(f"--output: there is no folder {path.parent}; make it first.")
        path.write_text(text, encoding="utf-8")
    return text
