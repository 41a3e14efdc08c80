"""The model card, README.md of the result folder, through huggingface_hub's own classes.

The card says what the model is, what it was trained on, its figures with the split that each is from, and the one
command that makes it again. Nothing is asked of the Hub here; the metadata follow its specification,
https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_finetune.evaluation.plots import CONFUSION_MATRIX_FILE, TRAINING_CURVE_FILE
from hf_finetune.evaluation.report import class_cells, format_figure, worst_classes
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.models import is_own_architecture

_MOST_CLASSES = 50
_LIBRARIES = ("hf_finetune", "transformers", "torch", "torchvision", "accelerate", "datasets", "evaluate", "timm")

# Our name of a figure, the Hub's metric type, the name that people read.
_HUB_METRICS = {
    "accuracy": ("accuracy", "accuracy"),
    "top5_accuracy": ("top5_accuracy", "top-5 accuracy"),
    "macro_f1": ("f1", "macro F1"),
    "balanced_accuracy": ("balanced_accuracy", "balanced accuracy"),
    "loss": ("loss", "loss"),
}

_TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

An image classifier of {{ num_labels }} classes: {{ origin }}, trained on {{ dataset }} with hf_finetune.
{% if figures %}
## Figures

{{ figures }}
{% if flattered %}
The {{ flattered }} split also chose the checkpoint, so its figures flatter the model; on new images expect less.
{% endif %}{% endif %}
## How to use it

```python
from transformers import pipeline

classifier = pipeline("image-classification", model="{{ title }}"{{ needs.arguments }})
classifier("image.jpg")
```
{% if needs.sentence %}
{{ needs.sentence }}
{% endif %}
In place of the name, the path of a copy of this folder will do.

## Data

{{ dataset }}{% if revision %}, revision `{{ revision }}`{% endif %}:
{% for split in splits %}
- {{ split }}{% endfor %}
{% for note in notes %}
{{ note }}
{% endfor %}
## Training
{% if curve %}
![Loss, accuracy and learning rate over epochs]({{ curve }})
{% endif %}
The recipe:

```yaml
{{ recipe }}
```

To make it again (seed {{ seed }}):

```bash
{{ command }}
```

Versions: {{ versions }}.
{% if classes or matrix %}
## Classes
{% if classes %}
{{ classes }}
{% endif %}{% if matrix %}
![Confusion matrix]({{ matrix }})
{% endif %}{% endif %}"""


@dataclass(frozen=True)
class ModelCardContext:
    """All that a model card tells.

    `splits` and `metrics` have the dataset's split names as keys ("train", "validation", "test"); `splits` holds what
    each is, for people (`describe_split`, or "10 % of train, stratified, seed 42"), and `metrics` what
    `ClassificationMetrics` returned for those that were evaluated. `per_class` is from `per_class_figures`, for the
    split `per_class_split`. `checkpoint_split` is the split that chose the checkpoint, if one did.

    `base_model` is a Hub id or a folder, None for random weights; `dataset_id` and `dataset_revision` are the Hub's,
    None for local images; `license` is one of the Hub's identifiers, such as "apache-2.0". `command` is the command
    line as the user typed it.
    """

    model_name: str
    num_labels: int
    dataset_name: str
    splits: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, float]]
    recipe_yaml: str
    command: str
    seed: int
    versions: Mapping[str, str]
    base_model: str | None = None
    license: str | None = None
    dataset_id: str | None = None
    dataset_revision: str | None = None
    checkpoint_split: str | None = None
    per_class: Sequence[Mapping[str, Any]] = ()
    per_class_split: str | None = None
    notes: Sequence[str] = ()


def write_model_card(context: ModelCardContext, folder: str | os.PathLike[str]) -> Path:
    """Writes README.md into `folder` and returns its path.

    The training curve and the confusion matrix are shown if their files are in `folder`, and how to load the model is
    told by its config.json there. Tokens and private folders are never written (`without_private_text`).
    """
    folder = Path(folder)
    # Before anything is escaped: Markdown would hide a folder's name from the search.
    context = ModelCardContext(
        **{name: without_private_text(value, Path.cwd()) for name, value in vars(context).items()}
    )
    config = folder / "config.json"
    needs = _loading_needs(json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {})
    card = ModelCard.from_template(
        _metadata(context),
        template_str=_TEMPLATE,
        title=context.model_name,
        needs=needs,
        num_labels=f"{context.num_labels:,}",
        origin=_origin(context.base_model),
        dataset=_link(context.dataset_name, f"datasets/{context.dataset_id}" if context.dataset_id else None),
        revision=context.dataset_revision,
        splits=[_escape(_describe(context, split)) for split in context.splits],
        notes=context.notes,
        figures=_figures_table(context),
        flattered=context.checkpoint_split if context.checkpoint_split in context.metrics else None,
        curve=TRAINING_CURVE_FILE if (folder / TRAINING_CURVE_FILE).is_file() else None,
        matrix=CONFUSION_MATRIX_FILE if (folder / CONFUSION_MATRIX_FILE).is_file() else None,
        recipe=context.recipe_yaml.strip(),
        command=context.command.strip(),
        seed=context.seed,
        versions=", ".join(f"{name} {version}" for name, version in context.versions.items()),
        classes=_classes_table(context),
    )
    path = folder / "README.md"
    card.save(path)
    return path


def _loading_needs(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns what a model's configuration, as saved, makes `pipeline` need: more `arguments`, and a `sentence`."""
    code = config.get("auto_map", {}).get("AutoModelForImageClassification")
    if code is not None:
        sentence = (
            f"The network's code, `{code.split('.')[0]}.py`, comes with the weights, and `trust_remote_code` runs it."
        )
        if is_own_architecture(config["model_type"]):
            sentence += " Where hf_finetune is installed, `import hf_finetune.models` will do instead."
        return {"arguments": ", trust_remote_code=True", "sentence": sentence}
    if config.get("model_type") == "timm_wrapper":
        return {"arguments": "", "sentence": "The package timm is needed: `pip install timm`."}
    return {"arguments": "", "sentence": ""}


def library_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that a result depends on, those that are installed."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _metadata(context: ModelCardContext) -> ModelCardData:
    results = []
    for split, figures in context.metrics.items():
        note = " (this split also chose the checkpoint)" if split == context.checkpoint_split else ""
        for name, (metric_type, metric_name) in _HUB_METRICS.items():
            if math.isfinite(figures.get(name, math.nan)):
                results.append(
                    EvalResult(
                        task_type="image-classification",
                        task_name="Image classification",
                        dataset_type=context.dataset_id or context.dataset_name,
                        dataset_name=context.dataset_name,
                        dataset_split=split,
                        dataset_revision=context.dataset_revision,
                        metric_type=metric_type,
                        metric_name=metric_name[0].upper() + metric_name[1:] + note,
                        metric_value=float(figures[name]),
                    )
                )
    return ModelCardData(
        license=context.license,
        base_model=context.base_model if _is_hub_id(context.base_model) else None,
        datasets=[context.dataset_id] if context.dataset_id else None,
        metrics=["accuracy", "f1"],
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["image-classification", "hf_finetune"],
        # An empty model-index is refused.
        model_name=context.model_name if results else None,
        eval_results=results or None,
    )


def _is_hub_id(name: str | None) -> bool:
    if not name or "/" not in name or os.path.exists(name):
        return False  # one word is an embedded checkpoint
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _origin(base_model: str | None) -> str:
    if base_model is None:
        return "random weights"
    return "the weights of " + _link(base_model, base_model if _is_hub_id(base_model) else None)


def _link(name: str, hub_path: str | None) -> str:
    return f"[{_escape(name)}](https://huggingface.co/{hub_path})" if hub_path else _escape(name)


def _describe(context: ModelCardContext, split: str) -> str:
    description = context.splits.get(split, split)
    return description if description.startswith(split) else f"{split}: {description}"


def _figures_table(context: ModelCardContext) -> str:
    shown = [name for name in _HUB_METRICS if any(name in figures for figures in context.metrics.values())]
    rows = [
        [_describe(context, split), *(format_figure(name, figures.get(name, math.nan)) for name in shown)]
        for split, figures in context.metrics.items()
    ]
    return _table(["split", *(_HUB_METRICS[name][1] for name in shown)], rows) if rows else ""


def _classes_table(context: ModelCardContext) -> str:
    if not context.per_class:
        return ""
    worst, caption = worst_classes(context.per_class, _MOST_CLASSES)
    rows = [[row["name"], *class_cells(row)] for row in worst]
    heading = caption
    if context.per_class_split is not None:
        heading += f", {_escape(_describe(context, context.per_class_split))}"
    return f"{heading}:\n\n" + _table(["class", "precision", "recall", "F1", "images"], rows)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rules = ["---", *["---:"] * (len(heading) - 1)]
    lines = [heading, rules, *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escape(text: str) -> str:
    """Returns `text` so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
