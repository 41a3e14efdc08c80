"""The commands that show what is there and train nothing. `hf_finetune.cli.commands` lists them."""

from __future__ import annotations

import argparse

from hf_finetune.cli.command import Command, check_settings, importing, recipe_of
from hf_finetune.cli.flags import add_argument_flags, add_recipe


class Report(Command):
    """Writes the report of a run."""

    name = "report"
    help = "write the report of a finished run, a page with its mistakes and their images"
    details = "A training writes it too; nothing is computed again."
    usage = "RUN [--output FILE.html]"

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", metavar="RUN", help="The folder of a finished run.")
        parser.add_argument("--output", metavar="FILE", help="Write into FILE. Absent: report.html in the folder.")

    def run(self, namespace: argparse.Namespace) -> int:
        with importing():
            from hf_finetune.jobs.report import report_run

        report_run(namespace.folder, namespace.output)
        return 0


class Summary(Command):
    """Says what a network costs."""

    name = "summary"
    help = "count a network's parameters and operations, and measure its speed here"
    details = "Its weights are not loaded."
    usage = "MODEL [--image_size HEIGHT [WIDTH]] [--depth N] [--json]"

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="A run's folder, a Hub id or an embedded checkpoint's name.")
        parser.add_argument(
            "--image_size", type=int, nargs="+", metavar="N", help="Pixels of images. Absent: the model's own."
        )
        parser.add_argument("--depth", type=int, default=2, metavar="N", help="Levels of modules to list. Default: 2.")
        parser.add_argument(
            "--batch_size", type=int, metavar="N", help="Images of a pass. Default: 8 on a CPU, 64 elsewhere."
        )
        parser.add_argument("--no_speed", action="store_true", help="Do not measure the speed, which takes seconds.")
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")

    def run(self, namespace: argparse.Namespace) -> int:
        check_settings({"model_name_or_path": namespace.model}, needs_data=False)
        with importing():
            from hf_finetune.config.model import ModelArguments
            from hf_finetune.jobs.model_summary import run_summary

        sizes = namespace.image_size
        run_summary(
            ModelArguments(model_name_or_path=namespace.model),
            image_size=sizes[0] if sizes and len(sizes) == 1 else sizes,
            depth=namespace.depth,
            measure=not namespace.no_speed,
            batch_size=namespace.batch_size,
            show="json" if namespace.json else "text",
        )
        return 0


class Browse(Command):
    """Shows training images after every stage of the pipeline."""

    name = "browse"
    help = "show training images after every stage of the pipeline, as the network sees them"
    details = "It takes the flags of train, and trains nothing."
    usage = "[--recipe RECIPE] [--dataset DATASET] [--images N] [--output FOLDER] [--KEY VALUE]..."
    takes_training_keys = True

    def register(self, parser: argparse.ArgumentParser) -> None:
        add_recipe(parser)
        parser.add_argument("--images", type=int, default=8, metavar="N", help="How many images, 1 to 64. Default: 8.")
        parser.add_argument(
            "--output", metavar="FOLDER", help="Write into FOLDER. Absent: browse, or browse-2 and so on."
        )
        add_argument_flags(parser)

    def run(self, namespace: argparse.Namespace) -> int:
        recipe = recipe_of(namespace)
        with importing():
            from hf_finetune.jobs.browse import browse_images

        browse_images(recipe, namespace.output, namespace.images)
        return 0


class Schedule(Command):
    """Draws the schedule of a run."""

    name = "schedule"
    help = "draw learning rates, momentum and all else that changes over the steps of a run"
    details = "It takes the flags of train, and trains nothing."
    usage = "[--recipe RECIPE] [--dataset DATASET] [--output FILE.png] [--json] [--KEY VALUE]..."
    takes_training_keys = True

    def register(self, parser: argparse.ArgumentParser) -> None:
        add_recipe(parser)
        parser.add_argument(
            "--output", metavar="FILE", help="Draw into FILE. Absent: schedule.png, or schedule-2.png and so on."
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")
        add_argument_flags(parser)

    def run(self, namespace: argparse.Namespace) -> int:
        recipe = recipe_of(namespace)
        with importing():
            from hf_finetune.jobs.schedule import show_schedule

        show_schedule(recipe, namespace.output, show="json" if namespace.json else "text")
        return 0
