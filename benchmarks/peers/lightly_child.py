"""lightly-train's image classification, which has a function and no command. Run by `programs`."""

from __future__ import annotations

import re

import lightly_train

from benchmarks.peers.child import child_parser


def main() -> None:
    """Train on DIR/train and print the accuracy on DIR/test."""
    parser = child_parser()
    parser.add_argument("--steps", type=int, required=True)
    options = parser.parse_args()
    train, test = options.folder / "train", options.folder / "test"
    classes = dict(enumerate(sorted(path.name for path in train.iterdir())))
    lightly_train.train_image_classification(
        out=options.work,
        data={"train": str(train), "val": str(test), "classes": classes},
        model="torchvision/resnet18",
        steps=options.steps,
        batch_size=options.batch,
        num_workers=1,
        accelerator="cpu",
        devices=1,
        precision="32-true",
        seed=options.seed,
        gradient_accumulation_steps=1,
        model_args={"lr": options.rate, "weight_decay": options.decay},
        transform_args={
            "image_size": (options.size, options.size),
            "random_crop": {"min_scale": 0.08},
            "color_jitter": None,
        },
    )
    log = (options.work / "train.log").read_text()
    print(f"accuracy {re.findall(r'top1_acc_micro[^0-9]*([0-9.]+)', log)[-1]}")


if __name__ == "__main__":
    main()
