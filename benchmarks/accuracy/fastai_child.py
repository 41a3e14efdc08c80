"""fastai as its tutorials have it: `ImageDataLoaders.from_folder`, `vision_learner`, `fine_tune`. Run by `peers`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import timm
from fastai.vision.all import (
    ImageDataLoaders,
    Resize,
    accuracy,
    get_image_files,
    set_seed,
    vision_learner,
)


def main() -> None:
    """Train on DIR/train and print the accuracy on DIR/test."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--work", type=Path, help="not used: nothing is written")
    options = parser.parse_args()
    set_seed(options.seed)
    # fastai takes the name of one of timm's networks; the weights come from a file in place of the Hub.
    timm.create_model = partial(timm.create_model, pretrained_cfg_overlay={"file": str(options.weights)})
    loaders = ImageDataLoaders.from_folder(
        options.folder / "train", valid_pct=0.1, seed=options.seed, item_tfms=Resize(options.size), bs=32, num_workers=0
    )
    learner = vision_learner(loaders, "tf_efficientnet_lite0", metrics=accuracy)
    learner.fine_tune(options.epochs)
    test = loaders.test_dl(get_image_files(options.folder / "test"), with_labels=True)
    scores, labels = learner.get_preds(dl=test)
    print(f"accuracy {float((scores.argmax(dim=1) == labels).double().mean())}")


if __name__ == "__main__":
    main()
