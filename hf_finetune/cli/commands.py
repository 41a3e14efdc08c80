"""The commands of `hf-finetune`, one class each, listed once in `COMMANDS`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from hf_finetune.cli.command import Command, check_settings, importing, recipe_of
from hf_finetune.cli.completion import SHELLS, completion_script
from hf_finetune.cli.data import Check, Stats
from hf_finetune.cli.experiments import KFold, LrFinder, Tune
from hf_finetune.cli.flags import CONVERT_FLAGS, DATA_FLAGS, add_argument_flags, add_recipe, flag_values
from hf_finetune.cli.looking import Browse, Report, Schedule, Summary
from hf_finetune.cli.predictions import Explain, Predict, add_tta
from hf_finetune.cli.serving import Serve, Space
from hf_finetune.cli.train_help import ShowAllHelp, ShowShortHelp
from hf_finetune.errors import UserError
from hf_finetune.exporters.formats import FORMATS
from hf_finetune.logs import COLUMNS


class Train(Command):
    """Fine-tunes a model."""

    name = "train"
    help = "fine-tune an image classifier by a recipe or on a dataset"
    details = "Every key of a recipe is a flag; a flag wins over the recipe."
    usage = "[--recipe RECIPE] [--dataset DATASET] [--KEY VALUE]..."
    resumes = True
    takes_training_keys = True

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-h", "--help", action=ShowShortHelp, help="Show the keys that people use.")
        parser.add_argument("--help-all", action=ShowAllHelp, help="Show every key.")
        add_recipe(parser)
        add_argument_flags(parser)

    def run(self, namespace: argparse.Namespace) -> int:
        recipe = recipe_of(namespace)
        with importing():
            from hf_finetune.training.run import run

        run(recipe, namespace.command_line, began=namespace.began)
        return 0


class Evaluate(Command):
    """Evaluates a model."""

    name = "evaluate"
    help = "report a model's figures on a dataset"
    usage = "MODEL --dataset DATASET [--KEY VALUE]..."

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="A run's folder, a Hub id or an embedded checkpoint's name.")
        parser.add_argument(
            "--split", metavar="NAME", help="Split to evaluate. Absent: test, else validation, else the only one."
        )
        _add_output(parser, "Write the figures to FILE as well, a .json or .csv file.")
        parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
        parser.add_argument(
            "--labels_by_index",
            action="store_true",
            help="Match classes by their order, not by name: for a model whose classes are called LABEL_0 and so on.",
        )
        add_tta(parser, "Also report the figures of the mean over views: {}.")
        add_argument_flags(parser, (*DATA_FLAGS, "slice_columns"))

    def run(self, namespace: argparse.Namespace) -> int:
        settings = flag_values(namespace)
        check_settings({**settings, "model_name_or_path": namespace.model})
        with importing():
            from hf_finetune.jobs.evaluate import evaluate_model

        evaluate_model(
            namespace.model,
            split=namespace.split,
            output=namespace.output,
            show="json" if namespace.json else "table",
            labels_by_index=namespace.labels_by_index,
            tta=namespace.tta,
            **settings,
        )
        return 0


class Compare(Command):
    """Compares two models."""

    name = "compare"
    help = "compare two models on the same images"
    details = (
        "Without --dataset, on the images that both runs report their figures on. Where an image has several labels, a"
        " model is correct that gives all of them and no other."
    )
    usage = "RUN RUN [--dataset DATASET] [--json] [--output FILE] [--KEY VALUE]..."

    def register(self, parser: argparse.ArgumentParser) -> None:
        for number, word in (("first", "A run's folder, or any other MODEL of evaluate."), ("second", "Another one.")):
            parser.add_argument(number, metavar="RUN", help=word)
        parser.add_argument("--split", metavar="NAME", help="Split to compare on, as in evaluate.")
        _add_output(parser, "Write the images that only one model classifies correctly to FILE, .csv or .json.")
        parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
        parser.add_argument("--labels_by_index", action="store_true", help="Match classes by their order, not by name.")
        add_argument_flags(parser, (*DATA_FLAGS, "slice_columns"))

    def run(self, namespace: argparse.Namespace) -> int:
        settings = flag_values(namespace)
        for run in (namespace.first, namespace.second):
            check_settings({**settings, "model_name_or_path": run}, needs_data=False)
        with importing():
            from hf_finetune.jobs.compare import compare_models

        compare_models(
            namespace.first,
            namespace.second,
            split=namespace.split,
            output=namespace.output,
            show="json" if namespace.json else "table",
            labels_by_index=namespace.labels_by_index,
            **settings,
        )
        return 0


class Export(Command):
    """Writes a model in a form that other programs run."""

    name = "export"
    help = "write a model as an ONNX file or a model folder, and check that it answers the same"
    details = "It is checked on the images of a dataset or, without one, on noise."
    usage = "MODEL [--format FORMAT] [--output PATH] [--KEY VALUE]..."

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="A run's folder, a Hub id or an embedded checkpoint's name.")
        default = next(iter(FORMATS))
        titles = ", ".join(f"{name}: {form.title}" for name, form in FORMATS.items())
        parser.add_argument(
            "--format", default=default, metavar="|".join(FORMATS), help=f"{titles}. Default: {default}."
        )
        parser.add_argument("--output", metavar="PATH", help="Where to. Absent: model.onnx in the folder of MODEL.")
        parser.add_argument("--quantize", metavar="int8", help="Write an ONNX file of int8 weights; needs --dataset.")
        parser.add_argument(
            "--with_preprocessing",
            action="store_true",
            help="Write an ONNX file that takes images of any size, uint8 (batch, height, width, 3), as decoded.",
        )
        parser.add_argument("--opset", type=int, metavar="N", help="The version of ONNX's operators, such as 18.")
        add_argument_flags(parser, [name for name in DATA_FLAGS if name != "use_cpu"])  # it runs there in any case

    def run(self, namespace: argparse.Namespace) -> int:
        settings = flag_values(namespace)
        check_settings({**settings, "model_name_or_path": namespace.model}, needs_data=False)
        with importing():
            from hf_finetune.jobs.export import export_model

        export_model(
            namespace.model,
            namespace.format,
            namespace.output,
            namespace.quantize,
            namespace.with_preprocessing,
            namespace.opset,
            **settings,
        )
        return 0


class Push(Command):
    """Pushes a finished run to the Hub."""

    name = "push"
    help = "push the folder of a finished run to the Hub"
    usage = "FOLDER OWNER/NAME [--hub_private_repo]"

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", metavar="FOLDER", help="The folder of a finished run.")
        parser.add_argument("repository", metavar="OWNER/NAME", help="The repository; it is created if need be.")
        parser.add_argument(
            "--hub_private_repo", action="store_true", default=None, help="Create the repository as private."
        )

    def run(self, namespace: argparse.Namespace) -> int:
        with importing():
            from hf_finetune.hub.push import push_folder

        push_folder(Path(namespace.folder), namespace.repository, namespace.hub_private_repo)
        return 0


class Convert(Command):
    """Makes a Transformers folder of another library's weights."""

    name = "convert"
    help = "turn weights of torchvision, timm or MMPretrain into a Transformers folder"
    usage = "FILE_OR_URL OUT [--KEY VALUE]..."

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE_OR_URL", help="A state dict: .pth, .pt or .safetensors.")
        parser.add_argument("folder", metavar="OUT", help="The folder to write; it must not exist yet.")
        add_argument_flags(parser, CONVERT_FLAGS)

    def run(self, namespace: argparse.Namespace) -> int:
        with importing():
            from hf_finetune.jobs.convert import convert_weights

        convert_weights(namespace.file, Path(namespace.folder), **flag_values(namespace))
        return 0


class Recipes(Command):
    """Lists and shows recipes."""

    name = "recipes"
    help = "list the packaged recipes, or show one with its bases resolved"
    usage = "[show NAME_OR_PATH [--explain] [--KEY VALUE]...]"
    takes_training_keys = True

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("show", metavar="show", nargs="?", help="Show a recipe; without it, list them.")
        parser.add_argument("recipe", metavar="NAME_OR_PATH", nargs="?", help="A packaged recipe or a YAML file.")
        parser.add_argument("--explain", action="store_true", help="Say beside each value which file or flag set it.")
        add_argument_flags(parser)

    def run(self, namespace: argparse.Namespace) -> int:
        from hf_finetune.config.recipe import load_recipe, override, packaged_recipes, to_yaml

        if namespace.show is None:
            _print_recipes(packaged_recipes())
            return 0
        if namespace.show != "show" or namespace.recipe is None:
            wrong = f'"{namespace.show}" is not what recipes does' if namespace.show != "show" else "There is no recipe"
            raise UserError(f"{wrong}; use hf-finetune recipes show NAME_OR_PATH.")
        from hf_finetune.config.arguments import KEY_TYPES

        recipe = override(load_recipe(namespace.recipe, KEY_TYPES), flag_values(namespace, KEY_TYPES))
        print(to_yaml(recipe, explain=namespace.explain), end="")
        return 0


class ImportConfig(Command):
    """Translates a config of MMClassification."""

    name = "import-config"
    help = "write a config of MMClassification or MMPretrain as a recipe"
    details = "The config is read, never run."
    usage = "CONFIG.py [--output RECIPE.yaml]"

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("config", metavar="CONFIG.py", help="A config of MMClassification 0.x or MMPretrain 1.x.")
        parser.add_argument("-o", "--output", metavar="RECIPE.yaml", help="Where to write it. Absent: it is printed.")

    def run(self, namespace: argparse.Namespace) -> int:
        from hf_finetune.jobs.import_config import import_as_recipe

        text = import_as_recipe(namespace.config, namespace.output)
        if namespace.output is None:
            print(text, end="")
        else:
            remarks = text.count("\n# - ")
            told = f", with {remarks} remark{'s' * (remarks > 1)} at its end" if remarks else ""
            print(f"The recipe is in {namespace.output}{told}.")
        return 0


class Completion(Command):
    """Prints a script for the shell."""

    name = "completion"
    help = "print a script that completes commands and flags in bash or zsh"
    details = 'Put this into ~/.bashrc: eval "$(hf-finetune completion bash)"'
    usage = "|".join(SHELLS)

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shell", choices=SHELLS, help="The shell.")

    def run(self, namespace: argparse.Namespace) -> int:
        print(completion_script(namespace.shell, COMMANDS.values()))
        return 0


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Train(),
        Check(),
        Stats(),
        KFold(),
        Tune(),
        LrFinder(),
        Browse(),
        Schedule(),
        Evaluate(),
        Compare(),
        Report(),
        Summary(),
        Predict(),
        Explain(),
        Serve(),
        Export(),
        Push(),
        Space(),
        Convert(),
        Recipes(),
        ImportConfig(),
        Completion(),
    )
}


def _add_output(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--output", metavar="FILE", help=text)


def _print_recipes(recipes: dict[str, str]) -> None:
    """Print a line for each recipe, broken between words on a terminal."""
    width = max(map(len, recipes)) + 2
    for name, description in recipes.items():
        line = f"{name:<{width}}{description}"
        print(textwrap.fill(line, COLUMNS, subsequent_indent=" " * width) if sys.stdout.isatty() else line)
