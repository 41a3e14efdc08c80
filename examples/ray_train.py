"""Fine-tunes on the workers of Ray Train, and reports metrics and checkpoints to Ray.

python examples/ray_train.py --dataset digits --output_dir /shared/runs/digits --storage_path /shared/ray --name digits

The same command continues a run that has ended early. `output_dir` has to lie on a disk that all nodes share.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from transformers import TrainerCallback

from hf_finetune import UserError, finetune, show_logs


class ReportToRay(TrainerCallback):
    """Reports the newest metrics and a copy of the run's folder to Ray after each checkpoint."""

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the figures of the log and of evaluations."""
        self.metrics |= kwargs["logs"]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report. The folder has the newest and the best checkpoint, from which `finetune` resumes."""
        report({**self.metrics, "step": state.global_step}, Path(args.output_dir))


def report(metrics: dict[str, Any], folder: Path) -> None:
    """Report metrics and a copy of a folder. All workers call it; Ray takes both from the first one."""
    is_first = ray.train.get_context().get_world_rank() == 0
    ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder) if is_first else None)


def restore(folder: Path) -> None:
    """Put Ray's newest copy of the run's folder in its place if that is gone; `finetune` resumes from what it finds."""
    copy = ray.train.get_checkpoint()
    if copy is not None and ray.train.get_context().get_world_rank() == 0 and not folder.exists():
        Path(copy.to_directory(f"{folder}.restored")).rename(folder)


def train(settings: dict[str, Any]) -> None:
    """Train in one worker: `finetune` joins the process group that Ray has made."""
    show_logs()
    restore(Path(settings["output_dir"]))
    result = finetune(**settings, callbacks=[ReportToRay()])
    report(result.metrics, result.output_dir)


def parse() -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the flags for Ray and the arguments of `finetune`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run = parser.add_argument_group("the run; every other key goes into the file that --recipe names")
    run.add_argument("--recipe", help="a packaged recipe or a YAML file")
    run.add_argument("--dataset", help="a named dataset, a Hub id, or a path that all nodes see")
    run.add_argument("--output_dir", type=os.path.abspath, required=True, help="on a disk that all nodes share")
    run.add_argument("--num_train_epochs", type=float)
    cluster = parser.add_argument_group("Ray")
    cluster.add_argument("--num_workers", type=int, default=2, help="processes that train (default: 2)")
    cluster.add_argument("--use_gpu", action="store_true", help="one GPU for each worker")
    cluster.add_argument("--cpus_per_worker", type=int, default=1)
    cluster.add_argument("--storage_path", help="where Ray keeps its copies: a shared folder or a bucket")
    cluster.add_argument("--name", help="of the run in Ray; the same name continues it")
    cluster.add_argument("--max_failures", type=int, default=3, help="how often Ray starts anew (default: 3)")
    flags = parser.parse_args()
    names = ("recipe", "dataset", "output_dir", "num_train_epochs")
    settings = {name: value for name in names if (value := getattr(flags, name)) is not None}
    return flags, {**settings, "use_cpu": not flags.use_gpu}


def main() -> int:
    """Train, and return the exit code: 2 for a mistake in the settings."""
    flags, settings = parse()
    # Ray's print writes past a redirected standard output, which breaks how datasets names its caches.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    trainer = TorchTrainer(
        train,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=flags.num_workers,
            use_gpu=flags.use_gpu,
            resources_per_worker={"CPU": flags.cpus_per_worker, "GPU": int(flags.use_gpu)},
        ),
        run_config=RunConfig(
            name=flags.name,
            storage_path=flags.storage_path,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=flags.max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, UserError):
                print(f"error: {failure}", file=sys.stderr)
                return 2
        raise
    print(f"test_accuracy {result.metrics['test_accuracy']:.4f}; Ray's copy: {result.checkpoint.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
