"""What each process of a streamed test run does: train, from a checkpoint where one is named.

torchrun --standalone --nproc_per_node 2 tests/helpers/streamed_run.py DATASET OUTPUT WORKERS [CHECKPOINT]
"""

import sys
from pathlib import Path
from typing import Any

from hf_finetune.config.data import DataArguments
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.data.streaming.build import load_streamed_dataset
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.evaluation.metrics import ClassificationMetrics, reduce_logits
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.networks import make_model
from tests.helpers.trainers import PROCESSOR

TRANSFORMS = [{"RandomResizedCrop": {"size": 16}}, "RandomHorizontalFlip"]


def make_streaming_trainer(dataset: Path, folder: Path, **settings: Any) -> ImageClassificationTrainer:
    """A tiny network on a streamed dataset of a train and a test split, which is evaluated too."""
    settings = {
        "num_train_epochs": 3,
        "learning_rate": 0.05,
        "lr_milestones": [1.0, 2.0],
        "eval_strategy": "no",
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": 20,
        "load_best_model_at_end": False,
        "logging_steps": 1,
        "global_batch_size": 16,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        **settings,
    }
    args = FinetuneArguments(output_dir=str(folder), **settings)
    arguments = DataArguments(dataset=str(dataset), streaming=True, shuffle_buffer_size=40, validation_fraction=0)
    data = load_streamed_dataset(arguments, args.seed)
    transforms = build_train_transforms(TRANSFORMS, uniform=False)
    stage = TrainingStage(transforms, args.seed)
    return ImageClassificationTrainer(
        make_model("resnet"),
        args,
        device_stage=DeviceStage(PROCESSOR, False, transforms, mean=(120.0,) * 3, std=(60.0,) * 3),
        training_stage=stage,
        image_processor=PROCESSOR,
        train_dataset=StreamedBatches(data.splits["train"], stage),
        eval_dataset=StreamedBatches(data.splits["test"], EvaluationStage(PROCESSOR, False)),
        compute_metrics=ClassificationMetrics([*data.label_names, "none"]),
        reduce_logits=reduce_logits,
    )


if __name__ == "__main__":
    dataset, output, workers, *checkpoint = sys.argv[1:]
    trainer = make_streaming_trainer(Path(dataset), Path(output), dataloader_num_workers=int(workers))
    trainer.train(resume_from_checkpoint=checkpoint[0] if checkpoint else None)
    metrics = trainer.evaluate()
    trainer.save_model()
    if trainer.args.process_index == 0:
        trainer.state.save_to_json(str(Path(output) / "trainer_state.json"))
        (Path(output) / "samples").write_text(f"{metrics['eval_samples']} {metrics['eval_accuracy']}")
    trainer.end()
