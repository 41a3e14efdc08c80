"""Training ResNet-18 on CIFAR-10 at 32 pixels."""

from __future__ import annotations

from benchmarks.harness import Answer, Session
from benchmarks.steps import compare_training

# Transformers' ResNetConfig with the widths and depths of microsoft/resnet-18.
RESNET18 = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}


def measure(session: Session) -> Answer:
    batch = session.size(128, 4)
    row = compare_training(
        session,
        f"train ResNet-18 at 32 px, batch {batch}",
        RESNET18,
        image_size=32,
        batch=batch,
        steps=session.size(20, 1),
        stock=1.2,
        limit=0.97,
    )
    return Answer([row])
