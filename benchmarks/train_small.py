"""Training a small ResNet on CIFAR-10 at 32 pixels, where the data path costs more than the network."""

from __future__ import annotations

from benchmarks.harness import Answer, Session
from benchmarks.steps import compare_training

SMALL_RESNET = {
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128, 256],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


def measure(session: Session) -> Answer:
    batch = session.size(128, 16)
    row = compare_training(
        session,
        f"train CIFAR-10 at 32 px, small ResNet, batch {batch}",
        SMALL_RESNET,
        image_size=32,
        batch=batch,
        steps=session.size(60, 2),
        stock=2.2,
        limit=0.93,
    )
    return Answer([row])
