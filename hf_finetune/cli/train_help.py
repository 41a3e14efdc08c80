"""`hf-finetune train --help`: one screen of the keys that people use; `--help-all` shows every key."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from hf_finetune.cli.flags import OWN_TYPES, add_inherited_flags, default_of, metavar
from hf_finetune.config.fields import own_fields
from hf_finetune.logs import COLUMNS

# Group: key: what it is, in a few words. Choices and defaults are those of the dataclasses.
ESSENTIALS = {
    "data": {
        "dataset": "named dataset, Hub id, folder or table",
        "validation_fraction": "of train, if there is no such split",
        "max_train_samples": "train on at most N images",
        "image_size": "side, or height and width, in pixels",
        "train_transforms": "names of torchvision.transforms.v2",
        "on_bad_image": "what to do on an unreadable image",
    },
    "model": {
        "model_name_or_path": "Hub id, folder or embedded checkpoint",
        "load_from": "weights of torchvision, timm, MMPretrain",
        "freeze": "not to be trained: backbone, or modules",
    },
    "training": {
        "num_train_epochs": "passes over the training split",
        "time_budget": "10m, ... for all: epochs follow from it",
        "global_batch_size": "images per step over all processes",
        "learning_rate": "after the warm-up",
        "optim": "sgd, adamw_torch, ...",
        "weight_decay": "weight decay",
        "layer_decay": "lower rates for earlier blocks",
        "lr_scheduler_type": "multistep, cosine, linear, ...",
        "lr_milestones": "epochs at which multistep falls",
        "warmup_epochs": "epochs of warm-up",
        "label_smoothing_factor": "label smoothing",
        "ema_decay": "average the weights, such as 0.9999",
        "seed": "of everything random",
    },
    "hardware": {
        "use_cpu": "even where there is a GPU",
        "precision": "of training passes",
        "dataloader_num_workers": "processes that load images",
    },
    "result": {
        "output_dir": "in runs/ if absent; resumes there",
        "overwrite_output_dir": "delete an earlier run and start anew",
        "metric_for_best_model": "chooses the best checkpoint",
        "report_to": "tensorboard, wandb, ...",
        "push_to_hub": "push the result at the end",
    },
}
_COLUMN = 34  # of the second column
_FOOTER = (
    "In [brackets]: the default where the recipe sets nothing else.",
    "hf-finetune train --help-all shows every key.",
)


def short_help(usage: str, description: str) -> str:
    """Return the one screen of help, at most 80 columns wide."""
    lines = [
        f"usage: {usage}",
        *textwrap.wrap(description, COLUMNS),
        "",
        _line("--recipe RECIPE", "a name of hf-finetune recipes, or a file"),
    ]
    for group, keys in ESSENTIALS.items():
        lines += [f"{group}:", *(_line(*_columns(name, text)) for name, text in keys.items())]
    return "\n".join([*lines, *_FOOTER, ""])


def _columns(name: str, text: str) -> tuple[str, str]:
    item = own_fields()[name]
    default = default_of(item)
    value = "" if default == "false" else f" {metavar(item, OWN_TYPES[name])}"  # the flag alone says yes
    return f"--{name}{value}", text if default in (None, "false") else f"{text} [{default}]"


def _line(flag: str, text: str) -> str:
    return f"  {flag:<{_COLUMN - 3}} {text}".rstrip()


class ShowShortHelp(argparse.Action):
    """Prints the one screen and exits."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        """Print the help of `parser` and exit with 0."""
        usage = parser.usage or parser.prog
        print(short_help(usage, parser.description or ""), end="")
        parser.exit()


class ShowAllHelp(ShowShortHelp):
    """Prints every key, the package's own first, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        """Print the help of `parser`, with all inherited keys, and exit with 0."""
        add: Callable[[argparse.ArgumentParser], None] = add_inherited_flags
        add(parser)
        parser.print_help()
        parser.exit()
