"""Removes tokens and private paths from texts that others will read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_finetune.shown_text import without_secrets

# The folders of an absolute path, but not those of a URL.
_FOLDERS = re.compile(r"""(?<![\w.~/*-])(?!//)/(?:[^\s"'/:,;()]+/)+""")


def without_private_text(value: Any, working_folder: Path | None = None) -> Any:
    """Return a value without tokens and private paths.

    A path below `working_folder` becomes relative to it ("./runs/flowers"), a path below the home folder begins with
    "~", and any other absolute path keeps its last name only (".../flowers").

    Args:
        value: A text, or mappings and sequences of texts, nested at will. Other values are returned as they are.
        working_folder: The folder that paths become relative to. None leaves this out.
    """
    if isinstance(value, Mapping):
        return {key: without_private_text(item, working_folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_private_text(item, working_folder) for item in value]
    if not isinstance(value, str):
        return value
    is_path = os.path.isabs(value) and os.path.exists(value)
    for folder, shown in ((working_folder, "."), (Path.home(), "~")):
        if folder is not None and folder != folder.parent:
            value = re.sub(rf"(?<![\w./-]){re.escape(str(folder))}(?![\w.-])", shown, value)
    if is_path and value.startswith("/"):  # as a whole, because its folders may have spaces in their names
        return f".../{Path(value).name}"
    value = without_secrets(value)
    value = _FOLDERS.sub(".../", value)
    value = re.sub(r"(hub_token[\"']?[=:\s]\s*)(?!null\b)[^\s\"']+", r"\1***", value)
    return re.sub(r"\bhf_[A-Za-z0-9]{20,}\b", "hf_***", value)
