"""Ours against the programs that people use, from the first second to the last: the same network, images and steps.

    make bench-peers
    python -m benchmarks.peers --data ../shared --python .venv-peers/bin/python --rounds 5 --peers hf-finetune fastai

Each program trains a ResNet-18 from random weights for one epoch, with one thread and one loader worker, and is
measured from outside. The programs alternate, every other round in the opposite order. Each run is one line in the
results file, which is read first: a run that is in it is not run again.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import WARM_UP, Session
from benchmarks.peers import options as shared
from benchmarks.peers.launch import run_program
from benchmarks.peers.programs import PEERS, FromScratch, Job
from benchmarks.peers.results import Results
from benchmarks.peers.table import markdown
from benchmarks.peers.workloads import QUICK, WORKLOADS, Workload, random_checkpoint

_PACKAGES = ("torch", "torchvision", "transformers", "timm", "fastai", "ultralytics", "lightly-train")
_VERSIONS = (
    "import importlib.metadata as m, sys; print(*(f'{name} {m.version(name)}' for name in sys.argv[1:]), sep=', ')"
)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    about = (__doc__ or "").splitlines()[0]
    parser = shared.parser_of("python -m benchmarks.peers", about, list(PEERS), "peers.jsonl")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="smallest sizes, to check that all run; meaningless results"
    )
    return shared.parse(parser, words)


def measure(
    options: argparse.Namespace, session: Session, name: str, workload: Workload, peer: str, number: int
) -> dict[str, object]:
    """Run a program once and return what was measured of it, times in seconds but for a step's in milliseconds."""
    folder = workload.folder(session, workload.images)
    classes = tuple(sorted(path.name for path in (folder / "train").iterdir()))
    checkpoint = random_checkpoint(session.folder / f"random-{name}", workload.size, len(classes))
    way = FromScratch(workload.batch, classes, workload.images // workload.batch, checkpoint)
    with tempfile.TemporaryDirectory(dir=session.folder) as temporary:
        job = Job(options.python, options.scripts, folder, workload.size, 1, number, Path(temporary), way)
        finished = run_program(PEERS[peer].command(job), job.work, (), peer)
        accuracy = PEERS[peer].accuracy(job, finished.output)
    if len(finished.steps) <= WARM_UP:
        raise SystemExit(f"{peer} made {len(finished.steps)} optimizer steps, of which nothing can be said.")
    step, processor = finished.step_milliseconds
    return {
        "step": step,
        "step_processor": processor,
        "first_step": finished.seconds_to_first_step,
        "seconds": finished.seconds,
        "processor": finished.processor,
        "megabytes": finished.megabytes,
        "steps": len(finished.steps),
        "accuracy": accuracy,
    }


def main() -> None:
    """Run what is asked for and print the tables."""
    options = parse()
    workloads = {name: (QUICK if options.quick else WORKLOADS)[name] for name in options.workloads}
    results = Results(options.results)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder), data=options.data if options.data.is_dir() else None, quick=options.quick)
        for number in range(options.rounds):
            for name, workload in workloads.items():
                for peer in options.peers if number % 2 == 0 else reversed(options.peers):
                    asked = {"peer": peer, "workload": name, "images": workload.images, "round": number}
                    if results.find(asked) is None:
                        results.keep({**asked, **measure(options, session, name, workload, peer, number)})
    found = subprocess.run([options.python, "-c", _VERSIONS, *_PACKAGES], capture_output=True, text=True, check=True)
    print(f"\n{markdown(results.lines, workloads, options.peers, options.rounds)}\n\nMeasured: {found.stdout.strip()}.")


if __name__ == "__main__":
    main()
