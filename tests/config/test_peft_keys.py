"""The key `peft`: its defaults, and the line for each mistake."""

from __future__ import annotations

from typing import Any

import pytest

from hf_finetune.config.model import ModelArguments
from hf_finetune.config.peft_keys import AdapterSettings, adapter_settings
from hf_finetune.errors import UserError


def test_what_is_not_stated_has_defaults():
    assert adapter_settings({}) == AdapterSettings(r=8, lora_alpha=None, use_dora=False, target_modules=None)
    assert AdapterSettings(r=4).alpha == 8
    assert adapter_settings({"r": 2, "lora_alpha": 3, "target_modules": "q_proj"}).target_modules == ("q_proj",)
    assert adapter_settings({"lora_alpha": 3}).alpha == 3


@pytest.mark.parametrize(
    ("peft", "line"),
    [
        ({"rank": 8}, 'peft has no setting "rank". Use r, lora_alpha, use_dora, target_modules'),
        ({"r": 0}, "peft: r is 0; use a whole number of at least 1"),
        ({"r": True}, "peft: r is True"),
        ({"r": 4, "lora_alpha": 0}, "peft: lora_alpha is 0; use a number above 0, such as 8"),
        ({"use_dora": "yes"}, "peft: use_dora is 'yes'; use true or false"),
        ({"target_modules": []}, r"peft: target_modules is \[\]; use auto, or names of layers"),
    ],
)
def test_a_mistake_is_one_line(peft: dict[str, Any], line: str):
    with pytest.raises(UserError, match=line):
        ModelArguments(model_name_or_path="x", peft=peft)


@pytest.mark.parametrize(
    ("others", "line"),
    [
        ({"freeze": ["backbone"]}, "peft freezes everything but its adapters and the head, and freeze holds backbone"),
        ({"model_name_or_path": None, "model_type": "resnet"}, "here all weights are random; leave peft out"),
        ({"pretrained": False}, "here all weights are random; leave peft out"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(others: dict[str, Any], line: str):
    with pytest.raises(UserError, match=line):
        ModelArguments(**{"model_name_or_path": "x", "peft": {}, **others})
    ModelArguments(model_name_or_path="x", peft={}, freeze=["batch_norm"])  # of the recipe `finetune`
