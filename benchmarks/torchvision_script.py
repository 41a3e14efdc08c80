"""A training as torchvision's reference script for classification does it: ImageFolder, its presets, SGD, no Trainer.

The work until the first step is the same: both splits are listed, both loaders are made, and a batch is loaded by
torchvision's transforms on PIL images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from torchvision import transforms

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(words)
    finish = [transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float), transforms.Normalize(_MEAN, _STD)]
    train = transforms.Compose([transforms.RandomResizedCrop(options.side), transforms.RandomHorizontalFlip(), *finish])
    evaluation = transforms.Compose(
        [transforms.Resize(options.side * 8 // 7), transforms.CenterCrop(options.side), *finish]
    )
    images = torchvision.datasets.ImageFolder(options.data_path / "train", train)
    held_out = torchvision.datasets.ImageFolder(options.data_path / "val", evaluation)
    loader = DataLoader(images, options.batch_size, sampler=RandomSampler(images), num_workers=options.workers)
    DataLoader(held_out, options.batch_size, sampler=SequentialSampler(held_out), num_workers=options.workers)
    model = torchvision.models.get_model(options.model, num_classes=len(images.classes)).to(options.device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    model.train()
    for pixels, labels in loader:
        loss = criterion(model(pixels.to(options.device)), labels.to(options.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    schedule.step()
