"""The entry point of `hf-finetune COMMAND ...`. It imports only the module that the command needs.

Nothing heavy is imported at the top, so `hf-finetune --help` answers at once.
"""

from __future__ import annotations

import errno
import gc
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hf_finetune.errors import Interrupted, UserError, did_you_mean
from hf_finetune.logs import show_logs

COMMANDS = {
    "train": "fine-tune an image classifier by a recipe or on a dataset",
    "evaluate": "report a model's figures on a dataset",
    "predict": "classify image files or folders",
    "export": "write a model as an ONNX file or a model folder, and check that it answers the same",
    "push": "push the folder of a finished run to the Hub",
    "convert": "make a Transformers folder of weights of torchvision, timm or MMPretrain",
    "recipes": "list the packaged recipes, or show one resolved",
    "import-config": "write a config of MMClassification or MMPretrain as a recipe",
}

_SECONDS_FOR_THE_FIRST = 5

_HELP = """usage: hf-finetune COMMAND ...

Fine-tunes image classifiers with Hugging Face Transformers, Datasets, Evaluate and Accelerate.

commands:
{commands}

first steps:
  hf-finetune train --dataset digits           fine-tune the embedded checkpoint, no network needed
  hf-finetune train --dataset cifar10          the tutorial: ResNet-50 on CIFAR-10
  hf-finetune train --dataset ./my_images    your own images, in one folder per class
  hf-finetune COMMAND --help                      the flags of a command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 if it did its work, 2 for a user's mistake, 130 if interrupted.

    A training that SIGTERM or SIGINT stopped, and that was saved, returns 143 or 130, as a shell has it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_HELP.format(commands="\n".join(f"  {command:<15}{text}" for command, text in COMMANDS.items())), end="")
        return 0 if words else 2
    command, rest = words[0], words[1:]
    try:
        if command not in COMMANDS:
            advice = f"{did_you_mean(command, COMMANDS)} The commands are {', '.join(COMMANDS)}."
            raise UserError(f'there is no command "{command}".{advice}')
        handlers = {
            "train": _train,
            "evaluate": _evaluate,
            "predict": _predict,
            "export": _export,
            "push": _push,
            "convert": _convert,
            "recipes": _recipes,
            "import-config": _import_config,
        }
        show_logs()
        return handlers[command](rest)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            # The first process of the machine has most likely met it too, and says it; then the launcher ends this one.
            time.sleep(_SECONDS_FOR_THE_FIRST)
        print(f"hf-finetune: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as interruption:
        print(f"hf-finetune: {interruption}", file=sys.stderr)
        return 128 + interruption.signal
    except BrokenPipeError:  # whoever read the output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell reports a program that SIGPIPE ended
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"hf-finetune: error: {where}the disk is full; free some space on it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        advice = "; the same command resumes from the last checkpoint" if command == "train" else ""
        print(f"\nhf-finetune: interrupted{advice}.", file=sys.stderr)
        return 130


@contextmanager
def _importing() -> Iterator[None]:
    """Holds the garbage collector off while libraries are imported, and their objects out of its sight ever after.

    It would look through all of them again and again: importing takes 3.4 s instead of 4.1 s.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _train(words: list[str]) -> int:
    with _importing():
        from hf_finetune.config.parsing import OneLineParser, add_argument_flags, check_flags, flag_values

    parser = OneLineParser(
        prog="hf-finetune train",
        description=f"{COMMANDS['train'].capitalize()}. Every key of a recipe is a flag; a flag wins over the recipe.",
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", metavar="NAME_OR_PATH", help="A packaged recipe's name or the path of a YAML file.")
    add_argument_flags(parser)
    namespace, unknown = parser.parse_known_args(words)
    check_flags(unknown)
    settings = flag_values(namespace)

    with _importing():
        from hf_finetune.training.run import choose_recipe, run

    run(choose_recipe(namespace.recipe, settings, "--{}".format), f"hf-finetune train {shlex.join(words)}")
    return 0


def _evaluate(words: list[str]) -> int:
    with _importing():
        from hf_finetune.config.parsing import DATA_FLAGS, OneLineParser, add_argument_flags, check_flags, flag_values
        from hf_finetune.jobs.evaluate import evaluate_model

    parser = OneLineParser(
        prog="hf-finetune evaluate", description=COMMANDS["evaluate"].capitalize(), allow_abbrev=False
    )
    parser.add_argument("model", metavar="MODEL", help="A run's folder, a Hub id or an embedded checkpoint's name.")
    add_argument_flags(parser, DATA_FLAGS)
    namespace, unknown = parser.parse_known_args(words)
    check_flags(unknown, DATA_FLAGS)
    evaluate_model(namespace.model, **flag_values(namespace))
    return 0


def _predict(words: list[str]) -> int:
    from hf_finetune.config.parsing import OneLineParser

    parser = OneLineParser(prog="hf-finetune predict", description=COMMANDS["predict"].capitalize(), allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="A run's folder, a Hub id, an embedded name or an ONNX file.")
    parser.add_argument("paths", metavar="FILE_OR_FOLDER", nargs="+", help="Images, or folders that hold some.")
    parser.add_argument("--top_k", type=int, default=1, metavar="N", help="Classes to name for each image.")
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="Images per forward pass.")
    format_group = parser.add_mutually_exclusive_group()
    format_group.add_argument("--json", action="store_const", dest="format", const="json", help="Print JSON.")
    format_group.add_argument("--csv", action="store_const", dest="format", const="csv", help="Print CSV.")
    namespace = parser.parse_args(words)

    with _importing():
        from hf_finetune.jobs.predict import predict_files

    unreadable = predict_files(
        namespace.model, namespace.paths, namespace.top_k, namespace.batch_size, namespace.format or "text"
    )
    return 2 if unreadable else 0


def _export(words: list[str]) -> int:
    from hf_finetune.config.parsing import DATA_FLAGS, OneLineParser, add_argument_flags, check_flags, flag_values

    parser = OneLineParser(
        prog="hf-finetune export",
        description=f"{COMMANDS['export'].capitalize()}: on the images of a dataset or, without one, on noise.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="A run's folder, a Hub id or an embedded checkpoint's name.")
    parser.add_argument("--format", default="onnx", metavar="NAME", help="onnx, a file, or safetensors, a folder.")
    parser.add_argument("--output", metavar="PATH", help="Where to write it; absent, model.onnx in MODEL's folder.")
    parser.add_argument("--quantize", metavar="int8", help="Write the ONNX file with int8 weights; needs --dataset.")
    names = [name for name in DATA_FLAGS if name != "use_cpu"]  # it runs there in any case
    add_argument_flags(parser, names)
    namespace, unknown = parser.parse_known_args(words)
    check_flags(unknown, [*names, "format", "output", "quantize"])
    settings = flag_values(namespace)

    from hf_finetune.jobs.export import export_model

    export_model(namespace.model, namespace.format, namespace.output, namespace.quantize, **settings)
    return 0


def _push(words: list[str]) -> int:
    from hf_finetune.config.parsing import OneLineParser

    parser = OneLineParser(prog="hf-finetune push", description=COMMANDS["push"].capitalize(), allow_abbrev=False)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="The folder of a finished run.")
    parser.add_argument("repository", metavar="OWNER/NAME", help="The repository; it is created if it is not there.")
    parser.add_argument("--hub_private_repo", action="store_true", default=None, help="Only you are to see it.")
    namespace = parser.parse_args(words)

    from hf_finetune.hub.push import push_folder

    push_folder(namespace.folder, namespace.repository, namespace.hub_private_repo)
    return 0


def _convert(words: list[str]) -> int:
    from hf_finetune.config.parsing import CONVERT_FLAGS, OneLineParser, add_argument_flags, check_flags, flag_values

    parser = OneLineParser(prog="hf-finetune convert", description=COMMANDS["convert"].capitalize(), allow_abbrev=False)
    parser.add_argument("file", metavar="FILE_OR_URL", help="A state dict: .pth, .pt or .safetensors.")
    parser.add_argument("folder", metavar="OUT", type=Path, help="The folder to write; it must not be there yet.")
    add_argument_flags(parser, CONVERT_FLAGS)
    namespace, unknown = parser.parse_known_args(words)
    check_flags(unknown, CONVERT_FLAGS)

    from hf_finetune.jobs.convert import convert_weights

    convert_weights(namespace.file, namespace.folder, **flag_values(namespace))
    return 0


def _recipes(words: list[str]) -> int:
    if not words:
        from hf_finetune.config.recipe import packaged_recipes

        recipes = packaged_recipes()
        width = max(map(len, recipes))
        for name, description in recipes.items():
            print(f"{name:<{width}}  {description}")
        return 0

    from hf_finetune.config.parsing import OneLineParser, add_argument_flags, argument_fields, check_flags, flag_values
    from hf_finetune.config.recipe import load_recipe, override, to_yaml

    parser = OneLineParser(
        prog="hf-finetune recipes",
        description="Without a word: lists the packaged recipes. With show: prints one with its bases resolved.",
        allow_abbrev=False,
    )
    parser.add_argument("show", metavar="show")
    parser.add_argument("recipe", metavar="NAME_OR_PATH", help="A packaged recipe's name or the path of a YAML file.")
    parser.add_argument("--explain", action="store_true", help="Say beside each value which file or flag set it.")
    add_argument_flags(parser)
    namespace, unknown = parser.parse_known_args(words)
    check_flags(unknown)
    if namespace.show != "show":
        raise UserError(f'"{namespace.show}" is not what recipes does; use hf-finetune recipes show NAME_OR_PATH.')
    recipe = override(load_recipe(namespace.recipe, argument_fields()), flag_values(namespace))
    print(to_yaml(recipe, explain=namespace.explain), end="")
    return 0


def _import_config(words: list[str]) -> int:
    from hf_finetune.errors import OneLineParser

    parser = OneLineParser(
        prog="hf-finetune import-config",
        description=f"{COMMANDS['import-config'].capitalize()}. The config is read, never run.",
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG.py", help="A config of MMClassification 0.x or MMPretrain 1.x.")
    parser.add_argument(
        "-o", "--output", metavar="RECIPE.yaml", type=Path, help="Where to write it; printed when absent."
    )
    namespace = parser.parse_args(words)

    from hf_finetune.jobs.import_config import import_as_recipe

    text = import_as_recipe(namespace.config, namespace.output)
    if namespace.output is None:
        print(text, end="")
    else:
        remarks = text.count("\n# - ")
        told = f", with {remarks} remark{'s' * (remarks > 1)} at its end" if remarks else ""
        print(f"The recipe is in {namespace.output}{told}.")
    return 0
