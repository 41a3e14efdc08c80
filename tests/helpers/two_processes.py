"""What each process of a two-process test runs: one optimizer step of plain SGD, whose change of the weights is saved.

torchrun --standalone --nproc_per_node 2 tests/helpers/two_processes.py FOLDER FAMILY
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from hf_finetune.config.peft_keys import adapter_settings
from hf_finetune.models.adapters import add_adapters
from hf_finetune.models.processor import Preprocessing
from hf_finetune.training.distillation import Teacher, attach
from tests.helpers.networks import CLASSES, SIDE, hold_batch_norm, make_model
from tests.helpers.trainers import make_trainer


def main(folder: str, family: str) -> None:
    model = make_model(family.partition("_")[0])
    if family.endswith("_lora"):
        add_adapters(model, adapter_settings({"r": 2}), (SIDE, SIDE), seed=0)
    hold_batch_norm(model)
    trainer = make_trainer(
        Path(folder),
        model,
        max_steps=1,
        momentum=0.0,
        learning_rate=1.0,
        weight_decay=0.0,
        label_smoothing_factor=0.1,
        lr_scheduler_type="constant",
    )
    if family.endswith("_taught"):
        attach(trainer, Teacher(make_model("vit"), range(CLASSES), Preprocessing(SIDE), Preprocessing(SIDE), 2.0, 0.7))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()
    gradient = {name: (before[name] - parameter.detach()).contiguous() for name, parameter in model.named_parameters()}
    if trainer.args.process_index == 0:
        save_file(gradient, Path(folder) / f"gradient_{trainer.args.world_size}.safetensors")
    trainer.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
