"""What each process of a many-process test runs: short trainings and evaluations, whose steps are written down.

torchrun --standalone --nproc_per_node 4 tests/faults/many_processes.py FOLDER
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.stages import EvaluationStage
from tests.helpers.networks import hold_batch_norm, make_model
from tests.helpers.trainers import PROCESSOR, make_dataset, make_trainer

GLOBAL_BATCH = 16
TRAINED = (64, 61, 33, 3)  # images: even, uneven, one left over, fewer than processes
EVALUATED = (1, 3, 20)
FAMILIES = ("resnet", "vit")


def train(folder: Path, family: str, count: int, passes: int) -> None:
    """Trains for two epochs, a global batch in so many passes, and writes what was seen, lost and learned."""
    model = make_model(family)
    hold_batch_norm(model)
    trainer = make_trainer(
        folder,
        model,
        count,
        items=({"RandomCrop": {"size": 16, "padding": 2}}, "RandomHorizontalFlip"),
        num_train_epochs=2,
        gradient_accumulation_steps=passes,
        per_device_eval_batch_size=4,
        data_seed=7,
    )
    seen: list[list[int]] = []  # the draw keys, which are an image's own in its epoch, of those that count
    stage = trainer.device_stage

    def noting(batch):
        if "draw_keys" in batch:
            seen.append(batch["draw_keys"][batch["labels"] != -100].tolist())
        return stage(batch)

    trainer.device_stage = noting
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    evaluated = {}
    for size in EVALUATED if passes == 1 else ():
        batches = ImageBatches(make_dataset(size), EvaluationStage(PROCESSOR, uniform=True))
        output = trainer.predict(batches)
        metrics = {name: output.metrics[f"test_{name}"] for name in ("samples", "loss", "accuracy")}
        evaluated[size] = {"labels": output.label_ids.tolist(), **metrics}
    rank, name = trainer.args.process_index, f"{family}-{count}-{passes}"
    (folder / f"{name}_{rank}.json").write_text(json.dumps({"seen": seen, "losses": losses, "evaluated": evaluated}))
    if rank == 0:
        weights = {key: weight.detach().clone().contiguous() for key, weight in model.named_parameters()}
        save_file(weights, folder / f"{name}.safetensors")
    trainer.end()


if __name__ == "__main__":
    for case in itertools.product(FAMILIES, TRAINED, (1, 2)):
        train(Path(sys.argv[1]), *case)
