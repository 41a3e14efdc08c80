"""Training ResNet-50 on CIFAR-10 enlarged to 224 pixels, as the tutorial does."""

from __future__ import annotations

from benchmarks.harness import Answer, Session
from benchmarks.steps import compare_training

RESNET50 = {"depths": [3, 4, 6, 3]}  # the other settings of microsoft/resnet-50 are ResNetConfig's own defaults


def measure(session: Session) -> Answer:
    batch, image_size = session.size(16, 2), session.size(224, 64)
    row = compare_training(
        session,
        f"train ResNet-50 at {image_size} px, batch {batch}",
        RESNET50,
        image_size=image_size,
        batch=batch,
        steps=session.size(4, 1),
        stock=1.12,
        limit=0.97,
    )
    return Answer([row])
