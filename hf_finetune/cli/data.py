"""The commands that look at a dataset. `hf_finetune.cli.commands` lists them."""

from __future__ import annotations

import argparse

from hf_finetune.cli.command import Command, check_settings, importing
from hf_finetune.cli.flags import DATA_FLAGS, add_argument_flags, flag_values

_NOT_OF_CHECK = ("dataset", "num_labels", "on_bad_image", "image_channels", "value_range", "max_eval_samples")
_NOT_OF_STATS = ("dataset", "max_eval_samples", "model_revision", "trust_remote_code", "per_device_eval_batch_size")
_STATS_FLAGS = [name for name in DATA_FLAGS if name not in (*_NOT_OF_STATS, "dataloader_num_workers", "use_cpu")]
_CHECK_FLAGS = ("group_column", *(name for name in DATA_FLAGS if name not in _NOT_OF_CHECK))


class Check(Command):
    """Checks a dataset."""

    name = "check"
    help = "look for what is wrong with a dataset before any training"
    details = "Exit code 1 where something would make the figures of a model wrong."
    usage = "DATASET [--split NAME...] [--quick] [--json] [--output FILE.html] [--KEY VALUE]..."

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("data", metavar="DATASET", help="A folder, a table, a named dataset or a Hub id.")
        parser.add_argument("--split", nargs="+", default=[], metavar="NAME", help="Splits to look at. Absent: all.")
        parser.add_argument(
            "--quick",
            action="store_true",
            help="Ask no network: do not judge labels, nor find images unlike all others. It takes most of the time.",
        )
        parser.add_argument(
            "--model",
            metavar="MODEL",
            help="The network whose features labels are judged by. Absent: the embedded checkpoint.",
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")
        parser.add_argument("--output", metavar="FILE", help="Write a page with the images to FILE, a .html file.")
        add_argument_flags(parser, _CHECK_FLAGS)

    def run(self, namespace: argparse.Namespace) -> int:
        settings = {**flag_values(namespace), "dataset": namespace.data}
        check_settings({**settings, "model_name_or_path": namespace.model})
        with importing():
            from hf_finetune.jobs.check import run_check

        result = run_check(
            splits=namespace.split,
            model=namespace.model,
            quick=namespace.quick,
            output=namespace.output,
            show="json" if namespace.json else "text",
            **settings,
        )
        return 1 if result.falsified else 0


class Stats(Command):
    """Computes mean and standard deviation."""

    name = "stats"
    help = "compute mean and standard deviation of a dataset's channels"
    details = "They are what image_mean and image_std of a recipe normalize by."
    usage = "DATASET [--split NAME] [--images N] [--json] [--KEY VALUE]..."

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("data", metavar="DATASET", help="A folder, a table, a named dataset or a Hub id.")
        parser.add_argument("--split", metavar="NAME", help="The split. Absent: train, or the first that there is.")
        parser.add_argument(
            "--images", type=int, default=10_000, metavar="N", help="Images at most, drawn by seed. Default: 10000."
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")
        add_argument_flags(parser, _STATS_FLAGS)

    def run(self, namespace: argparse.Namespace) -> int:
        settings = {**flag_values(namespace), "dataset": namespace.data}
        check_settings(settings)
        with importing():
            from hf_finetune.jobs.stats import run_stats

        run_stats(
            split=namespace.split,
            images=namespace.images,
            show="json" if namespace.json else "text",
            **settings,
        )
        return 0
