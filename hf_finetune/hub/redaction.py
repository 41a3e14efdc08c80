"""Takes out of what others will read whatever is theirs to know least: tokens, and where files lie."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# All folders of an absolute path, but not of a URL's.
_FOLDERS = re.compile(r"""(?<![\w.~/*-])(?!//)/(?:[^\s"'/:,;()]+/)+""")


def without_private_text(value: Any, working_folder: Path | None = None) -> Any:
    """Returns `value`, a string or a nest of mappings and sequences of them, without tokens and private folders.

    A path below `working_folder` becomes relative to it ("./runs/flowers"), one below the home folder begins with "~",
    and of any other absolute path the last name is left (".../flowers").
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
    if is_path and value.startswith("/"):  # whole, since its folders may have spaces in their names
        return f".../{Path(value).name}"
    value = _FOLDERS.sub(".../", value)
    value = re.sub(r"(hub_token[\"']?[=:\s]\s*)(?!null\b)[^\s\"']+", r"\1***", value)
    return re.sub(r"\bhf_[A-Za-z0-9]{20,}\b", "hf_***", value)
