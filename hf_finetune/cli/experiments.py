"""The commands that train several times: cross-validation and searches. `hf_finetune.cli.commands` lists them."""

from __future__ import annotations

import argparse

from hf_finetune.cli.command import Command, importing, recipe_of
from hf_finetune.cli.flags import add_argument_flags, add_recipe


class KFold(Command):
    """Trains a model on each fold."""

    name = "kfold"
    help = "cross-validate: train on all folds of train but one, for each in turn"
    details = "It takes the flags of train. predict and evaluate take its folder as an ensemble."
    usage = "[--folds N] [--recipe RECIPE] [--dataset DATASET] [--KEY VALUE]..."
    resumes = True
    takes_training_keys = True

    def register(self, parser: argparse.ArgumentParser) -> None:
        add_recipe(parser)
        parser.add_argument("--folds", type=int, default=5, metavar="N", help="How many folds. Default: 5.")
        add_argument_flags(parser)

    def run(self, namespace: argparse.Namespace) -> int:
        recipe = recipe_of(namespace)
        with importing():
            from hf_finetune.jobs.kfold import run_folds

        run_folds(recipe, namespace.folds, namespace.command_line)
        return 0


class Tune(Command):
    """Searches for settings."""

    name = "tune"
    help = "search for settings: many runs, the best of which becomes a recipe"
    details = "It takes the flags of train. Start it again, or several times at once, to work on one study."
    usage = "SPACE.yaml [--trials N] [--recipe RECIPE] [--dataset DATASET] [--KEY VALUE]..."
    resumes = True
    takes_training_keys = True

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("space", metavar="SPACE.yaml", help="Keys of a recipe, each with a range or choices.")
        add_recipe(parser)
        parser.add_argument(
            "--trials", type=int, default=20, metavar="N", help="Trials of all processes together. Default: 20."
        )
        add_argument_flags(parser)

    def run(self, namespace: argparse.Namespace) -> int:
        recipe = recipe_of(namespace)
        with importing():
            from hf_finetune.jobs.tune import run_study

        run_study(namespace.space, recipe, namespace.trials, namespace.command_line)
        return 0


class LrFinder(Command):
    """Looks for a learning rate."""

    name = "lr-finder"
    help = "suggest a learning rate by a short training with rising rates"
    details = "It takes the flags of train, draws a plot and keeps no model."
    usage = "[--recipe RECIPE] [--dataset DATASET] [--steps N] [--output FILE.png] [--KEY VALUE]..."
    takes_training_keys = True

    def register(self, parser: argparse.ArgumentParser) -> None:
        add_recipe(parser)
        parser.add_argument("--lowest", type=float, metavar="X", help="Rate of the first step. Default: 1e-6.")
        parser.add_argument("--highest", type=float, metavar="X", help="Rate of the last step. Default: 10.")
        parser.add_argument("--steps", type=int, metavar="N", help="Optimizer steps, at most. Default: 100.")
        parser.add_argument(
            "--output", metavar="FILE", help="Draw into FILE. Absent: lr_finder.png, or lr_finder-2.png and so on."
        )
        add_argument_flags(parser)

    def run(self, namespace: argparse.Namespace) -> int:
        recipe = recipe_of(namespace)
        with importing():
            from hf_finetune.jobs.lr_finder import find_learning_rate

        stated = {name: getattr(namespace, name) for name in ("lowest", "highest", "steps")}
        find_learning_rate(
            recipe, namespace.output, **{name: value for name, value in stated.items() if value is not None}
        )
        return 0
