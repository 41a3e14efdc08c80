"""Accuracy after one, two and four minutes on one CPU core, against four other programs with the same weights.

    make bench-accuracy
    python -m benchmarks.accuracy --data ../shared --python .venv-peers/bin/python --images 500 --minutes 1 2 --seeds 1

The minutes are those of the whole command, its start and its evaluation of 2,000 test images included. How long each
program needs for its start and for an image is measured first, by two short trainings; its epochs follow from that.
Each run is one line in the results file, which is read first: a run that is in it is not run again.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.images import TEST_IMAGES, checkpoint_of_size
from benchmarks.accuracy.table import markdown
from benchmarks.peers import options as shared
from benchmarks.peers.launch import run_program
from benchmarks.peers.programs import PEERS, FineTuning, Job, Peer
from benchmarks.peers.results import Results
from benchmarks.peers.workloads import write_images

WEIGHTS = "hub/models/timm/tf_efficientnet_lite0.in1k"
_CIFAR10 = "hub/datasets/uoft-cs/cifar10"
_TRIALS = (100, 300)  # images of the two short trainings
_SHORTEST = 20  # images: of fewer nothing can be said
_LATE = 1.03  # times the minutes that were asked for


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    about = (__doc__ or "").splitlines()[0]
    peers = [name for name, peer in PEERS.items() if peer.fine_tunes]
    parser = shared.parser_of("python -m benchmarks.accuracy", about, peers, "accuracy.jsonl")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2_000, 100])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--size", type=int, default=96, help="pixels that the networks see")
    parser.add_argument("--core", type=int, default=0, help="the CPU core that all of them use")
    return shared.parse(parser, words)


def epochs_within(minutes: float, images: int, trial: Mapping[str, float], peer: Peer) -> tuple[float, int]:
    """Return the epochs of a program that end in time, and on how many of the images.

    Args:
        minutes: For the whole command.
        images: All training images.
        trial: Its seconds for the `start`, with the evaluation, and for an `image` of training.
        peer: The program.

    Returns:
        Epochs and images; fewer images where there is no time for the least that the program can be given.
    """
    shown = (60 * minutes - trial["start"]) / trial["image"]
    epochs = _least(shown / images - peer.more_passes, peer)
    if epochs > 0:
        return epochs, images
    return 1, max(0, min(images, int(shown / (1 + peer.more_passes)) // 10 * 10))


def fitting_epochs(minutes: float, seconds: float, epochs: float, start: float, peer: Peer) -> float:
    """Return the epochs that a program has time for, from the seconds that it took for `epochs`; at least one."""
    if seconds > 60 * minutes and seconds <= 60 * minutes * _LATE:
        return epochs
    one = (seconds - start) / (epochs + peer.more_passes)
    return max(min(1.0, epochs), epochs + _least((60 * minutes - seconds) / one, peer))


def _least(epochs: float, peer: Peer) -> float:
    return math.floor(10 * epochs) / 10 if peer.takes_fractions else math.floor(epochs)


class Bench:
    """Runs programs, and keeps what they gave in a file."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        """Read the results that are there."""
        self._options, self._work = options, work
        self.results = Results(options.results)
        self._checkpoint = checkpoint_of_size(options.data / WEIGHTS, options.size, work / "checkpoint")

    def run(self, peer: str, images: int, minutes: float, seed: int) -> None:
        """Train with a program for so many minutes, unless it is done already."""
        asked = {"peer": peer, "images": images, "minutes": minutes, "seed": seed}
        if self.results.find(asked) is not None:
            return
        program, limit = PEERS[peer], 60 * minutes
        epochs, shown = 0.0, images
        if program.settings is not None:
            epochs, shown = epochs_within(minutes, images, self._trial(peer), program)
        if shown < _SHORTEST:
            self.results.keep({**asked, "epochs": epochs, "shown": shown, "seconds": 0.0, "accuracy": None})
            return
        seconds, accuracy = self._timed(peer, shown, epochs, minutes, seed)
        if epochs and shown == images:
            fitting = fitting_epochs(minutes, seconds, epochs, self._trial(peer)["start"], program)
            if fitting != epochs:  # it was faster or slower than in its trials
                again = self._timed(peer, shown, fitting, minutes, seed)
                if seconds > _LATE * limit or again[0] <= _LATE * limit:
                    epochs, (seconds, accuracy) = fitting, again
        self.results.keep(
            {**asked, "epochs": epochs, "shown": shown, "seconds": round(seconds, 1), "accuracy": accuracy}
        )

    def _trial(self, peer: str) -> dict[str, float]:
        """Return how long a program needs for its start and for an image, measured once."""
        found = self.results.find({"trial": peer})
        if found is not None:
            return found
        few, many = _TRIALS
        seconds = [self._timed(peer, images, 1, 1, seed=0)[0] for images in _TRIALS]
        image = max(1e-3, (seconds[1] - seconds[0]) / (many - few)) / (1 + PEERS[peer].more_passes)
        start = seconds[0] - image * few * (1 + PEERS[peer].more_passes)
        self.results.keep({"trial": peer, "start": round(start, 2), "image": round(image, 5)})
        return self.results.lines[-1]

    def _timed(self, peer: str, images: int, epochs: float, minutes: float, seed: int) -> tuple[float, float]:
        """Run a program once; return its seconds and its accuracy."""
        options = self._options
        hub = options.data / _CIFAR10
        folder = write_images(self._work / f"cifar10-{images}", hub, images, TEST_IMAGES)
        work = self._work / f"{time.monotonic_ns()}"
        work.mkdir()
        way = FineTuning(self._checkpoint, minutes)
        job = Job(options.python, options.scripts, folder, options.size, epochs, seed, work, way)
        finished = run_program(PEERS[peer].command(job), work, {options.core}, peer)
        return finished.seconds, PEERS[peer].accuracy(job, finished.output)


def main() -> None:
    """Run what is asked for and print the table."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for seed in options.seeds:
            for images in options.images:
                for minutes in options.minutes:
                    for peer in options.peers:
                        bench.run(peer, images, minutes, seed)
    print(f"\nAccuracy on {TEST_IMAGES:,} test images of CIFAR-10.\n\n{markdown(bench.results.lines, options)}")


if __name__ == "__main__":
    main()
