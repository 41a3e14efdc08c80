"""Run all benchmarks or the named ones, print their tables and write them to RESULTS.md.

python -m benchmarks --list
python -m benchmarks
python -m benchmarks train_small help --pairs 5 --data /path/to/images
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# Set before a library reads them: a benchmark uses no network, and progress bars are not measured.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it a checkout is compiled at each start

MODULES = (
    "train_small",
    "train_resnet18",
    "train_resnet50",
    "data_cifar",
    "data_photographs",
    "augment",
    "evaluate",
    "predict",
    "serve",
    "frozen",
    "time_to_accuracy",
    "help",
    "answers",
    "start",
    "memory",
    "processes",
    "long_run",
)
REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("RESULTS.md")
IMAGES = REPOSITORY.parent / "shared"


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"One of {', '.join(MODULES)}; absent, all.")
    parser.add_argument("--list", action="store_true", help="List the questions and stop.")
    parser.add_argument("--pairs", type=int, default=3, help="How often the sides alternate (default 3).")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"Folder of real images (default ../{IMAGES.name}).")
    parser.add_argument("--cpu", action="store_true", help="Leave a GPU alone.")
    parser.add_argument("--whole", action="store_true", help="Train on all of MNIST in time_to_accuracy; an hour.")
    parser.add_argument(
        "--quick", action="store_true", help="Smallest sizes, to see that all runs; nothing is written."
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="Where the tables go (default RESULTS.md here).")
    namespace = parser.parse_args(words)
    unknown = [name for name in namespace.modules if name not in MODULES]
    if unknown:
        parser.error(f"there is no module {', '.join(unknown)}; they are {', '.join(MODULES)}")
    if namespace.pairs < 1:
        parser.error(f"--pairs is {namespace.pairs}; use a number of at least 1")
    if namespace.data is not None and not namespace.data.is_dir():
        parser.error(f"--data: there is no folder {namespace.data}")
    return namespace


def main(words: Sequence[str] | None = None) -> int:
    options = parse(sys.argv[1:] if words is None else words)
    if options.list:
        for name in MODULES:
            print(f"{name:<18}{(importlib.import_module(f'benchmarks.{name}').__doc__ or '').splitlines()[0]}")
        return 0

    from benchmarks.harness import Session, datasets_cache
    from benchmarks.report import OtherMachine, cells, describe_machine, format_table, merge_results

    machine = describe_machine(options.cpu)
    print(machine, flush=True)
    data = options.data or (IMAGES if IMAGES.is_dir() else None)
    answers = {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as folder:
        plots = None if options.quick else options.results.parent
        session = Session(Path(folder), options.pairs, options.quick, data, options.cpu, options.whole, plots)
        with datasets_cache(session):
            for name in options.modules or MODULES:
                start = time.perf_counter()
                answer = importlib.import_module(f"benchmarks.{name}").measure(session)
                answers[name] = answer
                print(f"\n{name}, {time.perf_counter() - start:.0f} s")
                if answer.rows:
                    print(format_table([cells(name, row) for row in answer.rows]))
                print(*answer.notes, sep="\n", flush=True)
    if options.quick and options.results == RESULTS:
        return 0
    try:
        merge_results(options.results, answers, MODULES, machine)
    except OtherMachine:
        print(
            f"{options.results} was left as it is: its other rows are from another machine or other versions; use"
            " --results and another file, or run all modules.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
