"""Trains for two epochs and writes down every training image that the network is given.

python tests/helpers/seen_images.py FOLDER [WORKERS [CHECKPOINT]], also under torchrun --standalone --nproc_per_node 2
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer

ITEMS = ("RandAugment", {"RandomCrop": {"size": 16, "padding": 2}}, "RandomHorizontalFlip")


def main(folder: str, workers: str = "0", checkpoint: str | None = None) -> dict[str, str]:
    """Return, and write to FOLDER/seen_RANK.json, the pixels' digest by the draw key, which is a sample's own."""
    trainer = make_trainer(
        Path(folder),
        make_model("resnet"),
        items=ITEMS,
        num_train_epochs=2,
        dataloader_num_workers=int(workers),
        save_strategy="steps",
        save_steps=2,
        save_total_limit=None,
    )
    seen: dict[str, str] = {}
    stage = trainer.device_stage

    def noting(batch: Any) -> Any:
        keys = batch["draw_keys"]
        prepared = stage(dict(batch))
        for key, image in zip(keys.tolist(), prepared["pixel_values"], strict=True):
            digest = hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()
            assert seen.setdefault(str(key), digest) == digest
        return prepared

    trainer.device_stage = noting  # type: ignore[assignment]
    trainer.train(resume_from_checkpoint=checkpoint)
    (Path(folder) / f"seen_{trainer.args.process_index}.json").write_text(json.dumps(seen))
    trainer.end()
    return seen


if __name__ == "__main__":
    main(*sys.argv[1:])
