"""Which network, and from which weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_finetune.config.validation import check_model

FITTED_HEADS = ("probe", "class_means")
"""Values of `head_init` that fit the head to the features of the training images."""


@dataclass
class ModelArguments:
    """Which network, and from which weights."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Pretrained image classifier: a Hub id, a folder or an embedded checkpoint."},
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the Hub checkpoint."})
    load_from: str | None = field(
        default=None,
        metadata={
            "help": "File or URL of weights of torchvision, timm or MMPretrain, in place of model_name_or_path. The"
            " architecture is recognized from the weights."
        },
    )
    load_from_sha256: str | None = field(
        default=None, metadata={"help": "Beginning of the SHA-256 of that file, if its name does not end in it."}
    )
    pretrained: bool = field(
        default=True,
        metadata={"help": "Start from the checkpoint's weights; false takes its architecture with random weights."},
    )
    model_type: str | None = field(
        default=None,
        metadata={"help": "Architecture with random weights instead of a checkpoint, such as lenet5 or resnet."},
    )
    model_config: dict[str, Any] | None = field(
        default=None, metadata={"help": "Settings of that architecture, as a mapping, such as {num_channels: 1}."}
    )
    num_labels: int | None = field(
        default=None, metadata={"help": "Number of classes that the dataset must have. Absent: any number."}
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run Python code that comes with a checkpoint. Only for authors you trust."},
    )
    freeze: list[str] | None = field(
        default=None,
        metadata={"help": "What is not trained: backbone, batch_norm, or names of modules of the network."},
    )
    peft: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Train LoRA or DoRA adapters and the head instead of all weights, such as '{r: 8, use_dora: true}'"
            " (see docs/lora.md). Absent: all weights."
        },
    )
    head: str | None = field(
        default=None,
        metadata={
            "help": "Head in place of the network's linear layer: mlp, with one hidden layer, cosine, whose logits are"
            " cosines, or knn, the votes of the nearest training images. Absent: the network's own.",
            "choices": (None, "linear", "mlp", "cosine", "knn"),
        },
    )
    head_init: str = field(
        default="random",
        metadata={
            "help": "How a new head starts; probe fits a logistic regression to the network's features, auto does so"
            " wherever it can; class_means takes the mean feature of each class, for a few images of each.",
            "choices": ("random", "probe", "auto", "class_means"),
        },
    )
    drop_path: float | None = field(
        default=None,
        metadata={"help": "Stochastic depth: how often training leaves a block out, the last one where rates rise."},
    )
    head_dropout: float | None = field(
        default=None,
        metadata={"help": "How many of the features before the head's last linear layer training drops, such as 0.2."},
    )

    def __post_init__(self) -> None:
        check_model(self)
        if self.load_from is not None:
            self.model_name_or_path = None  # a recipe's; its Hub is not asked
