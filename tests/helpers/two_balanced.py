"""What each process of a two-process test runs: two epochs with class weights and quotas of classes.

torchrun --standalone --nproc_per_node 2 tests/helpers/two_balanced.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from hf_finetune.training.loss import BatchLoss, classification_loss
from hf_finetune.training.sampling import ClassQuotas
from tests.helpers.networks import hold_batch_norm, make_model
from tests.helpers.trainers import make_trainer

IMAGES, QUOTAS = 61, np.array([3, 40, 8, 10])  # of 16, 15, 15 and 15 images, in batches of 16: an uneven last one


def main(folder: str) -> None:
    model = make_model("resnet")
    hold_batch_norm(model)
    items = ({"RandomCrop": {"size": 16, "padding": 2}}, "RandomHorizontalFlip")
    trainer = make_trainer(Path(folder), model, IMAGES, items, num_train_epochs=2, learning_rate=0.05)
    trainer.quotas = ClassQuotas(trainer.train_dataset.labels, QUOTAS, trainer.args.order_seed)
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    trainer.compute_loss_func = BatchLoss(classification_loss(0.0, "focal").loss, weights)
    seen: list[list[int]] = []  # the draw keys, which are an image's own in its epoch, of those that count
    stage = trainer.device_stage

    def noting(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if "draw_keys" in batch:
            seen.append(batch["draw_keys"][batch["labels"] != -100].tolist())
        return stage(batch)

    trainer.device_stage = noting  # type: ignore[assignment]
    trainer.train()
    name = f"{trainer.args.world_size}_{trainer.args.process_index}"
    (Path(folder) / f"seen_{name}.json").write_text(json.dumps(seen))
    save_file(
        {name: weight.detach().clone().contiguous() for name, weight in model.named_parameters()},
        Path(folder) / f"weights_{name}.safetensors",
    )
    trainer.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
