"""The second room: every setting of a run, as three dataclasses. Their fields are the keys of a recipe and the flags.

`FinetuneArguments` extends `transformers.TrainingArguments`, so every key that a user of the Trainer knows keeps its
name; only the defaults that the reference recipe contradicts are changed.
"""

from hf_finetune.arguments.data import DataArguments as DataArguments
from hf_finetune.arguments.model import ModelArguments as ModelArguments
from hf_finetune.arguments.training import MULTISTEP as MULTISTEP
from hf_finetune.arguments.training import FinetuneArguments as FinetuneArguments
from hf_finetune.arguments.training import default_workers as default_workers
