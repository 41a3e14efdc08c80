"""Writes the model card, the file README.md of a result folder.

The card says what the model is, what it was trained on, its figures and the split that each is from, how to load it,
and the command that trains it again. Its metadata follow the Hub's specification,
https://github.com/huggingface/hub-docs/blob/main/modelcard.md. Nothing here needs the network.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_finetune.config.run_files import (
    CONFUSION_MATRIX_FILE,
    METRICS_FILE,
    PRECISION_RECALL_FILE,
    RECIPE_FILE,
    RELIABILITY_FILE,
    TRAINING_CURVE_FILE,
)
from hf_finetune.data.catalog import CATALOG
from hf_finetune.evaluation.analysis import ClassFigures
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metrics import METRICS, Metric
from hf_finetune.evaluation.report import (
    best_classes,
    class_cells,
    class_heading,
    format_figures,
    format_interval,
    shown_metrics,
    worst_classes,
)
from hf_finetune.hub.loading import loading_needs, usage_code
from hf_finetune.hub.markdown import block, escape, prose, table
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.shown_text import one_line

_MOST_WORST, _MOST_BEST = 50, 10  # classes in the card
_LIBRARIES = ("hf_finetune", "transformers", "torch", "torchvision", "accelerate", "datasets", "evaluate", "timm")
_PATH_KEYS = ("dataset", "dataset_path", "model_name_or_path", "load_from", "teacher")  # which may be paths
_STANDS_FOR = "path/to"  # precedes the last name of such a path

_TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

An image classifier of {{ num_labels }} classes{{ several }}: {{ origin }}, trained on {{ dataset }} with hf_finetune.
{% if figures %}
## Figures

{{ figures }}
{% if intervals %}
In brackets: 95 % intervals in percent, what other images of the same kind may give. Those of accuracies are Wilson
score intervals, those of means over classes come from resampled images (bootstrap).
{% endif %}{% if flattered %}
The {{ flattered }} split also chose the checkpoint, so its figures are higher than on new images.
{% endif %}{% if temperature %}
The scores were calibrated on validation: the head's last layer is divided by a temperature of {{ temperature }}.
{% endif %}{% if reliability %}
![Reliability diagram: the accuracy of the images of each score]({{ reliability }})
{% endif %}{% if curves %}
![Precision and recall of each class]({{ curves }})
{% endif %}{% endif %}
{% if limits or not_for %}
## Limits
{% for limit in limits %}
- {{ limit }}{% endfor %}{% for use in not_for %}
- It must not be used for: {{ use }}{% endfor %}

{% endif %}## How to use it

```python
{{ code }}
```
{% if several %}
The probability of each class is its own, and they do not add up to 1. `thresholds` of `config.json`, in the order of
the classes, are the probabilities from which on a class is given: the figures above are with them.
{% endif %}{% if needs.sentence %}
{{ needs.sentence }}
{% endif %}{% if how_saved %}
{{ how_saved }}
{% endif %}
The path of a copy of this folder works in place of the name.

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

{{ recipe }}

It was trained with seed {{ seed }} by:

{{ command }}
{% if again %}
To train it again from the files of this folder, run this command in the folder:

{{ again_block }}
{% if stands_for in again %}
Replace `{{ stands_for }}/...` by where your copy of these files is.
{% endif %}{% endif %}
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
    """What a model card says.

    Attributes:
        model_name: Title of the card.
        num_labels: Number of classes.
        dataset_name: What it was trained on, for people.
        splits: By split name ("train", "validation", "test"), what the split is, for people: what `describe_split`
            returns, or "10 % of train, stratified, seed 42".
        metrics: By the name of each split that was evaluated, what `ClassificationMetrics` returned for it.
        recipe_yaml: The resolved recipe.
        command: The command line as the user typed it.
        seed: The seed of the run.
        versions: What `library_versions` returned.
        again: The command that repeats the run from the result folder (`training_command`). None leaves it out.
        base_model: A Hub id or a folder. None for random weights.
        license: One of the Hub's identifiers, such as "apache-2.0".
        dataset_id: Hub id of the dataset. None for local images.
        dataset_revision: Its commit on the Hub.
        checkpoint_split: The split that chose the checkpoint. None where none did.
        per_class: What `per_class_figures` returned for the split `per_class_split`.
        per_class_split: Name of that split.
        notes: Sentences on the data.
        how_saved: What the saved model has that the trained one had not, a sentence or "".
        registry: The metrics of the run by name: a column each.
        intervals: By split, the 95 % intervals of its figures.
        temperature: By which the head was divided to calibrate its scores. None where it was not.
        several: Whether an image has any number of the classes.
        limits: Sentences on what the model does worse, and on what is not known.
        not_for: What it must not be used for, as the user says it.
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
    again: str | None = None
    base_model: str | None = None
    license: str | None = None
    dataset_id: str | None = None
    dataset_revision: str | None = None
    checkpoint_split: str | None = None
    per_class: Sequence[ClassFigures] = ()
    per_class_split: str | None = None
    notes: Sequence[str] = ()
    how_saved: str = ""
    registry: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    temperature: float | None = None
    several: bool = False
    limits: Sequence[str] = ()
    not_for: Sequence[str] = ()


def write_model_card(
    context: ModelCardContext, folder: str | os.PathLike[str], plots: Collection[str] | None = None
) -> Path:
    """Write the model card into a result folder. Tokens and private folders are left out (`without_private_text`).

    Args:
        context: What the card says.
        folder: The result folder. The card says what loading needs by the config.json there.
        plots: The names of the plots that it shows; None for those that are in the folder.

    Returns:
        The path of README.md.
    """
    folder = Path(folder)
    # Before anything is escaped: Markdown's backslashes would hide a folder's name from the search.
    context = ModelCardContext(
        **{
            name: value if name == "registry" else without_private_text(value, Path.cwd())
            for name, value in vars(context).items()
        }
    )
    shown = {name: name for name in ([path.name for path in folder.glob("*.png")] if plots is None else plots)}
    config = folder / "config.json"
    saved = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    card = ModelCard.from_template(
        _metadata(context),
        template_str=_TEMPLATE,
        title=prose(context.model_name),
        code=usage_code(saved, json.dumps(context.model_name, ensure_ascii=False), context.several),
        needs=loading_needs(saved),
        how_saved=context.how_saved,
        num_labels=f"{context.num_labels:,}",
        origin=_origin(context.base_model),
        dataset=_link(context.dataset_name, f"datasets/{context.dataset_id}" if context.dataset_id else None),
        revision=prose(context.dataset_revision or ""),
        splits=[escape(_describe(context, split)) for split in context.splits],
        notes=[prose(note) for note in context.notes],
        limits=[prose(limit) for limit in context.limits],
        not_for=[prose(use) for use in context.not_for],
        figures=_figures_table(context),
        temperature=context.temperature and f"{context.temperature:.3f}",
        intervals=any(context.intervals.values()),
        flattered=context.checkpoint_split if context.checkpoint_split in context.metrics else None,
        curve=shown.get(TRAINING_CURVE_FILE),
        reliability=shown.get(RELIABILITY_FILE),
        curves=shown.get(PRECISION_RECALL_FILE),
        several=", any number of them for each image" if context.several else "",
        matrix=shown.get(CONFUSION_MATRIX_FILE),
        recipe=block("yaml", context.recipe_yaml),
        command=block("bash", context.command),
        again=context.again,
        again_block=block("bash", context.again or ""),
        stands_for=_STANDS_FOR,
        seed=context.seed,
        versions=", ".join(f"{name} {version}" for name, version in context.versions.items()),
        classes=_classes_table(context),
    )
    path = folder / "README.md"
    card.content = card.content.encode("utf-8", "backslashreplace").decode()  # paths that are not in UTF-8
    card.save(path)
    return path


def training_command(values: Mapping[str, Any]) -> str | None:
    """Return the command that repeats a run from its result folder, where `recipe.yaml` holds its settings.

    A path of this machine is replaced by "path/to/" and its last name: relative paths do not hold in another working
    folder, and others need not know where the files of this machine are. Nothing is pushed by the repeated run.

    Args:
        values: The values of the run's recipe.

    Returns:
        The command line. None for a run whose images came from a Python program.
    """
    if values.get("dataset") is None:
        return None
    words = ["hf-finetune", "train", "--recipe", RECIPE_FILE]
    for key in _PATH_KEYS:
        if _is_local_path(key, values.get(key)):
            words += [f"--{key}", f"{_STANDS_FOR}/{Path(values[key]).expanduser().resolve().name}"]
    if values.get("push_to_hub"):
        words += ["--push_to_hub", "false"]
    return shlex.join([*words, "--output_dir", "../again"])


def _is_local_path(key: str, value: Any) -> bool:
    if not isinstance(value, (str, os.PathLike)) or (key == "dataset" and value in CATALOG):
        return False
    return str(value).startswith(("/", "~", ".")) or Path(value).exists()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that a result depends on, by name."""
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
        for name, metric in context.registry.items():
            if math.isfinite(figures.get(name, math.nan)):
                results.append(
                    EvalResult(
                        task_type="image-classification",
                        task_name="Image classification",
                        dataset_type=context.dataset_id or context.dataset_name,
                        dataset_name=context.dataset_name,
                        dataset_split=split,
                        dataset_revision=context.dataset_revision,
                        metric_type=metric.hub_type,
                        metric_name=metric.title[0].upper() + metric.title[1:] + note,
                        metric_value=float(figures[name]),
                    )
                )
    return ModelCardData(
        license=one_line(context.license) if isinstance(context.license, str) else context.license,
        base_model=context.base_model if is_hub_id(context.base_model) else None,
        datasets=[context.dataset_id] if context.dataset_id else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["image-classification", "hf_finetune"],
        # An empty model-index is refused.
        model_name=context.model_name if results else None,
        eval_results=results or None,
    )


def is_hub_id(name: str | None) -> bool:
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
    return "the weights of " + _link(base_model, base_model if is_hub_id(base_model) else None)


def _link(name: str, hub_path: str | None) -> str:
    return f"[{escape(name)}](https://huggingface.co/{hub_path})" if hub_path else escape(name)


def _describe(context: ModelCardContext, split: str) -> str:
    description = context.splits.get(split, split)
    return description if description.startswith(split) else f"{split}: {description}"


def _figures_table(context: ModelCardContext) -> str:
    shown = shown_metrics(list(context.metrics.values()), context.registry)
    rows = []
    for split, figures in context.metrics.items():
        limits = context.intervals.get(split, {})
        cells = zip(shown, format_figures(figures, shown), strict=True)
        bracketed = [f"{cell} ({format_interval(limits[name])})" if name in limits else cell for name, cell in cells]
        rows.append([_describe(context, split), *bracketed])
    return table(["split", *(metric.title for metric in shown.values())], rows) if rows else ""


def _classes_table(context: ModelCardContext) -> str:
    if not context.per_class:
        return ""
    tables = [worst_classes(context.per_class, _MOST_WORST)]
    best, caption = best_classes(context.per_class, _MOST_WORST, _MOST_BEST)
    if best:
        tables.insert(0, (best, f"{caption}; `{METRICS_FILE}` has all"))
    return "\n\n".join(_class_rows(context, rows, caption) for rows, caption in tables)


def _class_rows(context: ModelCardContext, rows: Sequence[ClassFigures], heading: str) -> str:
    if context.per_class_split is not None:
        heading += f", {escape(_describe(context, context.per_class_split))}"
    cells = [[row["name"], *class_cells(row)] for row in rows]
    return f"{heading}:\n\n" + table(class_heading(rows), cells)
