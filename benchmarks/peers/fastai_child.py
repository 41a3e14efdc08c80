"""fastai as its tutorials have it. Run by `programs`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import timm
from fastai.vision.all import (
    CrossEntropyLossFlat,
    Flip,
    ImageDataLoaders,
    Learner,
    Normalize,
    RandomResizedCrop,
    Resize,
    accuracy,
    get_image_files,
    imagenet_stats,
    resnet18,
    set_seed,
    vision_learner,
)

from benchmarks.peers.child import child_parser


def fine_tune(options: argparse.Namespace) -> float:
    """Fine-tune EfficientNet-Lite0 with `fine_tune` and return the accuracy on DIR/test."""
    # fastai takes the name of one of timm's networks; the weights come from a file in place of the Hub.
    timm.create_model = partial(timm.create_model, pretrained_cfg_overlay={"file": str(options.weights)})
    loaders = ImageDataLoaders.from_folder(
        options.folder / "train", valid_pct=0.1, seed=options.seed, item_tfms=Resize(options.size), bs=32, num_workers=0
    )
    learner = vision_learner(loaders, "tf_efficientnet_lite0", metrics=accuracy)
    learner.fine_tune(options.epochs)
    test = loaders.test_dl(get_image_files(options.folder / "test"), with_labels=True)
    scores, labels = learner.get_preds(dl=test)
    return float((scores.argmax(dim=1) == labels).double().mean())


def train(options: argparse.Namespace) -> float:
    """Train a ResNet-18 from random weights with `fit` and return the accuracy on DIR/test, which it evaluates."""
    loaders = ImageDataLoaders.from_folder(
        options.folder,
        valid="test",
        item_tfms=RandomResizedCrop(options.size, min_scale=0.08),
        batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)],
        bs=options.batch,
        num_workers=1,
    )
    learner = Learner(loaders, resnet18(num_classes=loaders.c), CrossEntropyLossFlat(), metrics=accuracy)
    learner.fit(options.epochs, options.rate, wd=options.decay)
    options.work.mkdir(parents=True)
    learner.export(options.work / "model.pkl")
    return float(learner.final_record[-1])


def main() -> None:
    """Train on DIR/train and print the accuracy on DIR/test."""
    parser = child_parser()
    parser.add_argument("--weights", type=Path, help="absent: a ResNet-18 from random weights")
    parser.add_argument("--epochs", type=int, required=True)
    options = parser.parse_args()
    set_seed(options.seed)
    print(f"accuracy {fine_tune(options) if options.weights else train(options)}")


if __name__ == "__main__":
    main()
