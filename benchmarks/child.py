"""Run ours or another script for a number of optimizer steps in a process of its own, and report what it measured.

python -m benchmarks.child [--one_core] REPORT STEPS ours|stock|torchvision WORDS...

REPORT is written as a JSON file: the time of day after each optimizer step, the seconds of processor time until the
last one, and the peaks of anonymous and of resident memory in MB. Anonymous memory belongs to the process itself. The
rest of resident memory is pages of mapped files, which the system can drop at any time.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

_SAMPLING = 0.02  # seconds between two looks at the memory
_STATUS = Path("/proc/self/status")


class Recorder:
    def __init__(self, report: Path, steps: int) -> None:
        self.report, self.steps = report, steps
        self.stamps: list[float] = []
        self.peaks = {"RssAnon": 0.0, "VmRSS": 0.0}
        if _STATUS.exists():
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(_SAMPLING)

    def _look(self) -> None:
        for line in _STATUS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in self.peaks:
                self.peaks[name] = max(self.peaks[name], int(value.split()[0]) / 1024)

    def after_step(self, *_: object) -> None:
        import torch  # loaded by what is measured

        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.stamps.append(time.time())
        if len(self.stamps) == self.steps:
            if os.environ.get("RANK", "0") == "0":
                used = os.times()
                told = {"stamps": self.stamps, "processor": used.user + used.system, **self.peaks}
                self.report.write_text(json.dumps(told))
            os._exit(0)  # what would follow, evaluation and saving, is not part of any question


def main(words: list[str]) -> None:
    if words[0] == "--one_core":
        words = words[1:]
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ.get("LOCAL_RANK", "0")) % len(cores)]})
    report, steps, side, *rest = words
    recorder = Recorder(Path(report), int(steps))

    from torch.optim.optimizer import register_optimizer_step_post_hook  # after the affinity is set

    register_optimizer_step_post_hook(recorder.after_step)
    if side == "ours":
        from hf_finetune.cli.main import main as train

        sys.exit(train(["train", *rest]))

    importlib.import_module(f"benchmarks.{side}_script").main(rest)


if __name__ == "__main__":
    main(sys.argv[1:])
