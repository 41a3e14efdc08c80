"""Which network, and from which weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_finetune.errors import UserError

HEAD_INITS = ("random", "probe")


@dataclass
class ModelArguments:
    """Which network, and from which weights."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained image classifier: a Hub id or a local folder."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the Hub checkpoint."})
    load_from: str | None = field(
        default=None,
        metadata={
            "help": "File or address of another library's weights (torchvision, timm, MMPretrain); it says itself which"
            " network it is of, and takes the place of model_name_or_path."
        },
    )
    load_from_sha256: str | None = field(
        default=None, metadata={"help": "Beginning of that file's SHA-256, if its name does not end in it."}
    )
    pretrained: bool = field(
        default=True,
        metadata={"help": "Start from the checkpoint's weights; false keeps its architecture with random weights."},
    )
    model_type: str | None = field(
        default=None,
        metadata={"help": "Architecture to build from scratch instead of a checkpoint, such as lenet5 or resnet."},
    )
    model_config: dict[str, Any] | None = field(
        default=None, metadata={"help": "Settings of that architecture's configuration class, as a mapping."}
    )
    num_labels: int | None = field(
        default=None, metadata={"help": "Number of classes the dataset must have; found in the dataset when absent."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code that comes with a checkpoint. Only for authors you trust."}
    )
    freeze: list[str] | None = field(
        default=None, metadata={"help": "What is not trained: backbone, or names of modules of the network."}
    )
    head_init: str = field(
        default="random",
        metadata={"help": "How a new head starts: random, or probe, a logistic regression on the network's features."},
    )

    def __post_init__(self) -> None:
        if self.head_init not in HEAD_INITS:
            raise UserError(f'head_init is "{self.head_init}"; use {" or ".join(HEAD_INITS)}.')
        for name in self.freeze or ():
            if not isinstance(name, str):
                raise UserError(f"freeze holds {name!r}; use backbone, or names of modules of the network.")
        if self.load_from_sha256 is not None and self.load_from is None:
            raise UserError("load_from_sha256 is given without load_from; use --load_from FILE_OR_URL as well.")
        if self.load_from is not None:
            if not self.pretrained:
                raise UserError("pretrained is false, so that load_from would not be read; use --pretrained true.")
            self.model_name_or_path = None  # a recipe's; its Hub is not asked
